"""The fast mirror convolution is the plain one: outputs, gradients, layout."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import train_tiny
from torch.nn import functional as F

from cifar_utils import mirror_convolution as fast
from cifar_utils import model

LAST = torch.channels_last


def plain(x, weight):
    """PyTorch's convolution, the mirror images of the filters written out."""
    half = weight.shape[1] // 2
    mirrored = torch.cat([weight[:, half:], weight[:, :half]], 1).flip(3)
    return F.conv2d(x, torch.cat([weight, mirrored]), padding=1)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def outputs_and_gradients(convolution, x, weight, factors):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = convolution(x, weight)
    return out, *torch.autograd.grad((out * factors).sum(), (x, weight))


@settings(deadline=None)
@given(
    n=st.integers(0, 7), k=st.integers(1, 5), d=st.integers(1, 5), h=st.integers(1, 6), w=st.integers(1, 6),
    at_once=st.sampled_from([1, 100, 10**6]), layout=st.sampled_from([LAST, torch.contiguous_format]),
)  # fmt: skip
def test_it_is_a_convolution_whatever_the_shapes(n, k, d, h, w, at_once, layout):
    x, weight = random(n, 2 * k, h, w).to(memory_format=layout), random(d, 2 * k, 3, 3, seed=1)
    factors = random(n, 2 * d, h, w, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "AT_ONCE", at_once)
        results = outputs_and_gradients(fast.mirror_convolution, x, weight, factors)
    for result, expected in zip(results, outputs_and_gradients(plain, x, weight, factors)):
        torch.testing.assert_close(result, expected)


def test_the_next_layer_finds_channels_last():
    x, weight = random(4, 6, 5, 5).to(memory_format=LAST), random(3, 6, 3, 3)
    for result in outputs_and_gradients(fast.mirror_convolution, x, weight, factors=random(4, 6, 5, 5))[:2]:
        assert result.is_contiguous(memory_format=LAST)


def test_rounding_errors_are_those_of_any_convolution():
    x, weight = random(8, 256, 7, 7), random(128, 256, 3, 3, seed=1)
    exact, scale = plain(x, weight), plain(x, weight).std()
    errors = [(f(x.float(), weight.float()) - exact).abs().max() / scale for f in (plain, fast.mirror_convolution)]
    assert max(errors) < 1e-5


@pytest.mark.parametrize("channels,is_fast", [(2 * model.WIDE, True), (2 * model.WIDE - 2, False)])
def test_wide_layers_use_it_and_others_do_not(channels, is_fast, monkeypatch):
    calls = []
    monkeypatch.setattr(model, "mirror_convolution", lambda *args: calls.append(args) or fast.mirror_convolution(*args))
    layer, x = model.MirrorConv2d(8, channels), random(2, 8, 3, 3, dtype=torch.float32)
    torch.testing.assert_close(layer(x), plain(x, layer.weight))
    assert bool(calls) == is_fast


def test_training_a_wide_network_can_be_repeated_bit_for_bit(tmp_path):
    runs = []
    for name in "ab":
        torch.manual_seed(0)
        network = model.CNN((8, 2 * model.WIDE, 2 * model.WIDE))
        history, _ = train_tiny(tmp_path / name, network=network, epochs=1, threads=2)
        runs.append((network.state_dict(), history[0]["training_loss"]))
    assert runs[0][1] == runs[1][1]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][0].values(), runs[1][0].values()))
