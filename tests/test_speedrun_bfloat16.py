"""bfloat16: where it is used in training, and where it is not."""

import pytest
import torch
from speedrun_networks import narrow
from tiny import tiny
from torch.nn import functional as F

from cifar_utils.augment import PRESETS
from cifar_utils.evaluation.inference import predict
from cifar_utils.speedrun import bfloat16, recipes
from cifar_utils.train import fit, steps

OPTIONS = {"transform": PRESETS["full"], "epochs": 2, "batch_size": 32, "device": "cpu"}


@pytest.fixture
def formats(monkeypatch):
    """The dtypes of all outputs of convolutions, as they come."""
    found, convolution = [], F.conv2d

    def recorded(*args, **options):
        found.append((out := convolution(*args, **options)).dtype)
        return out

    monkeypatch.setattr(F, "conv2d", recorded)
    return found


def train(run, autocast=torch.bfloat16):
    network = narrow()
    return fit(network, tiny(), tiny(32, "validation"), **OPTIONS, autocast=autocast, run=run), network


@pytest.mark.parametrize("answer", [True, False])
def test_a_cpu_has_it_where_it_says_so(answer, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: answer)
    assert bfloat16.has_bfloat16("cpu") == bfloat16.has_bfloat16(torch.device("cpu")) == answer
    assert not bfloat16.has_bfloat16("mps")


@pytest.mark.parametrize("answer", [True, False])
def test_the_recipe_uses_it_where_it_is_faster(answer, monkeypatch):
    monkeypatch.setattr(recipes, "has_bfloat16", lambda _: answer)
    found = recipes.recipe(narrow(), tiny(), device="cpu")
    assert found["autocast"] == (torch.bfloat16 if answer else None)


def test_training_multiplies_16_bits_and_evaluation_32(formats, tmp_path):
    network = narrow()
    states = steps(network, tiny(), tiny(32, "validation"), **OPTIONS, autocast=torch.bfloat16, run=tmp_path / "run")
    next(states), next(states)  # at the start, and after a step
    assert formats[-7:] == [torch.bfloat16] * 7, "one of whitening, two of each block"
    *_, last = states
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    formats.clear()
    again = predict(network, tiny(32, "validation"))
    assert set(formats) == {torch.float32} and again.loss == last.history[-1]["validation_loss"]


def test_it_is_nearly_the_same_training(tmp_path):
    (exact, _), (rounded, _) = train(tmp_path / "32", autocast=None), train(tmp_path / "16")
    for row, other in zip(exact, rounded):
        assert row["training_loss"] == pytest.approx(other["training_loss"], rel=0.05)
        assert row["training_loss"] != other["training_loss"]


def test_it_resumes_bit_for_bit(tmp_path):
    _, whole = train(tmp_path / "whole")
    network = narrow()
    for state in steps(network, tiny(), tiny(32, "validation"), **OPTIONS, autocast=torch.bfloat16, run=tmp_path / "b"):
        state.stop = (state.epoch, state.step) == (1, 1)
    _, parts = train(tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values()))
