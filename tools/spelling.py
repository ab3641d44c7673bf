"""Spelling, American, of all text that people read: Python, Markdown, and the cells of notebooks without outputs.

python tools/spelling.py    # prints each suspicious word with its file; exit code 1 if there is one
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("notebooks", "cifar_utils", "tests", "benchmarks", "tools", "docs", "deploy")
ALLOWED = "inpt,cancelled,carin,trian,teh,netwrok,recieves,optimiser"  # names of others, and mistakes on purpose


def text_of(path: Path) -> str:
    """What a person wrote in a file."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)


def main() -> int:
    paths = [
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".ipynb")
    ]
    others = {".ipynb_checkpoints", "node_modules"}
    paths = [path for path in [*ROOT.glob("*.md"), *paths] if not others & set(path.parts)]
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            copy = Path(folder, f"{path.relative_to(ROOT)}.txt")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text_of(path), encoding="utf-8")
        dictionaries = ["--builtin", "clear,rare,en-GB_to_en-US"]
        command = [sys.executable, "-m", "codespell_lib", *dictionaries, "--ignore-words-list", ALLOWED, "."]
        return subprocess.run(command, cwd=folder).returncode and 1


if __name__ == "__main__":
    sys.exit(main())
