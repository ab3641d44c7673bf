"""Builds the web edition in build/web/: the executed notebooks, exercises with folded solutions, and the guides.

    pip install --editable '.[web]'
    python tools/make_web.py                  # then open build/web/index.html; no server, no internet
    python tools/make_web.py --output FOLDER
    python tools/make_web.py --pdf            # one PDF of everything as well; printed by Chromium

Pages, search and fonts work from a folder or a stick without a request to another host. Warnings are errors: a dead
link stops the build.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from run_notebooks import ROOT, with_text_alternatives

FOLDERS = ("notebooks", "docs", "benchmarks", "deploy", "cifar_utils")  # the last for links that lead there
PARTS = {
    "The series": "notebooks/0*.ipynb",
    "Exercises": "notebooks/exercises/0*.ipynb",
    "More": [f"docs/{name}.md" for name in ("installing", "troubleshooting", "exercises", "glossary", "more_than_one")],
    "For teachers": ["docs/teaching.md", "docs/rehearsal.md", "deploy/README.md"],
    "The package": [
        "api/center",
        "api/evaluation",
        "api/speedrun",
        "api/scale",
        "api/widgets",
        "api/exercises",
        "api/workshop",
    ],
    "How it is made": ["docs/faults.md", "benchmarks/RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md"],
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", "--virtual-time-budget=60000")
CENTER = (
    "data", "augment", "models", "train", "runs", "overview", "plots", "takehome", "network_file", "warp", "checks",
    "identity", "words", "behavior", "checkpoint", "log", "settings", "files", "download", "progress",
)  # fmt: skip


def main() -> int:
    """Builds the pages and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "web", help="default: build/web/")
    parser.add_argument("--pdf", action="store_true", help="print workshop.pdf, too")
    options = parser.parse_args()
    browser = os.environ.get("CIFAR_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if options.pdf and not browser:
        sys.exit("--pdf needs Chromium: install it (on Debian: apt-get install chromium), or name it in CIFAR_CHROMIUM")
    if options.output.exists() and any(options.output.iterdir()) and not (options.output / ".buildinfo").exists():
        sys.exit(f"{options.output} holds something other than these pages: name a new folder")
    with tempfile.TemporaryDirectory() as folder:
        source, one_page = Path(folder, "source"), Path(folder, "one_page")
        collect(source)
        if code := build("html", source, Path(folder, "pages"), Path(folder, "trees")):
            return code
        new = options.output.with_name(f"{options.output.name}.new")  # complete before it gets its name
        shutil.rmtree(new, ignore_errors=True)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(Path(folder, "pages"), new)
        shutil.rmtree(options.output, ignore_errors=True)
        new.rename(options.output)
        print(f"Open {options.output / 'index.html'}.")
        if options.pdf:
            if code := build("singlehtml", source, one_page, Path(folder, "trees")):
                return code
            pdf = options.output / "workshop.pdf"
            command = [browser, *FLAGS, f"--print-to-pdf={pdf}", (one_page / "index.html").as_uri()]
            subprocess.run(command, check=True, capture_output=True)
            print(f"Printed {pdf}.")
    return 0


def build(builder: str, source: Path, output: Path, trees: Path) -> int:
    """Runs Sphinx, for which warnings are errors, and returns its exit code; what it has read is kept in `trees`."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", builder]
    return subprocess.run([*command, "-d", str(trees), str(source), str(output)]).returncode


def collect(source: Path) -> None:
    """Copies what the pages are made of, in the project's own layout, so that relative links lead somewhere."""
    ignore = shutil.ignore_patterns("__pycache__", "node_modules", ".*", "solutions", "*.pyc")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "environment.yml"):
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
        text = path.read_text(encoding="utf-8").replace("](../README.md)", "](../index.md)")
        path.write_text(text, encoding="utf-8")
    page = source / "docs" / "exercises.md"
    page.write_text(with_exercises(page.read_text(encoding="utf-8")), encoding="utf-8")
    (source / "index.md").write_text(index(), encoding="utf-8")
    (source / "api").mkdir()
    for name, text in api().items():
        (source / "api" / f"{name}.md").write_text(text, encoding="utf-8")


def with_exercises(page: str) -> str:
    """The page of exercises with sphinx-exercise's directives, which link each solution to its exercise and back."""

    def exercise(found: re.Match) -> str:
        number, title, task, solution = found.groups()
        label = f"exercise-{number.replace('.', '-')}"
        task = f"````{{exercise}} {number}\n:label: {label}\n:nonumber:\n\n{task.strip()}\n````"
        solution = f"````{{solution}} {label}\n\n{solution.strip()}\n````"
        folded = ["<details><summary>Solution</summary>", solution, "</details>"]
        return "\n\n".join([f"### {number} {title}", task, *folded])

    fold = r"<details><summary>Solution</summary>(.*?)</details>"
    return re.sub(rf"^### (\d\.\d) ([^\n]+)\n((?:(?!^###).)*?){fold}", exercise, page, flags=re.DOTALL | re.MULTILINE)


def api() -> dict[str, str]:
    """Name of a page -> its text: Sphinx fills in the docstrings of what is public."""
    modules = {"center": [f"cifar_utils.{name}" for name in CENTER]}
    for folder in sorted((ROOT / "cifar_utils").glob("*/__init__.py")):
        wing = folder.parent
        files = sorted(path.stem for path in wing.glob("*.py") if path.stem != "__init__")
        modules[wing.name] = [f"cifar_utils.{wing.name}", *(f"cifar_utils.{wing.name}.{name}" for name in files)]
    pages = {}
    for name, found in modules.items():
        parts = [f"## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```" for module in found]
        pages[name] = "\n\n".join([f"# {name.capitalize()}", *parts]) + "\n"
    return pages


def index() -> str:
    """README as the first page, with the contents."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    contents = []
    for title, pattern in PARTS.items():
        found = sorted(ROOT.glob(pattern)) if isinstance(pattern, str) else [ROOT / name for name in pattern]
        names = [path.relative_to(ROOT).with_suffix("").as_posix() for path in found]
        contents.append("```{toctree}\n:hidden:\n:caption: " + title + "\n\n" + "\n".join(names) + "\n```")
    return re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL) + "\n" + "\n\n".join(contents) + "\n"


if __name__ == "__main__":
    sys.exit(main())
