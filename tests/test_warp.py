"""The warp and the colors against torchvision's, one transform at a time.

Where the two differ on purpose, a test states the difference: fill at the border, pixels behind a perspective's
horizon, and clamps between color transforms.
"""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from strategies import WIDE, still
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv
from torchvision.transforms.v2.functional._geometry import _get_inverse_affine_matrix, _get_perspective_coeffs

from cifar_utils import data, warp
from cifar_utils.augment import PRESETS, Policy, draw
from cifar_utils.warp import Parameters

FULL = PRESETS["full"]
SHAPES = [(32, 32), (48, 96), (64, 40)]  # height and width


@pytest.fixture(scope="module")
def images():
    """200 photographs, and before them a black, a white and a noisy image."""
    noise = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    flat = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 32, 32)
    return torch.cat([flat, noise, data.cifar10(train=False, sample=True).images[:200]])


@pytest.fixture(scope="module")
def photographs(images):
    """The first 50 of `images` in every one of SHAPES."""
    return {shape: images[:50] if shape == (32, 32) else tv.resize(images[:50], list(shape)) for shape in SHAPES}


def only(p: Parameters, *names: str) -> Parameters:
    """Of these parameters those that are named; the others change nothing."""
    return still(len(p.flip), **{name: getattr(p, name) for name in names})


def startpoints(height: int = 32, width: int = 32) -> list[list[int]]:
    """torchvision's corners of an image."""
    return [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]


def endpoints(corners: torch.Tensor, height: int = 32, width: int = 32) -> list[list[int]]:
    """Parameters.corners of one image as torchvision's endpoints."""
    signs = torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    return (torch.tensor(startpoints(height, width)) + signs * corners.long()).tolist()


def gray_levels(result: torch.Tensor) -> torch.Tensor:
    """Float images in 0 to 1 as uint8."""
    return (result * 255).round().to(torch.uint8)


def assert_same_pixels(result, expected, interpolation):
    assert result.dtype == torch.float32
    if interpolation == "nearest":  # a source half way between two pixels may be rounded either way
        assert ((result - expected).abs() > 1e-6).float().mean() < 0.002
    else:
        torch.testing.assert_close(result, expected, atol=3e-4, rtol=0)


# The warp


