"""The doctor, with each thing broken in turn; broken for real wherever that can be done."""

import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import jupyter_core.paths
import nbformat
import psutil
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from cifar_utils import cli, download, models, runs, train
from cifar_utils.__main__ import main
from cifar_utils.workshop import doctor, speed

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    """An empty project folder on a machine with enough of everything; a training step takes 50 ms."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("CIFAR_RUNS", "CIFAR10_DIR", "JUPYTER_PATH", "JUPYTER_CONFIG_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):  # not the user's own
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=9e9, total=16e9))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50e9))
    monkeypatch.setattr(speed, "step_milliseconds", lambda: 50.0)
    return folder


def found(check, status: str, *words: str) -> None:
    """The check's line has this status and these words, and is one line; so is that of the whole doctor."""
    lines = {line.status + line.text for line in doctor.check_all()}
    line = doctor._line(check)
    assert line.status == status and all(word in line.text for word in words), line
    assert "\n" not in line.text and line.status + line.text in lines


def distribution(folder: Path, name: str, version: str, *headers: str) -> None:
    """What an installed package tells of itself, without the package."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *headers]) + "\n"
    )


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


# The whole


def test_a_healthy_machine(project, capsys):
    before = tree(project)
    assert cli.run(["doctor"]) == 0
    out = capsys.readouterr()
    assert not out.err and "\x1b" not in out.out
    lines = out.out.splitlines()
    assert len(lines) == 12 and {line.split()[0] for line in lines} <= {"OK", "NOTE"}
    assert lines[-1] == "OK   a training step takes 50 ms", "there are no notebooks here"
    assert tree(project) == before, "something was written"


@pytest.mark.slow
def test_a_healthy_machine_as_a_user_sees_it(project):
    (project / "notebooks").mkdir()
    (project / "notebooks" / "01_a.ipynb").write_text(json.dumps({"metadata": {"seconds": 600}}))
    before = tree(project)
    command = [sys.executable, "-m", "cifar_utils", "doctor"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    fixes = [line for line in result.stdout.splitlines() if line.startswith("FIX") and "GB" not in line]
    assert not fixes and "  01_a    " in result.stdout
    assert result.returncode == ("FIX" in result.stdout), "this machine may be short of memory"
    assert tree(project) == before


def test_one_fix_makes_the_exit_code_1(capsys, monkeypatch):
    monkeypatch.setenv("CIFAR_RUNS", __file__)
    assert cli.run(["doctor"]) == 1
    out = capsys.readouterr()
    assert "\nFIX  " in out.out and out.err.startswith("error: ") and out.err.count("\n") == 1
    assert "\nOK   a training step" in out.out, "the checks after it were made"


def test_lines_appear_as_they_are_found(monkeypatch):
    def later():
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "kernel", later)
    lines = doctor.check_all()
    assert [next(lines).status, next(lines).status] == ["OK", "OK"]
    with pytest.raises(KeyboardInterrupt):
        next(lines)


def test_a_check_that_fails_is_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    found(doctor.memory, "FIX", "memory: ModuleNotFoundError", "psutil", "install the workshop again")


# The environment


def test_a_python_that_is_too_old(monkeypatch, tmp_path):
    distribution(tmp_path / "site", "cifar_utils", "9.9", "Requires-Python: >=3.99")
    monkeypatch.syspath_prepend(tmp_path / "site")
    found(doctor.python_version, "FIX", "must be >=3.99: install")


def test_a_package_that_is_too_old(monkeypatch, tmp_path):
    distribution(tmp_path / "site", "torch", "1.0+cpu")
    monkeypatch.syspath_prepend(tmp_path / "site")
    found(doctor.packages, "FIX", "torch is 1.0+cpu: run", 'pip install --upgrade "torch>=')


def test_packages_that_are_missing(monkeypatch, tmp_path):
    """Requirements come from the installed distribution; those of extras and of other systems are none."""
    needed = ["tqdm", "nowhere-to-be-found>=2", "half-installed; python_version>'3'"]
    others = ["not-asked-for; extra == 'test'", "not-here; sys_platform == 'nowhere'"]
    distribution(tmp_path / "site", "cifar_utils", "9.9", *(f"Requires-Dist: {text}" for text in needed + others))
    (tmp_path / "site" / "half_installed-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    line = doctor.packages()
    assert line.status == "FIX" and "nowhere-to-be-found is missing, half-installed is missing: run" in line.text
    assert line.text.endswith('--upgrade "nowhere-to-be-found>=2" "half-installed"')


def test_a_prerelease_is_allowed(monkeypatch, tmp_path):
    distribution(tmp_path / "site", "torch", "99.0a0+git123")
    monkeypatch.syspath_prepend(tmp_path / "site")
    found(doctor.packages, "OK", "torch 99.0a0+git123")


def test_the_workshop_is_not_installed(monkeypatch):
    monkeypatch.setattr(doctor, "DISTRIBUTION", "nowhere-to-be-found")
    found(doctor.packages, "FIX", "nowhere-to-be-found", "install the workshop again")


def broken(folder: Path, package: str, error: str) -> None:
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(f"raise {error}\n")


def test_torchvision_of_another_torch(monkeypatch, tmp_path):
    broken(tmp_path, "torchvision", "RuntimeError('operator torchvision::nms\\ndoes not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision")
    lines = list(doctor.check_all())
    assert lines[-1].status == "FIX", "what needs torch is not checked"
    assert "operator torchvision::nms does not exist: run" in lines[-1].text
    assert lines[-1].text.endswith("pip install --force-reinstall torch torchvision")


def test_without_torch(tmp_path):
    """The command line imports torch; where that fails, the doctor still says why."""
    broken(tmp_path / "site", "torch", "OSError('a library is missing')")
    command, path = [sys.executable, "-m", "cifar_utils", "doctor"], os.pathsep.join([str(tmp_path / "site"), ""])
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert result.returncode == 1 and not result.stderr
    assert "FIX  torch and torchvision: OSError: a library is missing: run" in result.stdout


# Jupyter


def kernelspec(folder: Path, program: str) -> None:
    folder = folder / "kernels" / "python3"
    folder.mkdir(parents=True)
    spec = {"argv": [program, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "P"}
    (folder / "kernel.json").write_text(json.dumps(spec | {"language": "python"}))


@pytest.mark.parametrize("program", ["/nowhere/bin/python", "nowhere", shutil.which("true"), sys._base_executable])
def test_a_kernel_elsewhere(monkeypatch, tmp_path, program):
    """A virtual environment's Python is a link to its base: only the Python itself tells which one it is."""
    if program == sys._base_executable and sys.prefix == sys.base_prefix:
        pytest.skip("there is no virtual environment")
    kernelspec(tmp_path / "jupyter", program)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    found(doctor.kernel, "FIX", program, "-m ipykernel install --sys-prefix", str(tmp_path / "jupyter"))


