"""`apply_transform`: everything that `fit(transform=...)` takes, and the sentences about what it does not take."""

import functools

import pytest
import torch
import torchvision.transforms as v1
from strategies import WIDE, noise
from torch import nn
from torchvision.transforms import v2

from cifar_utils.augment import PRESETS, Policy, Step, apply_transform, describe, flatten
from cifar_utils.models import Normalize
from cifar_utils.takehome import FusedTransform

FULL = PRESETS["full"]
LABELS = torch.tensor([3, 1, 4, 1, 5, 0])
STEP = Step(seed=3, epoch=4, index=torch.tensor([10, 3, 77, 5, 0, 12]), progress=0.5)


def run(transform, images=None, labels=LABELS, seed: int = 0):
    """The transform of six images and their labels, from this state of torch's generator."""
    torch.manual_seed(seed)
    return apply_transform(transform, noise(6) if images is None else images, labels, STEP)


def unequal(images: torch.Tensor) -> int:
    """How many images differ from all others."""
    return len(images.flatten(1).unique(dim=0))


ALIKE = noise(1).expand(6, -1, -1, -1)


# A policy and other parts that know the step


@pytest.mark.parametrize("transform", [None, [], [None, []], v2.Compose([v2.Identity()]), nn.Identity()], ids=repr)
def test_nothing_is_the_images_as_floats(transform):
    images, labels = run(transform)
    assert torch.equal(images, noise(6) / 255) and images.dtype == torch.float32
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (48, 96)], ids=str)
def test_a_policy_gets_seed_epoch_and_index(shape):
    images, labels = run(WIDE, noise(6, *shape))
    assert torch.equal(images, WIDE(noise(6, *shape), STEP.index, epoch=4, seed=3))
    assert torch.equal(labels, LABELS)


def test_a_policy_does_not_touch_the_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    apply_transform([FULL, FusedTransform(FULL)], noise(6), LABELS, STEP)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_part_with_at_step_gets_the_batch_and_the_step():
    seen = []

    class Darken:
        def at_step(self, images, step):
            seen.append((images.dtype, step))
            return images / 255 * (1 - step.progress)

    images, _ = run(Darken())
    assert seen == [(torch.uint8, STEP)]
    assert torch.equal(images, noise(6) / 255 * 0.5)


# torchvision's transforms


