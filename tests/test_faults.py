"""A run that cannot be lost: killed, stopped, out of space, owned by another, damaged. docs/faults.md sums it up."""

import errno
import multiprocessing
import os
import random
import resource
import signal
import time
from collections import Counter
from contextlib import contextmanager, nullcontext

import killed_run
import pytest
import torch
from killed_run import Boundaries
from test_training import interrupt, without_seconds
from tiny import train_tiny

from cifar_utils import checkpoint, runs, training
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.policy import Policy

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals, limits and users")
FILES = (runs.LAST, runs.BEST)
BOUNDARIES_A_SAVE = 13  # 3 of the write, 2 x 2 of its way to the disk, 2 x 2 of the renames, 2 of the folder


def contents(folder):
    """All that must be equal in the end: every tensor, and every number but the seconds."""
    found = {}
    for name in FILES:
        saved = checkpoint.load(folder / name)
        state = saved.meta["state"]
        found[name] = (
            saved.tensors,
            saved.meta["setting"],
            state["epoch"],
            state["step"],
            without_seconds(state["history"]),
        )
    return found


def same(a, b):
    return all(
        a[name][1:] == b[name][1:]
        and a[name][0].keys() == b[name][0].keys()
        and all(torch.equal(a[name][0][key], b[name][0][key]) for key in a[name][0])
        for name in FILES
    )


@pytest.fixture(scope="module")
def fork():
    """Starts processes that have torch imported already, so that killing a hundred of them takes a minute."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["cifar_utils.training", "hypothesis"]
    )  # what can be found without tests/ in the path
    return context.Process


@pytest.fixture(scope="module")
def reference(fork, tmp_path_factory):
    """The run that is never interrupted, and its boundaries."""
    folder = tmp_path_factory.mktemp("reference")
    process = fork(target=killed_run.run, args=(folder / "run", 0, folder / "log"))
    process.start()
    process.join()
    assert process.exitcode == 0
    return contents(folder / "run"), (folder / "log").read_text().split("\n")[:-1]


def finish(fork, folder):
    process = fork(target=killed_run.run, args=(folder,))
    process.start()
    process.join()
    return process.exitcode


# Killed


@posix
@pytest.mark.slow
def test_killed_at_every_boundary_of_every_save(fork, reference, tmp_path):
    wanted, boundaries = reference
    kinds = {f"{when} {what}" for when in ("before", "after") for what in ("write", "to_disk", "replace", "fsync")}
    assert set(boundaries) == kinds | {"half written"}
    order = [
        "write",
        "half written",
        "write",
        "to_disk",
        "fsync",
        "fsync",
        "to_disk",
        "replace",
        "replace",
        "fsync",
        "fsync",
    ]
    first_save = [name.removeprefix("before ").removeprefix("after ") for name in boundaries[: len(order)]]
    assert first_save == order, "flushed before it is renamed, the folder after it"
    for number, name in enumerate(boundaries, start=1):
        folder, log = tmp_path / str(number), tmp_path / f"log{number}"
        process = fork(target=killed_run.run, args=(folder, number, log))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert log.read_text().split("\n")[:-1] == boundaries[:number], "the boundary was not reached"
        assert finish(fork, folder) == 0, name
        assert same(contents(folder), wanted), f"{name}, boundary {number}"
        assert not list(folder.glob("*.tmp")), "left-overs are cleaned"


@posix
@pytest.mark.slow
def test_killed_in_the_middle_of_a_naive_save_the_run_is_lost(fork, reference, tmp_path):
    """The negative control: written straight over the old file, as torch.save does, it cannot be gone on with."""
    process = fork(target=killed_run.run, args=(tmp_path, 5, None, True))  # the second save's "half written"
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(CheckpointError):
        [checkpoint.load_newest(path) for path in tmp_path.glob("*.safetensors")]


@posix
@pytest.mark.slow
def test_killed_at_50_random_moments(fork, reference, tmp_path):
    wanted, _ = reference
    start = time.perf_counter()
    assert finish(fork, tmp_path / "timed") == 0
    duration, rng, outcomes = time.perf_counter() - start, random.Random(0), Counter()
    for number in range(50):
        folder = tmp_path / str(number)
        process = fork(target=killed_run.run, args=(folder,))
        process.start()
        time.sleep(rng.uniform(0, duration))
        process.kill()
        process.join()
        outcomes[process.exitcode] += 1
        assert finish(fork, folder) == 0
        assert same(contents(folder), wanted), number
    assert outcomes[-signal.SIGKILL] >= 25, "most were not killed in time: then this test proves little"


# Stopped


def stopped(folder, monkeypatch, step):
    with monkeypatch.context() as patch:
        interrupt(patch, (training, "augment"), step)
        return train_tiny(folder, **killed_run.STEPS)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    torch.manual_seed(0)
    train_tiny(folder, **killed_run.STEPS)
    return contents(folder)


@pytest.mark.parametrize("step", range(1, 7))
def test_resumed_at_every_step_the_result_is_the_same(tmp_path, monkeypatch, uninterrupted, step):
    torch.manual_seed(0)
    stopped(tmp_path, monkeypatch, step)
    torch.manual_seed(1)  # another day, other random numbers: the saved generator counts
    history, network = train_tiny(tmp_path, **killed_run.STEPS)
    assert same(contents(tmp_path), uninterrupted)
    assert without_seconds(history) == uninterrupted[runs.LAST][-1]
    tensors = uninterrupted[runs.LAST][0]
    assert all(torch.equal(tensors[f"model.{name}"], tensor) for name, tensor in network.state_dict().items())


def test_resumed_three_times_the_result_is_the_same(tmp_path, monkeypatch, uninterrupted):
    torch.manual_seed(0)
    for step in (1, 2, 2):
        stopped(tmp_path, monkeypatch, step)
    assert checkpoint.load(tmp_path / runs.LAST).meta["state"]["epoch"] == 1
    train_tiny(tmp_path, **killed_run.STEPS)
    assert same(contents(tmp_path), uninterrupted)


@pytest.mark.parametrize("forgotten", ["momentum", "step", "last_met.losses_before"])
def test_a_resume_that_forgets_something_ends_elsewhere(tmp_path, monkeypatch, uninterrupted, forgotten):
    """Negative controls: without the momentum, from the epoch's start, with other images left out: another result."""
    stopped(tmp_path, monkeypatch, 5)
    path = tmp_path / runs.LAST
    saved = checkpoint.load(path)
    tensors = saved.tensors
    if forgotten == "step":
        saved.meta["state"]["step"] = 0
    elif forgotten == "momentum":
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("momentum")}
    else:
        tensors[forgotten] = tensors[forgotten].flip(0)
    checkpoint.save(path, tensors, saved.meta)
    train_tiny(tmp_path, **killed_run.STEPS)
    assert not same(contents(tmp_path), uninterrupted)


