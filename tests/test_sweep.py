"""Sweeps: every combination once, bit for bit as alone, on processes of this machine and on a Dask cluster."""

import csv
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import contents, tensors

from cifar_utils import checkpoint, overview, runs
from cifar_utils.__main__ import main
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.scale import sweep

SEEDS = (0, 1)
POLICIES = ("none", "full")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Two classes of 30 noisy images of 16 pixels, one dark and one bright."""
    folder, noise = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, level in (("dark", 60), ("bright", 180)):
        (folder / name).mkdir()
        for i in range(30):
            pixels = noise.integers(level - 60, level + 60, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def write(folder: Path, images: Path, name: str = "sweep.yaml", epochs: int = 2) -> Path:
    lines = [f"policy: [{', '.join(POLICIES)}]", f"seed: [{', '.join(map(str, SEEDS))}]"]
    (folder / name).write_text("\n".join([*lines, f"epochs: {epochs}", "size: 16", f"images: {images}\n"]))
    return folder / name


@pytest.fixture(scope="module")
def swept(images, tmp_path_factory) -> Path:
    """The folder of a finished sweep, by two processes."""
    folder = tmp_path_factory.mktemp("swept")
    assert main(["sweep", str(write(folder, images)), "--folder", str(folder / "runs"), "--jobs", "2"]) == 0
    return folder / "runs"


def rows(folder: Path, name: str = "results") -> list[dict]:
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_combination_is_trained_once(swept):
    found = rows(swept)
    assert {(row["policy"], int(row["seed"])) for row in found} == {(p, s) for p in POLICIES for s in SEEDS}
    assert len(found) == 4 and all(row["status"] == "finished" and row["epochs_done"] == "2" for row in found)
    assert len(overview.find_runs(directory=swept)) == 4
    for row in found:
        settings = runs.about(swept / row["folder"])["settings"]
        assert settings["seed"] == int(row["seed"]) and ("degrees" in settings["transform"]) == (
            row["policy"] == "full"
        )


@pytest.mark.slow
def test_a_training_is_bit_for_bit_the_one_of_the_command_line(swept, images, tmp_path):
    row = rows(swept)[-1]
    arguments = ["train", "--policy", row["policy"], "--seed", row["seed"], "--epochs", "2", "--size", "16"]
    code = "import sys, torch; torch.set_num_threads(1); from cifar_utils.__main__ import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments, "--images", images, "--folder", tmp_path / "alone"]
    subprocess.run(command, check=True, capture_output=True)
    assert contents(swept / row["folder"]) == contents(tmp_path / "alone")
    other = next(other for other in rows(swept) if other["seed"] != row["seed"])
    assert tensors(swept / other["folder"]) != tensors(tmp_path / "alone")


def test_the_summary_has_students_interval_over_the_seeds(swept):
    from scipy import stats

    values = [float(row["validation_accuracy"]) for row in rows(swept) if row["policy"] == "full"]
    row = next(row for row in rows(swept, "summary") if row["policy"] == "full")
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert row["seeds"] == "2" and "seed" not in row
    found = [float(row[name]) for name in ("validation_accuracy", "low", "high")]
    if np.std(values):
        assert np.allclose(found, [np.mean(values), max(0, low), min(1, high)])
    else:
        assert np.allclose(found, np.mean(values))


def test_the_interval_by_hand():
    made = [{"status": "finished", "seed": s, "policy": "p", "validation_accuracy": a, "minutes": 1.0}
            for s, a in enumerate((0.5, 0.6, 0.7))]  # fmt: skip
    (row,) = sweep.summary([*made, made[0] | {"status": "stopped", "validation_accuracy": 0.0}])
    assert row["seeds"] == 3 and abs(row["validation_accuracy"] - 0.6) < 1e-12
    assert abs(row["high"] - 0.6 - 4.302653 * 0.1 / 3**0.5) < 1e-6  # t of 2 degrees of freedom
    (wide,) = sweep.summary([made[0], made[1] | {"validation_accuracy": 0.9}])
    assert (wide["low"], wide["high"]) == (0, 1)  # an accuracy lies nowhere else
    assert sweep.summary([]) == [] and sweep.as_text([]) == "No run is finished yet."


def test_an_edited_file_makes_another_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, names = tmp_path / "sweep.yaml", []
    file.write_text("policy: mine.json\nmodel: net.py:Net\n")
    for degrees, width in ((5, 8), (5, 8), (10, 8), (10, 16)):
        Path("mine.json").write_text(f'{{"degrees": {degrees}}}')
        Path("net.py").write_text(f"def Net(classes):\n    return {width}\n")
        names.append(sweep.read(file, tmp_path)[0].folder.name)
    assert names[0] == names[1] and len(set(names)) == 3


def test_a_file_that_is_edited_while_the_sweep_waits_is_no_part_of_it(images, tmp_path):
    """Or the later runs of one table would have been trained by other code than the earlier ones."""
    policy = tmp_path / "mine.json"
    policy.write_text('{"degrees": 5}')
    file = tmp_path / "sweep.yaml"
    file.write_text(f"policy: {policy}\nepochs: 1\nsize: 16\nimages: {images}\n")
    (training,) = sweep.read(file, tmp_path / "runs")
    policy.write_text('{"degrees": 10}')
    _, problem = sweep.train_one(training, 1, False)
    assert "has changed since the sweep began" in problem
    assert not checkpoint.exists(training.folder / runs.LAST)
    policy.unlink()  # as on a worker that lacks it
    assert "mine.json" in sweep.train_one(training, 1, False)[1]
    policy.write_text('{"degrees": 5}')
    assert sweep.train_one(training, 1, False)[1] == ""


def test_a_sweep_is_resumed_with_as_many_threads(swept, images, capsys):
    assert {row["environment"]["threads"] for row in map(runs.about, swept.glob("*_*"))} == {1}
    file = write(swept.parent, images, "longer.yaml", epochs=3)
    assert main(["sweep", str(file), "--folder", str(swept), "--jobs", "1", "--dry-run"]) == 0
    assert "(1 threads each)" in capsys.readouterr().out


def test_a_stop_ends_a_sweep_whose_trainings_run_in_this_process(images, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(sweep, "train_one", lambda training, *_: started.append(1) or (training, sweep.STOPPED))
    with pytest.raises(KeyboardInterrupt):
        sweep.run(write(tmp_path, images), tmp_path / "runs", jobs=1, threads=1)
    assert len(started) == 1


def test_the_table_fills_while_the_sweep_goes_on(images, tmp_path, monkeypatch):
    told = []

    def train_one(training, *_):
        file = tmp_path / "runs" / "results.csv"
        told.append([row["status"] for row in rows(tmp_path / "runs")].count("failed") if file.exists() else 0)
        return training, "failed"

    monkeypatch.setattr(sweep, "train_one", train_one)
    assert not sweep.run(write(tmp_path, images), tmp_path / "runs", jobs=1, threads=1)
    assert told == [0, 1, 2, 3] and [row["status"] for row in rows(tmp_path / "runs")] == ["failed"] * 4


@pytest.mark.parametrize("code,said", [("import math\nmath.lingspace", "lingspace"), ("x = 1", "trainings is needed")])
def test_what_is_wrong_in_a_python_file_is_told(tmp_path, code, said):
    (tmp_path / "sweep.py").write_text(code)
    with pytest.raises(ValueError, match=said):
        sweep.read(tmp_path / "sweep.py", tmp_path)


def test_nothing_is_repeated(swept, images, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in swept.rglob("*.safetensors")}
    assert main(["sweep", str(write(tmp_path, images)), "--folder", str(swept)]) == 0
    assert "4 runs, 4 of them finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in swept.rglob("*.safetensors")} == before


def test_a_dry_run_lists_the_trainings_and_trains_nothing(images, tmp_path, capsys):
    file = write(tmp_path, images)
    assert main(["sweep", str(file), "--folder", str(tmp_path / "runs"), "--dry-run", "--jobs", "2"]) == 0
    told = capsys.readouterr().out
    assert told.count("minutes\n") == 4 and "with 2 at once" in told and "Nothing was trained" in told
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_for_a_cluster_promises_nothing_of_its_workers(images, tmp_path, capsys):
    command = ["sweep", str(write(tmp_path, images)), "--folder", str(tmp_path / "runs"), "--dry-run"]
    assert main([*command, "--dask", "tcp://127.0.0.1:9"]) == 0
    told = capsys.readouterr().out
    assert "one after the other on this machine" in told and "at once" not in told


def test_the_profile_of_the_environment_is_none_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_PROFILE", "smoke")
    file = tmp_path / "sweep.yaml"
    file.write_text("[{profile: smoke}, {policy: full, seed: 0}, {seed: 0}, {profile: class}]")
    assert [t.options for t in sweep.read(file, tmp_path)] == [
        {"profile": "smoke"},
        {"policy": "full", "seed": 0},
        {"profile": "class"},
    ]


def test_a_dry_run_of_one_step_has_an_estimate(images, tmp_path, capsys):
    file = write(tmp_path, images, epochs=1)
    assert main(["sweep", str(file), "--folder", str(tmp_path / "runs"), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("minutes\n") == 4


def test_a_training_has_one_folder_whatever_the_order_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_PROFILE", "smoke")

    def folders(text: str) -> list[str]:
        (tmp_path / "sweep.yaml").write_text(text)
        return [training.folder.name for training in sweep.read(tmp_path / "sweep.yaml", tmp_path)]

    smoke = folders("policy: none\nseed: 1")
    assert smoke == folders("seed: 1\npolicy: none")
    assert len(folders("- {policy: full}\n- {policy: full, seed: [0, 1]}\n- {policy: full, seed: null}")) == 2
    monkeypatch.setenv("CIFAR_PROFILE", "class")
    assert smoke != folders("policy: none\nseed: 1"), "another number of epochs"


def test_a_worker_of_another_profile_trains_what_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_PROFILE", "smoke")
    (tmp_path / "sweep.yaml").write_text("seed: [0]\nsample: true")
    (training,) = sweep.read(tmp_path / "sweep.yaml", tmp_path)
    monkeypatch.setenv("CIFAR_PROFILE", "long")
    assert sweep.cli.parse(training.arguments).profile == "smoke"


def test_means_are_not_taken_over_different_images():
    row = {"status": "finished", "policy": "full", "validation_accuracy": 0.5, "minutes": 1.0}
    few, many = row | {"seed": 0, "trained_on": "SAMPLE"}, row | {"seed": 1, "trained_on": "CIFAR-10"}
    means = sweep.summary([few, many])
    assert [found["seeds"] for found in means] == [1, 1]
    assert "SAMPLE" in sweep.as_text(means) and "SAMPLE" not in sweep.as_text(means[1:])


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_process_that_is_killed_is_one_sentence(images, tmp_path, capsys):
    """As by a system that is out of memory."""
    (tmp_path / "mine.py").write_text("import os\ndef Net(classes):\n    os.kill(os.getpid(), 9)\n")
    file = write(tmp_path, images)
    file.write_text(file.read_text() + f"model: {tmp_path / 'mine.py'}:Net\n")
    assert main(["sweep", str(file), "--folder", str(tmp_path / "runs"), "--jobs", "2"]) == 1
    assert "the process of a run was killed" in capsys.readouterr().err


def test_after_a_change_in_the_folder_of_images_its_runs_are_trained_anew(images, tmp_path):
    mine = shutil.copytree(images, tmp_path / "mine")
    file, folder = write(tmp_path, mine), tmp_path / "runs"
    names = [{run.folder.name for run in sweep.read(file, folder)}]
    for change in (lambda: (mine / "dark" / "0.png").rename(mine / "bright" / "new.png"), lambda: None):
        change()
        names.append({run.folder.name for run in sweep.read(file, folder)})
    assert not names[0] & names[1] and names[1] == names[2]


@pytest.mark.slow
def test_what_was_interrupted_resumes_bit_for_bit(swept, images, tmp_path, monkeypatch):
    """A training that was stopped within its first epoch, as by a machine that was switched off."""
    trainings = sweep.read(write(tmp_path, images), tmp_path / "runs")
    chosen = trainings[0]
    options = sweep.cli.parse(chosen.arguments)
    model, train, val, arguments = sweep.cli.prepare(options)
    states = sweep.train.steps(model, train, val, run=chosen.folder, **arguments)
    for state in states:
        state.stop = state.step == 1
    assert not state.history
    sweep.run(write(tmp_path, images), tmp_path / "runs", jobs=1)
    assert contents(chosen.folder) == contents(swept / chosen.folder.name)
    assert "Resuming" in (chosen.folder / "log.txt").read_text()


def test_a_training_that_fails_stops_no_other(images, tmp_path, capsys):
    """One clear sentence, and the same command, once the cause is gone, trains what is missing."""
    network = tmp_path / "mine.py"
    good = "from torch import nn\ndef Net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(768, classes))\n"
    network.write_text("def Net(classes):\n    raise RuntimeError('a network of my own fails')\n")
    file = tmp_path / "sweep.py"
    common = {"images": str(images), "size": 16, "epochs": 1}
    models = [None, f"{network}:Net"]
    file.write_text(f"trainings = [{common | {'model': models}!r}]\n")
    arguments = ["sweep", str(file), "--folder", str(tmp_path / "runs"), "--jobs", "1"]
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert "a network of my own fails" in told.out and "Not finished: 1 of" in told.out
    assert "Traceback" not in told.out + told.err
    status = {bool(row["model"]): row["status"] for row in rows(tmp_path / "runs")}
    assert status[False] == "finished" and "a network of my own fails" in status[True]
    network.write_text(good)
    assert main(arguments) == 0
    assert all(row["status"] == "finished" for row in rows(tmp_path / "runs"))


def test_runs_of_an_earlier_file_do_not_count_as_its_own(images, tmp_path, capsys):
    """Finished runs of other combinations lie in the same folder, and the only one of this file fails."""
    folder = tmp_path / "runs"
    common = {"images": str(images), "size": 16, "epochs": 1}
    file = tmp_path / "sweep.py"
    file.write_text(f"trainings = [{common | {'seed': [0, 1]}!r}]\n")
    assert main(["sweep", str(file), "--folder", str(folder), "--jobs", "1"]) == 0
    (tmp_path / "mine.py").write_text("def Net(classes):\n    raise RuntimeError('it fails')\n")
    file.write_text(f"trainings = [{common | {'model': str(tmp_path / 'mine.py') + ':Net'}!r}]\n")
    assert main(["sweep", str(file), "--folder", str(folder), "--jobs", "1"]) == 1
    assert "Not finished: 1 of" in capsys.readouterr().out


def test_runs_that_finish_on_a_disk_that_is_not_shared_are_a_problem(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "_on_a_cluster", lambda tasks, address: ((task[0], "") for task in tasks))
    assert main(["sweep", str(write(tmp_path, images)), "--folder", str(tmp_path / "runs"), "--dask", "tcp://x:1"]) == 1
    told = capsys.readouterr().out
    assert "it finished on another machine" in told and ": finished" not in told
    assert all("another machine" in row["status"] for row in rows(tmp_path / "runs"))


def test_a_dry_run_names_what_would_fail_and_estimates_the_rest(images, tmp_path, capsys):
    file = tmp_path / "sweep.py"
    common = {"images": str(images), "size": 16, "epochs": 1, "model": [None, f"{tmp_path}/missing.py:Net"]}
    file.write_text(f"trainings = [{common!r}]\n")
    assert main(["sweep", str(file), "--folder", str(tmp_path / "runs"), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "it would fail: --model" in told and told.count(": about ") == 1


def test_a_dry_run_goes_on_behind_a_training_that_diverges(images, tmp_path, monkeypatch, capsys):
    estimate = sweep._estimate

    def diverges(training, threads):
        if training.options["policy"] == "none":
            raise FloatingPointError("the loss is nan")
        return estimate(training, threads)

    monkeypatch.setattr(sweep, "_estimate", diverges)
    file = write(tmp_path, images, epochs=1)
    assert main(["sweep", str(file), "--folder", str(tmp_path / "runs"), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert told.count("it would fail: the loss is nan") == len(SEEDS) == told.count(": about ")


def test_the_recipes_and_the_network_of_the_page_can_be_trained(images, tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "more_than_one.md").read_text()
    (code,) = re.findall(r"```python\n(# mine.py\n.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    for options in (["--recipe", "adamw"], ["--recipe", "smooth"], ["--model", "Net"]):
        named = [options[0], f"{tmp_path}/mine.py:{options[1]}"]
        usual = ["--images", str(images), "--size", "16", "--epochs", "1", "--folder", str(tmp_path / options[1])]
        assert main(["train", *named, *usual]) == 0


def test_a_full_disk_is_one_sentence(images, tmp_path, monkeypatch):
    training = sweep.read(write(tmp_path, images), tmp_path / "runs")[0]

    def full(path, content, backup=False):
        raise CheckpointError(f"{path} cannot be written: the disk is full.")

    monkeypatch.setattr(checkpoint, "write", full)
    _, problem = sweep.train_one(training, 1, False)
    assert problem.endswith("the disk is full.") and "\n" not in problem


def test_a_worker_without_the_full_set_does_not_train_on_the_sample(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv("CIFAR10_MIRROR", "http://127.0.0.1:9/")
    training = sweep.Training({"epochs": 1}, tmp_path / "runs" / "full", "class")
    _, problem = sweep.train_one(training, 1, needs_full_set=True)
    assert problem and not (training.folder / "last.safetensors").exists()


BAD = {
    "nonsense: [1, 2]": "there is no option 'nonsense'",
    "policy: []": "a list of values is empty",
    "policy: mild": None,  # a file may have this name on another machine: the training says so
    "seed: [-1]": "seed",
    "seed: [0.5]": "seed is 0.5",
    "sample: 3": "sample is 3",
    "epochs: none": "epochs",
    "- 3": "a mapping",
    "": "a mapping",
    "policy: [full": "cannot be read",
    "size: [8]": "--size",
}


@pytest.mark.parametrize("text", BAD)
def test_a_file_that_asks_for_something_else_is_refused_in_a_sentence(tmp_path, capsys, text):
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    if BAD[text] is None:
        assert sweep.read(file, tmp_path)
        return
    assert main(["sweep", str(file), "--folder", str(tmp_path / "runs")]) == 1
    told = capsys.readouterr().err
    assert BAD[text] in told and str(file) in told and "Traceback" not in told
    assert not (tmp_path / "runs").exists()


def test_the_same_combination_in_two_blocks_is_one_training(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text("- {policy: [none, full], seed: 0}\n- {policy: full, seed: [0, 1]}\n")
    assert len(sweep.read(file, tmp_path)) == 3


def test_a_dask_cluster_that_is_not_there_is_one_sentence(images, tmp_path, capsys, monkeypatch):
    real = pytest.importorskip("distributed").Client
    monkeypatch.setattr("dask.distributed.Client", lambda address, timeout: real(address, timeout=2))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"tcp://127.0.0.1:{closed.getsockname()[1]}"
        arguments = ["--folder", str(tmp_path / "runs"), "--dask", address]
        assert main(["sweep", str(write(tmp_path, images)), *arguments]) == 1
    assert "there is no Dask scheduler at" in capsys.readouterr().err


class Cluster:
    """A Dask scheduler and its workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workers, self.sweeps = folder, [], []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.start_scheduler()

    def _start(self, program: str, *arguments: str, largest_file: int = 2**40, **environment: str) -> subprocess.Popen:
        # Workers are killed here on purpose: that must not count as the fault of a training.
        environment = os.environ | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "100"} | environment
        log = (self.folder / f"{program}.log").open("a")
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *arguments, "--no-dashboard"]
        options = {}
        if os.name == "posix":
            import resource

            options["preexec_fn"] = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (largest_file, largest_file))
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.folder, **options)

    def start_scheduler(self) -> None:
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port))

    def start_worker(self, **options) -> subprocess.Popen:
        place = ["--local-directory", str(self.folder), "--nthreads", "1", "--no-nanny", "--death-timeout", "60"]
        self.workers.append(self._start("worker", self.address, *place, **options))
        return self.workers[-1]

    def wait(self, workers: int) -> None:
        from distributed import Client

        with Client(self.address, timeout=60) as client:
            client.wait_for_workers(workers, timeout=60)

    def close(self) -> None:
        for process in [*self.sweeps, *self.workers, self.scheduler]:
            process.kill()
            process.wait(20)


