"""A run that cannot be lost: killed, stopped, out of space, owned by another. docs/faults.md sums it up."""

import errno
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from contextlib import contextmanager, nullcontext

import killed_run
import pytest
import tiny as tiny_module
import torch
from killed_run import Boundaries
from tiny import STEPS, WAYS, contents, digest, narrow, tiny, train_tiny, without_seconds

from cifar_utils import checkpoint, checks, runs
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.train import sgd, steps

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals, limits and users")
A_WRITE = ["write", "half written", "write", "to_disk", "fsync", "fsync", "to_disk", "replace", "replace", "fsync", "fsync"]  # fmt: skip # noqa: E501
BOUNDARIES_OF_A_SAVE = len(A_WRITE) + 2  # a backup is one rename more


@pytest.fixture(scope="module")
def fork():
    """Starts processes that have torch imported already, so that killing a hundred of them takes minutes."""
    context = multiprocessing.get_context("forkserver")
    # What is found without tests/ in the path, and what the first training step imports.
    context.set_forkserver_preload(["cifar_utils.train", "hypothesis", "torch._dynamo", "torchvision"])
    return context.Process


def run_to_its_end(fork, *args) -> int:
    process = fork(target=killed_run.run, args=(killed_run.images(), *args))
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture
def complete(monkeypatch):
    """Runs it to its end in this process, where a killed one is resumed faster than in a new one."""
    monkeypatch.setattr(tiny_module, "_sample", tiny_module._sample)  # `killed_run.run` changes it

    def run(folder, way="plainly"):
        killed_run.run(killed_run.images(), folder, way)

    return run


@pytest.fixture(scope="module")
def references(fork, tmp_path_factory):
    """Of each way of training, the run that is never interrupted, and its boundaries."""
    folder, found = tmp_path_factory.mktemp("references"), {}

    def reference(way):
        if way not in found:
            run, log = folder / way, folder / f"{way}.log"
            assert run_to_its_end(fork, run, way, 0, log) == 0
            found[way] = contents(run), log.read_text().split("\n")[:-1]
        return found[way]

    return reference


# Killed


@posix
@pytest.mark.slow
def test_killed_in_every_state_of_the_files_of_every_save(fork, references, complete, tmp_path):
    wanted, boundaries = references("plainly")
    kinds = {f"{when} {what}" for when in ("before", "after") for what in ("write", "to_disk", "replace", "fsync")}
    assert set(boundaries) == kinds | {"half written"}
    first = [name.removeprefix("before ").removeprefix("after ") for name in boundaries[: len(A_WRITE)]]
    assert first == A_WRITE, "flushed before it is renamed, the folder after it"
    # Without a power cut, a flush changes no file, and nothing changes between it and the next rename.
    same = {"before fsync", "after fsync", "after to_disk", "before replace"}
    for number, name in [(n, name) for n, name in enumerate(boundaries, start=1) if name not in same]:
        run, log = tmp_path / str(number), tmp_path / f"log{number}"
        assert run_to_its_end(fork, run, "plainly", number, log) == -signal.SIGKILL
        assert log.read_text().split("\n")[:-1] == boundaries[:number], "the boundary was not reached"
        for path in (run / "run.json", run / "history.json"):
            assert not path.exists() or json.loads(path.read_text()), f"{name}, boundary {number}"
        complete(run)
        assert contents(run) == wanted, f"{name}, boundary {number}"
        history = json.loads((run / "history.json").read_text())
        assert history == checkpoint.load(run / runs.LAST)["states"]["trainer"]["history"]
        assert not list(run.glob(".*.tmp")), "left-overs are cleaned"


@posix
@pytest.mark.slow
def test_killed_in_the_middle_of_a_naive_save_the_run_is_lost(fork, tmp_path):
    """The negative control: written straight over the old file, as torch.save does, it cannot be resumed."""
    # Three boundaries per write: run.json, last, best, and half of the second last.
    assert run_to_its_end(fork, tmp_path, "plainly", 11, None, True) == -signal.SIGKILL
    with pytest.raises(CheckpointError):
        checkpoint.load_newest(tmp_path / runs.LAST)
    assert run_to_its_end(fork, tmp_path) == 1


