"""Progressive resizing: small images first."""

import math

import pytest
import torch
from tiny import tiny
from torch.nn import functional as F
from torchvision.transforms import v2

from cifar_utils.augment import PRESETS, Step, apply_transform
from cifar_utils.speedrun.resizing import ProgressiveResizing, image_size


def step(progress: float = 0.0, count: int = 6) -> Step:
    return Step(seed=3, epoch=1, index=torch.arange(count), progress=progress)


def images(count: int = 6):
    return tiny(count).images


@pytest.mark.parametrize("size,small,middle", [(32, 16, 24), (64, 32, 48), (96, 48, 72), (40, 16, 32), (16, 16, 16)])
def test_sizes_are_fractions_of_the_images_own(size, small, middle):
    sizes = [image_size(size, progress) for progress in (0.0, 0.149, 0.15, 0.649, 0.65, 1.0)]
    assert sizes == [small, small, middle, middle, size, size]


def test_sizes_of_your_own():
    assert [image_size(32, p, ((0.25, 0.5), (0.75, 0.9))) for p in (0.0, 0.5, 0.9)] == [16, 24, 32]
    assert image_size(30, 0.5, ()) == 30 and image_size(100, 0.0, ((0.5, 1.0),)) == 48
    assert image_size(18, 0.0, ((1.0, 0.5), (0.9, 1.0))) == 18


@pytest.mark.parametrize("steps", [1, 7, 360, 384, 400, 500, 650])
def test_each_size_has_its_share_of_the_steps(steps):
    sizes = [image_size(32, done / steps) for done in range(steps)]
    assert sizes == sorted(sizes)
    assert sizes.count(16) == math.ceil(0.15 * steps) and sizes.count(32) == steps - math.ceil(0.65 * steps)


@pytest.mark.parametrize("name", PRESETS)
def test_a_policy_warps_to_the_smaller_size(name):
    policy = PRESETS[name]
    for progress, size in ((0.0, 16), (0.5, 24), (0.9, 32)):
        out = ProgressiveResizing(policy).at_step(images(), step(progress))
        assert out.dtype == torch.float32 and out.shape == (6, 3, size, size)
        assert torch.equal(out, policy(images(), torch.arange(6), epoch=1, seed=3, size=size))


def test_without_a_policy_images_are_interpolated_afterwards():
    for transform in (None, v2.Identity(), lambda x: x, [PRESETS["none"], lambda x: x]):
        out = ProgressiveResizing(transform).at_step(images(), step())
        expected = F.interpolate(images() / 255, size=(16, 16), mode="bilinear", align_corners=False)
        torch.testing.assert_close(out, expected)
        assert torch.equal(ProgressiveResizing(transform).at_step(images(), step(0.9)), images() / 255)


def test_a_transform_sees_images_of_their_full_size():
    crop = v2.RandomCrop(32, padding=4)
    assert ProgressiveResizing(crop).at_step(images(), step()).shape == (6, 3, 16, 16)


def test_in_a_list_with_mixup():
    labels = torch.arange(6)
    transform = [ProgressiveResizing(PRESETS["full"]), v2.MixUp(num_classes=10)]
    x, y = apply_transform(transform, images(), labels, step())
    assert x.shape == (6, 3, 16, 16) and y.shape == (6, 10)
    with pytest.raises(ValueError, match="put it behind ProgressiveResizing"):
        ProgressiveResizing([PRESETS["full"], v2.MixUp(num_classes=10)]).at_step(images(), step())
    with pytest.raises(ValueError, match="takes labels: put it behind ProgressiveResizing"):
        ProgressiveResizing(lambda images, labels: (images, labels))


@pytest.mark.parametrize(
    "sizes", [((0.5, 0.6), (0.75, 0.3)), ((0.5, 0.5), (0.7, 0.5)), ((0.5, 1.5),), ((0.0, 0.5),), ((2, 0.5),)]
)
def test_sizes_out_of_order_or_range(sizes):
    with pytest.raises(ValueError, match="sizes are"):
        ProgressiveResizing(None, sizes)


def test_it_describes_itself():
    assert (
        repr(ProgressiveResizing(PRESETS["none"], ((0.5, 0.2),)))
        == "ProgressiveResizing(Policy(), sizes=((0.5, 0.2),))"
    )