@pytest.mark.parametrize("program", ["python", "python3", sys.executable])
def test_this_environments_kernel(monkeypatch, tmp_path, program):
    kernelspec(tmp_path / "jupyter", program)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    found(doctor.kernel, "OK", sys.prefix)


def test_a_damaged_kernelspec(monkeypatch, tmp_path):
    kernelspec(tmp_path / "jupyter", "python")
    (tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json").write_text("{")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    found(doctor.kernel, "FIX", "kernel: ")


@pytest.mark.parametrize(
    "disabled,part",
    [
        ({"anywidget": True}, "anywidget"),
        (["anywidget"], "anywidget"),
        (
            {"other": True, "@jupyter-widgets/jupyterlab-manager:plugin": True},
            "@jupyter-widgets/jupyterlab-manager:plugin",
        ),
        ({"anywidget": False, "anywidget-lookalike": True}, ""),
    ],
)
def test_a_disabled_extension(tmp_path, disabled, part):
    folder = tmp_path / "JUPYTER_CONFIG_DIR" / "labconfig"
    folder.mkdir(parents=True)
    (folder / "page_config.json").write_text(json.dumps({"disabledExtensions": disabled}))
    if part:
        found(doctor.widgets, "FIX", f"its extension {part} is disabled: run", f"labextension enable {part}")
    else:
        found(doctor.widgets, "OK")


@pytest.mark.slow
def test_jupyterlab_disables_where_the_doctor_looks():
    command = [sys.executable, "-m", "jupyter", "labextension"]
    subprocess.run([*command, "disable", "anywidget", "--level=user"], check=True, capture_output=True)
    found(doctor.widgets, "FIX", "anywidget is disabled")
    subprocess.run([*command, "enable", "anywidget", "--level=user"], check=True, capture_output=True)
    found(doctor.widgets, "OK")


def test_an_extension_that_is_missing(monkeypatch, tmp_path):
    there = Path(sys.prefix, "share", "jupyter", "labextensions")
    shutil.copytree(there / "@jupyter-widgets", tmp_path / "labextensions" / "@jupyter-widgets")
    monkeypatch.setattr(jupyter_core.paths, "ENV_JUPYTER_PATH", [str(tmp_path)])
    monkeypatch.setattr(jupyter_core.paths, "SYSTEM_JUPYTER_PATH", [])
    found(doctor.widgets, "FIX", "anywidget is missing: run", "--no-deps anywidget")


# The machine


@pytest.mark.parametrize("free,status", [(2.4e9, "FIX"), (4.9e9, "NOTE"), (5.1e9, "OK")])
def test_memory(monkeypatch, free, status):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free, total=16e9))
    found(doctor.memory, status, f"{free / 1e9:.1f} of 16.0 GB")