@posix
@pytest.mark.slow
@pytest.mark.parametrize("way,count", [("plainly", 15), ("with other parts", 15), ("fast", 15)])
def test_killed_at_random_moments(fork, references, complete, tmp_path, way, count):
    wanted, _ = references(way)
    durations, rng, outcomes = [], random.Random(0), Counter()
    for name in ("timed", "timed again"):
        start = time.perf_counter()
        assert run_to_its_end(fork, tmp_path / name, way) == 0
        durations.append(time.perf_counter() - start)
    for number in range(count):
        run = tmp_path / str(number)
        process = fork(target=killed_run.run, args=(killed_run.images(), run, way))
        process.start()
        time.sleep(rng.uniform(0, 0.8 * min(durations)))  # other work on the machine makes a run longer
        process.kill()
        process.join()
        outcomes[process.exitcode] += 1
        complete(run, way)
        assert contents(run) == wanted, number
    assert outcomes[-signal.SIGKILL] >= count / 2, "most were not killed in time: then this test proves little"


# Stopped


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Of each way of training: the contents of the run that is never interrupted, its history and its model's bits."""
    found = {}

    def run(way):
        if way not in found:
            folder = tmp_path_factory.mktemp("uninterrupted")
            history, model = train_tiny(folder, **WAYS[way]())
            found[way] = contents(folder), without_seconds(history), bits(model)
        return found[way]

    return run


