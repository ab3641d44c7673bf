"""Which images an epoch trains on: shuffled batches, and who is left out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from cifar_utils.selection import NEVER, LastMet, batches, steps_before
from cifar_utils.training import Config

NEVER_MET = torch.full((64,), NEVER)


@pytest.mark.parametrize("n,size,count", [(64, 16, 4), (70, 16, 4), (10, 16, 1), (16, 16, 1), (17, 1, 17)])
def test_batches_are_a_shuffle_without_the_incomplete_rest(n, size, count):
    found = batches(n, Config(batch_size=size, seed=4), 0, torch.zeros(n))
    assert [len(batch) for batch in found] == [min(size, n)] * count
    positions = torch.cat(found).tolist()
    assert len(set(positions)) == len(positions) and set(positions) <= set(range(n))


def test_batches_depend_on_seed_and_epoch_alone_where_no_image_is_skipped():
    def order(seed, epoch, losses=NEVER_MET):
        return torch.cat(batches(64, Config(seed=seed, skip=0.0), epoch, losses)).tolist()

    torch.manual_seed(1)
    first = order(0, 0)
    torch.manual_seed(2)
    assert order(0, 0) == first == order(0, 0, torch.rand(64))
    assert order(1, 1) == order(1, 1, torch.rand(64))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert sorted(order(2**63 - 1, 7)) == list(range(64))  # every seed of the command line is fine


@given(
    n=st.integers(1, 200),
    size=st.integers(1, 64),
    skip=st.floats(0, 0.99),
    epoch=st.integers(1, 9),
    noise=st.integers(0, 99),
)
def test_later_epochs_leave_out_the_images_with_the_lowest_losses(n, size, skip, epoch, noise):
    losses = torch.rand(n, generator=torch.Generator().manual_seed(noise))
    config = Config(batch_size=size, skip=skip)
    found = batches(n, config, epoch, losses)
    assert len(found) == steps_before(epoch + 1, n, config) - steps_before(epoch, n, config)
    assert len({len(batch) for batch in found}) == 1
    taken = torch.cat(found)
    assert len(taken.unique()) == len(taken)
    kept = n - round(n * skip)
    assert set(taken.tolist()) <= set(losses.argsort()[n - kept :].tolist())
    assert len(taken) > kept - size  # nothing more is missing than an incomplete batch


def test_the_first_epoch_leaves_nobody_out():
    config = Config(batch_size=8, skip=0.5)
    assert sorted(torch.cat(batches(64, config, 0, torch.arange(64.0))).tolist()) == list(range(64))
    assert [steps_before(epoch, 64, config) for epoch in range(4)] == [0, 8, 12, 16]


def test_images_that_were_never_met_are_not_left_out():
    losses = torch.rand(64)
    losses[10:20] = NEVER
    taken = torch.cat(batches(64, Config(batch_size=16, skip=0.75), 1, losses)).tolist()
    assert set(range(10, 20)) <= set(taken) and len(taken) == 16


def test_among_equals_chance_decides():
    config = Config(batch_size=8, skip=0.5)
    taken = [set(torch.cat(batches(64, config, epoch, NEVER_MET)).tolist()) for epoch in (1, 2)]
    assert taken[0] != taken[1] and taken[0] != set(range(32))


def test_the_record_is_that_of_the_last_meeting():
    last_met, logits = LastMet(5), torch.randn(3, 10, requires_grad=True)
    assert all(math.isnan(value) for value in last_met.means())
    last_met.record(torch.tensor([4, 0]), torch.zeros(2, 10), torch.tensor([0, 1]))  # argmax of equals is the first
    assert last_met.means() == pytest.approx((math.log(10), 0.5))
    labels = torch.tensor([3, 1, 2])
    last_met.record(torch.tensor([0, 1, 2]), logits, labels)
    expected = torch.cat([F.cross_entropy(logits, labels, reduction="none").detach(), torch.tensor([math.log(10)])])
    assert last_met.losses[[0, 1, 2, 4]].tolist() == pytest.approx(expected.tolist())
    hits = [*(logits.argmax(1) == labels).tolist(), True]
    assert last_met.means() == pytest.approx((expected.mean().item(), sum(hits) / 4))
    assert (last_met.losses_before == NEVER).all() and last_met.losses[3] == NEVER and not last_met.losses.requires_grad
    last_met.end_epoch()
    last_met.record(torch.tensor([0]), torch.zeros(1, 10), torch.tensor([0]))
    assert last_met.losses_before[[0, 1, 2, 4]].tolist() == pytest.approx(expected.tolist())