def test_after_completion_nothing_is_trained(tmp_path, monkeypatch, capsys):
    history, _ = train_tiny(tmp_path, **killed_run.STEPS)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    monkeypatch.setattr(training, "augment", None)  # a single step would fail
    again, network = train_tiny(tmp_path, **killed_run.STEPS)
    assert again == history and "complete: 2 epochs, nothing left to train" in capsys.readouterr().out
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    tensors = checkpoint.load(tmp_path / runs.LAST).tensors
    assert all(torch.equal(tensors[f"model.{name}"], tensor) for name, tensor in network.state_dict().items())


@posix
def test_a_second_interrupt_during_the_save_leaves_the_former_generation(tmp_path, monkeypatch, uninterrupted):
    torch.manual_seed(0)

    def again(name):
        if name == "half written" and stop_signals:
            signal.raise_signal(signal.SIGINT)

    stop_signals = []
    request = runs.StopSignal.request
    monkeypatch.setattr(runs.StopSignal, "request", lambda *args: (stop_signals.append(1), request(*args))[1])
    with pytest.raises(KeyboardInterrupt), Boundaries(again):
        stopped(tmp_path, monkeypatch, 5)
    state = checkpoint.load(tmp_path / runs.LAST).meta["state"]
    assert (state["epoch"], state["step"]) == (1, 0), "the save of step 5 did not happen, that of epoch 1 is whole"
    train_tiny(tmp_path, **killed_run.STEPS)
    assert same(contents(tmp_path), uninterrupted)
    assert not list(tmp_path.glob("*.tmp"))


