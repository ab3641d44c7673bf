"""Counts eight habits that make a text read like a translation: python tools/habits.py [--show HABIT]

It reads the notebooks' Markdown, the pages, and the docstrings, messages and comments of the code. A hit is a place to
look at, not a mistake: some are on purpose. Run it by hand before a release; under five of each are left then.
"""

import argparse
import ast
import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
HABITS = {
    "clause as a noun": r"[.;] What [a-z]+ [^.?!,]{3,40} (?:can|is|are|was|has|waits|stays)\b[^?]{3,60}\.",
    "things that speak": r"\b(?:network|model|file|checkpoint|run)s? (?:says?|said|asks?|answers?|tells?|told)\b",
    "goes on, stands, is told": r"\b(?:goes on|went on|go on with|is told|are told|is met|are met|stands for itself)\b",
    "a row an epoch": r"\b(?:row|image|step|seed|line|file|point|minute)s? an? (?:epoch|second|image|run|class)\b",
    "numbers for parameters": r"\b(?:16-bit|32-bit|trainable|network's) numbers\b",
    "whoever, nobody": r"(?i:\b(?:whoever|nobody|somebody)\b)",
    "history": r"\b(?:used to be|once was|when the code was|at that time|until now|in earlier versions)\b",
    "picture for image": r"\b(?:[Pp]ictures?|[Pp]hotographs?)\b",
}
CODE = ("cifar_utils", "benchmarks", "tools", "deploy")


def texts() -> dict[str, str]:
    """Name of a page or file -> what a reader reads."""
    found = {}
    folders = (".", "docs", "benchmarks", "benchmarks/results", "deploy", "cifar_utils/*")
    for path in [path for folder in folders for path in ROOT.glob(f"{folder}/*.md")]:
        found[path.relative_to(ROOT).as_posix()] = re.sub(
            r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL
        )
    for path in sorted(ROOT.glob("notebooks/0*.ipynb")):
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
        found[path.name] = "\n\n".join(cells)
    code = {path for folder in CODE for path in (ROOT / folder).rglob("*.py")} - {Path(__file__).resolve()}
    for path in sorted(path for path in code if "node_modules" not in path.parts):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        said = [x.value for x in nodes if isinstance(x, ast.Constant) and isinstance(x.value, str) and " " in x.value]
        said += re.findall(r"# (.*)", path.read_text(encoding="utf-8"))  # docstrings, messages and comments
        found[path.relative_to(ROOT).as_posix()] = "\n\n".join(said)
    return {name: re.sub(r"[ \n]+", " ", text) for name, text in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", choices=HABITS, help="print each place of this habit")
    shown = parser.parse_args().show
    pages = texts()
    for habit, pattern in HABITS.items():
        hits = [(name, match) for name, text in pages.items() for match in re.finditer(pattern, text)]
        print(f"{len(hits):4}  {habit}")
        for name, match in hits if habit == shown else ():
            text = pages[name]
            print(f"      {name}: ...{text[max(0, match.start() - 50) : match.end() + 40]}...")


if __name__ == "__main__":
    main()
