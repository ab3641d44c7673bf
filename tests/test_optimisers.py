"""SGD and Muon, and the learning rate's schedule."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import narrow

from cifar_utils import optimisers, training
from cifar_utils.optimisers import Muon, orthogonalised


def gradients(network) -> None:
    generator = torch.Generator().manual_seed(0)
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=generator) if p.requires_grad else None


@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 99), st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_orthogonalised_keeps_the_directions_and_evens_out_their_strength(rows, columns, seed, size):
    left, strengths, right = torch.linalg.svd(
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)), full_matrices=False
    )
    strengths = strengths.clamp(min=strengths.max() / 8)  # directions too weak for three steps are left out here
    result = left.T @ orthogonalised(size * left @ torch.diag(strengths) @ right) @ right.T
    torch.testing.assert_close(result, torch.diag(result.diag()), atol=1e-3, rtol=0)
    assert result.diag().min() > 0.3 and result.diag().max() < 1.3


def test_more_steps_reach_the_weak_directions_as_well():
    matrix = torch.diag(torch.tensor([1.0, 0.1, 0.01, 0.003]))
    assert orthogonalised(matrix, steps=3).diag().min() < 0.5
    assert orthogonalised(matrix, steps=8).diag().min() > 0.6


def test_nothing_orthogonalised_is_nothing():
    assert not orthogonalised(torch.zeros(3, 5)).any()


def test_a_step_of_muon_by_hand():
    network = narrow()
    muon = optimisers.optimiser(network, training.Config(learning_rate=0.1, linear_rate=2, bias_rate=3, momentum=0.5))
    assert isinstance(muon, Muon)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    momentum = {name: torch.zeros_like(p) for name, p in before.items()}
    for _ in range(2):
        gradients(network)
        given_gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.requires_grad}
        muon.step()
        for name, gradient in given_gradients.items():
            momentum[name] = 0.5 * momentum[name] + gradient
            direction = gradient + 0.5 * momentum[name]  # Nesterov
            if direction.ndim == 4:
                scaled = before[name] * len(direction) ** 0.5 / before[name].norm()
                before[name] = scaled - 0.1 * orthogonalised(direction.flatten(1)).view_as(direction)
            else:
                before[name] = before[name] - (0.2 if direction.ndim == 2 else 0.3) * direction
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.detach(), before[name], msg=name)
        assert not p.requires_grad or torch.equal(muon.state[p]["momentum_buffer"], momentum[name])


def test_rescaling_a_filter_bank_changes_nothing_that_the_network_says():
    network, images = narrow().train(), torch.randn(8, 3, 32, 32)
    before = network(images)
    for block in network.blocks:
        block[0].weight.data *= 3
        block[4].weight.data *= 0.5
    torch.testing.assert_close(network(images), before, atol=1e-4, rtol=1e-3)


def test_plain_sgd_is_torchs_own():
    network, twin = narrow(), narrow()
    config = training.Config(optimiser="sgd", learning_rate=0.1, linear_rate=1, bias_rate=8, weight_decay=0.01)
    sgd = optimisers.optimiser(network, config)
    assert type(sgd) is torch.optim.SGD
    groups = [
        {"params": [p for p in twin.parameters() if p.requires_grad and p.ndim > 1], "lr": 0.1, "weight_decay": 0.01},
        {"params": [p for p in twin.parameters() if p.requires_grad and p.ndim == 1], "lr": 0.8},
    ]
    other = torch.optim.SGD(groups, momentum=config.momentum, nesterov=True)
    for _ in range(3):
        gradients(network), gradients(twin)
        sgd.step(), other.step()
    for (name, p), q in zip(network.named_parameters(), twin.parameters()):
        assert torch.equal(p, q), name


def test_every_parameter_that_can_change_is_in_one_group():
    network = narrow()
    filters, matrices, biases = optimisers.optimiser(network, training.Config()).param_groups
    assert [len(g["params"]) for g in (filters, matrices, biases)] == [6, 1, 6]
    assert all(p.ndim == n for n, g in ((4, filters), (2, matrices), (1, biases)) for p in g["params"])


def test_an_optimiser_without_a_name():
    with pytest.raises(ValueError, match="'adam'.*muon.*sgd"):
        optimisers.optimiser(narrow(), training.Config(optimiser="adam"))


def test_the_learning_rate_rises_from_near_0_to_1_and_falls_to_0():
    factors = [optimisers.learning_rate_factor(step, 100, 0.2) for step in range(101)]
    assert factors[0] == pytest.approx(0.05) and factors[19] == 1 and factors[100] == 0
    assert factors[:20] == sorted(factors[:20]) and factors[20:] == sorted(factors[20:], reverse=True)


@given(st.integers(1, 3000), st.floats(0, 1), st.data())
def test_the_learning_rate_factor_stays_within_0_and_1(steps, warm_up, choose):
    step = choose.draw(st.integers(0, steps))
    assert 0 <= optimisers.learning_rate_factor(step, steps, warm_up) <= 1
    assert optimisers.learning_rate_factor(steps, steps, warm_up) == 0
    assert (
        optimisers.learning_rate_factor(max(0, math.ceil(warm_up * steps) - 1), steps, warm_up) > 0.3
    )  # near the peak
