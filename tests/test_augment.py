"""The augmentation's random parameters, and what a policy makes of a batch: the same for an image in any batch."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from strategies import WIDE, noise, policies
from torchvision.transforms import v2

from cifar_utils import data, warp
from cifar_utils.augment import PRESETS, Policy, Step, _philox, _uniform, draw
from cifar_utils.warp import Parameters

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"))
FULL = PRESETS["full"]
SHAPES = [(32, 32), (48, 96)]  # height and width


@pytest.fixture(scope="module")
def images():
    """200 photographs."""
    return data.cifar10(train=False, sample=True).images[:200]


# Random numbers


@pytest.mark.parametrize(
    "counter, key, words",
    [  # from Random123's file of known answers, kat_vectors
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_philox_gives_the_known_answers(counter, key, words, device):
    counter, key, words = ([int(word, 16) for word in text.split()] for text in (counter, key, words))
    result = _philox(key[0] | key[1] << 32, tuple(torch.tensor([word], device=device) for word in counter))
    assert [word.item() for word in result] == words


def test_uniform_takes_the_upper_24_bits_of_each_word():
    words = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert _uniform(0, 0, torch.tensor([0]), 4)[0].tolist() == [(word >> 8) / 2**24 for word in words]


def test_uniform_counts_images_epochs_and_blocks():
    counter = [torch.tensor([word]) for word in (5, 3, 2, 0)]  # image 5, epoch 3, numbers 8 to 11
    expected = [(word.item() >> 8) / 2**24 for word in _philox(7, counter)]
    assert _uniform(7, 3, torch.tensor([4, 5]), 12)[1, 8:].tolist() == expected


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
    u = _uniform(0, 0, index, 18)
    neighbors = torch.cat([u[:-1], u[1:], _uniform(0, 1, index, 18)[:-1], _uniform(1, 0, index, 18)[:-1]], 1)
    off_diagonal = torch.corrcoef(neighbors.T) - torch.eye(72)
    assert off_diagonal.abs().max() < 5 / n**0.5  # five standard errors
    happens = draw(WIDE, 0, 0, index).corners.flatten(1).any(1, keepdim=True)
    drawn = torch.cat([rows(draw(replace(WIDE, perspective_p=1), 0, 0, index)), happens], 1)
    assert (torch.corrcoef(drawn.T) - torch.eye(18)).abs().max() < 5 / n**0.5, "no number serves twice"


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def drawn(request):
    """name -> 20,000 numbers of ours, and name -> 4,000 numbers that torchvision's own transforms draw."""
    shape = request.param
    return our_draws(*shape), torchvisions_draws(*shape)


def our_draws(height: int, width: int) -> dict:
    p = draw(replace(WIDE, perspective_p=1), 0, 0, torch.arange(20000), (height, width))
    columns = {f.name: getattr(p, f.name).flatten(1).float() for f in fields(p) if getattr(p, f.name).ndim > 1}
    many = {f"{name} {i}": column for name in columns for i, column in enumerate(columns[name].unbind(1))}
    single = {f.name: getattr(p, f.name).float() for f in fields(p) if f.name not in columns}
    return {name: column.numpy() for name, column in {**many, **single}.items()}


def torchvisions_draws(height: int, width: int) -> dict:
    torch.manual_seed(0)
    n, flat_inputs = 4000, [torch.zeros(3, height, width)]
    affine = v2.RandomAffine(WIDE.degrees, WIDE.translate, WIDE.scale, WIDE.shear)
    jitter = v2.ColorJitter(WIDE.brightness, WIDE.contrast, WIDE.saturation)
    affine = [affine.make_params(flat_inputs) for _ in range(n)]
    jitter = [jitter.make_params(flat_inputs) for _ in range(n)]
    ends = torch.tensor([v2.RandomPerspective.get_params(width, height, WIDE.distortion_scale)[1] for _ in range(n)])
    starts = torch.tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]])
    inwards = (ends - starts).abs().flatten(1)
    flip, pixels = v2.RandomHorizontalFlip(WIDE.flip_p), torch.tensor([[[0, 1]]])
    return {
        **{name: [p[name] for p in affine] for name in ("angle", "scale")},
        "shear": [p["shear"][0] for p in affine],
        **{f"translate {i}": [p["translate"][i] for p in affine] for i in range(2)},
        **{f"corners {i}": inwards[:, i].tolist() for i in range(8)},
        **{name: [p[f"{name}_factor"] for p in jitter] for name in ("brightness", "contrast", "saturation")},
        "flip": [flip(pixels)[0, 0, 0].item() for _ in range(n)],
    }


