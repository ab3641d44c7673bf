"""Makes slides of the notebooks as they are now, outputs included: web pages that need no internet.

    python tools/make_slides.py                              all notebooks, into build/slides/
    python tools/make_slides.py notebooks/02_model.ipynb
    python tools/make_slides.py --output /media/stick/slides

Text with a heading begins a new slide to the right, other text one below it, and code stays with the text before it;
imports are left out. A cell's tag decides otherwise: slide, subslide, fragment, skip, or notes (for the speaker's view,
key S). reveal.js, which turns the slides, comes from npm the first time and lies beside the pages afterwards.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from run_notebooks import ROOT, with_text_alternatives
from traitlets.config import Config

REVEAL = "reveal.js@4.6.1"
TYPES = ("slide", "subslide", "fragment", "skip", "notes")


def main() -> int:
    """Makes the slides named on the command line, or all, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all in notebooks/")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "slides", help="default: build/slides/")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        fetch_reveal(options.output / "reveal.js")
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{REVEAL} could not be fetched with npm ({error}). Install npm (Node.js), or copy a folder reveal.js ")
        print(f"with dist/ and plugin/ into {options.output}; it is needed once.")
        return 1
    for path in options.notebooks or sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        page = options.output / f"{path.stem}.html"
        page.write_text(slides(nbformat.read(path, as_version=4), path.stem), encoding="utf-8")
        print(page)
    return 0


def slides(notebook: nbformat.NotebookNode, title: str) -> str:
    """The page."""
    notebook = with_text_alternatives(notebook)
    for cell in notebook.cells:
        cell.metadata["slideshow"] = {"slide_type": slide_type(cell)}
    notebook.metadata["title"] = title
    notebook.metadata.pop("widgets", None)
    folders = {"extra_template_basedirs": [str(ROOT / "tools")], "template_name": "slides"}
    config = Config({"SlidesExporter": folders | {"reveal_url_prefix": "reveal.js", "reveal_theme": "white-contrast"}})
    return SlidesExporter(config=config).from_notebook_node(notebook)[0]


def slide_type(cell: nbformat.NotebookNode) -> str:
    """nbconvert's word for where the cell goes."""
    tagged = [tag for tag in cell.metadata.get("tags", []) if tag in TYPES]
    if tagged:
        return tagged[0]
    if cell.cell_type == "code":
        # What a notebook begins with. Other cells may begin with an import and show a result.
        lines = [line for line in cell.source.splitlines() if line and line[0] not in " )"]
        return "skip" if 2 * sum(line.startswith(("import ", "from ")) for line in lines) > len(lines) else "-"
    return "slide" if re.search("^#+ ", cell.source, re.MULTILINE) else "subslide"


def fetch_reveal(folder: Path) -> None:
    """Puts reveal.js into this folder, unless it is there."""
    if (folder / "dist" / "reveal.js").exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        npm = shutil.which("npm") or "npm"  # on Windows, npm.cmd
        subprocess.run([npm, "pack", "--silent", REVEAL], cwd=scratch, check=True, capture_output=True)
        (archive,) = Path(scratch).glob("*.tgz")
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        new = folder.with_name(f"{folder.name}.new")
        for old in (new, folder):  # of a call that was interrupted
            shutil.rmtree(old, ignore_errors=True)
        for part in ("LICENSE", "plugin/notes", "dist"):
            source, target = Path(scratch) / "package" / part, new / part
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        new.replace(folder)  # as a whole, or not at all


if __name__ == "__main__":
    sys.exit(main())
