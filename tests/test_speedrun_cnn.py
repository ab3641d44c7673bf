"""The fast network: shapes, initialization, trainable parameters."""

import math
import re

import pytest
import torch
from speedrun_networks import narrow, synthetic
from tiny import tiny
from torch.nn.functional import cross_entropy

from cifar_utils import models
from cifar_utils.models import Normalize
from cifar_utils.speedrun import cnn
from cifar_utils.speedrun.cnn import CNN, network


def test_the_shape_table_of_the_docstring_is_true():
    model, shapes = CNN().eval(), {}
    parts = {"whiten": model.whiten, "head": model.head}
    parts |= {f"block {i}": block for i, block in enumerate(model.blocks, 1)}
    for name, part in parts.items():
        part.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: list(out.shape)}))
    model.head.register_forward_pre_hook(lambda _, args: shapes.update({"pool": list(args[0].shape)}))
    model(torch.zeros(5, 3, 32, 32))
    table = dict(re.findall(r"^    (\w+(?: \d)?) +\[(N.*?)\]", cnn.__doc__, re.MULTILINE))
    assert table.pop("images") == "N,   3, 32, 32"
    assert {name: [5, *map(int, text.split(",")[1:])] for name, text in table.items()} == shapes
    assert len(shapes) == 6


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("classes,widths", [(10, (64, 128, 128)), (2, (8, 16, 24)), (100, (32, 16, 8))])
def test_output_and_features_in_evaluation_mode(count, classes, widths, mirror):
    model = CNN(classes, widths, mirror).eval()
    images = torch.randn(count, 3, 32, 32)
    assert model(images).shape == (count, classes)
    features = model.features(images)
    assert features.shape == (count, widths[2], 3, 3)
    largest = features.flatten(2).max(2).values
    if mirror:
        largest = largest[:, : widths[2] // 2] + largest[:, widths[2] // 2 :]
    torch.testing.assert_close(model(images), cnn.LOGIT_SCALE * largest @ model.head.weight.T)


def test_a_batch_gives_what_each_image_gives_alone():
    model, images = narrow().eval(), tiny(5).images
    with torch.no_grad():
        torch.testing.assert_close(model(images), torch.cat([model(image[None]) for image in images]))


@pytest.mark.parametrize("size", [16, 24, 40, 64])
def test_images_of_other_sizes(size):
    assert CNN(3, (8, 8, 8)).eval()(torch.randn(2, 3, size, size)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(36, 36), (8, 8), (33, 32), (32, 30)])
def test_sizes_that_do_not_divide(shape):
    with pytest.raises(ValueError, match=f"{shape[0]} x {shape[1]} pixels.*multiples of 8 from 16"):
        CNN(3, (8, 8, 8))(torch.randn(2, 3, *shape))


def test_images_that_do_not_fit_are_refused_at_once():
    with pytest.raises(ValueError, match="20 x 20 pixels.*multiples of 8"):
        network(synthetic(size=20)[0])


@pytest.mark.parametrize("widths", [(7, 8, 8), (8, 8, 1)])
def test_odd_widths_cannot_be_mirrored(widths):
    with pytest.raises(ValueError, match="channels cannot be mirror pairs"):
        CNN(10, widths)
    CNN(10, widths, mirror=False)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", [True, False])
def test_the_first_loss_is_that_of_guessing(seed, mode):
    train = tiny(512)
    model = network(train, seed).train(mode)
    with torch.no_grad():
        loss = cross_entropy(model(train.images), train.labels)
    assert loss.item() == pytest.approx(math.log(10), abs=0.05)


def test_the_seed_decides_the_weights_and_the_callers_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first, second, other = narrow(), narrow(), narrow(seed=1)
    assert torch.equal(torch.rand(3), expected)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(first[1].head.weight, other[1].head.weight)


@pytest.mark.parametrize("mirror", [True, False])
def test_it_is_normalized_whitened_and_fast(mirror):
    train = tiny()
    normalize, model = network(train, mirror=mirror)
    assert isinstance(normalize, Normalize) and model.mirror == mirror
    filters = cnn.whitening_filters(normalize(train.images), mirror)
    torch.testing.assert_close(model.whiten.weight, filters)
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d) and layer.in_channels >= 64]
    assert len(layers) == 5 and all("_conv_forward" in vars(layer) for layer in layers)


def test_classes_and_sizes_come_from_the_data():
    train, _ = synthetic(size=64, classes=3)
    model = network(train)
    assert model(train.images[:2]).shape == (2, 3)


def test_large_images_are_measured_in_part(monkeypatch):
    train, seen = tiny(60), []
    monkeypatch.setattr(cnn, "WHITENING_PIXELS", 25 * 32 * 32)
    monkeypatch.setattr(cnn, "whitening_filters", lambda images, _: seen.append(images) or torch.zeros(24, 3, 2, 2))
    normalize = network(train)[0]
    torch.testing.assert_close(seen[0], normalize(train.images[::3]))  # every class, even where classes come in turn


def test_frozen_parameters_are_whitening_filters_and_gains():
    frozen = {name for name, p in narrow().named_parameters() if not p.requires_grad}
    assert frozen == {"1.whiten.weight"} | {f"1.blocks.{i}.{layer}.weight" for i in range(3) for layer in (2, 5)}


def test_count_parameters():
    convolutions = 9 * (24 * 8 + 8 * 8 + 8 * 16 + 16 * 16 + 16 * 16 + 16 * 16)
    norms = 2 * (8 + 16 + 16)
    assert models.count_parameters(narrow(mirror=False)) == convolutions + norms + 16 * 10
    assert models.count_parameters(narrow()) == (convolutions + norms + 16 * 10) / 2, "the other half is in the mirror"
