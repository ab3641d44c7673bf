"""The augmentation: its random numbers, and its warp and colours against torchvision's, one transform at a time.

Where the two differ on purpose, a test states the difference: fill at the border, pixels behind a perspective's
horizon, and clamps between colour transforms.
"""

from dataclasses import fields, replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from strategies import policies
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv
from torchvision.transforms.v2.functional._geometry import _get_inverse_affine_matrix, _get_perspective_coeffs

from cifar_utils.augment import Parameters, augment, draw, homography, perspective_matrix, philox, uniform, warp
from cifar_utils.data import Normalisation, load_test
from cifar_utils.policy import FULL, PRESETS, Policy

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"))
DEVICES = ["cpu", GPU]
BLACK_TO_WHITE = torch.zeros(3), torch.ones(3)  # a normalisation that leaves images in 0 to 1
GREY_LEVELS = torch.zeros(3), torch.full((3,), 1 / 255)  # one that leaves them in 0 to 255, exactly
WIDE = Policy(  # can do everything, far beyond any preset
    flip_p=0.5,
    degrees=180,
    translate=(0.5, 0.3),
    scale=(0.4, 2.5),
    shear=45,
    distortion_scale=0.4,
    perspective_p=0.7,
    brightness=0.5,
    contrast=1.5,
    saturation=1.0,
)
MOVES = replace(WIDE, brightness=0, contrast=0, saturation=0)  # only the warp: nothing rounds or clamps colours


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On a busy machine two threads would wait for each other a thousand times longer than these tensors take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images():
    """200 photographs, and before them a black, a white and a noisy image."""
    noise = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    flat = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 32, 32)
    return torch.cat([flat, noise, load_test(sample=True).images[:200]])


def still(n: int = 1, **changes) -> Parameters:
    """Parameters of n images that change nothing but what is named."""
    nothing = draw(Policy(), 0, 0, torch.arange(n))
    changes = {k: torch.as_tensor(v).to(getattr(nothing, k)).expand_as(getattr(nothing, k)) for k, v in changes.items()}
    return replace(nothing, **changes)


def only(p: Parameters, *names: str) -> Parameters:
    """Of these parameters those that are named; the others change nothing."""
    return still(len(p.flip), **{name: getattr(p, name) for name in names})


def endpoints(corners: torch.Tensor) -> list[list[int]]:
    """Parameters.corners of one image as torchvision's endpoints."""
    signs = torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    return (torch.tensor(STARTPOINTS) + signs * corners.long()).tolist()


STARTPOINTS = [[0, 0], [31, 0], [31, 31], [0, 31]]


# Random numbers


@pytest.mark.parametrize(
    "counter, key, words",
    [  # from Random123's file of known answers, kat_vectors
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
@pytest.mark.parametrize("device", DEVICES)
def test_philox_gives_the_known_answers(counter, key, words, device):
    counter, key, words = ([int(word, 16) for word in text.split()] for text in (counter, key, words))
    answer = philox(key[0] | key[1] << 32, tuple(torch.tensor([word], device=device) for word in counter))
    assert [word.item() for word in answer] == words


def test_uniform_takes_the_upper_24_bits_of_each_word():
    words = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert uniform(0, 0, torch.tensor([0]), 4)[0].tolist() == [(word >> 8) / 2**24 for word in words]


def test_uniform_counts_images_epochs_and_blocks():
    counter = [torch.tensor([word]) for word in (5, 3, 2, 0)]  # image 5, epoch 3, numbers 8 to 11
    expected = [(word.item() >> 8) / 2**24 for word in philox(7, counter)]
    assert uniform(7, 3, torch.tensor([4, 5]), 12)[1, 8:].tolist() == expected


def rows(p: Parameters) -> torch.Tensor:
    """[N, 17]: all numbers of each image."""
    return torch.cat([getattr(p, f.name).reshape(len(p.flip), -1) for f in fields(p)], 1)


@given(
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**32 - 1),
    index=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20),
    data=st.data(),
)
def test_draw_is_a_pure_function_of_seed_epoch_and_index(seed, epoch, index, data):
    index = torch.tensor(index)
    together = rows(draw(WIDE, seed, epoch, index))
    one_by_one = torch.cat([rows(draw(WIDE, seed, epoch, i[None])) for i in index])
    shuffled = torch.tensor(data.draw(st.permutations(range(len(index)))))
    assert torch.equal(together, one_by_one)
    assert torch.equal(together[shuffled], rows(draw(WIDE, seed, epoch, index[shuffled])))


