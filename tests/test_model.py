"""The network: shapes, initialisation, what can be trained."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import narrow, tiny, train_tiny
from torch.nn.functional import cross_entropy

from cifar_utils import model, optimisers, training
from cifar_utils.data import Normalisation


def test_the_shape_table_of_the_docstring_is_true():
    network, shapes = model.CNN().eval(), {}
    parts = {"whiten": network.whiten, "linear": network.linear}
    parts |= {f"block {i}": block for i, block in enumerate(network.blocks, 1)}
    for name, part in parts.items():
        part.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: list(out.shape)}))
    network.linear.register_forward_pre_hook(lambda _, args: shapes.update({"pool": list(args[0].shape)}))
    network(torch.zeros(5, 3, 32, 32))
    table = dict(re.findall(r"^    (\w+(?: \d)?) +\[(N.*?)\]", model.__doc__, re.MULTILINE))
    assert table.pop("images") == "N,   3, 32, 32"
    assert {name: [5, *map(int, text.split(",")[1:])] for name, text in table.items()} == shapes
    assert len(shapes) == 6


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("widths", [(64, 128, 128), (8, 16, 24), (32, 16, 8)])
def test_output_and_features_in_evaluation_mode(count, widths, mirror):
    network = model.CNN(widths, mirror).eval()
    images = torch.randn(count, 3, 32, 32)
    assert network(images).shape == (count, 10)
    features = network.features(images)
    assert features.shape == (count, widths[2], 3, 3)
    largest = features.flatten(2).max(2).values
    if mirror:
        largest = largest[:, : widths[2] // 2] + largest[:, widths[2] // 2 :]
    torch.testing.assert_close(network(images), model.LOGIT_SCALE * largest @ network.linear.weight.T)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), side=st.sampled_from([16, 24, 32, 40]), training=st.booleans())
def test_a_mirror_image_gives_mirrored_features_in_swapped_channels_and_the_same_logits(seed, side, training):
    generator = torch.Generator().manual_seed(seed)
    network = narrow().train(training).double()  # exact but for rounding, which deep layers enlarge
    images = torch.randn(3, 3, side, side, generator=generator).double()
    with torch.no_grad():
        for p in network.blocks.parameters():  # not only at the start, where filters are copies
            p.add_(torch.randn(p.shape, generator=generator) * 0.3)
        features, mirrored = network.features(images), network.features(images.flip(3))
        torch.testing.assert_close(mirrored, features.flip(3).roll(features.shape[1] // 2, 1))
        torch.testing.assert_close(network(images.flip(3)), network(images))
        assert not torch.allclose(network(images.flip(2)), network(images), rtol=0.01), "upside down"


@pytest.mark.parametrize("channels", [4, 64])
def test_mirror_layers_are_pytorchs_own_with_shared_numbers(channels):
    images = torch.randn(4, channels, 7, 7, dtype=torch.float64).to(memory_format=torch.channels_last)
    mirror = model.MirrorConv2d(channels, 8).double()
    plain = torch.nn.Conv2d(channels, 8, 3, padding=1, bias=False, dtype=torch.float64)
    partner = [(channel + channels // 2) % channels for channel in range(channels)]
    with torch.no_grad():
        plain.weight[:4], plain.weight[4:] = mirror.weight, mirror.weight[:, partner].flip(3)
    torch.testing.assert_close(mirror(images), plain(images))
    norm, plain = model.MirrorNorm2d(channels).double(), torch.nn.BatchNorm2d(channels // 2).double()
    first, second = plain(torch.cat(images.split(channels // 2, dim=1))).split(4)  # partners as two images
    torch.testing.assert_close(norm(images), torch.cat([first, second], 1))
    torch.testing.assert_close(norm.running_var, plain.running_var)


def test_a_batch_gives_what_each_image_gives_alone():
    network, images = narrow().eval(), Normalisation.of(tiny())(tiny(5).images)
    with torch.no_grad():
        torch.testing.assert_close(network(images), torch.cat([network(image[None]) for image in images]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", [True, False])
def test_the_first_loss_is_that_of_guessing(seed, mode):
    split = tiny(512)
    normalisation = Normalisation.of(split)
    network = training.new_network(split, normalisation, seed).train(mode)
    with torch.no_grad():
        loss = cross_entropy(network(normalisation(split.images)), split.labels)
    assert loss.item() == pytest.approx(math.log(10), abs=0.05)


@pytest.mark.parametrize("mirror", [True, False])
def test_whitened_patches_are_uncorrelated_and_of_equal_variance(mirror):
    split = tiny(512)
    images, network = Normalisation.of(split)(split.images), model.CNN(mirror=mirror)
    twelve, between = [*range(6), *range(12, 18)] if mirror else [*range(12)], 6 if mirror else 12
    images = torch.cat([images, images.flip(3)])

    def covariance(eps):
        model.initialise_whitening(network, images, eps)
        with torch.no_grad():
            out = network.whiten(images)
        torch.testing.assert_close(out[:, [c + between for c in twelve]], -out[:, twelve])  # the negatives of these
        return torch.cov(out[:, twelve].double().permute(1, 0, 2, 3).flatten(1))

    torch.testing.assert_close(covariance(1e-9), torch.eye(12, dtype=torch.float64), atol=0.01, rtol=0)
    usual = covariance(5e-4)  # directions that hardly ever occur stay smaller
    eigenvalues = torch.linalg.eigvalsh(usual)
    assert eigenvalues.min() > 0.4 and eigenvalues.max() < 1.01


@pytest.mark.parametrize("channels_in,channels_out", [(4, 4), (24, 64)])
def test_a_new_convolution_passes_its_input_through(channels_in, channels_out):
    images = torch.randn(2, channels_in, 5, 5)
    out = model.convolution(channels_in, channels_out, mirror=False)(images)
    assert out.shape == (2, channels_out, 5, 5)
    torch.testing.assert_close(out[:, :channels_in], images)
    out, half = model.convolution(channels_in, channels_out)(images), channels_in // 2
    assert out.shape == (2, channels_out, 5, 5)
    torch.testing.assert_close(out[:, :half], images[:, :half])
    torch.testing.assert_close(out[:, channels_out // 2 :][:, :half], images[:, half:])


def test_the_whitening_filters_are_frozen(tmp_path):
    network = narrow()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    in_optimiser = {
        id(p) for group in optimisers.optimiser(network, training.Config()).param_groups for p in group["params"]
    }
    frozen = {"whiten.weight"} | {f"blocks.{block}.{layer}.weight" for block in range(3) for layer in (2, 5)}
    assert in_optimiser == {id(p) for name, p in network.named_parameters() if name not in frozen}
    train_tiny(tmp_path, network=network, epochs=1)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == set(before) - frozen


def test_count_parameters():
    convolutions = 9 * (24 * 8 + 8 * 8 + 8 * 16 + 16 * 16 + 16 * 16 + 16 * 16)
    norms = 2 * (8 + 16 + 16)
    assert model.count_parameters(model.CNN((8, 16, 16), mirror=False)) == convolutions + norms + 16 * 10
    assert model.count_parameters(narrow()) == (convolutions + norms + 16 * 10) / 2, "the other half is in the mirror"
