"""The pixels of the augmentation explorer: draws, sweeps from end to end, the sheet, and the warning about labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import Brightness, dark_and_bright, images, linear
from torch.nn import functional as F

from cifar_utils import warp
from cifar_utils.augment import PRESETS, Policy, draw
from cifar_utils.data import CIFAR10_CLASSES
from cifar_utils.widgets import preview

FULL = PRESETS["full"]


def originals(dataset) -> np.ndarray:
    return dataset.images.permute(0, 2, 3, 1).numpy()


def test_images_are_chosen_class_by_class():
    dataset = images(200)
    assert preview.choose(dataset, CIFAR10_CLASSES, 10).labels.tolist() == list(range(10))
    two = preview.choose(dataset, ("cat", "dog"), 5)
    assert two.labels.tolist() == [3, 5, 3, 5, 3] and len(set(two.index.tolist())) == 5
    later = preview.choose(dataset, ("cat", "dog"), 5, start=2)
    assert later.index.tolist()[:3] == two.index.tolist()[2:]
    around = preview.choose(dataset, ("cat",), 5, start=18)  # of 20 cats: from the beginning again
    assert around.index.tolist() == [183, 193, 3, 13, 23]
    assert len(preview.choose(dataset, ("cat",), 300)) == 20  # no image twice
    uneven = dataset.select([3, 5, 15, 25, 35])
    assert preview.choose(uneven, ("cat", "dog"), 4).index.tolist() == [3, 5, 15, 25]


@pytest.mark.parametrize("classes,match", [((), "choose at least one of airplane"), (("lynx",), "'lynx' is none of")])
def test_classes_that_do_not_exist(classes, match):
    with pytest.raises(ValueError, match=match):
        preview.choose(images(20), classes, 3)
    cats = images(64).select(torch.nonzero(images(64).labels == 3)[:, 0])
    with pytest.raises(ValueError, match="have no dog"):
        preview.choose(cats, ("cat", "dog"), 3)


@pytest.mark.parametrize("size", [32, 64])
def test_draws_are_those_of_training(size):
    dataset = images(6, size=size)
    shown = preview.draws(dataset, FULL, seed=3, count=4)
    assert shown.shape == (6, 4, size, size, 3) and shown.dtype == np.uint8
    x = warp.apply(dataset.images, draw(FULL, 3, 2, dataset.index, size))
    assert (shown[:, 2] == (x * 255).round().byte().permute(0, 2, 3, 1).numpy()).all()


@pytest.mark.parametrize("size", [16, 32, 65])
def test_without_augmentation_every_draw_is_the_original(size):
    dataset = images(6, size=size)
    assert (preview.draws(dataset, PRESETS["none"], 0, 3) == originals(dataset)[:, None]).all()
    for field in preview.SWEEPS:
        assert (preview.sweep(dataset, PRESETS["none"], field, 3) == originals(dataset)[:, None]).all()


@pytest.mark.parametrize(
    "field,parameter,low,high",
    [
        ("degrees", "angle", -30, 30),
        ("scale", "scale", 0.5, 1.5),
        ("shear", "shear", -20, 20),
        ("brightness", "brightness", 0.2, 1.8),
        ("contrast", "contrast", 0.5, 1.5),
        ("saturation", "saturation", 0, 3),
    ],
)
def test_a_sweep_reaches_from_one_end_to_the_other(field, parameter, low, high):
    policy = Policy(
        flip_p=0.5, degrees=30, translate=(0.25, 0.25), scale=(0.5, 1.5), shear=20, distortion_scale=0.5,
        perspective_p=0.5, brightness=0.8, contrast=0.5, saturation=2, fill=99,
    )  # fmt: skip
    dataset = images(6)
    shown = preview.sweep(dataset, policy, field, 5)
    for column, amount in ((0, low), (4, high)):
        p = replace(draw(Policy(), 0, 0, dataset.index), **{parameter: torch.full((6,), float(amount))})
        expected = warp.apply(dataset.images, p, fill=99)
        assert abs(shown[:, column] / 255 - expected.permute(0, 2, 3, 1).numpy()).max() < 0.01


def test_the_other_sweeps():
    dataset, policy = images(6, size=64), Policy(flip_p=0.5, translate=(0.25, 0), distortion_scale=0.5, perspective_p=1)
    originals_ = originals(dataset)
    flips = preview.sweep(dataset, policy, "flip_p", 4)
    assert (flips[:, 0] == originals_).all() and (flips[:, 3] == originals_[:, :, ::-1]).all()
    shifts = preview.sweep(dataset, policy, "translate", 3)
    assert (shifts[:, 2, :, 16:] == originals_[:, :, :-16]).all() and (shifts[:, 2, :, :16] == 0).all()
    assert (shifts[:, 0, :, :-16] == originals_[:, :, 16:]).all()
    upper = preview.sweep(dataset, policy, "distortion_scale", 3)
    assert (upper[:, 1] == originals_).all()
    assert upper[:, 2, 0, 0].max() == 0 and upper[:, 0, 63, 0].max() == 0  # the corners have moved inwards
    with pytest.raises(ValueError, match="'fill' cannot be swept"):
        preview.sweep(dataset, policy, "fill", 3)


@pytest.mark.parametrize("size", [32, 64])
def test_every_image_has_its_place_on_the_sheet(size):
    dataset = images(3, size=size)
    shown = preview.draws(dataset, FULL, 0, 4)
    sheet = preview.contact_sheet(dataset.images, shown)
    step = size + 2
    assert sheet.shape == (3 * step + 2, 5 * step + 4, 3)
    assert (sheet[step + 2 : 2 * step, 2 : 2 + size] == originals(dataset)[1]).all()
    assert (sheet[2 * step + 2 : -2, 3 * step + 4 : 4 * step + 2] == shown[2, 2]).all()
    assert (sheet[:, step : step + 4] == 255).all()


def test_large_images_are_reduced_on_the_sheet():
    dataset = images(2, size=160)
    sheet = preview.contact_sheet(dataset.images, preview.draws(dataset, FULL, 0, 4))
    assert sheet.shape == (2 * 66 + 2, 5 * 66 + 4, 3)
    expected = F.interpolate(dataset.images[:1].float(), (64, 64), mode="bilinear", antialias=True)[0]
    assert abs(sheet[2:66, 2:66] - expected.permute(1, 2, 0).numpy()).max() <= 1


def test_accuracy_under_augmentation():
    dataset, network = dark_and_bright(), Brightness().train()
    plain = preview.accuracy_under_augmentation(network, dataset, Policy())
    assert plain[0] == 1 and plain[1] > 0.95 and network.training
    flips = preview.accuracy_under_augmentation(network, dataset, Policy(flip_p=0.5, contrast=1))
    assert flips == plain
    # The factor is drawn from 0 to 3: a bright image stays above one half if it exceeds 0.62, a dark one below 2.4.
    accuracy, low, high = preview.accuracy_under_augmentation(network, dataset, Policy(brightness=2), seed=1)
    assert low < 0.8 < high and accuracy != 1
    destroys, sentence = preview.warning((accuracy, low, high), plain, 2)
    assert f"accuracy under augmentation is {accuracy:.0%} ({low:.0%} to {high:.0%})" in sentence and not destroys


def test_the_warning():
    assert preview.warning((0.79, 0.7, 0.85), (1.0, 1, 1), 10)[0] is False  # the interval still reaches 80%
    destroys, sentence = preview.warning((0.6, 0.5, 0.79), (1.0, 1, 1), 10)
    assert destroys and "likely to destroy labels" in sentence and "100% on the original images" in sentence


def test_between_the_two_some_labels_may_be_lost():
    """The interval is wholly below that on the original images, but not by a fifth."""
    destroys, sentence = preview.warning((0.85, 0.80, 0.87), (0.95, 0.90, 0.97), 10)
    assert not destroys and sentence.startswith("This policy may destroy some labels")
    assert preview.warning((0.85, 0.80, 0.91), (0.95, 0.90, 0.97), 10)[1].startswith("Labels survive")


def test_a_network_that_guesses_cannot_judge():
    for classes, plain in ((10, (0.11, 0.07, 0.16)), (2, (0.53, 0.46, 0.6)), (100, (0.01, 0.0, 0.03))):
        destroys, sentence = preview.warning((0.0, 0.0, 0.02), plain, classes)
        assert not destroys and sentence.startswith("This network cannot judge") and f"{plain[0]:.0%}" in sentence
    assert preview.warning((0.0, 0.0, 0.02), (0.05, 0.03, 0.09), 100)[0]  # five times as good as guessing


@pytest.mark.parametrize("classes", [2, 11])
def test_a_network_of_other_classes_is_refused(classes):
    with pytest.raises(ValueError, match="one column per class"):
        preview.accuracy_under_augmentation(linear(classes), images(20, "validation"), Policy())