@pytest.fixture
def cluster(tmp_path):
    pytest.importorskip("distributed", reason="needs the extra [cluster]")
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


def start_sweep(file: Path, folder: Path, cluster: Cluster) -> subprocess.Popen:
    command = [sys.executable, "-m", "cifar_utils", "sweep", file, "--folder", folder, "--threads", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    cluster.sweeps.append(subprocess.Popen([*command, "--dask", cluster.address], **pipes))
    return cluster.sweeps[-1]


def sweep_here(file: Path, folder: Path, cluster: Cluster, capsys) -> str:
    """The same command in this process, and what it prints."""
    main(["sweep", str(file), "--folder", str(folder), "--threads", "1", "--dask", cluster.address])
    return "".join(capsys.readouterr())


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory) -> Path:
    """The sweep of 10 epochs without a cluster, for those whose workers or schedulers are killed."""
    folder = tmp_path_factory.mktemp("alone")
    sweep.run(write(folder, images, epochs=10), folder / "runs", jobs=2, threads=1)
    return folder / "runs"


def under_way(folder: Path, count: int = 1, seconds: float = 120) -> None:
    """Waits until so many trainings have saved something."""
    end = time.monotonic() + seconds
    while len(list(folder.glob("*/last.safetensors"))) < count:
        assert time.monotonic() < end
        time.sleep(0.05)


