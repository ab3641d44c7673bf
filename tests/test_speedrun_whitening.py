"""The whitening layer: uncorrelated outputs of equal variance, frozen."""

import pytest
import torch
from tiny import tiny

from cifar_utils.models import Normalize
from cifar_utils.speedrun.whitening import whitening, whitening_filters


def images():
    train = tiny(512)
    return Normalize.from_dataset(train)(train.images)


@pytest.mark.parametrize("mirror", [True, False])
def test_whitened_patches_are_uncorrelated_and_of_equal_variance(mirror):
    twelve, between = ([*range(6), *range(12, 18)], 6) if mirror else ([*range(12)], 12)
    whole = torch.cat([images(), images().flip(3)])

    def covariance(eps):
        out = whitening(whole, mirror, eps)(whole)
        torch.testing.assert_close(out[:, [c + between for c in twelve]], -out[:, twelve])  # the negatives of these
        return torch.cov(out[:, twelve].double().permute(1, 0, 2, 3).flatten(1))

    torch.testing.assert_close(covariance(1e-9), torch.eye(12, dtype=torch.float64), atol=0.01, rtol=0)
    usual = covariance(5e-4)  # directions that hardly ever occur stay smaller
    eigenvalues = torch.linalg.eigvalsh(usual)
    assert eigenvalues.min() > 0.4 and eigenvalues.max() < 1.01


def test_random_filters_do_not_whiten():
    """The negative control."""
    out = whitening()(images())[:, :12]
    correlation = torch.corrcoef(out.permute(1, 0, 2, 3).flatten(1))
    assert (correlation - torch.eye(12)).abs().max() > 0.5


def test_the_second_half_are_mirror_images_only_if_asked_for():
    filters = whitening_filters(images(), mirror=True)
    torch.testing.assert_close(filters[12:], filters[:12].flip(3))
    assert not torch.allclose((plain := whitening_filters(images()))[12:], plain[:12].flip(3), atol=0.01)


def test_it_is_a_frozen_layer_for_any_network():
    layer = whitening(images())
    assert layer.weight.dtype == torch.float32 and not layer.weight.requires_grad and layer.bias is None
    assert layer(images()).shape == (512, 24, 31, 31)
    network = torch.nn.Sequential(layer, torch.nn.Conv2d(24, 4, 3))
    network(images()[:4]).sum().backward()
    assert layer.weight.grad is None and network[1].weight.grad is not None
