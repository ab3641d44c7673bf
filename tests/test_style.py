"""Style, spelling and links: what editors and hooks check as well, see .pre-commit-config.yaml."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md"), *ROOT.glob("deploy/*.md")]
NOTEBOOKS = [path for path in ROOT.glob("notebooks/**/*.ipynb") if ".ipynb_checkpoints" not in path.parts]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


# A file of your own beside these, such as a network for --model, is not checked.
CODE = ["cifar_utils", "tests", "benchmarks", "tools", "notebooks", "deploy", *map(str, ROOT.glob("*.md"))]
NARROW = [f"--exclude={name}" for name in ("*.ipynb", "source")]  # made for cells of 88 columns, see below


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check", *NARROW]], ids=lambda a: a[0])
def test_ruff_has_nothing_to_say(arguments):
    found = run("-m", "ruff", *arguments, *CODE)
    assert found.returncode == 0, found.stdout + found.stderr


def test_code_in_notebooks_is_formatted_to_the_width_of_a_cell():
    folders = ["notebooks", "notebooks/exercises", "notebooks/exercises/solutions", "cifar_utils/exercises/source"]
    found = run("-m", "ruff", "format", "--check", "--line-length", "88", *folders)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_version_is_the_same_everywhere():
    versions = {
        re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.M)[1]
        for name, pattern in {
            "pyproject.toml": r'^version = "(.+)"',
            "CITATION.cff": r"^version: (.+)",
            "CHANGELOG.md": r"^## (\d+\.\d+\.\d+)",
        }.items()
    }
    assert len(versions) == 1


@pytest.mark.slow
def test_types_fit():
    found = run("-m", "mypy")
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.slow
def test_the_type_checker_finds_a_mistake(tmp_path):
    (tmp_path / "wrong.py").write_text("from cifar_utils import train\n\ntrain.best_devise()\n")
    found = run("-m", "mypy", str(tmp_path / "wrong.py"))
    assert found.returncode and 'has no attribute "best_devise"' in found.stdout


def test_words_are_spelled_as_usual():
    found = run("tools/spelling.py")
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_speller_finds_a_mistake(tmp_path):
    """The control: a test that cannot fail would prove nothing."""
    for folder in ("docs", "notebooks", "tools"):
        (tmp_path / folder).mkdir()
    cell = nbformat.v4.new_markdown_cell("An image is al" + "ligned.")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebooks" / "wrong.ipynb")
    (tmp_path / "docs" / "wrong.md").write_text("Its ad" + "ress.\n")
    found = run(shutil.copy(ROOT / "tools" / "spelling.py", tmp_path / "tools"))
    assert found.returncode and "aligned" in found.stdout and "address" in found.stdout


def text_of(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_within_the_project_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", text_of(path), flags=re.DOTALL)
    for target in re.findall(r"\]\(\s*<?([^)\s>]+)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (path.parent / unquote(target.partition("#")[0])).exists(), target


def test_every_term_of_the_glossary_is_used_in_its_notebook():
    rows = re.findall(r"^\| ([^|]+?) \| [^|]+ \| \[\d\]\(([^)]+)\) \|$", GLOSSARY, re.M)
    assert len(rows) > 40 and [term.lower() for term, _ in rows] == sorted(term.lower() for term, _ in rows)
    for term, target in rows:
        words = " ".join(
            cell.source for cell in nbformat.read(ROOT / "docs" / target, as_version=4).cells
        ).lower().replace("_", " ").replace("\n", " ")  # fmt: skip
        for word in re.sub(r"\(.*?\)", "", term).lower().split(","):
            stem = word.split()[0].removesuffix("ation").removesuffix("ness")
            whole = r"s?\b" if len(stem) < 5 and stem in word.split() else ""  # "nat" is no part of "combination"
            assert re.search(rf"\b{re.escape(stem)}{whole}", words), f"{term} is not in {target}"
