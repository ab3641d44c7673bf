"""Steering a training between its steps: stop, learning rate, a look at the batch."""

import math
from pathlib import Path

import pytest
import torch
from tiny import narrow, tiny, train_tiny

from cifar_utils import checkpoint, runs, training
from cifar_utils.data import Normalisation
from cifar_utils.policy import PRESETS
from cifar_utils.training import Steering


@pytest.fixture(autouse=True)
def one_thread():
    """See `tiny.train_tiny`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same(a: Path, b: Path) -> bool:
    one, other = (checkpoint.load(path / runs.LAST).tensors for path in (a, b))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def steered(run: Path, steering: Steering, between=lambda progress: None) -> list[dict]:
    """Trains two epochs of two steps each, and calls `between` whenever training pauses."""
    split = tiny()
    config = training.Config(epochs=2, batch_size=32, learning_rate=0.05, skip=0.0)
    arguments = tiny(32, "validation"), PRESETS["full"], config, Normalisation.of(split), run
    for progress in training.training_steps(narrow(), split, *arguments, steering=steering):
        between(progress)
    return progress.history


def test_the_learning_rate_is_multiplied_from_the_next_step_on_and_saved(tmp_path):
    plain = steered(tmp_path / "plain", Steering())
    half = steered(tmp_path / "half", Steering(learning_rate_scale=0.5))
    assert [a["learning_rate"] / b["learning_rate"] for a, b in zip(half, plain)] == pytest.approx([0.5, 0.5])
    assert not same(tmp_path / "plain", tmp_path / "half")
    assert checkpoint.load(tmp_path / "half" / runs.LAST).meta["state"]["learning_rate_scale"] == 0.5


@pytest.mark.parametrize("stop_at", [0.5, 1.0, 1.5])
def test_a_turned_learning_rate_survives_a_stop(tmp_path, stop_at):
    """Turned after the first of four steps, and stopped after the first, second or third: as without the stop."""
    for name in ("through", "stopped"):
        steering = Steering()

        def between(progress, steering=steering, name=name):
            if progress.epochs == 0.5:
                steering.learning_rate_scale = 0.25
            steering.stop = name == "stopped" and progress.epochs == stop_at

        steered(tmp_path / name, steering, between)
    assert checkpoint.load(tmp_path / "stopped" / runs.LAST).meta["state"]["epoch"] < 2
    fresh = Steering()
    assert len(steered(tmp_path / "stopped", fresh)) == 2
    assert fresh.learning_rate_scale == 0.25 and same(tmp_path / "through", tmp_path / "stopped")


def test_progress_says_where_training_stands(tmp_path):
    seen = []
    history = steered(tmp_path, Steering(), seen.append)
    assert [p.epochs for p in seen] == [0, 0.5, 1, 1, 1.5, 2, 2]
    assert [len(p.history) for p in seen] == [0, 0, 0, 1, 1, 1, 2] and seen[-1].history == history
    assert math.isnan(seen[0].loss) and math.isnan(seen[0].accuracy)
    steps = [seen[pause] for pause in (1, 2, 4, 5)]
    assert all(p.loss > 0 and 0 <= p.accuracy <= 1 for p in steps)
    assert [p.seconds for p in steps] == sorted(p.seconds for p in steps)
    assert steps[1].loss == pytest.approx(history[0]["training_loss"])


def test_a_complete_run_pauses_once(tmp_path):
    history, seen = steered(tmp_path, Steering()), []
    assert steered(tmp_path, Steering(), seen.append) == history and len(seen) == 1


def test_the_batch_is_a_copy(tmp_path):
    """The memory of a batch is used again in the next step."""
    steering, batches = Steering(wants_batch=True), []

    def between(progress):
        if steering.batch is not None:
            assert steering.batch.shape[:2] == (32, 3) and not steering.wants_batch
            batches.append(steering.batch)
            steering.batch, steering.wants_batch = None, True

    steered(tmp_path, steering, between)
    assert len(batches) == 4 and not any(torch.equal(a, b) for a, b in zip(batches, batches[1:]))


def test_whoever_leaves_in_between_lets_go_of_the_run(tmp_path):
    split = tiny()
    config = training.Config(epochs=2, batch_size=32, learning_rate=0.05, skip=0.0)
    arguments = tiny(32, "validation"), PRESETS["full"], config, Normalisation.of(split), tmp_path
    steps = training.training_steps(narrow(), split, *arguments)
    next(steps), next(steps)
    steps.close()
    assert len(steered(tmp_path, Steering())) == 2


def test_a_run_of_before_learning_rates_could_be_turned_is_still_read(tmp_path):
    train_tiny(tmp_path)
    saved = checkpoint.load(tmp_path / runs.LAST)
    del saved.meta["state"]["learning_rate_scale"]
    checkpoint.save(tmp_path / runs.LAST, saved.tensors, saved.meta)
    _, state = runs.read(tmp_path / runs.LAST)
    assert state.learning_rate_scale == 1
