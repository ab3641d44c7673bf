"""Winograd's convolution is the plain one: outputs, gradients, layout."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import train_tiny
from torch.nn import functional as F

from cifar_utils import model, winograd

LAST = torch.channels_last


def plain(x, weight):
    return F.conv2d(x, weight, padding=1)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def outputs_and_gradients(convolution, x, weight, factors):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = convolution(x, weight)
    return out, *torch.autograd.grad((out * factors).sum(), (x, weight))


@settings(deadline=None)
@given(
    n=st.integers(0, 7), c=st.integers(1, 5), d=st.integers(1, 5), h=st.integers(1, 16), w=st.integers(1, 16),
    at_once=st.sampled_from([1, 1000, 10**6]), layout=st.sampled_from([LAST, torch.contiguous_format]),
)  # fmt: skip
def test_it_is_a_convolution_whatever_the_shapes(n, c, d, h, w, at_once, layout):
    x, weight = random(n, c, h, w).to(memory_format=layout), random(d, c, 3, 3, seed=1)
    factors = random(n, d, h, w, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "AT_ONCE", at_once)
        results = outputs_and_gradients(winograd.convolution, x, weight, factors)
    for result, expected in zip(results, outputs_and_gradients(plain, x, weight, factors)):
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("length,products", [(1, 3), (3, 5), (5, 7), (7, 9), (11, 16), (15, 20), (31, 40)])
def test_there_are_fewer_products(length, products):
    """A row of `length` pixels takes 3 * length of them otherwise."""
    _, inputs, outputs = winograd.transforms(length, torch.float32)
    assert inputs.shape == outputs.shape and inputs.shape[0] * inputs.shape[1] == products


def test_the_next_layer_finds_channels_last():
    x, weight = random(4, 6, 5, 5).to(memory_format=LAST), random(3, 6, 3, 3)
    for result in outputs_and_gradients(winograd.convolution, x, weight, factors=random(4, 3, 5, 5))[:2]:
        assert result.is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("side", [3, 5, 7, 11, 15])
def test_rounding_errors_are_small(side):
    """Larger than other convolutions', and still much smaller than those of the 16-bit numbers that GPUs train with."""
    x, weight, factors = random(8, 256, side, side), random(128, 256, 3, 3, seed=1), random(8, 128, side, side, seed=2)
    arguments = x.float(), weight.float(), factors.float()
    exact, in_16_bits = (outputs_and_gradients(plain, *a) for a in ((x, weight, factors), map(rounded, arguments)))
    for result, correct, coarse in zip(outputs_and_gradients(winograd.convolution, *arguments), exact, in_16_bits):
        error, spread = result - correct, correct.std()
        assert error.abs().max() < 1e-3 * spread and error.square().mean().sqrt() < 1e-4 * spread
        assert error.square().mean() < (coarse - correct).square().mean() / 400


def rounded(x):
    return x.bfloat16().double()


def test_gradients_are_wanted_after_looking_without_them():
    winograd.transforms.cache_clear()
    x, weight = random(2, 3, 6, 6), random(3, 3, 3, 3)
    with torch.inference_mode():
        winograd.convolution(x, weight)
    winograd.convolution(x, weight.requires_grad_()).sum().backward()
    assert weight.grad.abs().min() > 0


@pytest.mark.parametrize("channels,is_fast", [(model.WIDE, True), (model.WIDE - 2, False)])
def test_layers_with_a_wide_input_use_it_and_others_do_not(channels, is_fast, monkeypatch):
    calls, convolution = [], winograd.convolution
    monkeypatch.setattr(winograd, "convolution", lambda *args: calls.append(args) or convolution(*args))
    layer, x = model.MirrorConv2d(channels, 8), random(2, channels, 3, 3, dtype=torch.float32)
    weight = torch.cat([layer.weight, layer.weight.roll(channels // 2, 1).flip(3)])
    torch.testing.assert_close(layer(x), plain(x, weight), atol=1e-5, rtol=1e-5)
    assert bool(calls) == is_fast


def test_training_a_wide_network_can_be_repeated_bit_for_bit(tmp_path):
    runs = []
    for name in "ab":
        torch.manual_seed(0)
        network = model.CNN((8, model.WIDE, model.WIDE))
        history, _ = train_tiny(tmp_path / name, network=network, epochs=1, threads=2)
        runs.append((network.state_dict(), history[0]["training_loss"]))
    assert runs[0][1] == runs[1][1]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][0].values(), runs[1][0].values()))
