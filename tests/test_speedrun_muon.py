"""Muon: orthogonalized steps, and every trainable parameter of any network in exactly one group."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from speedrun_networks import NETWORKS, make, narrow, plain
from torch import nn

from cifar_utils.speedrun.muon import OTHER_LR_SCALE, Muon, muon, newton_schulz, scale_invariant

FAST = {"head_lr_scale": 2, "bias_lr_scale": 3}


def gradients(network, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype) if p.requires_grad else None


def group_of(optimizer, p) -> dict:
    (found,) = [group for group in optimizer.param_groups if any(p is q for q in group["params"])]
    return found


def test_a_hook_is_called_once_per_step_whatever_optimizers_were_made_before():
    """torch puts the calls of hooks into the `step` of each class of which an object is made, SGD's as well."""
    network, calls = plain(), []
    torch.optim.SGD(network.parameters(), 0.1)
    optimizer = muon(network)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    for _ in range(2):
        gradients(network)
        optimizer.step()
    assert calls == ["before", "after"] * 2


@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 99), st.floats(1e-3, 1e3))
def test_newton_schulz_keeps_the_directions_and_evens_out_their_strength(rows, columns, seed, size):
    left, strengths, right = torch.linalg.svd(
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)), full_matrices=False
    )
    strengths = strengths.clamp(min=strengths.max() / 8)  # directions too weak for three steps are left out here
    result = left.T @ newton_schulz(size * left @ torch.diag(strengths) @ right) @ right.T
    torch.testing.assert_close(result, torch.diag(result.diag()), atol=1e-3, rtol=0)
    assert result.diag().min() > 0.3 and result.diag().max() < 1.3


def test_more_steps_reach_the_weak_directions_as_well():
    matrix = torch.diag(torch.tensor([1.0, 0.1, 0.01, 0.003]))
    assert newton_schulz(matrix, steps=3).diag().min() < 0.5
    assert newton_schulz(matrix, steps=8).diag().min() > 0.6


def test_zero_stays_zero():
    assert not newton_schulz(torch.zeros(3, 5)).any()


def test_a_step_by_hand():
    network = narrow()
    optimizer = muon(network, 0.1, momentum=0.5, **FAST)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    momentum = {name: torch.zeros_like(p) for name, p in before.items()}
    for step in range(2):
        gradients(network, step)
        given_gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.requires_grad}
        optimizer.step()
        for name, gradient in given_gradients.items():
            assert torch.equal(dict(network.named_parameters())[name].grad, gradient), "gradients are left as they are"
            momentum[name] = 0.5 * momentum[name] + gradient
            direction = gradient + 0.5 * momentum[name]  # Nesterov
            if direction.ndim == 4:
                scaled = before[name] * len(direction) ** 0.5 / before[name].norm()
                before[name] = scaled - 0.1 * newton_schulz(direction.flatten(1)).view_as(direction)
            else:
                before[name] = before[name] - (0.2 if direction.ndim == 2 else 0.3) * direction
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.detach(), before[name], msg=name)
        assert not p.requires_grad or torch.equal(optimizer.state[p]["momentum_buffer"], momentum[name])


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_filters_that_no_norm_follows_are_not_rescaled(decay):
    network = plain()
    optimizer = muon(network, 0.1, momentum=0.5, weight_decay=decay)
    before = network[0].weight.detach().clone()
    gradients(network)
    optimizer.step()
    rate, step = 0.1 * OTHER_LR_SCALE, newton_schulz(1.5 * network[0].weight.grad.flatten(1)).view_as(before)
    torch.testing.assert_close(network[0].weight.detach(), before * (1 - rate * decay) - rate * step)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_trainable_parameter_of_any_network_is_in_one_group(name):
    network = make(name)
    frozen = next(iter(network.parameters())).requires_grad_(False) if name == "resnet18" else None
    optimizer = muon(network)
    given = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(given) == sorted(id(p) for p in network.parameters() if p.requires_grad)
    assert id(frozen) not in given and all(group["params"] for group in optimizer.param_groups)
    # Gains, embeddings and scalars learn slowly, whatever the filters do.
    for p in network.parameters():
        if p.requires_grad and p.ndim in (0, 1, 3):
            assert group_of(optimizer, p)["lr"] < 2 and group_of(optimizer, p)["weight_decay"] == 0