@pytest.mark.parametrize("other", [(1, 0), (2**32, 0), (0, 1)], ids=["seed", "upper half of the seed", "epoch"])
def test_another_seed_or_epoch_or_image_is_another_draw(other):
    index = torch.arange(1000)
    here, there = rows(draw(WIDE, 0, 0, index)), rows(draw(WIDE, *other, index))
    assert not (here == there).all(1).any()
    assert len(torch.cat([here, there]).unique(dim=0)) == 2000


def test_draws_are_uncorrelated_between_numbers_images_epochs_and_seeds():
    n = 20000
    index = torch.arange(n + 1)
    u = uniform(0, 0, index, 18)
    neighbours = torch.cat([u[:-1], u[1:], uniform(0, 1, index, 18)[:-1], uniform(1, 0, index, 18)[:-1]], 1)
    off_diagonal = torch.corrcoef(neighbours.T) - torch.eye(72)
    assert off_diagonal.abs().max() < 5 / n**0.5  # five standard errors
    happens = draw(WIDE, 0, 0, index).corners.flatten(1).any(1, keepdim=True)
    drawn = torch.cat([rows(draw(replace(WIDE, perspective_p=1), 0, 0, index)), happens], 1)
    assert (torch.corrcoef(drawn.T) - torch.eye(18)).abs().max() < 5 / n**0.5, "no number serves twice"


@pytest.fixture(scope="module")
def theirs():
    """What torchvision's own transforms draw: name -> 4,000 numbers."""
    torch.manual_seed(0)
    n, flat_inputs = 4000, [torch.zeros(3, 32, 32)]
    affine = v2.RandomAffine(WIDE.degrees, WIDE.translate, WIDE.scale, WIDE.shear)
    jitter = v2.ColorJitter(WIDE.brightness, WIDE.contrast, WIDE.saturation)
    affine = [affine.make_params(flat_inputs) for _ in range(n)]
    jitter = [jitter.make_params(flat_inputs) for _ in range(n)]
    ends = torch.tensor([v2.RandomPerspective.get_params(32, 32, WIDE.distortion_scale)[1] for _ in range(n)])
    inwards = (ends - torch.tensor(STARTPOINTS)).abs().flatten(1)
    flip, pixels = v2.RandomHorizontalFlip(WIDE.flip_p), torch.tensor([[[0, 1]]])
    return {
        **{name: [p[name] for p in affine] for name in ("angle", "scale")},
        "shear": [p["shear"][0] for p in affine],
        **{f"translate {i}": [p["translate"][i] for p in affine] for i in range(2)},
        **{f"corners {i}": inwards[:, i].tolist() for i in range(8)},
        **{name: [p[f"{name}_factor"] for p in jitter] for name in ("brightness", "contrast", "saturation")},
        "flip": [flip(pixels)[0, 0, 0].item() for _ in range(n)],
    }


@pytest.fixture(scope="module")
def ours():
    p = draw(replace(WIDE, perspective_p=1), 0, 0, torch.arange(20000))
    columns = {f.name: getattr(p, f.name).flatten(1).float() for f in fields(p) if getattr(p, f.name).ndim > 1}
    many = {f"{name} {i}": column for name in columns for i, column in enumerate(columns[name].unbind(1))}
    single = {f.name: getattr(p, f.name).float() for f in fields(p) if f.name not in columns}
    return {name: column.numpy() for name, column in {**many, **single}.items()}


@pytest.mark.parametrize("name", ["angle", "scale", "shear", "brightness", "contrast", "saturation"])
def test_continuous_draws_are_distributed_as_torchvisions(ours, theirs, name):
    assert stats.ks_2samp(ours[name], theirs[name]).pvalue > 0.001


@pytest.mark.parametrize("name", ["flip", "translate 0", "translate 1", *(f"corners {i}" for i in range(8))])
def test_whole_numbers_are_distributed_as_torchvisions(ours, theirs, name):
    assert (ours[name] == ours[name].round()).all()
    values = np.union1d(ours[name], theirs[name])
    table = [[np.equal(sample, value).sum() for value in values] for sample in (ours[name], theirs[name])]
    assert stats.chi2_contingency(table).pvalue > 0.001


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("probability", [0, 0.1, 0.5, 1])
def test_probabilities(probability, epoch):
    p = draw(replace(WIDE, flip_p=probability, perspective_p=probability), 0, epoch, torch.arange(20000))
    for happened in (p.flip, p.corners.flatten(1).any(1)):
        assert stats.binomtest(happened.sum().item(), 20000, probability).pvalue > 0.001