@pytest.mark.parametrize("name", ["angle", "scale", "shear", "brightness", "contrast", "saturation"])
def test_continuous_draws_are_distributed_as_torchvisions(drawn, name):
    ours, theirs = drawn
    assert stats.ks_2samp(ours[name], theirs[name]).pvalue > 0.001


@pytest.mark.parametrize("name", ["flip", "translate 0", "translate 1", *(f"corners {i}" for i in range(8))])
def test_whole_numbers_are_distributed_as_torchvisions(drawn, name):
    ours, theirs = drawn
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


@pytest.mark.parametrize("size", [32, 35, 8, (48, 96)], ids=str)
def test_draws_are_in_range_at_any_size(size):
    p = draw(WIDE, 0, 0, torch.arange(20000), size)
    height, width = (size, size) if isinstance(size, int) else size
    for i, pixels in enumerate((width, height)):
        deepest = int(WIDE.distortion_scale * (pixels // 2))
        assert p.corners[..., i].unique().tolist() == list(range(deepest + 1))
        assert p.translate[:, i].abs().max() == round(pixels * WIDE.translate[i] - 1e-3)
    for value, low, high in [(p.angle, -180, 180), (p.scale, 0.4, 2.5), (p.brightness, 0.5, 1.5), (p.contrast, 0, 2.5)]:
        assert value.min() >= low and value.max() <= high


# A policy and a batch


@given(
    policy=policies(),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(32, 32), (16, 24), (1, 7), (33, 9)]),
    size=st.sampled_from([None, 16, (9, 20)]),
)
def test_every_legal_policy_gives_images(policy, seed, epoch, shape, size):
    batch = torch.cat([torch.zeros_like(noise(1, *shape)), torch.full_like(noise(1, *shape), 255), noise(3, *shape)])
    before, index = batch.clone(), torch.tensor([7, 0, 2**32 - 1, 123, 45])
    result = policy(batch, index, epoch, seed, size)
    assert result.dtype == torch.float32
    assert result.shape == (5, 3, *({None: shape, 16: (16, 16)}.get(size, size)))
    assert result.min() >= 0 and result.max() <= 1, "NaN is neither"
    assert torch.equal(batch, before), "the input stays as it is"
    assert torch.equal(policy(batch, index, epoch, seed, size), result)


def test_a_policy_that_changes_nothing_is_exact(images):
    for policy in (Policy(), Policy(fill=77, interpolation="nearest"), Policy(distortion_scale=0.5)):
        assert torch.equal(policy(images), images / 255)
        assert torch.equal(policy(images / 255), images / 255)


def test_what_a_policy_leaves_out_changes_nothing_but_rounding(images):
    index = torch.arange(len(images))
    for policy in (replace(FULL, brightness=0, contrast=0, saturation=0), Policy(contrast=0.5), Policy(degrees=10)):
        everything = warp.apply(images, draw(policy, 5, 2, index))
        torch.testing.assert_close(policy(images, index, epoch=2, seed=5), everything, atol=1e-5, rtol=0)


def test_the_index_is_the_position_in_the_batch_by_default(images):
    assert torch.equal(FULL(images), FULL(images, torch.arange(len(images)), epoch=0, seed=0))


def test_at_step_takes_seed_epoch_and_index_from_the_step(images):
    index = torch.arange(len(images)).flip(0)
    step = Step(seed=3, epoch=4, index=index, progress=0.5)
    assert torch.equal(FULL.at_step(images, step), FULL(images, index, epoch=4, seed=3))
    assert torch.equal(FULL.at_step(images, step, size=24), FULL(images, index, epoch=4, seed=3, size=24))


EXACT = PRESETS | {"wide": WIDE, "wide, nearest": replace(WIDE, interpolation="nearest", fill=77)}


