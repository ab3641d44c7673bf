"""Training on a GPU: it never waits for the GPU within an epoch, and it can be stopped and resumed."""

import pytest
import torch
from torch import nn

from cifar_utils import data, speedrun
from cifar_utils.augment import PRESETS
from cifar_utils.models import Normalize, SmallCNN
from cifar_utils.train import fit, steps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(scope="module")
def sets():
    return data.split(data.cifar10(sample=True))


@pytest.fixture
def waiting_is_an_error():
    """Whatever makes the CPU wait for the GPU between the fixture's two calls raises a RuntimeError."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def plain(train) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Normalize.from_dataset(train), SmallCNN(len(train.classes)))


def options_of(kind: str, model: nn.Module, train) -> dict:
    if kind == "plain":
        return {"transform": PRESETS["full"], "epochs": 2}
    return speedrun.recipe(model, train, "class", epochs=2, device="cuda")


@pytest.mark.parametrize("kind", ["plain", "recipe"])
def test_within_an_epoch_the_cpu_never_waits_for_the_gpu(sets, tmp_path, waiting_is_an_error, kind):
    train, val = sets
    model = plain(train) if kind == "plain" else speedrun.network(train)
    states = steps(model, train, val, device="cuda", run=tmp_path / "run", **options_of(kind, model, train))
    next(states), next(states)
    waiting_is_an_error()
    for _ in range(4):  # the shortest epoch has 8 steps, and its last one reads the loss
        next(states)
    torch.cuda.set_sync_debug_mode("default")
    states.close()


def test_the_check_for_waiting_can_fail(waiting_is_an_error):
    x = torch.ones(3, device="cuda")
    waiting_is_an_error()
    with pytest.raises(RuntimeError, match="synchronizing"):
        x.sum().item()


@pytest.mark.parametrize("kind", ["plain", "recipe"])
def test_a_run_that_was_stopped_resumes(sets, tmp_path, kind):
    train, val = sets

    def training(run: str, stop_after: int | None = None) -> list[dict]:
        model = plain(train) if kind == "plain" else speedrun.network(train)
        options = options_of(kind, model, train)
        if stop_after is None:
            return fit(model, train, val, device="cuda", run=tmp_path / run, **options)
        for i, state in enumerate(steps(model, train, val, device="cuda", run=tmp_path / run, **options)):
            state.stop = i == stop_after
        return state.history

    whole = training("whole")
    assert training("halves", stop_after=3) == []
    resumed = training("halves")
    # Sums on a GPU are not in the same order every time, so not to the last bit.
    assert [row["epoch"] for row in resumed] == [1, 2]
    assert resumed[-1]["validation_loss"] == pytest.approx(whole[-1]["validation_loss"], rel=0.15)