def test_without_the_stop_signal_the_interrupt_loses_the_batch(tmp_path, monkeypatch):
    """The negative control of the stop button."""
    monkeypatch.setattr(runs.StopSignal, "__enter__", lambda self: self)
    monkeypatch.setattr(runs.StopSignal, "__exit__", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        stopped(tmp_path, monkeypatch, 2)


def test_the_callers_signal_handlers_come_back(tmp_path, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train_tiny(tmp_path / "a", epochs=1)
    stopped(tmp_path / "b", monkeypatch, 1)
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_save_every_saves_within_the_epoch(tmp_path, monkeypatch):
    calls = []

    def power_cut(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise MemoryError
        return augment(*arguments)

    augment = training.augment
    monkeypatch.setattr(training, "augment", power_cut)
    with pytest.raises(MemoryError):
        train_tiny(tmp_path, save_every=2, **killed_run.STEPS)
    state = checkpoint.load(tmp_path / runs.LAST).meta["state"]
    assert (state["epoch"], state["step"]) == (1, 2)


# Other circumstances


@pytest.mark.parametrize(
    "change,words",
    [
        ({"learning_rate": 0.1}, "config.learning_rate was 0.05 and is 0.1"),
        ({"policy": Policy(degrees=7)}, "policy.degrees was 10.0 and is 7.0"),
        ({"images": 64}, "data.title was SAMPLE, 127 training images and is SAMPLE, 64 training images"),
    ],
)
def test_another_setting_is_refused_with_the_difference_named(tmp_path, monkeypatch, change, words):
    stopped(tmp_path, monkeypatch, 2)
    with pytest.raises(CheckpointError, match=words):
        train_tiny(tmp_path, **(killed_run.STEPS | change))


def test_without_the_comparison_another_setting_is_not_noticed(tmp_path, monkeypatch):
    """The negative control."""
    stopped(tmp_path, monkeypatch, 2)
    monkeypatch.setattr(runs, "differences", lambda *_: [])
    assert len(train_tiny(tmp_path, **(killed_run.STEPS | {"learning_rate": 0.1}))[0]) == 2


@pytest.mark.parametrize("change", [{"learning_rate": 0.1}, {"images": 96}])
def test_another_setting_is_accepted_when_asked_for(tmp_path, monkeypatch, change):
    stopped(tmp_path, monkeypatch, 2)
    history, _ = train_tiny(tmp_path, allow_changes=True, **(killed_run.STEPS | change))
    assert len(history) == 2


def test_another_number_of_threads_is_told(tmp_path, monkeypatch, capsys):
    stopped(tmp_path, monkeypatch, 2)
    train_tiny(tmp_path, threads=2, **killed_run.STEPS)
    assert (
        "WARNING: the last digits will differ from an uninterrupted run: threads was 1 and is 2"
        in capsys.readouterr().out
    )


def test_the_earliest_of_equals_is_the_best_and_stays_it_over_a_resume(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, (training, "augment"), 4)
        train_tiny(tmp_path, epochs=3, images=96, learning_rate=0.0)
    train_tiny(tmp_path, epochs=3, images=96, learning_rate=0.0)
    history = checkpoint.load(tmp_path / runs.LAST).meta["state"]["history"]
    lowest = min(history, key=lambda row: row["validation_loss"])
    assert checkpoint.load(tmp_path / runs.BEST).meta["state"]["epoch"] == lowest["epoch"]


# No space, no permission


@contextmanager
def no_space_at(number, code):
    count = 0

    def reached(name):
        nonlocal count
        count += 1
        if count == number:
            raise OSError(code, os.strerror(code))

    with Boundaries(reached):
        yield lambda: count


def test_a_full_disk_at_every_boundary_of_a_save_keeps_what_was_saved(tmp_path):
    path = tmp_path / "last.safetensors"
    tensors = {"w": torch.ones(100)}
    for epoch in (1, 2):
        checkpoint.save(path, tensors, {"epoch": epoch})
    with no_space_at(0, errno.ENOSPC) as count:
        checkpoint.save(path, tensors, {"epoch": 3})
    assert count() == BOUNDARIES_A_SAVE
    for number in range(1, count() + 1):
        before = checkpoint.load_newest(path).meta["epoch"]
        with no_space_at(number, errno.ENOSPC), pytest.raises(CheckpointError, match="No space left.*Free some space"):
            checkpoint.save(path, tensors, {"epoch": before + 1})
        assert checkpoint.load_newest(path).meta["epoch"] in (before, before + 1)
        assert not list(tmp_path.glob("*.tmp"))
        checkpoint.save(path, tensors, {"epoch": before + 1})


@posix
def test_a_real_limit_on_the_files_size(tmp_path):
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, {"w": torch.ones(10)}, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot be saved"):
            checkpoint.save(path, {"w": torch.ones(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.load(path).tensors["w"].numel() == 10 and os.listdir(tmp_path) == [path.name]


def test_too_little_space_is_said_before_the_first_epoch(tmp_path, monkeypatch):
    usage = runs.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(runs.shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    monkeypatch.setattr(training, "augment", None)  # not a single step
    with pytest.raises(CheckpointError, match=r"has 0 MB free, and the run needs \d+ MB"):
        train_tiny(tmp_path)


def test_without_that_check_training_would_begin(tmp_path, monkeypatch):
    """The negative control."""
    usage = runs.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(runs.shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    monkeypatch.setattr(runs, "check_space", lambda *_: None)
    assert len(train_tiny(tmp_path)[0]) == 2


@posix
def test_a_read_only_folder_is_said_before_the_first_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "augment", None)
    folder = tmp_path / "run"
    folder.mkdir()
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:  # whom no permission stops
        os.seteuid(65534)
    try:
        with pytest.raises(CheckpointError, match="cannot be written to.*Permission denied"):
            train_tiny(folder)
    finally:
        if root:
            os.seteuid(0)


# Two kernels on one folder


def hold(folder, pipe):
    with runs.owned(folder):
        pipe.send("held")
        time.sleep(60)


@posix
def test_a_second_kernel_is_refused_and_a_dead_ones_lock_is_taken_over(tmp_path, fork):
    here, there = multiprocessing.Pipe()
    process = fork(target=hold, args=(tmp_path, there))
    process.start()
    assert here.recv() == "held"
    with pytest.raises(CheckpointError, match=rf"is in use: .+ on .+, process {process.pid}, since .+ trains there"):
        train_tiny(tmp_path)
    process.kill()
    process.join()
    history, _ = train_tiny(tmp_path)
    assert len(history) == 2


def test_without_the_lock_the_second_is_not_refused(tmp_path, monkeypatch):
    """The negative control of the lock."""
    monkeypatch.setattr(runs, "FileLock", lambda *_, **__: nullcontext())
    with runs.owned(tmp_path):
        train_tiny(tmp_path)
