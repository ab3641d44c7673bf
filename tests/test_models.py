"""The layer that normalizes, and the plain network."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import noise
from torch import nn

from cifar_utils import data
from cifar_utils.data import Dataset
from cifar_utils.models import Normalize, SmallCNN, block, count_parameters, uncompiled

STANDARD = (nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.Linear)


def dataset(images: torch.Tensor, split: str = "training") -> Dataset:
    """These images, of two classes in turn."""
    return Dataset(images, torch.arange(len(images)) % 2, ("cat", "dog"), split=split)


# Normalize


def assert_double_precision(layer: Normalize, images: torch.Tensor):
    pixels = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(layer.mean.numpy(), pixels.mean((0, 2, 3)), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(layer.std.numpy(), np.maximum(pixels.std((0, 2, 3)), 1 / 255), rtol=1e-7)


def test_from_dataset_is_numpys_mean_and_deviation_in_double_precision():
    train, _ = data.split(data.cifar10(sample=True))
    layer = Normalize.from_dataset(train)
    assert_double_precision(layer, train.images)
    assert layer.mean.dtype == layer.std.dtype == torch.float32


@given(st.integers(0, 2**32 - 1), st.sampled_from([16, 17, 40]), st.integers(1, 5))
def test_so_it_is_for_any_images(seed, size, count):
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.randint(0, 256, (2, 3, 1, 1), generator=generator).sort(0).values
    images = (noise(count, size, seed=seed) / 256 * (high + 1 - low) + low).byte()
    assert_double_precision(Normalize.from_dataset(dataset(images)), images)


def test_normalized_training_images_have_mean_0_and_deviation_1():
    train, _ = data.split(data.cifar10(sample=True))
    result = Normalize.from_dataset(train)(train.images).double()
    assert result.mean((0, 2, 3)).abs().max() < 1e-5
    assert (result.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_a_constant_color_stays_finite():
    """A channel without any deviation is divided by one gray level."""
    images = torch.tensor([7, 200, 0], dtype=torch.uint8)[:, None, None].expand(4, 3, 16, 16).contiguous()
    layer = Normalize.from_dataset(dataset(images))
    assert layer.std.tolist() == pytest.approx([1 / 255] * 3)
    assert layer(images).abs().max() < 1e-4
    assert layer(images + 1).mean().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_only_training_images_are_measured(split):
    with pytest.raises(ValueError, match=f"measured on training images only, and these are images: 4 {split} images"):
        Normalize.from_dataset(dataset(noise(4), split))


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (48, 96)], ids=str)
def test_uint8_and_floats_agree(shape):
    layer, images = Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)), noise(4, *shape)
    result = layer(images)
    assert (result.shape, result.dtype) == (images.shape, torch.float32)
    assert torch.equal(layer(images / 255), result)
    torch.testing.assert_close(layer(images.double() / 255), result)
    torch.testing.assert_close(layer((images / 255).half()), result, atol=5e-3, rtol=0)


def test_it_subtracts_and_divides_channel_by_channel():
    mean, std = np.array([0.1, 0.5, 0.9]), np.array([0.25, 0.5, 1.0])
    expected = (noise(4).numpy() / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(Normalize(tuple(mean), tuple(std))(noise(4)).numpy(), expected, atol=1e-6)


def test_it_saves_and_loads_its_constants_and_trains_nothing():
    layer, other = Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), Normalize()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(noise(2)), layer(noise(2)))
    assert list(layer.state_dict()) == ["mean", "std"] and count_parameters(layer) == 0


def test_repr_shows_the_constants():
    assert repr(Normalize((0.1, 0.2, 0.3))) == "Normalize(mean=(0.1000, 0.2000, 0.3000), std=(0.5000, 0.5000, 0.5000))"


@pytest.mark.parametrize(
    "images, values",
    [
        (noise(4).float(), "from 0 to 255"),
        (noise(4).long(), "from 0 to 255"),
        ((noise(4) / 255 - 0.5) / 0.25, "from -2 to 2"),
        (noise(4) / 127.5 - 1, "from -1 to 1"),
        (Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))(noise(4)), "from -2 to 2.17"),
    ],
    ids=["0 to 255", "int64", "normalized", "-1 to 1", "normalized by this layer"],
)
def test_images_outside_0_to_1_are_refused(images, values):
    with pytest.raises(ValueError, match=f"takes images from 0 to 1, and these go {values}: leave out the other"):
        Normalize()(images)


def test_images_that_leave_0_to_1_by_a_little_are_taken():
    images = noise(4) / 255 * 1.4 - 0.2
    torch.testing.assert_close(Normalize()(images), (images - 0.5) / 0.5)


def test_an_empty_batch_stays_empty():
    assert Normalize()(noise(4)[:0] / 255).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    "mean, std",
    [
        ((0.5, 0.5), (0.5, 0.5, 0.5)),
        ((0.5, 0.5, 0.5), (0.5,)),
        ((0.5, 0.5, 0.5), (0.5, 0.0, 0.5)),
        ((0.5, 0.5, 0.5), (0.5, -1.0, 0.5)),
        ((0.5, 0.5, 0.5), (0.5, float("nan"), 0.5)),
    ],
)
def test_impossible_constants_are_refused(mean, std):
    with pytest.raises(ValueError, match="three means and three standard deviations above 0"):
        Normalize(mean, std)


# SmallCNN


@pytest.mark.parametrize("size", [8, 16, 32, 33, 64, 256])
def test_any_size(size):
    model = SmallCNN()
    features = model.blocks(torch.rand(2, 3, size, size))
    assert features.shape == (2, 128, size // 8, size // 8)
    assert model(torch.rand(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_any_number_of_classes(classes):
    assert SmallCNN(classes)(torch.rand(2, 3, 32, 32)).shape == (2, classes)


@pytest.mark.parametrize("widths", [(16,), (8, 16), (4, 8, 16, 32)], ids=str)
def test_any_number_of_blocks(widths):
    model = SmallCNN(classes=5, widths=widths)
    assert len(model.blocks) == len(widths) and model.head.in_features == widths[-1]
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5)


def test_a_block_halves_the_side():
    assert block(3, 7)(torch.rand(2, 3, 33, 20)).shape == (2, 7, 16, 10)


def test_it_has_standard_layers_only():
    others = {type(layer).__name__ for layer in SmallCNN().modules() if type(layer) not in STANDARD}
    assert others == {"SmallCNN"}


def test_its_source_is_at_most_20_lines():
    assert len(inspect.getsource(SmallCNN).splitlines()) <= 20


def test_it_starts_from_torchs_generator():
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(SmallCNN().eval()(torch.ones(1, 3, 32, 32)))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_with_normalize_it_learns_to_tell_two_colors_apart():
    torch.manual_seed(0)
    images, labels = noise(16, 16) // 2, torch.arange(16) % 2
    images[labels == 1, 0] += 100  # redder
    model = nn.Sequential(Normalize.from_dataset(dataset(images)), SmallCNN(classes=2, widths=(8, 16)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert (model.eval()(images).argmax(1) == labels).all()


def test_every_parameter_gets_a_gradient():
    model = SmallCNN()
    model(torch.rand(4, 3, 32, 32)).logsumexp(1).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


# What else there is


def test_count_parameters_is_the_arithmetic():
    def of_block(a, b):
        return 9 * a * b + 9 * b * b + 4 * b

    assert count_parameters(SmallCNN()) == of_block(3, 32) + of_block(32, 64) + of_block(64, 128) + 128 * 10 + 10


def test_count_parameters_leaves_out_frozen_ones_and_buffers():
    model = SmallCNN()
    model.blocks.requires_grad_(False)
    assert count_parameters(model) == 128 * 10 + 10
    assert count_parameters(nn.BatchNorm2d(5)) == 10


def test_count_parameters_counts_shared_ones_once():
    layer = nn.Linear(4, 4)
    assert count_parameters(nn.Sequential(layer, layer)) == 20


def test_uncompiled_is_what_torch_compile_wrapped():
    model = nn.Linear(2, 2)
    compiled = torch.compile(model)
    assert list(compiled.state_dict()) != list(model.state_dict()), "the names differ"
    assert uncompiled(compiled) is model and uncompiled(model) is model