def test_mirror_images_take_turns():
    flips = torch.stack([draw(Policy(flip_p=0.5), 3, epoch, torch.arange(20000)).flip for epoch in range(6)])
    assert (flips[::2] ^ flips[1::2]).all(), "both ways in every two epochs"
    for one, other in ((0, 2), (2, 4)):  # which way comes first is anew a matter of chance
        assert stats.binomtest((flips[one] == flips[other]).sum().item(), 20000).pvalue > 0.001


@pytest.mark.parametrize("size", [32, 35, 8])
def test_draws_are_in_range_at_any_size(size):
    p = draw(WIDE, 0, 0, torch.arange(20000), size)
    deepest = int(WIDE.distortion_scale * (size // 2))
    assert p.corners.unique().tolist() == list(range(deepest + 1))
    assert torch.equal(p.translate.abs().amax(0), (size * torch.tensor(WIDE.translate) - 1e-3).round())
    for value, low, high in [(p.angle, -180, 180), (p.scale, 0.4, 2.5), (p.brightness, 0.5, 1.5), (p.contrast, 0, 2.5)]:
        assert value.min() >= low and value.max() <= high


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
def test_affine_equals_torchvisions(images, case, interpolation):
    """On all pixels, the border included, since torchvision's fill=None is our fill of 0."""
    policy, n = replace(WIDE, interpolation=interpolation), len(images)
    for values in zip(*AFFINE_CASES[case].values()):
        p = still(n, **dict(zip(AFFINE_CASES[case], values)))
        result = augment(images, p, policy, *BLACK_TO_WHITE)
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
def test_perspective_equals_torchvisions(images, corners, interpolation):
    p = still(len(images), corners=corners)
    result = augment(images, p, replace(WIDE, interpolation=interpolation), *BLACK_TO_WHITE)
    mode = v2.InterpolationMode(interpolation)
    expected = tv.perspective(images.float() / 255, STARTPOINTS, endpoints(p.corners[0]), mode)
    assert_same_pixels(result, expected, interpolation)


def assert_same_pixels(result, expected, interpolation):
    if interpolation == "nearest":  # a source half way between two pixels may be rounded either way
        assert ((result - expected).abs() > 1e-6).float().mean() < 0.002
    else:
        torch.testing.assert_close(result, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_flip_and_whole_pixel_shift_are_exact(images, interpolation):
    policy, n = replace(MOVES, interpolation=interpolation), len(images)
    flipped = augment(images, still(n, flip=True), policy, *GREY_LEVELS)
    assert torch.equal(flipped, images.flip(3).float())
    shifted = augment(images, still(n, translate=[2, -5]), replace(policy, fill=9), *GREY_LEVELS)
    expected = torch.nn.functional.pad(images[:, :, 5:, :30].float(), (2, 0, 0, 5), value=9)
    assert torch.equal(shifted, expected)


def source(p: Parameters, i: int) -> np.ndarray:
    """[2, 32, 32]: where each pixel of image i comes from, in float64, one torchvision transform after the other.

    Coordinates are torchvision's: pixel (column, row) has its centre at (column + 0.5, row + 0.5).
    """
    x, y = np.meshgrid(np.arange(32) + 0.5, np.arange(32) + 0.5)
    c = _get_perspective_coeffs(STARTPOINTS, endpoints(p.corners[i]))
    depth = c[6] * x + c[7] * y + 1
    x, y = (c[0] * x + c[1] * y + c[2]) / depth, (c[3] * x + c[4] * y + c[5]) / depth
    shear, shift = [p.shear[i].item(), 0.0], p.translate[i].tolist()
    m = _get_inverse_affine_matrix([16.0, 16.0], p.angle[i].item(), shift, p.scale[i].item(), shear)
    x, y = m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5]
    return np.stack([32 - x if p.flip[i] else x, y])


def test_one_warp_is_flip_then_affine_then_perspective():
    """Bilinear interpolation of an image that holds its own coordinates gives each pixel's source, exactly."""
    n = 100
    p = draw(WIDE, 1, 0, torch.arange(n))
    own = torch.from_numpy(np.stack(np.meshgrid(np.arange(32) + 0.5, np.arange(32) + 0.5))).float()
    result = warp(own.expand(n, 2, 32, 32), homography(p)).numpy()
    expected = np.stack([source(p, i) for i in range(n)])
    inside = (np.abs(expected - 16) < 15.4).all(1)
    assert inside.mean() > 0.3
    assert np.abs(result - expected).max(1)[inside].max() < 1e-3  # of a pixel


def waves(x, y):
    """A smooth image, known between its pixels too: three channels of 0 to 255."""
    return np.stack([127.5 + 120 * np.sin(k[0] * x + k[1] * y) for k in ((0.4, 0.1), (-0.1, 0.35), (0.25, -0.25))])


def test_one_resampling_is_closer_to_the_truth_than_three():
    image = torch.from_numpy(waves(*np.meshgrid(np.arange(32) + 0.5, np.arange(32) + 0.5))).float()
    p = draw(replace(FULL, perspective_p=1), 0, 0, torch.arange(50))
    once = warp(image.expand(50, 3, 32, 32), homography(p))
    errors = []
    for i in range(50):
        step = tv.horizontal_flip(image) if p.flip[i] else image
        options = dict(interpolation=v2.InterpolationMode.BILINEAR)
        step = tv.affine(step, p.angle[i].item(), p.translate[i].tolist(), p.scale[i].item(), [0.0, 0.0], **options)
        step = tv.perspective(step, STARTPOINTS, endpoints(p.corners[i]), **options)
        x, y = source(p, i)
        inside = np.maximum(np.abs(x - 16), np.abs(y - 16)) < 10  # far from the border, where two warps fill twice
        truth = waves(x, y)
        errors.append([np.abs(result.numpy() - truth)[:, inside].mean() for result in (once[i], step)])
        assert np.abs(once[i].numpy() - truth)[:, inside].max() < 120 * 0.17 / 8 * 1.05  # amplitude k^2 / 8
    ours, theirs = np.mean(errors, 0)
    assert ours < 0.7 * theirs


@pytest.mark.parametrize("fill", [0, 128, 255])
def test_outside_is_fill(images, fill):
    policy = replace(MOVES, fill=fill)
    assert (augment(images, still(len(images), translate=[32, 0]), policy, *GREY_LEVELS) == fill).all()


@pytest.mark.parametrize("fill", [0, 128, 255])
def test_border_blends_with_the_fill_and_torchvisions_does_so_twice(fill):
    """Of a white image's border pixel, a share m of which is image, ours is m + (1 - m) fill.

    torchvision first pads with zeros, which makes it m, and then blends again: m m + (1 - m) fill, too dark.
    """
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    p, level = still(angle=30.0), fill / 255
    share = augment(white, p, WIDE, *BLACK_TO_WHITE)
    assert ((share > 0.2) & (share < 0.8)).sum() > 50
    result = augment(white, p, replace(WIDE, fill=fill), *BLACK_TO_WHITE)
    torch.testing.assert_close(result, share + (1 - share) * level, atol=1e-5, rtol=0)
    options = dict(angle=30.0, translate=[0, 0], scale=1.0, shear=[0.0, 0.0])
    theirs = tv.affine(white / 255, **options, interpolation=v2.InterpolationMode.BILINEAR, fill=level)
    torch.testing.assert_close(theirs, share * share + (1 - share) * level, atol=1e-5, rtol=0)


def test_behind_the_horizon_is_fill_where_torchvision_may_paint_a_second_image(images):
    """A deep perspective's vanishing line can cross the image. Before it both are the same; behind it, where the
    depth is 0 or less (it is 1 at the image's centre), ours is outside and torchvision's may be the image again."""
    p = draw(Policy(distortion_scale=0.9, perspective_p=1), 0, 0, torch.arange(len(images)))
    matrix = perspective_matrix(p)
    result = warp(images / 255, matrix)
    centre = torch.arange(-31, 32, 2) / 32
    pixels = torch.stack([centre.repeat(32), centre.repeat_interleave(32), torch.ones(1024)])
    depth = (matrix[:, 2] @ pixels).view(-1, 32, 32)
    crossed = (depth <= 0).flatten(1).any(1).nonzero().flatten().tolist()
    assert len(crossed) > 50
    second_image = 0
    for i in crossed:
        expected = tv.perspective(images[i] / 255, STARTPOINTS, endpoints(p.corners[i]))
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
    assert (perspective_matrix(p)[:, 2] @ edges).min() > 0.03
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
    result = augment(images, still(len(images), corners=corners), WIDE, *BLACK_TO_WHITE)
    assert torch.isfinite(result).all() and result.min() >= 0 and result.max() <= 1


# Colours


ADJUST = {"brightness": tv.adjust_brightness, "contrast": tv.adjust_contrast, "saturation": tv.adjust_saturation}


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.9, 1.0, 1.6, 3.0])
@pytest.mark.parametrize("name", ADJUST)
def test_one_adjustment_equals_torchvisions(images, name, factor):
    """With its clamp, which is the last thing that happens in either."""
    result = augment(images, still(len(images), **{name: factor}), WIDE, *BLACK_TO_WHITE)
    torch.testing.assert_close(result, ADJUST[name](images / 255, factor), atol=2e-6, rtol=0)


