"""Participants' copies: nothing computed or solved is in them, and everything that the notebooks need is."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from cifar_utils.__main__ import main
from cifar_utils.workshop import copies

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> tuple[Path, list[str]]:
    """Copies of the real project, and the links that lead nowhere there."""
    folder = tmp_path_factory.mktemp("copied") / "room" / "copies"
    return folder, copies.write(folder)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A small project with two notebooks, a solution, and a picture, in the real one's place."""
    project = tmp_path / "project"
    (project / "notebooks" / "exercises" / "solutions").mkdir(parents=True)
    (project / "docs").mkdir()
    (project / "docs" / "a picture.png").write_bytes(b"picture")
    for name in (".hidden", "teaching.md", "exercises.md"):
        (project / "docs" / name).write_text("not for participants")
    for name in ("01_a", "exercises/02_b", "exercises/solutions/02_b"):
        nbformat.write(executed("text"), project / "notebooks" / f"{name}.ipynb")
    monkeypatch.setattr(copies, "PROJECT", project)
    return project


def executed(text: str) -> nbformat.NotebookNode:
    output = new_output("stream", text="42")
    cells = [new_markdown_cell(text), new_code_cell("6 * 7", outputs=[output], execution_count=3)]
    return new_notebook(cells=cells, metadata={"widgets": {"state": {}}, "seconds": 3})


def test_every_notebook_is_there_without_outputs(copied):
    folder, _ = copied
    originals = [path for path in (ROOT / "notebooks").rglob("*.ipynb") if "solutions" not in path.parts]
    originals = [path.relative_to(ROOT) for path in originals if ".ipynb_checkpoints" not in path.parts]
    assert {path.relative_to(folder) for path in folder.glob("notebooks/**/*.ipynb")} == set(originals)
    for path in originals:
        before, after = nbformat.read(ROOT / path, as_version=4), nbformat.read(folder / path, as_version=4)
        nbformat.validate(after)
        assert [cell.source for cell in after.cells] == [cell.source for cell in before.cells]
        code = [cell for cell in after.cells if cell.cell_type == "code"]
        assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)
        assert (folder / ".pristine" / path).read_bytes() == (folder / path).read_bytes()


def test_the_copies_are_a_project_that_can_be_installed(copied):
    """The package and its files, what builds it, and the figures that notebooks 5 and 6 read beside the package."""
    folder, _ = copied
    package = [path for path in (ROOT / "cifar_utils").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert all((folder / path.relative_to(ROOT)).read_bytes() == path.read_bytes() for path in package)
    for name in ("pyproject.toml", "LICENSE", "benchmarks/results/ablation.png"):
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes()
    assert not list(folder.rglob("__pycache__")) and not (folder / "runs").exists()


def test_the_readme_of_the_copies_leaves_out_what_is_for_teachers_and_its_links_resolve(copied):
    folder, _ = copied
    readme, whole = (path.read_text() for path in (folder / "README.md", ROOT / "README.md"))
    links = [a or b for a, b in copies.LINK.findall(readme)]
    local = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    assert len(local) > 10 and [link for link in local if not (folder / link).exists()] == []
    assert "\nmake lab " in readme and "\nmake test " in whole and "\nmake test " not in readme
    whole = copies.NOT_IN_COPIES.sub("", whole)
    assert "teaching.md" in whole and len(whole) - 500 < len(readme) < len(whole)


def test_no_page_of_the_copies_names_a_command_that_needs_more_than_they_hold(copied):
    folder, _ = copied
    assert "tools/run_notebooks.py" in (ROOT / "docs" / "installing.md").read_text()
    for page in ("README.md", "docs/installing.md"):
        text = (folder / page).read_text()
        assert "make check" in text
        assert not re.search(r"tools/\w+\.py|make (run|slides|test)\b", text), page


def test_the_notebooks_links_resolve_but_to_solutions(copied):
    folder, dead = copied
    assert all(any(name in link for name in copies.FOR_TEACHERS) for link in dead)
    assert len(copies.LINK.findall((ROOT / "notebooks" / "05_fast_and_why.ipynb").read_text())) > 2


def test_links_that_lead_nowhere_are_named(project, tmp_path):
    links = """[a](02.ipynb) [b](../docs/a%20picture.png#part) [c](https://host/x.png) [d](#top) [e](mailto:a@b)
        <img src="../docs/other.png"> <img alt="" src='../docs/a picture.png'> ![f](attachment:x.png)
        [g](exercises/02_b.ipynb) [h](exercises/solutions/02_b.ipynb "title")"""
    nbformat.write(executed(links), project / "notebooks" / "01_a.ipynb")
    expected = ["02.ipynb", "../docs/other.png", "exercises/solutions/02_b.ipynb"]
    assert copies.write(tmp_path / "copies") == [f"01_a.ipynb: {link}" for link in expected]


def test_outputs_and_what_is_for_teachers_stay_behind(project, tmp_path):
    (project / "notebooks" / "exercises" / "solutions" / "02_b.py").write_text("solved")
    (project / "notebooks" / "exercises" / "start.py").write_text("given")
    copies.write(tmp_path / "copies")
    files = {path.relative_to(tmp_path / "copies").as_posix() for path in (tmp_path / "copies").rglob("*.*")}
    notebooks = {"notebooks/01_a.ipynb", "notebooks/exercises/02_b.ipynb"}
    pristine = {f".pristine/{name}" for name in notebooks} | {".pristine"}
    assert files == notebooks | pristine | {"docs/a picture.png", "notebooks/exercises/start.py"}
    copy = json.loads((tmp_path / "copies" / "notebooks" / "01_a.ipynb").read_text())
    assert copy["cells"][1]["outputs"] == [] and copy["metadata"] == {"seconds": 3}


def test_pristine_copies_are_found_where_the_copies_lie(project, tmp_path):
    copies.write(tmp_path / "copies")
    path = tmp_path / "copies" / "notebooks" / "exercises" / "02_b.ipynb"
    content = path.read_bytes()
    path.write_text("damaged")
    assert copies.pristine(tmp_path / "copies")[path] == content
    assert copies.pristine(tmp_path) == {}


def test_a_folder_that_is_not_empty(project, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path, tmp_path / "file"):
        assert main(["copies", str(folder)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and "not an empty folder" in error and error.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "notebooks").exists()


@pytest.mark.parametrize("name", ["notebooks/mine", "docs/a/b"])
def test_copies_within_what_is_copied(project, name):
    with pytest.raises(ValueError, match="within a folder that is copied"):
        copies.write(project / name)
    assert not (project / name).exists()


def test_an_installation_without_notebooks(project, tmp_path):
    shutil.rmtree(project / "notebooks")
    with pytest.raises(ValueError, match="has no notebooks"):
        copies.write(tmp_path / "copies")


def test_the_command(project, tmp_path, capsys):
    nbformat.write(executed("[a](missing.png)"), project / "notebooks" / "01_a.ipynb")
    assert main(["copies", str(tmp_path / "copies")]) == 0
    out = capsys.readouterr().out
    assert str(tmp_path / "copies") in out and "missing.png" in out


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_in_the_copies_make_installs_no_tools_for_tests(copied):
    for folder, what in ((copied[0], "'.'"), (ROOT, "'.[test,browser,web,hub]'")):
        command = ["make", "--dry-run", "--always-make", ".venv/installed"]
        printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
        assert f"--editable {what}\n" in printed