ONE_BY_ONE = {
    "RandomErasing": v2.RandomErasing(p=1),
    "RandAugment": v2.RandAugment(num_ops=3, magnitude=15),
    "TrivialAugmentWide": v2.TrivialAugmentWide(num_magnitude_bins=1000),
    "ColorJitter": v2.ColorJitter(0.5, 0.5, 0.5, 0.1),
    "RandomResizedCrop": v2.RandomResizedCrop(24, antialias=True),
    "RandomCrop and RandomRotation": [v2.RandomCrop(32, padding=4), v2.RandomRotation(90)],
    "RandomApply": v2.RandomApply([v2.RandomAffine(90), v2.ColorJitter(0.5)], p=1),
    "v1.RandomAffine": v1.RandomAffine(90),
    "v1.Compose": v1.Compose([v1.RandomRotation(90), v1.RandomErasing(p=1)]),
    "Sequential": nn.Sequential(v2.RandomRotation(90), v2.RandomErasing(p=1)),
    "to_torchvision": FULL.to_torchvision(),
    "subclass": type("Shift", (v2.RandomAffine,), {})(90),
}


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_torchvisions_transforms_are_applied_image_by_image(name):
    transform = ONE_BY_ONE[name]
    images, labels = run(transform)
    parts = transform if isinstance(transform, (list, nn.Sequential)) else getattr(transform, "transforms", [transform])
    torch.manual_seed(0)
    expected = noise(6)
    if name == "RandomApply":
        parts = [transform]
    for part in parts:
        expected = torch.stack([part(image) for image in expected])
    assert torch.equal(images, expected / 255)
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_each_image_gets_draws_of_its_own(name):
    assert unequal(run(ONE_BY_ONE[name], ALIKE)[0]) >= 5  # of six; RandAugment may choose the same twice
    assert unequal(run(ONE_BY_ONE[name], ALIKE, seed=1)[0]) >= 5


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_the_generator_decides_everything(name):
    one, same, other = (run(ONE_BY_ONE[name], seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_another_size_stays():
    assert run(v2.RandomResizedCrop(24, antialias=True))[0].shape == (6, 3, 24, 24)
    assert run(v2.Resize((20, 40)))[0].shape == (6, 3, 20, 40)


def test_a_normalization_leaves_0_to_1_as_it_means_to():
    images, _ = run([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)])
    torch.testing.assert_close(images, (noise(6) / 255 - 0.5) / 0.25)
    with pytest.raises(ValueError, match="leave out the other normalization"):
        Normalize()(images)


def test_uint8_stays_uint8_between_transforms():
    seen = []

    def look(images):
        seen.append(images.dtype)
        return images

    run([look, v2.RandomHorizontalFlip(), look, v2.ToDtype(torch.float32, scale=True), look, WIDE, look])
    assert seen == [torch.uint8, torch.uint8, torch.float32, torch.float32]


# Lists


def test_a_random_conversion_to_floats_leaves_no_image_from_0_to_255():
    found, _ = run(v2.RandomApply([v2.ToDtype(torch.float32, scale=True)], p=0.5))
    assert torch.allclose(found, noise(6) / 255)


def test_a_list_is_applied_in_order():
    darker, square_root = (lambda images: images / 2), torch.sqrt
    images = noise(6) / 255
    assert torch.equal(run([darker, square_root], images)[0], (images / 2).sqrt())
    assert torch.equal(run([square_root, darker], images)[0], images.sqrt() / 2)


def test_lists_tuples_compose_and_sequential_nest():
    one, two, three = v2.RandomErasing(), FULL, nn.Identity()
    nested = [one, (v2.Compose([two, v2.Compose([one])]), [nn.Sequential(three), None]), v1.Compose([one])]
    assert flatten(nested) == [one, two, one, three, one]


@pytest.mark.parametrize("compose", [v1.Compose, v2.Compose])
def test_a_function_within_compose_gets_single_images(compose):
    shapes = []
    upside_down = compose([v2.Identity(), lambda image: shapes.append(tuple(image.shape)) or image.flip(1)])
    images, _ = run(upside_down)
    assert torch.equal(images, (noise(6) / 255).flip(2)) and set(shapes) == {(3, 32, 32)}
    for batchwise in (FULL, v2.CutMix(num_classes=10)):
        with pytest.raises(ValueError, match="takes a batch, and .* single images: put the parts into a list"):
            run(compose([batchwise, lambda image: image]))
    run(compose([FusedTransform(FULL), lambda image: image]))


def test_a_module_with_a_forward_of_its_own_is_not_taken_apart():
    class Twice(nn.Sequential):
        def forward(self, images):
            return super().forward(super().forward(images))

    double = Twice(nn.Identity())
    assert flatten(double) == [double]


@pytest.mark.parametrize(
    "before",
    [
        v2.ToDtype(torch.float32, scale=True),
        [v2.ToDtype(torch.float32, scale=True), v2.ColorJitter(0.5), v2.GaussianNoise()],
        lambda images: images.double() / 255,
    ],
)
def test_a_policy_works_after_transforms_that_give_floats(before):
    images, _ = run([before, FULL])
    first, _ = run(before)
    assert torch.equal(images, FULL(first, STEP.index, epoch=4, seed=3))


def test_a_policy_takes_floats_that_leave_0_to_1_by_a_little():
    """A bicubic resize overshoots at edges; whether it does depends on the image, and no image may stop a training."""
    overshot = noise(6) / 255 * 1.2 - 0.1
    images, _ = run([lambda _: overshot, FULL])
    assert images.min() >= 0 and images.max() <= 1


def test_a_policy_works_before_other_transforms():
    images, _ = run([FULL, v2.RandomErasing(p=1, value=0.5)])
    augmented = FULL(noise(6), STEP.index, epoch=4, seed=3)
    erased = (images != augmented).flatten(1)
    assert erased.any(1).all() and (images.flatten(1)[erased] == 0.5).all()


# Transforms that mix images and their labels


MIXES = {
    "MixUp": v2.MixUp(num_classes=6),
    "CutMix": v2.CutMix(num_classes=6),
    "RandomChoice": v2.RandomChoice([v2.MixUp(num_classes=6), v2.CutMix(num_classes=6)]),
    "RandomApply": v2.RandomApply([v2.CutMix(num_classes=6)], p=1),
    "in a list": [FULL, v2.Compose([v2.RandomErasing(), v2.MixUp(num_classes=6)])],
    "one after the other": [v2.MixUp(num_classes=6), v2.CutMix(num_classes=6)],
}


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("dtype", ["uint8", "float"])
def test_mixing_gives_soft_labels(name, dtype):
    images, labels = run(MIXES[name], noise(6) if dtype == "uint8" else noise(6) / 255)
    assert (images.shape, images.dtype) == ((6, 3, 32, 32), torch.float32)
    assert images.min() >= 0 and images.max() <= 1
    assert (labels.shape, labels.dtype) == ((6, 6), torch.float32)
    torch.testing.assert_close(labels.sum(1), torch.ones(6))
    assert nn.CrossEntropyLoss()(torch.zeros(6, 6), labels).isfinite()


def test_mixup_is_torchvisions_of_the_whole_batch():
    images, labels = run(v2.MixUp(num_classes=6))
    torch.manual_seed(0)
    expected_images, expected_labels = v2.MixUp(num_classes=6)(noise(6) / 255, LABELS)
    assert torch.equal(images, expected_images) and torch.equal(labels, expected_labels)
    fraction = labels[0].max()
    other = noise(6).roll(1, 0) / 255
    pure = noise(6) / 255
    mixtures = [fraction * pure + (1 - fraction) * other, (1 - fraction) * pure + fraction * other]
    assert min((images - mixture).abs().max() for mixture in mixtures) < 1e-6


def test_a_random_choice_of_both_takes_both():
    """MixUp changes every pixel, CutMix leaves those outside its box."""
    kept = [(run(MIXES["RandomChoice"], seed=seed)[0] == noise(6) / 255).float().mean() for seed in range(20)]
    assert min(kept) < 0.05 and max(kept) > 0.2


def test_a_choice_between_others_is_made_for_each_image():
    choice = v2.RandomChoice([v2.RandomHorizontalFlip(p=1), v2.RandomVerticalFlip(p=1)])
    assert unequal(run(choice, ALIKE)[0]) == 2


def test_mixup_without_the_number_of_classes_is_a_sentence():
    with pytest.raises(ValueError, match="the transform MixUp.* num_classes must be passed"):
        run(v2.MixUp())


# Functions and modules of your own


class Invert(nn.Module):
    def forward(self, images):
        return 255 - images


class InvertBoth(nn.Module):
    def forward(self, images, labels):
        return 255 - images, 5 - labels


class Callable:
    def __call__(self, images):
        return 255 - images

    def both(self, images, labels):
        return 255 - images, 5 - labels


def invert(images, amount=255):
    return amount - images


def invert_both(images, labels, amount=255):
    return amount - images, 5 - labels


OF_IMAGES = [invert, lambda x: 255 - x, Invert(), Callable(), functools.partial(invert, amount=255)]
OF_BOTH = [invert_both, lambda x, y: (255 - x, 5 - y), InvertBoth(), Callable().both]


@pytest.mark.parametrize("transform", OF_IMAGES, ids=describe)
def test_a_function_of_images_gets_the_batch(transform):
    images, labels = run(transform)
    assert torch.equal(images, (255 - noise(6)) / 255)
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize("transform", OF_BOTH, ids=describe)
def test_a_function_of_images_and_labels_gets_both(transform):
    images, labels = run(transform)
    assert torch.equal(images, (255 - noise(6)) / 255)
    assert torch.equal(labels, 5 - LABELS)


def test_a_builtin_function_gets_the_batch():
    assert torch.equal(run(torch.bitwise_not)[0], (255 - noise(6)) / 255)


@pytest.mark.parametrize(
    "transform, words",
    [
        (None, "None"),
        (FULL, repr(FULL)),
        ([Policy(flip_p=0.5), invert], "[Policy(flip_p=0.5), invert]"),
        (Callable(), "Callable"),
        (v2.RandomHorizontalFlip(), "RandomHorizontalFlip(p=0.5)"),
        (functools.partial(invert, amount=3), "partial"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # an address would differ between processes
)
def test_a_description_is_the_same_in_every_process(transform, words):
    assert describe(transform) == words


# Misuse


@pytest.mark.parametrize(
    "transform, problem",
    [
        ("full", r"transform is 'full', which is no Policy, .*; PRESETS\['full'\] is the policy"),
        ("flip", "transform is 'flip', which is no Policy, torchvision transform or function$"),
        ([FULL, "full"], r"PRESETS\['full'\] is the policy"),
        (3, "transform is 3, which is no Policy"),
        (True, "transform is True, which is no Policy"),
        ({"flip": 1}, "transform is {'flip': 1}, which is no Policy"),
        ([FULL, 0.5], "transform is 0.5, which is no Policy"),
        (noise(1), "which is no Policy"),
    ],
    ids=["preset", "str", "preset in a list", "int", "bool", "dict", "float in a list", "tensor"],
)
def test_what_is_no_transform_is_refused(transform, problem):
    with pytest.raises(ValueError, match=problem):
        run(transform)


@pytest.mark.parametrize(
    "result, words",
    [
        (None, "a NoneType"),
        (3, "a int"),
        (noise(6).numpy(), "a ndarray"),
        (noise(5), r"\[5, 3, 32, 32\] of torch.uint8"),
        (noise(6)[0], r"\[3, 32, 32\] of torch.uint8"),
        (noise(6)[:, :1], r"\[6, 1, 32, 32\] of torch.uint8"),
        (noise(6).permute(0, 2, 3, 1), r"\[6, 32, 32, 3\] of torch.uint8"),
        (noise(6).long(), r"\[6, 3, 32, 32\] of torch.int64"),
        (noise(6) > 100, r"\[6, 3, 32, 32\] of torch.bool"),
        ((noise(6), LABELS), "a tuple"),
    ],
    ids=["None", "int", "NumPy", "fewer", "one", "gray", "NHWC", "int64", "bool", "tuple"],
)
@pytest.mark.parametrize("kind", ["function", "at_step"])
def test_a_transform_that_returns_no_batch_is_refused(kind, result, words):
    def wrong(images, *step):
        return result

    transform = wrong if kind == "function" else type("Wrong", (), {"at_step": lambda self, *_: result})()
    name = describe(transform).replace("<", ".").replace(">", ".")
    with pytest.raises(ValueError, match=f"the transform {name} returns {words} instead of "):
        run(transform)


@pytest.mark.parametrize(
    "result",
    [noise(6), None, (noise(6), None), (noise(6), LABELS.tolist()), (noise(6), LABELS[:5]), (noise(5), LABELS)],
    ids=["images", "None", "no labels", "a list of labels", "fewer labels", "fewer images"],
)
def test_a_transform_that_returns_no_labels_is_refused(result):
    def wrong(images, labels):
        return result

    with pytest.raises(ValueError, match="the transform .*wrong (returns|fails on a batch)"):
        run(wrong)


@pytest.mark.parametrize("error", [TypeError, RuntimeError, KeyError, IndexError, ZeroDivisionError, AssertionError])
@pytest.mark.parametrize("as_list", [False, True])
def test_a_transform_that_raises_is_named(error, as_list):
    def broken(images):
        raise error("the reason")

    transform = [FULL, broken] if as_list else broken
    with pytest.raises(ValueError, match="the transform .*broken fails on a batch .*: .*the reason") as caught:
        run(transform)
    assert isinstance(caught.value.__cause__, error), "the traceback shows the line"


def test_ctrl_c_within_a_transform_is_no_error_of_the_transform():
    def interrupted(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupted)


def test_a_compose_with_pil_images_within_is_applied_image_by_image():
    images, _ = run(v2.Compose([v2.ToPILImage(), v2.RandomHorizontalFlip(1.0), v1.ToTensor()]))
    expected, _ = run(v2.RandomHorizontalFlip(1.0))
    assert torch.equal(images, expected)


@pytest.mark.parametrize("transform", [v1.ToTensor(), v1.Compose([v1.ToTensor()]), v1.PILToTensor()], ids=repr)
def test_totensor_can_be_left_out(transform):
    with pytest.raises(ValueError, match=r"the transform (PIL)?ToTensor.*leave it out, images are tensors already"):
        run(transform)


@pytest.mark.parametrize(
    "transform, problem",
    [
        (
            v2.Normalize([0.5] * 3, [0.5] * 3),
            r"Normalize\(.* fails on a batch \[6, 3, 32, 32\] of torch.uint8: .*float",
        ),
        (v2.Grayscale(), r"Grayscale\(.* returns \[6, 1, 32, 32\] of torch.uint8 instead of \[6, 3, S, S\]"),
        (v2.RandomCrop(40), "RandomCrop.* fails on a batch"),
        (v2.Lambda(lambda image: None), "Lambda.* fails on a batch"),
        (v2.RandomErasing, "the transform .*RandomErasing"),
        (Policy, "the transform .*Policy.* fails on a batch"),
        (nn.ModuleList([v2.RandomErasing()]), "ModuleList.* fails on a batch"),
        ([v2.ToDtype(torch.float32), FULL], r"Policy\(.* fails on a batch .*from 0 to 1, and these go from 0 to 255"),
        (
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3), FULL],
            "Policy.* fails on a batch .* from 0 to 1, and these go from -2 to 2",
        ),
    ],
    ids=["Normalize", "Grayscale", "RandomCrop", "Lambda", "class", "Policy class", "ModuleList", "0 to 255", "normal"],
)
def test_a_transform_that_cannot_take_or_give_these_images_is_named(transform, problem):
    with pytest.raises(ValueError, match=problem):
        run(transform)


@pytest.mark.parametrize("transform", [FULL, FusedTransform(FULL), v2.ColorJitter(0.5), v2.CutMix(num_classes=6)])
def test_gray_images_are_refused(transform):
    with pytest.raises(ValueError, match=r"the transform .* \[6, 1, 32, 32\] of torch"):
        run(transform, noise(6)[:, :1])


def test_the_input_stays_as_it_is():
    images, labels = noise(6), LABELS.clone()
    run([WIDE, v2.RandomErasing(p=1), v2.MixUp(num_classes=6)], images, labels)
    run(v2.CutMix(num_classes=6), images, labels)
    assert torch.equal(images, noise(6)) and torch.equal(labels, LABELS)