@pytest.mark.parametrize("order", list(permutations(ADJUST)), ids="-".join)
def test_all_adjustments_equal_torchvisions_in_any_order_without_clamps(images, order):
    soft = images // 4 + 80  # so that nothing leaves black to white on the way
    p = only(draw(WIDE, 0, 0, torch.arange(len(images))), *order)
    p = replace(p, contrast=p.contrast.clamp(0.6, 1.4), brightness=p.brightness.clamp(0.7, 1.3))
    p = replace(p, saturation=p.saturation.clamp(0.6, 1.4))
    expected = clamped_sequence(soft, p, order)
    assert 0.01 < expected.min() and expected.max() < 0.99, "no clamp"
    torch.testing.assert_close(augment(soft, p, WIDE, *BLACK_TO_WHITE), expected, atol=3e-5, rtol=0)


def clamped_sequence(images, p: Parameters, order) -> torch.Tensor:
    """torchvision's adjustments one after the other, each image with its own factors."""
    result = []
    for i, image in enumerate(images / 255):
        for name in order:
            image = ADJUST[name](image, getattr(p, name)[i].item())
        result.append(image)
    return torch.stack(result)


@pytest.mark.parametrize("order", list(permutations(ADJUST)), ids="-".join)
def test_clamping_once_changes_photographs_by_less_than_a_fifth_of_a_grey_level(images, order):
    photographs = images[3:]
    p = only(draw(FULL, 0, 0, torch.arange(len(photographs))), *order)
    difference = (augment(photographs, p, FULL, *BLACK_TO_WHITE) - clamped_sequence(photographs, p, order)) * 255
    assert difference.abs().mean() < 0.2
    assert (difference.abs() > 1).float().mean() < 0.03


