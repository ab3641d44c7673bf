"""A policy as code and as one torchvision transform, used as torchvision's own transforms are."""

import copy
import pickle
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from strategies import WIDE, noise, policies
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from cifar_utils import data, warp
from cifar_utils.augment import PRESETS, Policy, Step, apply_transform, draw
from cifar_utils.takehome import FusedTransform, to_code

FULL = PRESETS["full"]
SHAPES = [(32, 32), (48, 96), (5, 3)]  # height and width


# Code


def run(code: str) -> v2.Compose:
    """What the code calls `transform`."""
    names = {}
    exec(code, names)
    return names["transform"]


@given(policies())
def test_the_code_makes_the_transforms_of_to_torchvision(policy):
    assert repr(run(to_code(policy))) == repr(policy.to_torchvision())


@pytest.mark.parametrize("policy", [*PRESETS.values(), replace(WIDE, interpolation="nearest", fill=9)], ids=repr)
def test_the_code_gives_the_images_of_to_torchvision(policy):
    results = []
    for transform in (run(to_code(policy)), policy.to_torchvision()):
        torch.manual_seed(0)
        results.append(torch.stack([transform(image) for image in noise(5)]))
    assert torch.equal(*results)


def test_the_code_names_no_transform_that_does_nothing():
    assert "RandomAffine" not in to_code(Policy(flip_p=0.5)) and "Identity" in to_code(Policy())


# One transform


