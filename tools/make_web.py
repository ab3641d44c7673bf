"""Builds the web edition in build/web/: the executed notebooks, exercises with folded solutions, and the guides.

    pip install --editable '.[web]'
    python tools/make_web.py                  # then open build/web/index.html; no server, no internet
    python tools/make_web.py --output FOLDER

Pages, search and fonts work from a folder or a stick without a request to another host. Warnings are errors: a dead
link stops the build.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from run_notebooks import ROOT, with_text_alternatives

FOLDERS = ("notebooks", "docs", "benchmarks", "cifar_utils")  # the last two for links that lead there
PARTS = {
    "The series": "notebooks/0*.ipynb",
    "Exercises": "notebooks/exercises/0*.ipynb",
    "More": [f"docs/{name}.md" for name in ("installing", "exercises", "glossary", "more_than_one")],
    "For teachers": ["docs/teaching.md", "docs/rehearsal.md"],
    "How it is made": ["docs/faults.md", "benchmarks/RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md"],
}


def main() -> int:
    """Builds the pages and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "web", help="default: build/web/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        collect(source)
        shutil.rmtree(options.output, ignore_errors=True)
        command = [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-b",
            "html",
            "-d",
            Path(folder, "trees"),
        ]
        code = subprocess.run([*command, source, options.output]).returncode
    if not code:
        print(f"Open {options.output / 'index.html'}.")
    return code


def collect(source: Path) -> None:
    """Copies what the pages are made of, in the project's own layout, so that relative links lead somewhere."""
    ignore = shutil.ignore_patterns("__pycache__", ".*", "solutions", "*.pyc")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "Makefile", "environment.yml"):
        shutil.copy2(ROOT / name, source / name)
    shutil.copy2(ROOT / "tools" / "web" / "conf.py", source)
    shutil.copytree(ROOT / "tools" / "web" / "_static", source / "_static")
    for path in source.glob("notebooks/**/*.ipynb"):
        notebook = with_text_alternatives(nbformat.read(path, as_version=4))
        notebook.metadata.pop("widgets", None)
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
        nbformat.write(notebook, path)
    for path in source.glob("docs/*.md"):
        path.write_text(path.read_text().replace("](../README.md)", "](../index.md)"))
    (source / "index.md").write_text(index())


def index() -> str:
    """README as the first page, with the contents."""
    text = (ROOT / "README.md").read_text()
    contents = []
    for title, pattern in PARTS.items():
        found = sorted(ROOT.glob(pattern)) if isinstance(pattern, str) else [ROOT / name for name in pattern]
        names = [path.relative_to(ROOT).with_suffix("").as_posix() for path in found if path.exists()]
        contents.append("```{toctree}\n:hidden:\n:caption: " + title + "\n\n" + "\n".join(names) + "\n```")
    return re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL) + "\n" + "\n\n".join(contents) + "\n"


if __name__ == "__main__":
    sys.exit(main())