def test_contrast_takes_the_mean_of_the_warped_image(images):
    """Of what the network gets to see, with the fill, as in torchvision where ColorJitter comes last."""
    p = still(len(images), translate=[12, 0], contrast=0.4)
    shifted = tv.affine(images / 255, angle=0.0, translate=[12, 0], scale=1.0, shear=[0.0, 0.0])
    result = augment(images, p, WIDE, *BLACK_TO_WHITE)
    torch.testing.assert_close(result, tv.adjust_contrast(shifted, 0.4), atol=1e-5, rtol=0)


# All together


def test_nothing_is_nothing(images):
    normalisation = Normalisation((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
    for policy in (Policy(), WIDE):  # nothing allowed, nothing drawn
        result = augment(images, still(len(images)), policy, *normalisation.tensors())
        torch.testing.assert_close(result, normalisation(images), atol=1e-5, rtol=0)
    for policy in (Policy(), MOVES):
        assert torch.equal(augment(images, still(len(images)), policy, *GREY_LEVELS), images.float())


@pytest.mark.parametrize("side", [16, 20, 24, 28, 48])
@pytest.mark.parametrize("policy", [Policy(), WIDE])
def test_another_side_is_torchs_bilinear_interpolation(images, side, policy):
    out = torch.empty(len(images), 3, side, side)
    result = augment(images, still(len(images)), policy, *BLACK_TO_WHITE, out)
    assert result is out
    expected = F.interpolate(images / 255, (side, side), mode="bilinear", align_corners=False)
    inside = slice(1, -1) if side > 32 else slice(None)  # beyond the outermost centres, a warp blends with the outside
    torch.testing.assert_close(result[..., inside, inside], expected[..., inside, inside], atol=1e-4, rtol=0)


def test_a_small_picture_shows_what_the_large_one_shows(images):
    p = still(len(images), flip=True, translate=[4, -6], brightness=0.7, saturation=0.5)
    small = augment(images, p, WIDE, *BLACK_TO_WHITE, torch.empty(len(images), 3, 16, 16))
    large = augment(images, p, WIDE, *BLACK_TO_WHITE)
    torch.testing.assert_close(small, F.avg_pool2d(large, 2), atol=1e-4, rtol=0)


def test_flip_twice_is_nothing(images):
    p = still(len(images), flip=True)
    once = augment(images, p, Policy(flip_p=1), *GREY_LEVELS).to(torch.uint8)
    assert not torch.equal(once, images)
    assert torch.equal(augment(once, p, Policy(flip_p=1), *GREY_LEVELS), images.float())


@given(policy=policies(), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_every_legal_policy_gives_an_image(images, policy, seed, epoch):
    batch = images[:6]
    before, (mean, std) = batch.clone(), Normalisation((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)).tensors()
    p = draw(policy, seed, epoch, torch.arange(len(batch)))
    result = augment(batch, p, policy, mean, std)
    assert (result.shape, result.dtype) == (batch.shape, torch.float32)
    assert torch.isfinite(result).all()
    pixels = result * std[:, None, None] + mean[:, None, None]
    assert pixels.min() > -1e-6 and pixels.max() < 1 + 1e-6
    assert torch.equal(batch, before), "the input stays as it is"
    again = augment(batch, draw(policy, seed, epoch, torch.arange(len(batch))), policy, mean, std)
    assert torch.equal(result, again)


@pytest.mark.parametrize("policy", [FULL, WIDE, PRESETS["flip_and_shift"], Policy(contrast=1)], ids=repr)
def test_neither_chunks_nor_the_batch_change_an_image(images, policy, monkeypatch):
    index = torch.arange(len(images))

    def run(positions):
        return augment(images[positions], draw(policy, 0, 0, index[positions]), policy, *BLACK_TO_WHITE)

    whole = run(index)
    mixed = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(run(mixed), whole[mixed], atol=2e-5, rtol=0)
    torch.testing.assert_close(torch.cat([run(part) for part in index.split(50)]), whole, atol=2e-5, rtol=0)
    for chunk in (1, 7, 1000):
        monkeypatch.setattr("cifar_utils.augment.CHUNK", chunk)
        torch.testing.assert_close(run(index), whole, atol=2e-5, rtol=0)


def test_an_empty_batch_stays_empty(images):
    assert augment(images[:0], draw(FULL, 0, 0, torch.arange(0)), FULL, *BLACK_TO_WHITE).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("size", [8, 33, 64])
def test_other_sizes(images, size):
    batch = v2.functional.resize(images, [size, size])
    p = still(len(batch), angle=20.0, translate=[2, 1])
    expected = tv.affine(batch / 255, 20.0, [2, 1], 1.0, [0.0, 0.0], interpolation=v2.InterpolationMode.BILINEAR)
    torch.testing.assert_close(augment(batch, p, WIDE, *BLACK_TO_WHITE), expected, atol=2e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tensor", "PIL"])
def test_the_average_of_many_draws_is_that_of_to_torchvision(images, kind):
    """Of 24x24 pixels in the middle: at the border torchvision fills twice."""
    image, n, transform = images[5], 3000, v2.Compose([FULL.to_torchvision(), v2.PILToTensor()])
    one = Image.fromarray(image.permute(1, 2, 0).numpy()) if kind == "PIL" else image
    torch.manual_seed(0)
    theirs = torch.stack([transform(one) for _ in range(n)]).float()
    ours = augment(image.expand(n, 3, 32, 32), draw(FULL, 0, 0, torch.arange(n)), FULL, *GREY_LEVELS)
    for statistic in (torch.mean, torch.std):
        difference = (statistic(ours, 0) - statistic(theirs, 0))[:, 4:28, 4:28]
        assert difference.abs().mean() < 2 and difference.abs().max() < 8  # grey levels


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize("policy", [FULL, WIDE, Policy()], ids=repr)
def test_another_device_gives_the_same_up_to_rounding(images, policy, device):
    index = torch.arange(len(images))
    here, there = draw(policy, 0, 3, index), draw(policy, 0, 3, index.to(device))
    torch.testing.assert_close(rows(there).cpu(), rows(here))
    mean, std = BLACK_TO_WHITE
    result = augment(images.to(device), there, policy, mean.to(device), std.to(device))
    torch.testing.assert_close(result.cpu(), augment(images, here, policy, mean, std), atol=1e-3, rtol=0)
