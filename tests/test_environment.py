"""The places that state the same thing twice: environment.yml and pyproject.toml, README and Makefile."""

import json
import re
import shlex
import statistics
import tomllib
from base64 import b64encode
from pathlib import Path

import yaml

from cifar_utils import cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


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


def test_every_command_of_the_readme_is_understood():
    commands = re.findall(r"^python -m cifar_utils(.*?)(?:  +#.*)?$", README, re.M)
    assert len(commands) > 5
    for command in commands:
        if "--help" not in command:
            cli.parse(shlex.split(command) if re.match(r" \w", command) else ["run", *shlex.split(command)])


def test_every_package_and_its_files_are_installed():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "cifar_utils"
    folders = {path.parent for path in package.rglob("__init__.py")}
    assert {str(folder.relative_to(ROOT)).replace("/", ".") for folder in folders} == set(tools["packages"])
    files = {path for path in package.rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    files |= set((package / "exercises" / "source").glob("*.py"))  # read, never imported
    assert {path for pattern in tools["package-data"]["cifar_utils"] for path in package.glob(pattern)} == files


def test_every_file_that_the_readme_names_exists():
    names = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r'(?:src|href)="([^"#]+)"', README)
    local = [name for name in names if "://" not in name]
    assert local
    assert [name for name in local if not (ROOT / name).exists()] == []


def test_the_readmes_pictures_are_the_notebooks_own():
    notebooks = "".join(path.read_text() for path in (ROOT / "notebooks").glob("*.ipynb"))
    pictures = sorted((ROOT / "docs").glob("*.png"))
    assert len(pictures) == 3
    for picture in pictures:
        assert picture.name in README
        assert b64encode(picture.read_bytes()).decode()[:2000] in notebooks.replace("\\n", "")


def test_the_readmes_table_is_the_benchmarks():
    results = (ROOT / "benchmarks" / "results" / "augmentation.md").read_text()
    results = re.split("## cpu, (?:32x32 pixels, )?batch 1,024", results)[1]
    section = README.split("## How fast is the augmentation?")[1].split("##")[0]
    rows = [
        line.removesuffix("|").rstrip()
        for line in section.splitlines()
        if line.startswith("| ") and "images per" not in line
    ]
    assert len(rows) == 5 and all(row in results for row in rows)
    fraction = re.search(r"It is ([\d.]+%) of a training step", section)[1]
    assert f"{fraction} (" in results


def test_the_readmes_minutes_are_those_of_the_benchmark():
    results = json.loads((ROOT / "benchmarks" / "results" / "time_to_accuracy.json").read_text())
    rows = [row for row in results["rows"] if row["name"] == "fast"]
    accuracy = statistics.mean(row["accuracy"] for row in rows)
    minutes = statistics.mean(row["reference_seconds"] for row in rows) / 60
    sentence = f"network reaches {accuracy:.1%} of the test images in {minutes:.1f} reference minutes on two CPU cores,"
    sentence += f" the mean of {len(rows)} runs"
    assert sentence in " ".join(README.split())


def test_the_readmes_tables_of_training_are_the_benchmarks():
    folder = ROOT / "benchmarks" / "results"
    texts = [(folder / f"time_to_accuracy{kind}.md").read_text() for kind in ("", "_bfloat16")]
    results = "".join(texts).splitlines()
    section = README.split("## How fast is the training?")[1].split("##")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 5 and all(any(line.startswith(row) for line in results) for row in rows)