def trains_and_has_saved_an_epoch(folder: Path, cluster: Cluster) -> subprocess.Popen:
    """The first worker of which this is so."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for history in folder.glob("*/history.json"):
            owner = json.loads(history.with_name("run.json").read_text())["owner"]
            process = next((w for w in cluster.workers if f"process {w.pid}," in owner), None)
            if process and len(json.loads(history.read_text())) < 6:  # of 10
                return process
        time.sleep(0.05)
    raise AssertionError("no worker has saved an epoch")


@pytest.mark.slow
def test_workers_that_are_killed_change_nothing(cluster, images, alone, tmp_path):
    """Three workers, killed with SIGKILL one after the other and replaced: every run complete, bit for bit as alone."""
    file, folder = write(tmp_path, images, epochs=10), tmp_path / "runs"
    for _ in range(3):
        cluster.start_worker()
    cluster.wait(3)
    process, chance = start_sweep(file, folder, cluster), random.Random(0)
    killed = 0
    while process.poll() is None and killed < 4:
        if killed == 0:  # one that has something to lose
            victim = trains_and_has_saved_an_epoch(folder, cluster)
        else:
            time.sleep(chance.uniform(0.2, 0.8))
            victim = chance.choice(cluster.workers)
        victim.send_signal(signal.SIGKILL)
        victim.wait(20)
        cluster.workers.remove(victim)
        cluster.start_worker()
        killed += 1
    told, _ = process.communicate(timeout=400)
    assert process.returncode == 0 and killed == 4, told
    assert "resuming" in "".join(p.read_text() for p in folder.glob("*/log.txt")).lower() or "Resuming" in told
    assert all(row["status"] == "finished" for row in rows(folder))
    for row in rows(folder):
        assert contents(folder / row["folder"]) == contents(alone / row["folder"])


@pytest.mark.slow
def test_a_scheduler_that_is_killed_ends_the_sweep_in_a_sentence_and_the_same_command_completes_it(
    cluster, images, alone, tmp_path, capsys
):
    file, folder = write(tmp_path, images, epochs=10), tmp_path / "runs"
    cluster.start_worker()
    cluster.wait(1)
    process = start_sweep(file, folder, cluster)
    under_way(folder)
    cluster.scheduler.send_signal(signal.SIGKILL)
    cluster.scheduler.wait(20)
    told, _ = process.communicate(timeout=200)
    assert process.returncode == 1 and "Traceback" not in told, told
    assert "the same command resumes" in told.splitlines()[-1].lower(), told
    for worker in cluster.workers:
        worker.kill()
        worker.wait(20)
    cluster.start_scheduler()
    cluster.start_worker()
    cluster.wait(1)
    told = sweep_here(file, folder, cluster, capsys)
    for row in rows(folder):
        assert row["status"] == "finished", told
        assert contents(folder / row["folder"]) == contents(alone / row["folder"])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_worker_that_cannot_save_is_one_sentence_and_the_same_command_completes_the_sweep(
    cluster, images, tmp_path, capsys
):
    """As on a full disk: no file may have more than 100 kB."""
    file, folder = write(tmp_path, images), tmp_path / "runs"
    worker = cluster.start_worker(largest_file=100_000)
    cluster.wait(1)
    told = sweep_here(file, folder, cluster, capsys)
    assert "Traceback" not in told and "Not finished: 4 of 4 runs. The same command resumes them." in told
    assert all("cannot be saved (File too large)" in row["status"] for row in rows(folder))
    worker.kill()
    worker.wait(20)
    cluster.start_worker()
    cluster.wait(1)
    told = sweep_here(file, folder, cluster, capsys)
    assert all(row["status"] == "finished" for row in rows(folder)), told


@pytest.mark.slow
def test_a_worker_that_cannot_read_the_images_is_one_sentence(cluster, tmp_path, capsys):
    file, folder = write(tmp_path, tmp_path / "gone"), tmp_path / "runs"
    cluster.start_worker()
    cluster.wait(1)
    told = sweep_here(file, folder, cluster, capsys)
    assert "Traceback" not in told
    assert all(str(tmp_path / "gone") in row["status"] for row in rows(folder))
