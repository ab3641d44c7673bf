"""Participants' copies of the notebooks: without outputs and solutions, in a folder that works like the project's.

The folder holds the package and the files that the notebooks read or link to as well, so it can be installed, and the
README's commands run there; those that need tools/ or tests/ (make run, slides, web and test) are left out.
`.pristine/` holds each notebook once more: `reset` restores it from there.
"""

import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import nbformat

PROJECT = Path(__file__).resolve().parents[2]
NOTEBOOKS, PRISTINE = "notebooks", ".pristine"
COPIED = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "pyproject.toml", "Makefile",
    "environment.yml", "cifar_utils", "docs", "benchmarks", "deploy",
)  # fmt: skip
FOR_TEACHERS = ("solutions", "exercises.md", "teaching.md")  # notebooks/exercises/solutions, and two pages of docs/
# Notebooks are copied apart, without outputs.
LEFT_OUT = shutil.ignore_patterns("__pycache__", "node_modules", ".*", "*.ipynb", *FOR_TEACHERS)
TEACHERS_TEXT = re.compile(r"<!-- for teachers -->.*?<!-- end -->\n+", re.DOTALL)  # in the README
NOT_IN_COPIES = re.compile(r"^(?:\| `)?make (?:run|slides|web|test)\b.*\n", re.MULTILINE)  # commands that need more
LINK = re.compile(r"""\]\(\s*<?([^)\s>]+)|\b(?:src|href)=["']([^"']+)""")  # [text](target), <img src="target">


def write(folder: Path) -> list[str]:
    """Writes the copies; the notebooks are taken as they are now.

    Args:
        folder: made if missing; must be empty.

    Returns:
        The relative links in the notebooks that lead nowhere in the copies, each as `notebook: target`.

    Raises:
        ValueError: the folder is not empty, or lies in one that is copied; or this package was installed without the
            project's notebooks.
    """
    if not (PROJECT / NOTEBOOKS).is_dir():
        raise ValueError(f"{PROJECT} has no {NOTEBOOKS}/: run this command where you have the whole project")
    check_empty(folder)
    if PROJECT in folder.resolve().parents and folder.resolve().relative_to(PROJECT).parts[0] in (*COPIED, NOTEBOOKS):
        raise ValueError(f"{folder} lies within a folder that is copied: name another one")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*COPIED, NOTEBOOKS):
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, folder / name, ignore=LEFT_OUT)
        elif (PROJECT / name).exists():
            shutil.copy2(PROJECT / name, folder / name)
    for page in (folder / "README.md", folder / "docs" / "installing.md"):
        if page.exists():
            text = NOT_IN_COPIES.sub("", TEACHERS_TEXT.sub("", page.read_text(encoding="utf-8")))
            page.write_text(text, encoding="utf-8", newline="\n")
    sources = [path.relative_to(PROJECT) for path in sorted((PROJECT / NOTEBOOKS).rglob("*.ipynb"))]
    sources = [path for path in sources if not {".ipynb_checkpoints", *FOR_TEACHERS} & set(path.parts)]
    for source in sources:
        text = nbformat.writes(without_outputs(PROJECT / source))
        for path in (folder / source, folder / PRISTINE / source):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8", newline="\n")
    return [f"{source.name}: {link}" for source in sources for link in dead_links(folder / source)]


def check_empty(folder: Path) -> None:
    """Raises ValueError: this is a file, or a folder with something in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder: name a new one")


def without_outputs(path: Path) -> nbformat.NotebookNode:
    """The notebook, with every code cell as if it had never run."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    return notebook


def dead_links(path: Path) -> list[str]:
    """The targets of a notebook's relative links at which there is no file."""
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    targets = [a or b for a, b in LINK.findall(text)]
    local = [target for target in targets if not re.match(r"[a-z]+:|#|/", target)]
    return [target for target in local if not (path.parent / unquote(target.partition("#")[0])).exists()]


def pristine(project: Path) -> dict[Path, bytes]:
    """The path of every notebook -> its content in .pristine/, or else as committed; empty where there is neither."""
    kept = project / PRISTINE
    if kept.is_dir():
        return {project / path.relative_to(kept): path.read_bytes() for path in sorted(kept.rglob("*.ipynb"))}
    with suppress(OSError, subprocess.CalledProcessError):  # no git, or no checkout
        listed = _git(project, "ls-tree", "-rz", "--name-only", "HEAD", f"{NOTEBOOKS}/")
        names = [name for name in listed.decode().split("\0") if name.endswith(".ipynb")]
        return {project / name: _git(project, "show", f"HEAD:./{name}") for name in names}
    return {}


def _git(project: Path, *words: str) -> bytes:
    """What git prints in the project."""
    return subprocess.run(["git", *words], cwd=project, capture_output=True, check=True).stdout
