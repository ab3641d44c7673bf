"""What the augmentation explorer shows: draws, sweeps from end to end, the sheet, and the verdict on labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny

from cifar_utils import preview, training
from cifar_utils.augment import augment, draw
from cifar_utils.data import CLASSES
from cifar_utils.policy import FULL, PRESETS, Policy
from cifar_utils.robustness import changed_images


def test_images_are_chosen_class_by_class():
    split = tiny(200)
    assert preview.choose(split, CLASSES, 10).labels.tolist() == list(range(10))
    two = preview.choose(split, ("cat", "dog"), 5)
    assert two.labels.tolist() == [3, 5, 3, 5, 3] and len(set(two.index.tolist())) == 5
    later = preview.choose(split, ("cat", "dog"), 5, start=2)
    assert later.index.tolist()[:3] == two.index.tolist()[2:]
    around = preview.choose(split, ("cat",), 300)  # more than there are: from the beginning again
    assert around.index[0] == around.index[int((split.labels == 3).sum())]


@pytest.mark.parametrize("classes,match", [((), "choose at least one"), (("lynx",), "not 'lynx'")])
def test_classes_that_do_not_exist(classes, match):
    with pytest.raises(ValueError, match=match):
        preview.choose(tiny(20), classes, 3)
    cats = tiny(64).select(torch.nonzero(tiny(64).labels == 3)[:, 0])
    with pytest.raises(ValueError, match="have no dog"):
        preview.choose(cats, ("cat", "dog"), 3)


def test_draws_are_those_of_training():
    split = tiny(6)
    shown = preview.draws(split, FULL, seed=3, count=4)
    assert shown.shape == (6, 4, 32, 32, 3) and shown.dtype == np.uint8
    x = augment(split.images, draw(FULL, 3, 2, split.index), FULL, torch.zeros(3), torch.ones(3))
    assert (shown[:, 2] == (x * 255).round().byte().permute(0, 2, 3, 1).numpy()).all()


def test_without_augmentation_every_draw_is_the_original():
    split = tiny(6)
    originals = split.images.permute(0, 2, 3, 1).numpy()
    assert (preview.draws(split, PRESETS["none"], 0, 3) == originals[:, None]).all()
    for field in preview.SWEEPS:
        assert (preview.sweep(split, PRESETS["none"], field, 3) == originals[:, None]).all()


@pytest.mark.parametrize(
    "field,change,low,high",
    [
        ("degrees", "rotation", -30, 30),
        ("scale", "scale", 0.5, 1.5),
        ("brightness", "brightness", 0.2, 1.8),
        ("contrast", "contrast", 0.5, 1.5),
        ("saturation", "saturation", 0, 3),
    ],
)
def test_a_sweep_goes_from_one_end_to_the_other(field, change, low, high):
    policy = Policy(
        flip_p=0.5, degrees=30, translate=(0.25, 0.25), scale=(0.5, 1.5), distortion_scale=0.5, perspective_p=0.5,
        brightness=0.8, contrast=0.5, saturation=2,
    )  # fmt: skip
    split = tiny(6)
    shown = preview.sweep(split, policy, field, 5)
    for column, amount in ((0, low), (4, high)):
        expected = changed_images(split, preview.PLAIN, change, amount)
        assert abs(shown[:, column] / 255 - expected.permute(0, 2, 3, 1).numpy()).max() < 0.01


def test_the_other_sweeps():
    split, policy = tiny(6), Policy(flip_p=0.5, translate=(0.25, 0), shear=20, distortion_scale=0.5, perspective_p=1)
    originals = split.images.permute(0, 2, 3, 1).numpy()
    flips = preview.sweep(split, policy, "flip_p", 4)
    assert (flips[:, 0] == originals).all() and (flips[:, 3] == originals[:, :, ::-1]).all()
    shifts = preview.sweep(split, policy, "translate", 3)
    assert (shifts[:, 2, :, 8:] == originals[:, :, :-8]).all() and (shifts[:, 2, :, :8] == 0).all()
    assert (shifts[:, 0, :, :-8] == originals[:, :, 8:]).all()
    for field in ("shear", "distortion_scale"):
        ends = preview.sweep(split, policy, field, 3)
        assert (ends[:, 1] == originals).all() and (ends[:, 0] != ends[:, 2]).any()
    upper = preview.sweep(split, policy, "distortion_scale", 3)
    assert upper[:, 2, 0, 0].max() == 0 and upper[:, 0, 31, 0].max() == 0  # the corners have moved inwards
    with pytest.raises(ValueError, match="'fill' cannot be swept"):
        preview.sweep(split, policy, "fill", 3)


def test_the_sheet_has_every_image_in_its_place():
    split = tiny(3)
    shown = preview.draws(split, FULL, 0, 4)
    sheet = preview.contact_sheet(split.images, shown)
    assert sheet.shape == (3 * 34 - 2, 5 * 34 - 2 + 4, 3)
    assert (sheet[34:66, :32] == split.images[1].permute(1, 2, 0).numpy()).all()
    assert (sheet[68:100, 3 * 34 + 4 : 3 * 34 + 36] == shown[2, 2]).all()
    assert (sheet[:, 32:38] == 255).all()


def test_the_verdict():
    network, normalisation, _ = training.restore(training.SHIPPED)
    split = tiny(150, "validation")
    plain = preview.survival(network, split, Policy(), normalisation)
    assert plain[0] > 0.7
    assert preview.verdict(preview.survival(network, split, FULL, normalisation), plain)[0] is False
    wild = replace(FULL.scaled(4), degrees=180)
    destroys, sentence = preview.verdict(preview.survival(network, split, wild, normalisation), plain)
    assert destroys and "likely to destroy labels" in sentence and f"{plain[0]:.0%} of the originals" in sentence
    assert preview.verdict((0.79, 0.7, 0.85), (1.0, 1, 1))[0] is False  # the interval still reaches 80 %
    assert preview.verdict((0.6, 0.5, 0.79), (1.0, 1, 1))[0] is True