def bits(model):
    return {name: digest(tensor) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("way,step", [(way, step) for way in WAYS for step in range(1, STEPS[way] + 1)])
def test_resumed_at_every_step_the_result_is_the_same(tmp_path, uninterrupted, way, step):
    torch.manual_seed(0)
    train_tiny(tmp_path, **WAYS[way](), stop_after=step)
    torch.manual_seed(1)  # another day, other random numbers
    history, model = train_tiny(tmp_path, **WAYS[way]())
    assert (contents(tmp_path), without_seconds(history), bits(model)) == uninterrupted(way)


@pytest.mark.parametrize("way", WAYS)
def test_stopped_after_each_step_the_result_is_the_same(tmp_path, uninterrupted, way):
    for _ in range(STEPS[way]):
        train_tiny(tmp_path, **WAYS[way](), stop_after=1)
    train_tiny(tmp_path, **WAYS[way]())
    assert contents(tmp_path) == uninterrupted(way)[0]


FORGET = {  # what is lost -> how a training and its saved states are changed
    "optimizer": ("plainly", lambda states: states["optimizer"]["state"].clear()),
    "AdamW": ("with other parts", lambda states: states["optimizer"]["state"].clear()),
    "Muon": ("fast", lambda states: states["optimizer"]["state"].clear()),
    "scheduler": ("plainly", lambda states: states["scheduler"].update(last_epoch=0)),
    "OneCycleLR": ("with other parts", lambda states: states["scheduler"].update(last_epoch=0)),
    "trainer": ("plainly", lambda states: states["trainer"].update(step=0)),
    "sums": ("plainly", lambda states: states["trainer"].update(sums=[0.0, 0.0, 0.0])),
    "sampler": ("fast", lambda states: states["sampler"].update(losses_at_start=states["sampler"]["losses"])),
    "losses": ("fast", lambda states: states["sampler"].update(losses=states["sampler"]["losses"].flip(0))),
}


@pytest.mark.parametrize("forgotten", FORGET)
def test_a_resume_that_forgets_something_ends_elsewhere(tmp_path, uninterrupted, forgotten):
    """Negative controls: without the momentum, from the epoch's start, with other images left out, ..."""
    way, forget = FORGET[forgotten]
    stop = 2 if forgotten == "losses" else 4
    train_tiny(tmp_path, **WAYS[way](), stop_after=stop)
    saved = checkpoint.load(tmp_path / runs.LAST)
    forget(saved["states"])
    checkpoint.save(tmp_path / runs.LAST, saved)
    train_tiny(tmp_path, **WAYS[way]())
    assert contents(tmp_path) != uninterrupted(way)[0]


def test_what_the_negative_controls_do_is_not_what_makes_the_difference(tmp_path, uninterrupted):
    """Saving the same once more changes nothing."""
    train_tiny(tmp_path, **WAYS["plainly"](), stop_after=4)
    checkpoint.save(tmp_path / runs.LAST, checkpoint.load(tmp_path / runs.LAST))
    train_tiny(tmp_path, **WAYS["plainly"]())
    assert contents(tmp_path) == uninterrupted("plainly")[0]


def test_after_completion_nothing_is_trained(tmp_path, capsys):
    history, model = train_tiny(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    states = []
    again, other = train_tiny(tmp_path, between=states.append)
    assert again == history and len(states) == 1 and states[0].batch is None
    assert "is complete: 2 epochs" in capsys.readouterr().out
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    assert bits(other) == bits(model)


@posix
def test_a_second_interrupt_during_the_save_leaves_the_backup(tmp_path, monkeypatch, uninterrupted):
    requests, request = [], runs.StopSignal.request
    monkeypatch.setattr(runs.StopSignal, "request", lambda *args: (requests.append(1), request(*args))[1])

    def again(name):
        if name == "half written" and requests:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), Boundaries(again):
        train_tiny(tmp_path, **WAYS["plainly"](), stop_after=5)
    state = checkpoint.load(tmp_path / runs.LAST)["states"]["trainer"]
    assert (state["epoch"], state["step"]) == (1, 0), "the save of step 5 did not happen, that of epoch 1 is whole"
    assert not list(tmp_path.glob(".*.tmp"))
    train_tiny(tmp_path, **WAYS["plainly"]())
    assert contents(tmp_path) == uninterrupted("plainly")[0]


def test_without_the_stop_signal_the_interrupt_loses_the_step(tmp_path, monkeypatch):
    """The negative control of the stop button."""
    monkeypatch.setattr(runs.StopSignal, "__enter__", lambda self: self)
    monkeypatch.setattr(runs.StopSignal, "__exit__", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tmp_path, stop_after=2)
    assert checkpoint.load(tmp_path / runs.LAST)["states"]["trainer"]["step"] == 0


def test_the_callers_signal_handlers_come_back(tmp_path):
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    train_tiny(tmp_path / "a", epochs=1)
    train_tiny(tmp_path / "b", stop_after=1)
    with pytest.raises(ZeroDivisionError):
        train_tiny(tmp_path / "c", between=lambda state: 1 / (1 - state.step))
    assert before == [signal.getsignal(number) for number in numbers]


def test_save_every_saves_within_the_epoch(tmp_path):
    def power_cut(state):
        if state.epochs > 1.7:
            raise MemoryError

    with pytest.raises(MemoryError):
        train_tiny(tmp_path, images=127, save_every=2, between=power_cut)  # four steps per epoch
    state = checkpoint.load(tmp_path / runs.LAST)["states"]["trainer"]
    assert (state["epoch"], state["step"]) == (1, 2)


def test_save_every_changes_nothing_else(tmp_path, uninterrupted):
    train_tiny(tmp_path, save_every=1, **WAYS["plainly"]())
    assert contents(tmp_path) == uninterrupted("plainly")[0]


def test_another_number_of_threads_is_told(tmp_path, capsys):
    train_tiny(tmp_path, stop_after=2)
    train_tiny(tmp_path, threads=2)
    warning = "WARNING: the last digits will differ from an uninterrupted run: threads was 1 and is 2"
    assert warning in capsys.readouterr().out


def test_the_earliest_of_equals_is_the_best_and_stays_it_over_a_resume(tmp_path):
    """The learning rate is 0 and there is no batch norm: every epoch has the same validation loss."""
    for stop in (4, None):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10, bias=False))
        torch.nn.init.zeros_(model[1].weight)
        history, _ = train_tiny(tmp_path, model, optimizer=sgd(model, 0.0), epochs=3, stop_after=stop)
    assert len({row["validation_loss"] for row in history}) == 1
    assert checkpoint.load(tmp_path / runs.BEST)["states"]["trainer"]["epoch"] == 1


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
        checkpoint.save(path, tensors | {"epoch": epoch})
    with no_space_at(0, errno.ENOSPC) as count:
        checkpoint.save(path, tensors | {"epoch": 3})
    assert count() == BOUNDARIES_OF_A_SAVE
    flushed = 0
    for number in range(1, count() + 1):
        before = checkpoint.load_newest(path)["epoch"]
        try:
            with no_space_at(number, errno.ENOSPC):
                checkpoint.save(path, tensors | {"epoch": before + 1})
            flushed += 1  # both files were whole and in place: only the folder's flush failed
        except CheckpointError as error:
            assert "No space left" in str(error) and "Free some space" in str(error)
        assert checkpoint.load_newest(path)["epoch"] in (before, before + 1)
        assert not list(tmp_path.glob(".*.tmp"))
        checkpoint.save(path, tensors | {"epoch": before + 1})
    assert flushed == 2