@pytest.mark.parametrize("free,status", [(0.9e9, "FIX"), (1.1e9, "OK")])
def test_disk_space(monkeypatch, project, free, status):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    found(doctor.folders, status, str(project / "runs"), *(["CIFAR_RUNS"] if status == "FIX" else []))


def test_disk_space_for_the_data_counts_only_while_they_are_missing(monkeypatch, project, tmp_path, imitation):
    (tmp_path / "small").mkdir()
    monkeypatch.setenv("CIFAR10_DIR", str(tmp_path / "small" / "data"))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=0 if "small" in str(place) else 50e9))
    found(doctor.folders, "FIX", str(tmp_path / "small" / "data"), "CIFAR10_DIR")
    imitation.write(tmp_path / "small" / "data")
    found(doctor.folders, "OK")


@pytest.mark.parametrize(
    "device,build,status,words",
    [("cpu", None, "OK", "none is needed"), ("cpu", "99.9", "NOTE", "CUDA 99.9"), ("cuda", "99.9", "OK", "H1"),
     ("mps", None, "OK", "Apple")],
)  # fmt: skip
def test_gpus(monkeypatch, device, build, status, words):
    monkeypatch.setattr(train, "best_device", lambda: torch.device(device))
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H1")
    found(doctor.gpu, status, words)


# Data and runs


def test_without_data(project):
    found(doctor.data_checked, "NOTE", "the sample", "python -m cifar_utils download")
    assert not list(project.iterdir())


def test_data(project, imitation):
    imitation.write(project / "data")
    found(doctor.data_checked, "OK", str(project / "data"), "checked")


def test_a_damaged_file(project, imitation, capsys):
    imitation.write(project / "data")
    file = download.folder(project / "data") / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-1])
    words = (f"{file} is damaged: delete the folder {file.parent}", "python -m cifar_utils download")
    found(doctor.data_checked, "FIX", *words)
    file.unlink()
    found(doctor.data_checked, "FIX", f"{file} is missing")


@pytest.mark.parametrize("variable", ["CIFAR_RUNS", "CIFAR10_DIR"])
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which even root cannot write")
def test_a_folder_that_cannot_be_written_to(monkeypatch, variable):
    monkeypatch.setenv(variable, "/proc/self/mine/deep")
    found(doctor.folders, "FIX", "/proc/self/mine/deep", f"set {variable} to")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_a_read_only_folder(monkeypatch, tmp_path):
    folder = tmp_path / "shut"
    folder.mkdir(mode=0o555)
    monkeypatch.setenv("CIFAR_RUNS", str(folder / "runs"))
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    me = os.geteuid()
    if me == 0:  # whom no permission stops
        os.seteuid(65534)
    try:
        line = doctor.folders()
    finally:
        os.seteuid(me)
    assert line.status == "FIX" and "Permission denied" in line.text
    assert not list(folder.iterdir())


