"""Skipping easy examples: which images an epoch trains on."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from cifar_utils.speedrun.selection import UNKNOWN, DropEasiest
from cifar_utils.train import Shuffle


def losses_known(sampler: DropEasiest, losses) -> DropEasiest:
    sampler.losses = torch.as_tensor(losses, dtype=torch.float32)
    return sampler


def positions(batches) -> list[int]:
    return torch.cat(batches).tolist()


@pytest.mark.parametrize("n,size,count", [(64, 16, 4), (70, 16, 5), (10, 16, 1), (16, 16, 1), (17, 1, 17)])
def test_batches_are_a_shuffle_in_nearly_equal_parts(n, size, count):
    found = DropEasiest(n, size, seed=4).epoch(0)
    sizes = [len(batch) for batch in found]
    assert len(sizes) == count and max(sizes) - min(sizes) <= 1 and max(sizes) <= size
    assert sorted(positions(found)) == list(range(n)) and found[0].dtype == torch.int64


def test_without_dropping_it_is_a_plain_shuffle():
    sampler, shuffle = losses_known(DropEasiest(64, 16, 3, fraction=0.0), torch.rand(64)), Shuffle(64, 16, 3)
    for epoch in range(3):
        assert positions(sampler.epoch(epoch)) == positions(shuffle.epoch(epoch))
    assert sampler.total_steps(3) == shuffle.total_steps(3)


def test_the_order_depends_on_seed_epoch_and_losses_alone():
    def order(seed, epoch):
        return tuple(positions(DropEasiest(64, 16, seed, 0.0).epoch(epoch)))

    torch.manual_seed(1)
    first = order(0, 0)
    torch.manual_seed(2)
    assert order(0, 0) == first
    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9
    assert sorted(order(2**63 - 1, 7)) == list(range(64))


@given(
    n=st.integers(1, 200),
    size=st.integers(1, 64),
    fraction=st.floats(0, 0.999),
    epoch=st.integers(1, 9),
    noise=st.integers(0, 99),
)
def test_later_epochs_drop_the_images_with_the_lowest_losses(n, size, fraction, epoch, noise):
    losses = torch.rand(n, generator=torch.Generator().manual_seed(noise))
    sampler = losses_known(DropEasiest(n, size, fraction=fraction), losses)
    found = sampler.epoch(epoch)
    assert len(found) == sampler.total_steps(epoch + 1) - sampler.total_steps(epoch)
    taken = positions(found)
    assert len(set(taken)) == len(taken) == sampler.kept == max(1, n - round(n * fraction))
    assert set(taken) == set(losses.argsort(stable=True)[n - sampler.kept :].tolist()) or len(losses.unique()) < n


def test_the_first_epoch_drops_nothing():
    sampler = losses_known(DropEasiest(64, 8), torch.arange(64.0))
    assert sorted(positions(sampler.epoch(0))) == list(range(64))
    assert [sampler.total_steps(epochs) for epochs in range(4)] == [0, 8, 12, 16]


def test_images_without_a_loss_are_kept():
    losses = torch.rand(64)
    losses[10:20] = UNKNOWN
    taken = positions(losses_known(DropEasiest(64, 16, fraction=0.75), losses).epoch(1))
    assert set(range(10, 20)) <= set(taken) and len(taken) == 16


def test_among_equals_chance_decides():
    taken = [set(positions(DropEasiest(64, 8).epoch(epoch))) for epoch in (1, 2)]
    assert taken[0] != taken[1] and taken[0] != set(range(32))


def test_losses_are_those_of_the_last_time():
    sampler, logits = DropEasiest(5, 2), torch.randn(3, 10, requires_grad=True)
    sampler.record(torch.tensor([4, 0]), torch.zeros(2, 10), torch.tensor([0, 1]))
    labels = torch.tensor([3, 1, 2])
    sampler.record(torch.tensor([0, 1, 2]), logits, labels)
    expected = [*F.cross_entropy(logits, labels, reduction="none").tolist(), UNKNOWN, math.log(10)]
    assert sampler.losses.tolist() == pytest.approx(expected) and not sampler.losses.requires_grad


def test_an_epoch_that_is_resumed_drops_the_same_images():
    sampler = losses_known(DropEasiest(64, 8), torch.rand(64))
    whole = positions(sampler.epoch(1))
    learned = 50.0 * torch.eye(10)[torch.zeros(8, dtype=torch.int64)]
    sampler.record(torch.tensor(whole[:8]), learned, torch.zeros(8, dtype=torch.int64))
    assert positions(sampler.epoch(1)) == whole, "asked for again, it is the same"
    resumed = DropEasiest(64, 8)
    resumed.load_state_dict(sampler.state_dict())
    assert positions(resumed.epoch(1)) == whole
    assert positions(resumed.epoch(2)) == positions(sampler.epoch(2))
    forgetful = losses_known(DropEasiest(64, 8), sampler.losses)
    assert positions(forgetful.epoch(1)) != whole, "negative control: the losses of now would drop others"


def test_a_loaded_state_is_a_copy():
    first, second = DropEasiest(8, 4), DropEasiest(8, 4)
    second.load_state_dict(first.state_dict())
    second.record(torch.tensor([0]), torch.zeros(1, 10), torch.tensor([0]))
    assert (first.losses == UNKNOWN).all()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2, math.nan])
def test_fractions_out_of_range(fraction):
    with pytest.raises(ValueError, match="fraction is"):
        DropEasiest(8, 4, fraction=fraction)


def test_the_losses_of_other_images():
    with pytest.raises(ValueError, match="8 images, and there are 9"):
        DropEasiest(9, 4).load_state_dict(DropEasiest(8, 4).state_dict())
