"""Steering a training between its steps: stop, the learning rate, the batch."""

import math
from pathlib import Path

import pytest
import torch
from synthetic import images, linear
from torch import nn

from cifar_utils import checkpoint, runs
from cifar_utils.augment import PRESETS
from cifar_utils.train import TrainerState, steps


def train(run: Path, between=lambda state: None, **changes) -> list[dict]:
    """Trains two epochs of two steps each, and calls `between` with every state."""
    options = {"transform": PRESETS["full"], "epochs": 2, "batch_size": 32, "run": run, "device": "cpu"} | changes
    for state in steps(linear(), images(64), images(20, "validation"), **options):
        between(state)
    return state.history


def states(run: Path) -> dict:
    return checkpoint.load(run / runs.LAST)["states"]


def same(a: Path, b: Path) -> bool:
    one, other = (states(path)["model"] for path in (a, b))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_learning_rate_is_multiplied_from_the_next_step_on_and_saved(tmp_path):
    def halve(state: TrainerState) -> None:
        state.learning_rate_scale = 0.5

    plain, half = train(tmp_path / "plain"), train(tmp_path / "half", halve)
    assert [a["learning_rate"] / b["learning_rate"] for a, b in zip(half, plain)] == pytest.approx([0.5, 0.5])
    assert not same(tmp_path / "plain", tmp_path / "half")
    assert states(tmp_path / "half")["trainer"]["learning_rate_scale"] == 0.5


@pytest.mark.parametrize("stop_at", [0.5, 1.0, 1.5])
def test_a_changed_learning_rate_survives_a_stop(tmp_path, stop_at):
    """Changed after the first of four steps, and stopped after the first, second or third: as without the stop."""
    for name in ("through", "stopped"):

        def between(state: TrainerState, name=name) -> None:
            if state.epochs == 0.5:
                state.learning_rate_scale = 0.25
            state.stop = name == "stopped" and state.epochs == stop_at

        train(tmp_path / name, between)
    assert states(tmp_path / "stopped")["trainer"]["epoch"] < 2
    scales = []
    assert len(train(tmp_path / "stopped", lambda state: scales.append(state.learning_rate_scale))) == 2
    assert set(scales) == {0.25} and same(tmp_path / "through", tmp_path / "stopped")


@pytest.mark.parametrize("at", ["an epoch's end", "the start of a resumed training"])
def test_what_is_changed_together_with_a_stop_between_epochs_is_saved(tmp_path, at):
    def between(state: TrainerState) -> None:
        if state.epochs == 1:
            state.stop = True
            state.learning_rate_scale = 0.25 if at == "an epoch's end" or seen else 1.0
            seen.append(1)

    seen = []
    train(tmp_path, lambda state: between(state) if len(state.history) == 1 else None)
    if at != "an epoch's end":
        train(tmp_path, between)
    assert states(tmp_path)["trainer"]["learning_rate_scale"] == 0.25


def test_the_state_of_training(tmp_path):
    seen = []

    def between(state: TrainerState) -> None:
        seen.append((state.epochs, len(state.history), state.loss, state.accuracy, state.seconds, state.total_epochs))

    history = train(tmp_path, between)
    epochs, rows, losses, accuracies, seconds, totals = zip(*seen)
    assert list(epochs) == [0, 0.5, 1, 1, 1.5, 2, 2] and list(rows) == [0, 0, 0, 1, 1, 1, 2] and set(totals) == {2}
    assert math.isnan(losses[0]) and math.isnan(accuracies[0])
    assert all(loss > 0 for loss in losses[1:]) and all(0 <= accuracy <= 1 for accuracy in accuracies[1:])
    assert list(seconds) == sorted(seconds)
    assert losses[2] == pytest.approx(history[0]["training_loss"])


def test_a_complete_run_yields_once(tmp_path):
    history, seen = train(tmp_path), []
    assert train(tmp_path, seen.append) == history and len(seen) == 1


@pytest.mark.parametrize("transform,size", [(None, 32), (PRESETS["full"], 32), (lambda x: x[..., :20, :20], 20)])
def test_the_batch_is_what_the_network_was_trained_on(tmp_path, transform, size):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))  # for images of any size
    trained_on, batches = [], []

    def note(module, arguments) -> None:
        if module.training:
            trained_on.append(arguments[0].clone())

    model.register_forward_pre_hook(note)
    options = {"transform": transform, "epochs": 1, "batch_size": 32, "run": tmp_path, "device": "cpu"}
    for state in steps(model, images(64), images(20, "validation"), **options):
        batches.append(None if state.batch is None else state.batch.clone())
    assert batches[0] is None and batches[1].shape == (32, 3, size, size) and batches[1].dtype == torch.float32
    assert torch.equal(batches[1], trained_on[-2]) and torch.equal(batches[2], trained_on[-1])
    assert not torch.equal(batches[1], batches[2]) and 0 <= batches[1].min() and batches[1].max() <= 1


def test_leaving_the_loop_lets_go_of_the_run(tmp_path):
    training = steps(linear(), images(64), images(20, "validation"), epochs=2, batch_size=32, run=tmp_path)
    next(training), next(training)
    training.close()
    assert len(train(tmp_path, transform=None)) == 2