def test_a_file_in_place_of_a_folder(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path / "file" / "runs"))
    found(doctor.folders, "FIX", str(tmp_path / "file" / "runs"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which even root cannot write")
def test_shared_data_need_not_be_writable(monkeypatch, project, imitation):
    imitation.write(project / "data")
    where = download.folder(project / "data")
    monkeypatch.setattr(download, "folder", lambda directory: where)
    monkeypatch.setenv("CIFAR10_DIR", "/proc/self/mine")
    found(doctor.folders, "OK")


HOLD = "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); print(1); input()"


def test_a_run_in_use(project):
    for name in ("a", "b", "c"):
        (project / "runs" / name).mkdir(parents=True)
    (project / "runs" / "a" / ".lock").touch()
    (project / "runs" / "b" / "run.json").write_text('{"owner": "Ada on a laptop"}')
    command = [sys.executable, "-uc", HOLD, str(project / "runs" / "b" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        found(doctor.run_in_use, "NOTE", "in use: b (Ada on a laptop). Until")
        (project / "runs" / "b" / "run.json").write_text("[")
        found(doctor.run_in_use, "NOTE", "in use: b. Until")
        assert cli.run(["doctor"]) == 0, "a workshop can run"
        process.communicate(b"enough")
    found(doctor.run_in_use, "OK")
    assert not (project / "runs" / "c" / ".lock").exists()


def test_a_run_that_this_kernel_trains_is_in_use(project):
    for folder in (project / "runs" / "a", project / "runs" / "sweep" / "a"):
        with runs.run_lock(folder, {}):
            found(doctor.run_in_use, "NOTE", "in use: a (", f"process {os.getpid()}, since")
    found(doctor.run_in_use, "OK")


# The first cell


def test_quick_is_ready_in_one_line(project, capsys, imitation):
    doctor.quick()
    out = capsys.readouterr().out
    assert out.startswith("Ready: Python ") and out.count("\n") == 1 and "the sample that ships" in out
    imitation.write(project / "data")
    file = download.folder(project / "data") / "test_batch"
    file.write_bytes(b"damaged, but that takes long to see")
    doctor.quick()
    out = capsys.readouterr().out
    assert (
        out.endswith("; the full data set\n") and str(project) not in out
    )  # a notebook is shared, its folders are not


def test_quick_tells_what_to_fix_and_nothing_else(project, capsys, monkeypatch, tmp_path, imitation):
    imitation.write(project / "data")
    (download.folder(project / "data") / "test_batch").unlink()
    distribution(tmp_path / "site", "torch", "1.0")
    monkeypatch.syspath_prepend(tmp_path / "site")
    doctor.quick()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith("FIX  ") for line in lines)
    assert "torch is 1.0" in lines[0] and "test_batch is missing" in lines[1]


def test_quick_computes_nothing(monkeypatch):
    def too_slow(*_):
        raise AssertionError

    monkeypatch.setattr(speed, "step_milliseconds", too_slow)
    monkeypatch.setattr(download, "check", too_slow)
    doctor.quick()


# The minutes


def notebook(path: Path, **metadata) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"metadata": metadata, "cells": []}))


def test_minutes_are_scaled_by_the_training_step(project, monkeypatch):
    notebook(project / "notebooks" / "01_a.ipynb", seconds=600, step_milliseconds=100.0)
    notebook(project / "notebooks" / "02_b.ipynb", seconds=600)
    notebook(project / "notebooks" / "03_c.ipynb")
    notebook(project / "notebooks" / "notes.ipynb", seconds=600)
    (project / "notebooks" / "04_d.ipynb").write_text("{")
    for folder in (project, project / "notebooks"):
        monkeypatch.chdir(folder)
        title, *rows = doctor.speed().text.splitlines()
        assert title.startswith("a training step takes 50 ms; minutes ") and "full data set" in title
        assert [row.split()[:2] for row in rows] == [["01_a", "5.0"], ["02_b", "10.0"]]
        assert "machine that recorded it" in rows[1] and "recorded" not in rows[0]


def test_a_damaged_sample_is_told(monkeypatch, tmp_path):
    from cifar_utils import data

    monkeypatch.undo()
    monkeypatch.setattr(data, "SAMPLE", tmp_path)
    line = doctor._line(doctor.speed)
    assert line.status == "FIX" and "sample" in line.text and "damaged" in line.text


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """The real measurement, with its temporary folder in sight."""
    monkeypatch.undo()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield speed.step_milliseconds
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.slow
def test_the_median_of_the_steps_after_the_warm_up(measured, capsys, monkeypatch):
    batches, forward = [], models.SmallCNN.forward
    monkeypatch.setattr(models.SmallCNN, "forward", lambda self, x: [batches.append(len(x)), forward(self, x)][1])
    seconds = iter([0, *[1000] * speed.WARM_UP, *[1] * (speed.TIMED // 2), 5, *[9] * (speed.TIMED // 2)])
    clock = itertools.accumulate(seconds)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert measured() == 5000
    assert next(clock, None) is None and sum(100 < n <= 128 for n in batches) >= speed.WARM_UP + speed.TIMED
    assert not capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_while_it_is_timed(measured, monkeypatch, capsys):
    steps, record = [], train.TrainerState.record

    def interrupted(*args):
        steps.append(1)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        record(*args)

    monkeypatch.setattr(train.TrainerState, "record", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err.strip() == "Stopped." and len(steps) == 3


@pytest.mark.slow
def test_the_tool_records_the_training_step_once(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "tools" / "run_notebooks.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    calls = []
    monkeypatch.setattr(tool, "step_milliseconds", lambda: [calls.append(1), 12.34][1])
    paths = [tmp_path / "1_a.ipynb", tmp_path / "2_b.ipynb"]
    for path in paths:
        nbformat.write(new_notebook(cells=[new_code_cell("1")]), path)
    monkeypatch.setattr(sys, "argv", ["tool", "--in-place", "--output", str(tmp_path / "build"), *map(str, paths)])
    assert tool.main() == 0 and len(calls) == 1
    for path in paths:
        recorded = nbformat.read(path, as_version=4).metadata
        assert recorded["step_milliseconds"] == 12.3 and recorded["seconds"] >= 0