def test_what_is_what_in_a_transformer():
    network = make("SmallTransformer")
    optimizer, part = muon(network, 0.2, head_lr_scale=3, bias_lr_scale=4, weight_decay=0.1), network[1]
    layer = part.encoder.layers[0]
    rates = {
        part.position: 0.2 * OTHER_LR_SCALE, part.scale: 0.2 * OTHER_LR_SCALE, layer.norm1.weight: 0.2 * OTHER_LR_SCALE,
        layer.norm1.bias: 0.8, layer.self_attn.in_proj_bias: 0.8, part.head.weight: 0.6, part.head.bias: 0.8,
        layer.linear1.weight: 0.2 * OTHER_LR_SCALE, layer.self_attn.in_proj_weight: 0.2 * OTHER_LR_SCALE,
        part.patches.weight: 0.2 * OTHER_LR_SCALE,
    }  # fmt: skip
    for p, rate in rates.items():
        group, is_matrix = group_of(optimizer, p), p.ndim in (2, 4)
        assert group["lr"] == pytest.approx(rate) and group["weight_decay"] == (0.1 if is_matrix else 0)
        assert group.get("orthogonal", False) == (is_matrix and p is not part.head.weight)
        assert not group.get("rescale")


@pytest.mark.parametrize("name,count,without", [
    ("SmallCNN", 6, {"1.head.weight"}),
    ("linear", 0, {"1.1.weight"}),
    ("perceptron", 1, {"1.4.weight"}),
    ("resnet18", 20, {"1.fc.weight"}),
    ("mobilenet_v3_small", 34, {"1.features.1.block.1.fc1.weight", "1.features.1.block.1.fc2.weight"}),
    ("SmallTransformer", 0, {"1.patches.weight"}),
    ("without norm", 0, {"1.0.weight", "1.3.weight"}),
    ("GroupNorm", 0, {"1.0.weight", "1.4.weight"}),  # its convolutions have biases, which do not scale with them
    ("dropout", 2, {"1.1.10.weight"}),
])  # fmt: skip
def test_scale_invariance_is_found_by_trying(name, count, without):
    network = make(name)
    before, generator = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    found = scale_invariant(network)
    assert len(found) == count and not found & without
    assert torch.equal(torch.get_rng_state(), generator) and network.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items()), "no statistics change"


