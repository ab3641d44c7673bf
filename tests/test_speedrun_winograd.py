"""Winograd convolution is the plain one: outputs, gradients, layout; and any network can have it."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from speedrun_networks import NETWORKS
from torch import nn
from torch.nn import functional as F

from cifar_utils.speedrun import winograd
from cifar_utils.speedrun.mirror import MirrorConv2d
from cifar_utils.speedrun.winograd import MIN_CHANNELS, accelerate

LAST = torch.channels_last


def plain(x, weight):
    return F.conv2d(x, weight, padding=1)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def outputs_and_gradients(convolution, x, weight, factors):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = convolution(x, weight)
    return out, *torch.autograd.grad((out * factors).sum(), (x, weight))


@pytest.fixture
def calls(monkeypatch):
    """The Winograd convolutions, as they come."""
    found, convolution = [], winograd.convolution
    monkeypatch.setattr(winograd, "convolution", lambda *args: found.append(args) or convolution(*args))
    return found


@given(
    n=st.integers(0, 7), c=st.integers(1, 5), d=st.integers(1, 5), h=st.integers(1, 16), w=st.integers(1, 16),
    chunk=st.sampled_from([1, 1000, 10**6]), layout=st.sampled_from([LAST, torch.contiguous_format]),
)  # fmt: skip
def test_it_is_a_convolution_whatever_the_shapes(n, c, d, h, w, chunk, layout):
    x, weight = random(n, c, h, w).to(memory_format=layout), random(d, c, 3, 3, seed=1)
    factors = random(n, d, h, w, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "CHUNK_ELEMENTS", chunk)
        results = outputs_and_gradients(winograd.convolution, x, weight, factors)
    for result, expected in zip(results, outputs_and_gradients(plain, x, weight, factors)):
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("length,products", [(1, 3), (3, 5), (5, 7), (7, 9), (11, 16), (15, 20), (31, 40)])
def test_there_are_fewer_products(length, products):
    """A row of `length` pixels takes 3 * length of them otherwise."""
    _, inputs, outputs = winograd.transforms(length, torch.float32)
    assert inputs.shape == outputs.shape and inputs.shape[0] * inputs.shape[1] == products


def test_outputs_and_gradients_are_channels_last():
    x, weight = random(4, 6, 5, 5).to(memory_format=LAST), random(3, 6, 3, 3)
    for result in outputs_and_gradients(winograd.convolution, x, weight, factors=random(4, 3, 5, 5))[:2]:
        assert result.is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("side", [3, 5, 7, 11, 15])
def test_rounding_errors_are_small(side):
    """Larger than those of other convolutions, and still much smaller than those of bfloat16."""
    x, weight, factors = random(8, 256, side, side), random(128, 256, 3, 3, seed=1), random(8, 128, side, side, seed=2)
    exact = outputs_and_gradients(plain, x, weight, factors)
    results = outputs_and_gradients(winograd.convolution, x.float(), weight.float(), factors.float())
    in_16_bits = outputs_and_gradients(plain, rounded(x), rounded(weight), rounded(factors))
    for result, correct, coarse in zip(results, exact, in_16_bits):
        error, spread = result.double() - correct, correct.std()
        assert error.abs().max() < 1e-3 * spread and error.square().mean().sqrt() < 1e-4 * spread
        assert error.square().mean() < (coarse - correct).square().mean() / 400


def rounded(x):
    return x.bfloat16().double()


def test_gradients_after_inference_mode():
    winograd.transforms.cache_clear()
    x, weight = random(2, 3, 6, 6), random(3, 3, 3, 3)
    with torch.inference_mode():
        winograd.convolution(x, weight)
    winograd.convolution(x, weight.requires_grad_()).sum().backward()
    assert weight.grad.abs().min() > 0


@pytest.mark.parametrize("channels,is_fast", [(MIN_CHANNELS, True), (MIN_CHANNELS - 2, False)])
@pytest.mark.parametrize("mirror", [True, False])
def test_wide_layers_use_it_and_others_do_not(channels, is_fast, mirror, calls):
    layer = MirrorConv2d(channels, 8) if mirror else nn.Conv2d(channels, 8, 3, padding=1)
    x = random(2, channels, 3, 3, dtype=torch.float32)
    expected = layer(x)
    assert not calls
    torch.testing.assert_close(accelerate(layer)(x), expected, atol=1e-4, rtol=1e-4)
    assert bool(calls) == is_fast


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 0}, {"kernel_size": 5, "padding": 1}, {"kernel_size": 1, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2}, {"kernel_size": 3, "padding": 1, "groups": 2},
        {"kernel_size": 3, "padding": 1, "dilation": 2}, {"kernel_size": (3, 1), "padding": 1},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    ],
)  # fmt: skip
def test_other_convolutions_stay_as_they_are(options, calls):
    layer, x = nn.Conv2d(MIN_CHANNELS, 4, **options), torch.randn(1, MIN_CHANNELS, 6, 6)
    expected = layer(x)
    assert torch.equal(accelerate(layer)(x), expected) and not calls


def test_a_subclass_that_convolves_otherwise_stays_as_it_is(calls):
    class Doubled(nn.Conv2d):
        def _conv_forward(self, x, weight, bias):
            return super()._conv_forward(x, 2 * weight, bias)

    layer, x = Doubled(MIN_CHANNELS, 4, 3, padding=1), torch.randn(1, MIN_CHANNELS, 6, 6)
    expected = layer(x)
    assert torch.equal(accelerate(layer)(x), expected) and not calls


def test_same_padding_is_padding_1(calls):
    layer, x = nn.Conv2d(MIN_CHANNELS, 4, 3, padding="same"), torch.randn(1, MIN_CHANNELS, 6, 6)
    torch.testing.assert_close(layer(x), accelerate(layer)(x), atol=1e-4, rtol=1e-4)
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "SmallTransformer"])
def test_any_network_computes_the_same(name, calls):
    size = 32 if name == "SmallTransformer" else 64
    network, images = NETWORKS[name]().eval(), torch.randn(4, 3, size, size)

    def results():
        network.zero_grad()
        logits = network(images)
        logits.square().mean().backward()
        return logits.detach(), {name: p.grad.clone() for name, p in network.named_parameters()}

    (expected, gradients), names = results(), list(network.state_dict())
    assert accelerate(network) is network
    logits, found = results()
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    for parameter, gradient in gradients.items():
        error = (found[parameter] - gradient).norm()  # rounding decides a few ReLUs otherwise
        assert error <= 0.02 * gradient.norm(), parameter
    assert list(network.state_dict()) == names
    assert len(calls) == (13 if name == "resnet18" else 0)  # all but the first and the strided ones


def test_it_can_be_repeated_and_undone(calls):
    network, images = NETWORKS["resnet18"]().eval(), torch.randn(1, 3, 64, 64)
    expected = network(images)
    accelerate(accelerate(network))(images)
    assert len(calls) == 13
    assert torch.equal(accelerate(network, enabled=False)(images), expected) and len(calls) == 13
    assert all("_conv_forward" not in vars(layer) for layer in network.modules())


def test_it_can_be_undone_whatever_the_least_number_of_channels_was(monkeypatch):
    layer = nn.Conv2d(4, 4, 3, padding=1)
    with monkeypatch.context() as patch:
        patch.setattr(winograd, "MIN_CHANNELS", 0)
        assert "_conv_forward" in vars(accelerate(layer))
    assert "_conv_forward" not in vars(accelerate(layer, enabled=False))


def test_copies_and_pickles_are_fast_and_independent(calls):
    network, x = accelerate(nn.Conv2d(MIN_CHANNELS, 4, 3, padding=1)), torch.randn(1, MIN_CHANNELS, 6, 6)
    expected = network(x)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(x), expected)
        with torch.no_grad():
            twin.weight.zero_()
        assert not torch.equal(twin(x), expected) and torch.equal(network(x), expected)
    assert len(calls) == 7
    plain_twin = nn.Conv2d(MIN_CHANNELS, 4, 3, padding=1)
    plain_twin.load_state_dict(pickle.loads(pickle.dumps(network.state_dict())))
    torch.testing.assert_close(plain_twin(x), expected, atol=1e-4, rtol=1e-4)


def test_16_bit_and_64_bit_inputs_take_the_plain_way(calls):
    layer, x = accelerate(nn.Conv2d(MIN_CHANNELS, 4, 3, padding=1)), torch.randn(2, MIN_CHANNELS, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
    layer.float()
    assert layer(x[0]).shape == (4, 5, 5)  # one image without a batch
    assert layer(x[..., :1]).shape == (2, 4, 5, 1)  # nothing to save
    assert not calls
    layer(x)
    assert len(calls) == 1


@pytest.mark.parametrize("first", ["accelerate", "compile"])
def test_a_compiled_network_takes_the_plain_way(first, calls):
    network, x = nn.Sequential(nn.Conv2d(MIN_CHANNELS, 4, 3, padding=1)), torch.randn(2, MIN_CHANNELS, 5, 5)
    expected = network(x)
    if first == "accelerate":
        compiled = torch.compile(accelerate(network), backend="eager", fullgraph=True)
    else:
        compiled = accelerate(torch.compile(network, backend="eager", fullgraph=True))
    assert torch.equal(compiled(x), expected) and not calls
    compiled(x).sum().backward()
    assert network[0].weight.grad.abs().max() > 0


def test_the_same_call_gives_the_same_bits():
    layer, x = accelerate(nn.Conv2d(MIN_CHANNELS, 64, 3, padding=1)), torch.randn(300, MIN_CHANNELS, 15, 15)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = []
        for _ in range(2):
            layer.zero_grad()
            out = layer(x)
            out.square().sum().backward()
            runs.append((out.detach(), layer.weight.grad.clone()))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*runs))