@pytest.mark.parametrize("shape, count", [((32, 32), 16), ((64, 64), 7), ((224, 224), 3), ((48, 96), 7)], ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_an_image_is_the_same_to_the_bit_in_any_batch_chunk_and_number_of_threads(name, shape, count, monkeypatch):
    policy, batch, index = EXACT[name], noise(count, *shape), torch.arange(count) * 3 + 11
    alone = torch.cat([policy(batch[i : i + 1], index[i : i + 1], epoch=5, seed=3) for i in range(count)])
    generator = torch.Generator().manual_seed(0)
    try:
        for threads, sizes in ((1, range(1, count + 1)), (2, (1, 2, count))):
            torch.set_num_threads(threads)
            for size in sizes:
                monkeypatch.setattr(warp, "CHUNK_ELEMENTS", [800_000, 1, 7 * alone[0].numel()][size % 3])
                for part in torch.randperm(count, generator=generator).split(size):
                    assert torch.equal(policy(batch[part], index[part], epoch=5, seed=3), alone[part]), (threads, size)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("size", [24, (40, 20)], ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_so_it_is_at_another_size(name, size):
    policy, batch, index = EXACT[name], noise(20, 48, 96), torch.arange(20)
    alone = torch.cat([policy(batch[i : i + 1], index[i : i + 1], size=size) for i in range(20)])
    assert torch.equal(policy(batch, index, size=size), alone)


@pytest.mark.parametrize("name", EXACT)
def test_an_image_is_the_same_to_the_bit_in_any_memory_layout(name):
    policy, batch = EXACT[name], noise(20, 48, 96)
    result = policy(batch)
    assert torch.equal(policy(batch.to(memory_format=torch.channels_last)), result)
    assert torch.equal(policy(batch.mT.contiguous().mT), result)
    assert torch.equal(policy((batch / 255).double()), result)


def test_parameters_are_the_same_to_the_bit_in_any_batch_and_number_of_threads():
    """In batches so large that torch gives each thread a part, and that end anywhere within a vector of the CPU."""
    count = 40_000
    whole = warp.homography(draw(WIDE, 1, 3, torch.arange(count)), (32, 32))
    parts = torch.randperm(count, generator=torch.Generator().manual_seed(0)).split([*range(1, 60), 35_000, 3_230])
    try:
        torch.set_num_threads(2)
        for part in parts:
            assert torch.equal(warp.homography(draw(WIDE, 1, 3, part), (32, 32)), whole[part])
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    "batch, problem",
    [
        (noise(2)[:, :1], r"of uint8, or of floats from 0 to 1, not \[2, 1, 32, 32\] of torch.uint8"),
        (noise(2)[0], r"not \[3, 32, 32\] of torch.uint8"),
        (noise(2).permute(0, 2, 3, 1), r"not \[2, 32, 32, 3\]"),
        (noise(2).numpy(), "not a ndarray"),
        (noise(2).int(), r"not \[2, 3, 32, 32\] of torch.int32"),
        (noise(2).float(), "from 0 to 1, and these go from 0 to 255"),
        ((noise(2) / 255 - 0.5) / 0.25, "from 0 to 1, and these go from -2 to 2"),
        (torch.full((2, 3, 8, 8), torch.nan), "from 0 to 1, and these go from nan to nan"),
    ],
    ids=["gray", "one image", "NHWC", "NumPy", "int32", "0 to 255", "normalized", "NaN"],
)
def test_images_that_it_cannot_augment_are_refused(batch, problem):
    with pytest.raises(ValueError, match=problem):
        FULL(batch)


@pytest.mark.parametrize("policy", [FULL, Policy(contrast=1)], ids=repr)
@pytest.mark.parametrize("count", [1, 3, 5])
def test_an_index_of_another_length_is_refused(policy, count):
    with pytest.raises(ValueError, match=f"4 images and {count} positions"):
        policy(noise(4), torch.arange(count))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tensor", "PIL"])
def test_the_average_of_many_draws_is_that_of_to_torchvision(images, kind):
    """Of 24x24 pixels in the middle: at the border torchvision fills twice."""
    image, n, transform = images[2], 3000, v2.Compose([FULL.to_torchvision(), v2.PILToTensor()])
    one = Image.fromarray(image.permute(1, 2, 0).numpy()) if kind == "PIL" else image
    torch.manual_seed(0)
    theirs = torch.stack([transform(one) for _ in range(n)]).float()
    ours = FULL(image.expand(n, 3, 32, 32)) * 255
    for statistic in (torch.mean, torch.std):
        difference = (statistic(ours, 0) - statistic(theirs, 0))[:, 4:28, 4:28]
        assert difference.abs().mean() < 2 and difference.abs().max() < 8  # gray levels


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize("policy", [FULL, WIDE, Policy()], ids=repr)
def test_another_device_gives_the_same_up_to_rounding(images, policy, device):
    index = torch.arange(len(images))
    torch.testing.assert_close(rows(draw(policy, 0, 3, index.to(device))).cpu(), rows(draw(policy, 0, 3, index)))
    result = policy(images.to(device), index, epoch=3)
    torch.testing.assert_close(result.cpu(), policy(images, index, epoch=3), atol=1e-3, rtol=0)