def test_only_filters_that_a_norm_follows_are_found():
    """A norm at the end of one branch must not vouch for the other."""

    class TwoBranches(nn.Module):
        def __init__(self):
            super().__init__()
            self.normed, self.free = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(3, 8, 3, bias=False)
            self.before, self.norm, self.head = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(8), nn.Linear(8, 4)
            self.unused = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            x = self.before(x)
            return self.head((self.norm(self.normed(x)) + self.free(x)).amax((2, 3)))

    assert scale_invariant(TwoBranches()) == {"normed.weight"}
    assert scale_invariant(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.GroupNorm(2, 8), nn.Flatten())) == {
        "0.weight"
    }
    tiny_filters = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten())
    tiny_filters[0].weight.data *= 1e-3  # the norm's eps is no scale of the filters
    assert scale_invariant(tiny_filters) == {"0.weight"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SmallCNN", "resnet18", "mobilenet_v3_small", "dropout"])
def test_rescaled_filters_change_nothing_that_is_predicted(name):
    network, images = make(name).train().double(), torch.rand(6, 3, 32, 32)  # deep networks enlarge rounding errors
    for module in network.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-30  # which is a scale of its own: mobilenet has activations smaller than that
    optimizer = muon(network, lr=0.0)
    gradients(network)
    torch.manual_seed(1)
    before = network(images)
    filters = [p for g in optimizer.param_groups if g.get("rescale") for p in g["params"]]
    bank = [p.detach().clone() for p in filters]
    optimizer.step()  # at a learning rate of 0, it only rescales
    assert any(not torch.allclose(p, q) for p, q in zip(filters, bank))
    for p in filters:
        assert p.norm().item() == pytest.approx(len(p) ** 0.5, rel=1e-6)
    torch.manual_seed(1)
    torch.testing.assert_close(network(images), before, atol=1e-4 * before.std().item(), rtol=1e-4)


def test_rescaling_filters_that_no_norm_follows_would_change_it():
    """The negative control."""
    network, images = plain(), torch.rand(16, 3, 32, 32)
    before = network(images)
    wrong = Muon([{"params": [network[0].weight], "orthogonal": True, "rescale": True}], lr=0.0)
    gradients(network)
    wrong.step()
    assert (network(images) - before).norm() > 0.1 * before.norm()


def test_the_fast_networks_groups():
    network = narrow()
    optimizer = muon(network, 0.18, head_lr_scale=8.0, bias_lr_scale=100.0)
    filters, head, biases = optimizer.param_groups
    assert [len(group["params"]) for group in (filters, head, biases)] == [6, 1, 6]
    assert [group["lr"] for group in (filters, head, biases)] == [0.18, 0.18 * 8, 0.18 * 100]
    assert filters["rescale"] and all(
        p.ndim == n for n, g in ((4, filters), (2, head), (1, biases)) for p in g["params"]
    )


def test_parameters_without_a_gradient_are_skipped():
    network = make("SmallCNN")
    unused = nn.Conv2d(3, 4, 3)
    network.append(nn.Identity())
    network[2].unused = unused
    optimizer = muon(network, weight_decay=0.1)
    before = unused.weight.detach().clone()
    gradients(network)
    unused.weight.grad = unused.bias.grad = None
    optimizer.step()
    assert torch.equal(unused.weight, before) and not optimizer.state[unused.weight]
    network[1].blocks[0][0].weight.grad = None
    optimizer.step()


def test_muon_resumes_bit_for_bit():
    whole, parts = make("SmallCNN"), make("SmallCNN")
    first, second = muon(whole), muon(parts)
    for step in range(2):
        gradients(whole, step), gradients(parts, step)
        first.step(), second.step()
    saved = copy.deepcopy(second.state_dict())
    second = muon(parts)
    second.load_state_dict(saved)
    gradients(whole, 2), gradients(parts, 2)
    first.step(), second.step()
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), parts.parameters()))


def test_a_closure_is_called_with_gradients():
    network = make("linear")
    optimizer, images = muon(network, lr=1e-3), torch.rand(4, 3, 32, 32)

    def closure():
        optimizer.zero_grad()
        loss = network(images).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses[-1] < losses[0]


def test_a_compiled_network_has_the_same_groups():
    network = make("SmallCNN")
    plain_groups, groups = (muon(m).param_groups for m in (network, torch.compile(network)))
    for a, b in zip(plain_groups, groups):
        assert a["lr"] == b["lr"] and all(p is q for p, q in zip(a["params"], b["params"]))


@pytest.mark.parametrize("options,words", [
    ({"lr": -1.0}, "lr is -1.0"), ({"lr": math.nan}, "lr is nan"), ({"head_lr_scale": math.inf}, "head_lr_sc.*inf"),
    ({"bias_lr_scale": -0.1}, "bias_lr_scale is -0.1"), ({"momentum": 1.0}, "momentum is 1.0"),
    ({"momentum": -0.5}, "momentum is -0.5"), ({"weight_decay": -1}, "weight_decay is -1"),
])  # fmt: skip
def test_numbers_out_of_range(options, words):
    with pytest.raises(ValueError, match=words):
        muon(plain(), **options)


def test_what_cannot_be_trained_or_tried():
    with pytest.raises(ValueError, match="no trainable parameters"):
        muon(plain().requires_grad_(False))
    with pytest.raises(ValueError, match="no trainable parameters"):
        muon(nn.Flatten())
    with pytest.raises(ValueError, match="fails on 8 images of 24 x 24 pixels"):
        muon(make("linear"), size=24)