@pytest.mark.parametrize("batch", [False, True], ids=["one image", "batch"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shape_and_type_stay(shape, dtype, batch):
    images = noise(4, *shape) if dtype == torch.uint8 else (noise(4, *shape) / 255).to(dtype)
    images = images if batch else images[0]
    before = images.clone()
    result = FusedTransform(WIDE)(images)
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    assert result.min() >= 0 and result.max() <= (255 if dtype == torch.uint8 else 1)
    assert torch.equal(images, before), "the input stays as it is"


@given(policies(), st.sampled_from(SHAPES))
def test_every_legal_policy_is_one_transform(policy, shape):
    result = FusedTransform(policy)(noise(2, *shape))
    assert (result.shape, result.dtype) == ((2, 3, *shape), torch.uint8)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_warp_of_its_parameters(shape):
    images, transform = noise(4, *shape), FusedTransform(WIDE)
    torch.manual_seed(0)
    p = transform.make_params([images])["parameters"]
    torch.manual_seed(0)
    assert torch.equal(transform(images), (warp.apply(images, p) * 255).round().byte())
    torch.manual_seed(0)
    assert torch.equal(transform(images / 255), warp.apply(images, p))


def test_a_policy_that_changes_nothing_changes_nothing():
    images = noise(4, 48, 96)
    assert torch.equal(FusedTransform(Policy())(images), images)
    assert torch.equal(FusedTransform(Policy())(images / 255), images / 255)


@pytest.mark.parametrize("make", [nn.Sequential, lambda *parts: v2.Compose(list(parts))], ids=["Sequential", "Compose"])
@pytest.mark.parametrize("shape", [(3, 48, 96), (4, 3, 48, 96)], ids=["one image", "batch"])
def test_it_works_between_other_transforms(make, shape):
    transform = make(v2.Resize((32, 40)), FusedTransform(FULL), v2.ToDtype(torch.float32, scale=True))
    result = transform(noise(4, 48, 96)[0] if len(shape) == 3 else noise(4, 48, 96))
    assert (result.shape, result.dtype) == ((*shape[:-2], 32, 40), torch.float32)


def test_it_works_at_the_entrance_of_a_network():
    network = nn.Sequential(FusedTransform(FULL), nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    network(noise(4) / 255).sum().backward()
    assert network[2].weight.grad.abs().sum() > 0
    assert not network.state_dict().keys() - {"2.weight", "2.bias"}


def test_no_two_images_of_a_batch_are_alike():
    same = noise(1, 48, 96).expand(50, -1, -1, -1)
    assert len(FusedTransform(FULL)(same).flatten(1).unique(dim=0)) == 50
    with_torchvision = FULL.to_torchvision()(same)
    assert len(with_torchvision.flatten(1).unique(dim=0)) == 1, "where torchvision draws once for the batch"


def test_no_two_calls_are_alike():
    image, transform = noise(1)[0], FusedTransform(FULL)
    assert len(torch.stack([transform(image) for _ in range(50)]).flatten(1).unique(dim=0)) == 50


def test_manual_seed_repeats_it():
    images, transform = noise(4), FusedTransform(FULL)
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(torch.stack([transform(images), transform(images)]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("batch", [1, 1000], ids=["image by image", "in batches"])
def test_it_draws_from_the_distributions_of_draw(batch):
    """And these are torchvision's, as test_augment.py shows."""
    torch.manual_seed(0)
    count, shape, transform = 2000, (48, 96), FusedTransform(WIDE)
    images = torch.zeros(batch, 3, *shape) if batch > 1 else torch.zeros(3, *shape)
    found = [transform.make_params([images])["parameters"] for _ in range(count // batch)]
    expected = draw(WIDE, 0, 0, torch.arange(20_000), shape)
    for field in fields(warp.Parameters):
        ours = torch.cat([getattr(p, field.name) for p in found]).reshape(count, -1).float()
        theirs = getattr(expected, field.name).reshape(20_000, -1).float()
        for a, b in zip(ours.T, theirs.T):
            assert stats.ks_2samp(a.numpy(), b.numpy()).pvalue > 0.0005, field.name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one by one", "batch"])
def test_the_average_of_many_draws_is_that_of_to_torchvision(kind):
    """Of 24x24 pixels in the middle: at the border torchvision fills twice."""
    torch.manual_seed(0)
    image, n = data.cifar10(train=False, sample=True).images[2], 3000
    one, other = FusedTransform(FULL), FULL.to_torchvision()
    theirs = torch.stack([other(image) for _ in range(n)]).float()
    if kind == "batch":
        ours = one(image.expand(n, -1, -1, -1)).float()
    else:
        ours = torch.stack([one(image) for _ in range(n)]).float()
    for statistic in (torch.mean, torch.std):
        difference = (statistic(ours, 0) - statistic(theirs, 0))[:, 4:28, 4:28]
        assert difference.abs().mean() < 2 and difference.abs().max() < 8  # gray levels


# A sample with more than an image


def test_labels_pass_through():
    images, labels = noise(4), torch.arange(4)
    result, found = FusedTransform(FULL)(images, labels)
    assert found is labels and not torch.equal(result, images)


def test_the_other_entries_of_a_sample_pass_through():
    sample = {"image": tv_tensors.Image(noise(1)[0]), "label": 7, "embedding": torch.rand(3, 8, 8), "name": "cat.jpg"}
    result = FusedTransform(FULL)(sample)
    assert type(result["image"]) is tv_tensors.Image and not torch.equal(result["image"], sample["image"])
    assert all(result[name] is sample[name] for name in ("label", "embedding", "name"))


@pytest.mark.parametrize("position", [0, 1])
def test_two_images_of_one_sample_get_the_same_parameters(position):
    image = tv_tensors.Image(noise(1)[0])
    one, other = FusedTransform(FULL)(image, image.clone())
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    "inputs, problem",
    [
        (Image.new("RGB", (32, 32)), "v2.PILToTensor makes one"),
        (torch.arange(4), r"takes a tensor \[3, H, W\] or \[N, 3, H, W\]"),
        (torch.zeros(2, 2, 3, 8, 8), r"takes a tensor \[3, H, W\] or \[N, 3, H, W\]"),
        ("cat.jpg", r"takes a tensor \[3, H, W\] or \[N, 3, H, W\]"),
        (noise(1)[0, :1], r"not \[1, 1, 32, 32\] of torch.uint8"),
        (noise(1)[0].permute(1, 2, 0), r"not \[1, 32, 32, 3\] of torch.uint8"),
        (noise(1)[0].int(), "torch.int32"),
        (noise(1)[0].float(), "from 0 to 1, and these go from 0 to 255"),
    ],
    ids=["PIL", "labels", "5 dimensions", "str", "gray", "HWC", "int32", "0 to 255"],
)
def test_what_it_cannot_take_is_refused(inputs, problem):
    with pytest.raises(ValueError, match=problem):
        FusedTransform(FULL)(inputs)


# In training, and between processes


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: v2.Compose([t]), lambda t: nn.Sequential(t), lambda t: [t]])
def test_as_the_transform_of_fit_it_is_the_policy_to_the_bit(wrap):
    images, step = noise(6), Step(seed=3, epoch=4, index=torch.arange(6) + 10, progress=0.5)
    result, _ = apply_transform(wrap(FusedTransform(WIDE)), images, torch.arange(6), step)
    assert torch.equal(result, WIDE(images, step.index, epoch=4, seed=3))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["copy", "pickle"])
def test_a_copy_is_the_same_transform(duplicate):
    results = []
    for transform in (FusedTransform(WIDE), duplicate(FusedTransform(WIDE))):
        torch.manual_seed(0)
        results.append(transform(noise(4)))
    assert torch.equal(*results)


def test_repr_shows_the_policy():
    assert repr(FusedTransform(Policy(flip_p=0.5))) == "FusedTransform(Policy(flip_p=0.5))"