AFFINE_CASES = {
    "rotation": dict(angle=[[30.0], [-77.0], [180.0]]),
    "translation": dict(translate=[[3, 0], [0, -5], [-31, 31]]),
    "scale": dict(scale=[[0.7], [1.3], [3.9]]),
    "shear": dict(shear=[[20.0], [-44.0], [60.0]]),
    "all": dict(angle=[[10.0], [-170.0]], translate=[[4, -3], [1, 7]], scale=[[0.8], [1.7]], shear=[[12.0], [-50.0]]),
}


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("case", AFFINE_CASES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_affine_equals_torchvisions(photographs, shape, case, interpolation):
    """On all pixels, the border included, since torchvision's fill=None is our fill of 0."""
    images = photographs[shape]
    for values in zip(*AFFINE_CASES[case].values()):
        p = still(len(images), **dict(zip(AFFINE_CASES[case], values)))
        result = warp.apply(images, p, interpolation=interpolation)
        expected = tv.affine(
            images.float() / 255,
            angle=p.angle[0].item(),
            translate=p.translate[0].tolist(),
            scale=p.scale[0].item(),
            shear=[p.shear[0].item(), 0.0],
            interpolation=v2.InterpolationMode(interpolation),
        )
        assert_same_pixels(result, expected, interpolation)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize(
    "corners",
    [
        [[3, 0], [0, 0], [0, 0], [0, 0]],
        [[0, 0], [2, 5], [0, 0], [0, 0]],
        [[0, 0], [0, 0], [6, 1], [0, 0]],
        [[0, 0], [0, 0], [0, 0], [4, 6]],
        [[1, 2], [3, 4], [5, 6], [7, 0]],
    ],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_perspective_equals_torchvisions(photographs, shape, corners, interpolation):
    images = photographs[shape]
    p = still(len(images), corners=corners)
    result = warp.apply(images, p, interpolation=interpolation)
    mode = v2.InterpolationMode(interpolation)
    expected = tv.perspective(images.float() / 255, startpoints(*shape), endpoints(p.corners[0], *shape), mode)
    assert_same_pixels(result, expected, interpolation)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flip_and_whole_pixel_shift_are_exact(photographs, shape, interpolation):
    images, (_, width) = photographs[shape], shape
    flipped = warp.apply(images, still(len(images), flip=True), interpolation=interpolation, color=False)
    assert torch.equal(gray_levels(flipped), images.flip(3))
    shift = still(len(images), translate=[2, -5])
    shifted = warp.apply(images, shift, interpolation=interpolation, fill=9, color=False)
    assert torch.equal(gray_levels(shifted), F.pad(images[:, :, 5:, : width - 2], (2, 0, 0, 5), value=9))


def source(p: Parameters, i: int, shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """[2, *size]: where each pixel of image i comes from, in float64, one torchvision transform after the other.

    Coordinates are torchvision's: pixel (column, row) of the image has its center at (column + 0.5, row + 0.5).
    """
    (height, width), (rows, columns) = shape, size
    x, y = np.meshgrid((np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows)
    c = _get_perspective_coeffs(startpoints(*shape), endpoints(p.corners[i], *shape))
    depth = c[6] * x + c[7] * y + 1
    x, y = (c[0] * x + c[1] * y + c[2]) / depth, (c[3] * x + c[4] * y + c[5]) / depth
    shear, shift = [p.shear[i].item(), 0.0], p.translate[i].tolist()
    m = _get_inverse_affine_matrix([width / 2, height / 2], p.angle[i].item(), shift, p.scale[i].item(), shear)
    x, y = m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5]
    return np.stack([width - x if p.flip[i] else x, y])


@pytest.mark.parametrize(
    "shape, size", [((32, 32), (32, 32)), ((32, 32), (20, 48)), ((48, 96), (48, 96)), ((48, 96), (32, 32))], ids=str
)
def test_one_warp_is_flip_then_affine_then_perspective(shape, size):
    """Bilinear interpolation of an image that holds its own coordinates gives each pixel's source, exactly."""
    n, (height, width) = 100, shape
    p = draw(WIDE, 1, 0, torch.arange(n), shape)
    own = torch.from_numpy(np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5))).float()
    result = warp.resample(own.expand(n, 2, *shape), warp.homography(p, shape), "bilinear", size).numpy()
    expected = np.stack([source(p, i, shape, size) for i in range(n)])
    inside = (np.minimum(expected, np.array([width, height])[:, None, None] - expected) > 0.6).all(1)
    assert inside.mean() > 0.3
    assert np.abs(result - expected).max(1)[inside].max() < 2e-3  # of a pixel


def waves(x, y):
    """A smooth image, known between its pixels too: three channels of 0 to 255."""
    return np.stack([127.5 + 120 * np.sin(k[0] * x + k[1] * y) for k in ((0.4, 0.1), (-0.1, 0.35), (0.25, -0.25))])


def test_one_resampling_is_closer_to_the_truth_than_three():
    shape = 32, 32
    image = torch.from_numpy(waves(*np.meshgrid(np.arange(32) + 0.5, np.arange(32) + 0.5))).float()
    p = draw(replace(FULL, perspective_p=1), 0, 0, torch.arange(50))
    once = warp.resample(image.expand(50, 3, 32, 32), warp.homography(p, shape), "bilinear", shape)
    errors = []
    for i in range(50):
        step = tv.horizontal_flip(image) if p.flip[i] else image
        options = dict(interpolation=v2.InterpolationMode.BILINEAR)
        step = tv.affine(step, p.angle[i].item(), p.translate[i].tolist(), p.scale[i].item(), [0.0, 0.0], **options)
        step = tv.perspective(step, startpoints(), endpoints(p.corners[i]), **options)
        x, y = source(p, i, shape, shape)
        inside = np.maximum(np.abs(x - 16), np.abs(y - 16)) < 10  # far from the border, where two warps fill twice
        truth = waves(x, y)
        errors.append([np.abs(result.numpy() - truth)[:, inside].mean() for result in (once[i], step)])
        assert np.abs(once[i].numpy() - truth)[:, inside].max() < 120 * 0.17 / 8 * 1.05  # amplitude k^2 / 8
    ours, theirs = np.mean(errors, 0)
    assert ours < 0.7 * theirs


@pytest.mark.parametrize("fill", [0, 128, 255])
def test_outside_is_fill(images, fill):
    result = warp.apply(images, still(len(images), translate=[32, 0]), fill=fill, color=False)
    assert (result == torch.tensor(fill / 255)).all()


@pytest.mark.parametrize("fill", [0, 128, 255])
def test_border_blends_with_the_fill_and_torchvisions_does_so_twice(fill):
    """Of a white image's border pixel, a fraction m of which is image, ours is m + (1 - m) fill.

    torchvision first pads with zeros, which makes it m, and then blends again: m m + (1 - m) fill, too dark.
    """
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    p, level = still(angle=30.0), fill / 255
    fraction = warp.apply(white, p)
    assert ((fraction > 0.2) & (fraction < 0.8)).sum() > 50
    result = warp.apply(white, p, fill=fill)
    torch.testing.assert_close(result, fraction + (1 - fraction) * level, atol=1e-5, rtol=0)
    options = dict(angle=30.0, translate=[0, 0], scale=1.0, shear=[0.0, 0.0])
    theirs = tv.affine(white / 255, **options, interpolation=v2.InterpolationMode.BILINEAR, fill=level)
    torch.testing.assert_close(theirs, fraction * fraction + (1 - fraction) * level, atol=1e-5, rtol=0)


def test_behind_the_horizon_is_fill_where_torchvision_may_paint_a_second_image(images):
    """A deep perspective's vanishing line can cross the image. Before it both are the same; behind it, where the
    depth is 0 or less (it is 1 at the image's center), ours is outside and torchvision's may be the image again."""
    p = draw(Policy(distortion_scale=0.9, perspective_p=1), 0, 0, torch.arange(len(images)))
    matrix = warp.perspective_matrix(p, (32, 32))
    result = warp.resample(images / 255, matrix, "bilinear", (32, 32))
    center = torch.arange(-31, 32, 2) / 32
    pixels = torch.stack([center.repeat(32), center.repeat_interleave(32), torch.ones(1024)])
    depth = (matrix[:, 2] @ pixels).view(-1, 32, 32)
    crossed = (depth <= 0).flatten(1).any(1).nonzero().flatten().tolist()
    assert len(crossed) > 50
    second_image = 0
    for i in crossed:
        expected = tv.perspective(images[i] / 255, startpoints(), endpoints(p.corners[i]))
        before, behind = depth[i] > 0.05, depth[i] <= 0
        torch.testing.assert_close(result[i][:, before], expected[:, before], atol=1e-3, rtol=0)
        assert not result[i][:, behind].any()
        second_image += expected[:, behind].count_nonzero().item()
    assert second_image > 1000


def test_no_horizon_below_a_distortion_scale_of_one_half():
    """So in none of the presets: the depth is smallest at a corner of the image, with corners moved to extremes."""
    extremes = torch.cartesian_prod(*[torch.tensor([0.0, 4.0, 7.0])] * 8).view(-1, 4, 2)  # int(0.4999 * 16) = 7
    p = still(len(extremes), corners=extremes)
    edges = torch.tensor([[-1.0, 1.0, 1.0, -1.0], [-1.0, -1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert (warp.perspective_matrix(p, (32, 32))[:, 2] @ edges).min() > 0.03
    assert max(preset.distortion_scale for preset in PRESETS.values()) < 0.5


@pytest.mark.parametrize(
    "corners",
    [
        [[16, 0], [15, 0], [0, 0], [0, 0]],  # top left right of top right: the outline crosses itself
        [[16, 16], [16, 16], [16, 16], [16, 16]],  # turned by 180 degrees, one pixel wide
        [[15, 0], [16, 0], [0, 0], [0, 0]],  # two corners in one place
        [[10, 10], [11, 0], [0, 0], [0, 11]],  # three corners in line
    ],
)
def test_impossible_corners_do_no_harm(images, corners):
    result = warp.apply(images, still(len(images), corners=corners))
    assert torch.isfinite(result).all() and result.min() >= 0 and result.max() <= 1


# Colors


ADJUST = {"brightness": tv.adjust_brightness, "contrast": tv.adjust_contrast, "saturation": tv.adjust_saturation}


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.9, 1.0, 1.6, 3.0])
@pytest.mark.parametrize("name", ADJUST)
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_one_adjustment_equals_torchvisions(photographs, shape, name, factor):
    """With its clamp, which is the last thing that happens in either."""
    images = photographs[shape]
    result = warp.apply(images, still(len(images), **{name: factor}), geometric=False)
    torch.testing.assert_close(result, ADJUST[name](images / 255, factor), atol=3e-6, rtol=0)


@pytest.mark.parametrize("order", list(permutations(ADJUST)), ids="-".join)
def test_all_adjustments_equal_torchvisions_in_any_order_without_clamps(images, order):
    soft = images // 4 + 80  # so that nothing leaves black to white on the way
    p = only(draw(WIDE, 0, 0, torch.arange(len(images))), *order)
    p = replace(p, contrast=p.contrast.clamp(0.6, 1.4), brightness=p.brightness.clamp(0.7, 1.3))
    p = replace(p, saturation=p.saturation.clamp(0.6, 1.4))
    expected = clamped_sequence(soft, p, order)
    assert 0.01 < expected.min() and expected.max() < 0.99, "no clamp"
    torch.testing.assert_close(warp.apply(soft, p), expected, atol=3e-5, rtol=0)


def clamped_sequence(images, p: Parameters, order) -> torch.Tensor:
    """torchvision's adjustments one after the other, each image with its own factors."""
    result = []
    for i, image in enumerate(images / 255):
        for name in order:
            image = ADJUST[name](image, getattr(p, name)[i].item())
        result.append(image)
    return torch.stack(result)


@pytest.mark.parametrize("order", list(permutations(ADJUST)), ids="-".join)
def test_clamping_once_changes_photographs_by_less_than_a_fifth_of_a_gray_level(images, order):
    photographs = images[3:]
    p = only(draw(FULL, 0, 0, torch.arange(len(photographs))), *order)
    difference = (warp.apply(photographs, p) - clamped_sequence(photographs, p, order)) * 255
    assert difference.abs().mean() < 0.2
    assert (difference.abs() > 1).float().mean() < 0.03


def test_contrast_takes_the_mean_of_the_warped_image(images):
    """Of what the network gets to see, with the fill, as in torchvision where ColorJitter comes last."""
    p = still(len(images), translate=[12, 0], contrast=0.4)
    shifted = tv.affine(images / 255, angle=0.0, translate=[12, 0], scale=1.0, shear=[0.0, 0.0])
    torch.testing.assert_close(warp.apply(images, p), tv.adjust_contrast(shifted, 0.4), atol=1e-5, rtol=0)


# Both


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nothing_is_nothing(photographs, shape):
    images = photographs[shape]
    nothing = still(len(images))
    assert torch.equal(gray_levels(warp.apply(images, nothing)), images)
    assert torch.equal(warp.apply(images, nothing, geometric=False, color=False), images / 255)
    if shape == (32, 32):  # divisions by a power of two do not round
        assert torch.equal(warp.apply(images, nothing, color=False), images / 255)


def test_floats_in_0_to_1_are_taken_as_they_are(images):
    p = draw(WIDE, 0, 0, torch.arange(len(images)))
    assert torch.equal(warp.apply(images / 255, p, fill=50), warp.apply(images, p, fill=50))


@pytest.mark.parametrize("size", [16, 20, 24, 28, 48, (24, 40), (40, 24)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("geometric", [False, True])
def test_another_size_is_torchs_bilinear_interpolation(photographs, shape, size, geometric):
    images, pair = photographs[shape], (size, size) if isinstance(size, int) else size
    result = warp.apply(images, still(len(images)), size=size, geometric=geometric)
    assert result.shape == (len(images), 3, *pair)
    expected = F.interpolate(images / 255, pair, mode="bilinear", align_corners=False)
    inside = slice(2, -2)  # beyond the outermost centers of an enlarged image, a warp blends with the outside
    torch.testing.assert_close(result[..., inside, inside], expected[..., inside, inside], atol=1e-4, rtol=0)


def test_a_small_image_shows_what_the_large_one_shows(images):
    p = still(len(images), flip=True, translate=[4, -6], brightness=0.7, saturation=0.5)
    small, large = warp.apply(images, p, size=16), warp.apply(images, p)
    torch.testing.assert_close(small, F.avg_pool2d(large, 2), atol=1e-4, rtol=0)


def test_flip_twice_is_nothing(images):
    p = still(len(images), flip=True)
    once = warp.apply(images, p, color=False)
    assert not torch.equal(once, images / 255)
    assert torch.equal(warp.apply(once, p, color=False), images / 255)


def test_an_empty_batch_stays_empty(images):
    assert warp.apply(images[:0], still(0)).shape == (0, 3, 32, 32)
    assert warp.apply(images[:0], still(0), size=(8, 9)).shape == (0, 3, 8, 9)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_bytes_are_the_rounded_floats(kind):
    """Computed in the same chunks, so that a batch of bytes is never held as floats as a whole."""
    images = torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8)
    images = images if kind == torch.uint8 else images / 255
    p = draw(PRESETS["strong"], 0, 0, torch.arange(300), (32, 32))
    floats, found = (warp.apply(images, p, dtype=dtype) for dtype in (torch.float32, torch.uint8))
    assert found.dtype == torch.uint8 and torch.equal(found, (floats * 255).round().to(torch.uint8))