def test_a_disk_that_fills_up_while_training_ends_it_with_a_sentence(tmp_path):
    train_tiny(tmp_path, stop_after=1)
    with no_space_at(20, errno.ENOSPC), pytest.raises(CheckpointError, match="No space left on device"):
        train_tiny(tmp_path)
    assert len(train_tiny(tmp_path)[0]) == 2


@posix
def test_a_real_limit_on_the_files_size(tmp_path):
    import resource

    path = tmp_path / "last.safetensors"
    checkpoint.save(path, {"w": torch.ones(10)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot be saved"):
            checkpoint.save(path, {"w": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.load(path)["w"].numel() == 10 and os.listdir(tmp_path) == [path.name]


def too_little(monkeypatch, folder):
    usage = checks.shutil.disk_usage(folder)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage._replace(free=100_000))


def test_too_little_space_is_said_before_the_first_step(tmp_path, monkeypatch):
    too_little(monkeypatch, tmp_path)
    steps = []
    with pytest.raises(CheckpointError, match=r"has 0 MB free, and the run needs \d+ MB"):
        train_tiny(tmp_path, between=lambda state: steps.append(state.step))
    assert not any(steps)


@pytest.mark.parametrize("optimizer,is_too_large", [(torch.optim.AdamW, True), (torch.optim.SGD, False)])
def test_a_checkpoint_that_will_be_too_large_is_said_before_the_first_step(
    tmp_path, monkeypatch, optimizer, is_too_large
):
    """Before the first step an optimizer has no state yet, so the first save would still pass."""
    model = narrow()
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values()) + 2**20
    monkeypatch.setattr(checks, "MAX_BYTES", int(2.5 * (size - 2**20)) + 2**20)
    options = {"optimizer": optimizer(model.parameters(), lr=0.01), "epochs": 1, "batch_size": 32}
    states = steps(model, tiny(), tiny(32, "validation"), run=tmp_path / "run", **options)
    if is_too_large:
        with pytest.raises(CheckpointError, match="a checkpoint would take"):
            next(states)
        assert not (tmp_path / "run" / runs.LAST).exists()
    else:
        assert len([*states][-1].history) == 1


def test_without_that_check_training_would_begin(tmp_path, monkeypatch):
    """The negative control."""
    too_little(monkeypatch, tmp_path)
    monkeypatch.setattr(checks, "check_start", lambda *_: None)
    assert len(train_tiny(tmp_path)[0]) == 2


@posix
def test_a_read_only_folder_is_said_before_the_first_step(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    folder.chmod(0o555)
    root, steps = os.geteuid() == 0, []
    if root:  # whom no permission stops
        os.seteuid(65534)
    try:
        with pytest.raises(CheckpointError, match="cannot be written to.*Permission denied"):
            train_tiny(folder, between=lambda state: steps.append(state.step))
    finally:
        if root:
            os.seteuid(0)
    assert not any(steps)


# Two kernels on one folder


def hold(folder, pipe):
    with runs.run_lock(folder, {}):
        pipe.send("held")
        time.sleep(60)


@pytest.mark.slow
@posix
def test_a_second_kernel_is_refused_and_a_dead_ones_lock_is_taken_over(tmp_path, fork):
    train_tiny(tmp_path, stop_after=3)
    here, there = multiprocessing.Pipe()
    process = fork(target=hold, args=(tmp_path, there))
    process.start()
    assert here.recv() == "held"
    with pytest.raises(CheckpointError, match=rf"is in use: .+ on .+, process {process.pid}, since .+ trains there"):
        train_tiny(tmp_path)
    process.kill()
    process.join()
    assert len(train_tiny(tmp_path)[0]) == 2


def test_without_the_lock_the_second_is_not_refused(tmp_path, monkeypatch):
    """The negative control of the lock."""

    class NoLock(nullcontext):
        acquire = release = lambda self: None

    monkeypatch.setattr(runs, "FileLock", lambda *_, **__: NoLock())
    with runs.run_lock(tmp_path, {}):
        train_tiny(tmp_path, narrow())
