"""A clean start: what is moved, what is restored, and that nothing is lost, whatever goes wrong."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from cifar_utils import checkpoint
from cifar_utils.__main__ import main
from cifar_utils.workshop import reset

NAMES = ["01_a.ipynb", "02_b.ipynb", "exercises/03_c.ipynb"]
ROOT = Path(__file__).resolve().parent.parent


def notebook(text: str) -> bytes:
    return json.dumps({"cells": [{"cell_type": "markdown", "source": text}]}, indent=1).encode()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder: a project with three notebooks, two runs and a policy, but no pristine copies."""
    folder = tmp_path / "project"
    for name in ("cifar_utils/__init__.py", "runs/a/best", "runs/b/.lock", "runs/policy.json"):
        write(folder / name, b"mine")
    for name in NAMES:
        write(folder / "notebooks" / name, notebook(name))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CIFAR_RUNS")
    ticks = count()
    monkeypatch.setattr(reset, "time", SimpleNamespace(strftime=lambda _: f"at-{next(ticks)}"))
    return folder


@pytest.fixture(params=["committed", "beside"])
def project(folder, request) -> Path:
    """With pristine copies, in git or in .pristine/."""
    if request.param == "beside":
        shutil.copytree(folder / "notebooks", folder / ".pristine" / "notebooks")
    else:
        git = ["git", "-c", "user.name=A", "-c", "user.email=a@b.c"]
        for words in (["init", "-q"], ["add", "notebooks"], ["commit", "-qm", "Start"]):
            subprocess.run([*git, *words], cwd=folder, check=True)
    return folder


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def files(folder: Path) -> dict[str, bytes]:
    """Every file but git's own and those of locks, which a check may create."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_runs_and_changed_notebooks_are_put_aside_and_notebooks_restored(project):
    before, untouched = files(project), (project / "notebooks" / NAMES[0]).stat()
    write(project / "notebooks" / NAMES[1], b"damaged")
    write(project / "notebooks" / NAMES[2], notebook("my answer"))
    write(project / "notebooks" / "mine.ipynb", notebook("mine"))
    lines = reset.reset()
    expected = {name.replace("runs/", "runs-before-reset-at-0/"): content for name, content in before.items()}
    expected["notebooks-before-reset-at-0/02_b.ipynb"] = b"damaged"
    expected["notebooks-before-reset-at-0/exercises/03_c.ipynb"] = notebook("my answer")
    expected["notebooks/mine.ipynb"] = notebook("mine")
    assert files(project) == expected and not (project / "runs").exists()
    assert (project / "notebooks" / NAMES[0]).stat() == untouched
    assert len(lines) == 3 and all("back" in line for line in lines[:2])
    assert str(project / "runs-before-reset-at-0") in lines[0] and "02_b.ipynb, 03_c.ipynb" in lines[1]


def test_a_missing_notebook_is_restored(project):
    before = files(project / "notebooks")
    shutil.rmtree(project / "notebooks" / "exercises")
    reset.reset()
    assert files(project / "notebooks") == before and not list(project.glob("notebooks-*"))


def test_a_second_reset_finds_nothing(project, monkeypatch):
    reset.reset()
    before = files(project)
    monkeypatch.chdir("notebooks")  # from where a notebook's terminal runs it
    assert reset.reset() == ["There is nothing to reset: no runs and no changed notebooks."]
    assert files(project) == before


def test_it_may_be_called_from_any_folder_of_the_project(project, monkeypatch):
    """JupyterLab opens a terminal in the folder that its file browser shows."""
    (project / "docs").mkdir(exist_ok=True)
    monkeypatch.chdir(project / "docs")
    reset.reset()
    assert not (project / "runs").exists() and (project / "runs-before-reset-at-0" / "a").exists()


def test_other_line_ends_are_no_change(project):
    path = project / "notebooks" / NAMES[0]
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert not any("notebooks" in line for line in reset.reset())


def test_runs_may_lie_elsewhere(project, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path / "elsewhere"))
    write(tmp_path / "elsewhere" / "policy.json", b"{}")
    reset.reset()
    assert (tmp_path / "elsewhere-before-reset-at-0" / "policy.json").exists() and (project / "runs" / "a").exists()


def test_without_pristine_copies_only_runs_are_moved(folder):
    lines = reset.reset()
    assert len(lines) == 2 and "left as they are" in lines[1] and not (folder / "runs").exists()


def test_another_projects_notebooks_are_not_touched(project):
    """The command was given in a folder that is not the workshop's."""
    shutil.rmtree(project / "cifar_utils")
    write(project / "notebooks" / NAMES[0], notebook("changed"))
    reset.reset()
    assert (project / "notebooks" / NAMES[0]).read_bytes() == notebook("changed")


def refused(project: Path, error: type[Exception], match: str) -> None:
    """The reset ends with this error, and has changed nothing."""
    write(project / "notebooks" / NAMES[1], notebook("changed"))
    before = files(project)
    with pytest.raises(error, match=match) as caught:
        reset.reset()
    assert files(project) == before and "\n" not in str(caught.value)
    assert not list(project.glob("*-before-reset-*"))


def test_a_training_holds_a_run(project, capsys):
    with FileLock(project / "runs" / "b" / ".lock"):
        refused(project, ValueError, re.escape(str(Path("runs/b"))) + " is in use")
        assert main(["reset"]) == 1
        assert capsys.readouterr().err.startswith("error: ") and (project / "runs" / "b").exists()
    assert main(["reset"]) == 0
    assert "runs-before-reset" in capsys.readouterr().out and not (project / "runs").exists()


@pytest.mark.parametrize("name", ["runs", "notebooks", "notebooks/02_b.ipynb"])
def test_a_link_is_refused(project, tmp_path, name):
    os.rename(project / name, tmp_path / "there")
    (project / name).symlink_to(tmp_path / "there")
    refused(project, ValueError, re.escape(str(Path(name))) + " is a link")


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EBUSY, errno.EACCES])
def test_runs_that_cannot_be_renamed(project, monkeypatch, number):
    def rename(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "rename", rename)
    refused(project, OSError, "runs cannot be renamed .*by hand")


@pytest.mark.slow
def test_runs_on_a_disk_of_their_own(folder):
    """A real mount point, in a namespace of its own."""
    inside = f'mount -t tmpfs none runs && touch runs/policy.json && "{sys.executable}" -m cifar_utils reset'
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "runs"], capture_output=True).returncode:
        pytest.skip("this machine permits no mount in a namespace")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", inside], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "runs cannot be renamed" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_reset_loses_nothing_and_can_be_repeated(project, monkeypatch, after):
    """Interrupted before the runs are moved, or before the first or second notebook is restored."""
    pristine = files(project / "notebooks")
    for name in NAMES[:2]:
        write(project / "notebooks" / name, notebook(f"my {name}"))
    mine = set(files(project).values())
    calls = count()

    def interrupted(function):
        def call(*arguments):
            if next(calls) == after:
                raise KeyboardInterrupt
            function(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", interrupted(checkpoint.write))
        patch.setattr(reset, "os", SimpleNamespace(rename=interrupted(os.rename)))
        with pytest.raises(KeyboardInterrupt):
            reset.reset()
    assert mine <= set(files(project).values())
    assert all((project / "notebooks" / name).exists() for name in NAMES)
    reset.reset()
    assert mine <= set(files(project).values())
    assert files(project / "notebooks") == pristine and not (project / "runs").exists()
