"""Where training happens, and in which numbers."""

import pytest
import torch
from test_compiling import tensors
from tiny import tiny, train_tiny
from torch.nn import functional as F

from cifar_utils import device, model, training, winograd
from cifar_utils.data import Normalisation
from cifar_utils.predictions import predict

CPU = torch.device("cpu")


@pytest.fixture
def formats(monkeypatch):
    """The number formats of all outputs of plain convolutions, as they come."""
    found, convolution = [], F.conv2d

    def noted(*args, **options):
        found.append((out := convolution(*args, **options)).dtype)
        return out

    monkeypatch.setattr(F, "conv2d", noted)
    return found


def pretend(monkeypatch, is_made_for_it):
    """Any CPU can imitate 16-bit numbers, slowly."""
    monkeypatch.setattr(training, "has_bfloat16", lambda _: is_made_for_it)


def test_the_cpu_is_made_for_16_bit_numbers_where_it_says_so(monkeypatch):
    for answer in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda answer=answer: answer)
        assert device.has_bfloat16(CPU) == answer
    assert not device.has_bfloat16(torch.device("mps"))


@pytest.mark.parametrize("is_asked_for", [True, False])
@pytest.mark.parametrize("is_made_for_it", [True, False])
def test_training_multiplies_16_bit_numbers_where_that_is_faster(
    is_asked_for, is_made_for_it, formats, tmp_path, monkeypatch
):
    pretend(monkeypatch, is_made_for_it)
    history, network = train_tiny(tmp_path, bfloat16=is_asked_for)
    of_training = formats[:6]  # the first step's; validation comes after the epoch
    assert set(of_training) == {torch.bfloat16 if is_asked_for and is_made_for_it else torch.float32}
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert all(row["training_loss"] < 5 for row in history)


def test_evaluation_has_32_bits(formats, tmp_path, monkeypatch):
    pretend(monkeypatch, True)
    history, network = train_tiny(tmp_path, bfloat16=True)
    formats.clear()
    again = predict(network, tiny(32, "validation"), Normalisation.of(tiny()))
    assert set(formats) == {torch.float32} and again.loss == history[-1]["validation_loss"]


def test_it_is_nearly_the_same_training(tmp_path, monkeypatch):
    pretend(monkeypatch, True)
    (exact, _), (rounded, _) = (train_tiny(tmp_path / str(b), bfloat16=b) for b in (False, True))
    for row, other in zip(exact, rounded):
        assert row["training_loss"] == pytest.approx(other["training_loss"], rel=0.02)
    assert exact != rounded


def test_it_goes_on_bit_for_bit(tmp_path, monkeypatch, capsys):
    pretend(monkeypatch, True)
    train_tiny(tmp_path / "whole", bfloat16=True)
    steering = training.Steering()
    monkeypatch.setattr(training, "Steering", lambda: steering)
    monkeypatch.setattr(training, "_log", lambda *_: setattr(steering, "stop", True))  # after the first epoch
    train_tiny(tmp_path / "parts", bfloat16=True)
    assert "Stopped in epoch 2" in capsys.readouterr().out
    monkeypatch.undo()
    pretend(monkeypatch, True)
    train_tiny(tmp_path / "parts", bfloat16=True)
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_wide_layer_multiplies_16_bit_numbers_rather_than_fewer(monkeypatch):
    def winograds(*_):
        raise AssertionError("Winograd's convolution rounds too much for 16-bit numbers")

    monkeypatch.setattr(winograd, "convolution", winograds)
    layer, x = model.Conv3x3(model.WIDE, 4), torch.randn(2, model.WIDE, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(AssertionError):
        layer.float()(x)
