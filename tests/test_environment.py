"""The places that state the same thing twice: environment.yml and pyproject.toml, README and Makefile."""

import re
import shlex
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from cifar_utils import cli
from cifar_utils.exercises import EXERCISES

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))
import make_readme  # noqa: E402
import rehearse  # noqa: E402

README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "teaching.md").read_text()


def requirement(text):
    name, bound = re.fullmatch(r"([\w-]+)(.*)", text).groups()
    return {"pytorch": "torch"}.get(name, name), bound


def test_environment_yml_has_pyprojects_packages_and_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = dict(map(requirement, project["dependencies"] + project["optional-dependencies"]["test"]))
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = dict(requirement(entry) for entry in environment if isinstance(entry, str))
    assert conda.pop("python") == project["requires-python"]
    conda.pop("pip")
    assert conda == wanted
    assert {"pip": ["--editable ."]} in environment


def test_the_missions_packages_are_all_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    mission = {"torch", "torchvision", "matplotlib", "scikit-learn", "jupyterlab", "ipywidgets", "nbval", "tensorboard"}
    assert mission <= {requirement(entry)[0] for entry in project["dependencies"]}


def test_ci_runs_the_readmes_test_command():
    assert "make test" in README
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), re.M)


def test_every_make_command_of_the_readme_exists():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    commands = re.findall(r"^make ([a-z]+)", README, re.M)
    assert {"run", "lab", "test"} <= set(commands) <= set(targets)


def test_make_lab_serves_the_projects_root():
    """JupyterLab serves the folder of a file that it is given: the package and the runs would be out of reach."""
    (command,) = re.findall(r"^lab:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert not re.search(r" notebooks/", command), command
    (path,) = re.findall(r"--LabApp.default_url=/lab/tree/(\S+)", command)
    assert (ROOT / path).is_file()


def check_understood(page: str, command: str) -> None:
    """What follows `python -m cifar_utils` is parsed as the command line would."""
    words = shlex.split(command)
    try:
        cli.parse(words if words and words[0][0] != "-" else ["run", *words])
    except SystemExit as error:
        raise AssertionError(f"{page}: {command}") from error


def test_every_command_of_the_readme_is_understood():
    commands = re.findall(r"^python -m cifar_utils(.*?)(?:  +#.*)?$", README, re.M)
    assert len(commands) > 5
    for command in commands:
        if "--help" not in command:
            check_understood("README.md", command)


PAGES = [ROOT / name for name in ("CONTRIBUTING.md", "deploy/README.md", "cifar_utils/sample/README.md")]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]


def test_every_command_of_the_pages_is_understood():
    """Those on lines of their own, and those in a sentence that have options or arguments."""
    found = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if page.suffix == ".ipynb":
            cells = nbformat.reads(text, as_version=4).cells
            text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        lines = re.findall(r"^ *(?:\.venv/bin/)?python -m cifar_utils ([^`\n]*?)(?: +#.*)?$", text, re.M)
        for command in lines + re.findall(r"`python\s-m\scifar_utils\s([^`]+)`", text):
            if len(command.split()) > 1 and "--help" not in command:
                found += 1
                check_understood(page.name, command)
    assert found > 10


def test_every_package_and_its_files_are_installed():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "cifar_utils"
    folders = {path.parent for path in package.rglob("__init__.py")}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} == set(tools["packages"])
    files = {path for path in package.rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    files |= set((package / "exercises" / "source").glob("*.py"))  # read, never imported
    assert {path for pattern in tools["package-data"]["cifar_utils"] for path in package.glob(pattern)} == files


def test_every_file_that_the_readme_names_exists():
    names = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r'(?:src|href)="([^"#]+)"', README)
    local = [name for name in names if "://" not in name]
    assert local
    assert [name for name in local if not (ROOT / name).exists()] == []


def test_the_readmes_pictures_and_figures_are_those_of_the_notebooks_and_benchmarks():
    """What tools/make_readme.py would write now."""
    pictures = make_readme.pictures()
    assert sorted(path.name for path in (ROOT / "docs").glob("*.png")) == sorted(pictures)
    for name, png in pictures.items():
        assert name in README and (ROOT / "docs" / name).read_bytes() == png
    for page in make_readme.MADE:
        text = (ROOT / page).read_text()
        assert make_readme.filled(page, text) == text, f"run tools/make_readme.py for {page}"


def test_a_figure_that_was_typed_in_would_be_noticed():
    assert make_readme.filled("README.md", README.replace("%", "1%")) != README.replace("%", "1%")


def test_the_rehearsal_is_of_the_guides_plan():
    rows = rehearse.plan()
    assert rows[0][0] == "0:00" and sum(minutes for _, minutes, _ in rows) == 190
    log = (ROOT / "docs" / "rehearsal.md").read_text()
    assert all(f"| {start} | {minutes} | {what} |" in log for start, minutes, what in rows)


@pytest.mark.parametrize("title, total", [("## Half a day", 190), ("## A full day", 400)])
def test_the_guides_plans_add_up(title, total):
    """Each row begins where the one before it ends; what it holds, with the minutes of the README, fits."""
    plan = GUIDE.split(title)[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+):(\d\d) \| (\d+) \| ([^|]*) \|", plan, re.M)
    now = 0
    for hours, minutes, lasts, _ in rows:
        assert 60 * int(hours) + int(minutes) == now
        now += int(lasts)
    assert now == total and f"{total} minutes" in plan.splitlines()[0]


def test_each_row_of_the_full_day_has_time_for_what_it_holds():
    """The longest of the notebooks named in it, and four minutes for each exercise; notebook 1's extras are folded."""
    for lasts, what in re.findall(r"^\| \d:\d\d \| (\d+) \| ([^|]*) \|", GUIDE.split("## A full day")[1], re.M):
        stated = [re.search(rf"^\| \[{n} · .* (\d+) \|$", README, re.M)[1] for n in re.findall(r"notebook (\d)", what)]
        mine = [key for n in re.findall(r"exercises of (\d)", what) for key in EXERCISES if key[0] == n]
        assert max(map(int, stated), default=0) + rehearse.MINUTES_PER_EXERCISE * len(mine) <= int(lasts), what


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120
