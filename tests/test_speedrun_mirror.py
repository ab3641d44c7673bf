"""Mirror symmetry: a mirrored image gives mirrored features in swapped channels."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speedrun_networks import narrow

from cifar_utils.speedrun.cnn import CNN
from cifar_utils.speedrun.mirror import MirrorConv2d, MirrorNorm2d


def far(network: CNN, generator: torch.Generator) -> CNN:
    """With other weights than at the start, where filters are copies of their input."""
    with torch.no_grad():
        for p in network.blocks.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.3)
    return network


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), side=st.sampled_from([16, 24, 32, 40]), training=st.booleans())
def test_a_mirror_image_gives_mirrored_features_in_swapped_channels_and_the_same_logits(seed, side, training):
    generator = torch.Generator().manual_seed(seed)
    network = far(narrow()[1], generator).train(training).double()  # exact but for rounding, which deep layers enlarge
    images = torch.randn(3, 3, side, side, generator=generator).double()
    with torch.no_grad():
        features, mirrored = network.features(images), network.features(images.flip(3))
        torch.testing.assert_close(mirrored, features.flip(3).roll(features.shape[1] // 2, 1))
        torch.testing.assert_close(network(images.flip(3)), network(images))
        assert relative(network(images.flip(2)), network(images)) > 0.01, "upside down is another image"


def test_in_single_precision_the_difference_is_rounding():
    network = far(narrow()[1], torch.Generator().manual_seed(1)).eval()
    images = torch.randn(32, 3, 32, 32)
    with torch.no_grad():
        assert relative(network(images.flip(3)), network(images)) < 1e-5
        other = far(narrow(mirror=False)[1], torch.Generator().manual_seed(1)).eval()
        assert relative(other(images.flip(3)), other(images)) > 0.01, "negative control: without mirror symmetry"


def test_mirrored_batches_leave_the_same_statistics():
    network, images = far(narrow()[1], torch.Generator().manual_seed(2)).double().train(), torch.randn(8, 3, 32, 32)
    twin = copy.deepcopy(network)
    network(images.double()), twin(images.double().flip(3))
    for name, statistics in network.named_buffers():
        torch.testing.assert_close(statistics, dict(twin.named_buffers())[name], msg=name)


@pytest.mark.parametrize("channels", [4, 64])
def test_mirror_layers_are_pytorchs_own_with_shared_weights(channels):
    images = torch.randn(4, channels, 7, 7, dtype=torch.float64).to(memory_format=torch.channels_last)
    mirror = MirrorConv2d(channels, 8).double()
    plain = torch.nn.Conv2d(channels, 8, 3, padding=1, bias=False, dtype=torch.float64)
    partner = [(channel + channels // 2) % channels for channel in range(channels)]
    with torch.no_grad():
        plain.weight[:4], plain.weight[4:] = mirror.weight, mirror.weight[:, partner].flip(3)
    torch.testing.assert_close(mirror(images), plain(images))
    norm, plain = MirrorNorm2d(channels).double(), torch.nn.BatchNorm2d(channels // 2).double()
    first, second = plain(torch.cat(images.split(channels // 2, dim=1))).split(4)  # partners as two images
    torch.testing.assert_close(norm(images), torch.cat([first, second], 1))
    torch.testing.assert_close(norm.running_var, plain.running_var)


@pytest.mark.parametrize("make", [lambda: MirrorConv2d(3, 8), lambda: MirrorConv2d(4, 7), lambda: MirrorNorm2d(5)])
def test_odd_channels_have_no_partners(make):
    with pytest.raises(ValueError, match="channels cannot be mirror pairs"):
        make()
