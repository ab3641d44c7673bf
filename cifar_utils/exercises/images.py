"""Exercises of notebook 1: the split, and what a policy does to images."""

from dataclasses import replace
from functools import cache

import torch
from torch import nn

from cifar_utils import checkpoint, data, network_file, runs, settings, speedrun
from cifar_utils.augment import PRESETS, Policy, Step, apply_transform, to_float
from cifar_utils.data import Dataset
from cifar_utils.evaluation.inference import outputs
from cifar_utils.exercises.core import RIGHT, Wrong, exercise

SURVIVAL = 0.85  # of the accuracy without augmentation


@cache
def images() -> tuple[Dataset, Dataset]:
    """Training and validation images of the sample, so that every laptop judges alike and at once."""
    return data.split(data.cifar10(sample=True))


@cache
def shipped() -> nn.Module:
    return runs.load(runs.SHIPPED, speedrun.network(images()[0]))


@exercise(
    "1.1",
    "Predict",
    "Cats in the validation set",
    hints=(
        "Ten classes share the 50,000 images equally. How many of them are cats?",
        "Stratified means that validation gets the same fraction of every class.",
        "Take 10% of the cats only.",
    ),
    wrong={
        "all": Wrong("all validation images", "answer = 5000", "This is the whole validation set. Count one class."),
        "class": Wrong("all images", "answer = 50_000", "These are all images, of every class and before the split."),
        "rest": Wrong("the cats that remain for training", "answer = 4500", "These cats remain for training."),
        "test": Wrong(
            "the test set's cats",
            "answer = 1000",
            "That is the number of cats in the test set, which is a set of its own.",
        ),
        "other": Wrong("a slip in the arithmetic", "answer = 50", "Divide in two steps: by class, then by split."),
    },
    meaning="A stratified split takes 10% of every class, so no class is short of validation images by chance.",
    sound=("answer = 500", "answer = 500.0", "answer = 50_000 // 10 // 10"),
)
def cats_in_validation(answer) -> str:
    replies = {500: RIGHT, 5000: "all", 50_000: "class", 4500: "rest", 1000: "test"}
    return replies.get(answer, "other")


@exercise(
    "1.2",
    "Code",
    "Shift and flip, and nothing else",
    hints=(
        "Two fields of Policy are enough. Notebook 1 prints their names.",
        "translate has two numbers: the largest shift along each axis, as a fraction of the image's side.",
        "Four pixels of 32: which fraction is that? And flip_p is a probability.",
    ),
    wrong={
        "far": Wrong(
            "the fraction of 8 pixels instead of 4",
            "answer = Policy(flip_p=0.5, translate=(0.25, 0.25))",
            "Images move by up to {pixels:.0f} pixels. The fraction is the limit in each direction: that far to the "
            "left, and that far to the right.",
        ),
        "little": Wrong(
            "the policy of the presets, with its two pixels",
            'answer = PRESETS["flip_and_shift"]',
            "Along at least one axis, images move by {pixels:.0f} pixels at most.",
        ),
        "axis": Wrong(
            "a shift along one axis",
            "answer = Policy(flip_p=0.5, translate=(0.125, 0))",
            "Images move along one axis only.",
        ),
        "mirror": Wrong(
            "every image mirrored, or none",
            "answer = Policy(flip_p=1, translate=(0.125, 0.125))",
            "{fraction:.0%} of the images are mirrored.",
        ),
        "shape": Wrong(
            "a rotation, zoom or perspective left in",
            "answer = Policy(flip_p=0.5, degrees=10, translate=(0.125, 0.125))",
            "Images are also rotated, zoomed or distorted, or the pixels from outside are not black.",
        ),
        "color": Wrong(
            "the full policy's colors",
            "answer = Policy(flip_p=0.5, translate=(0.125, 0.125), brightness=0.2)",
            "Colors change as well.",
        ),
    },
    meaning="256 test patterns moved by up to 4 pixels in both directions, and half of them were mirrored.",
    sound=(
        "answer = Policy(flip_p=0.5, translate=(4 / 32, 4 / 32))",
        "answer = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomAffine(0, translate=(0.125, 0.125))])",
        "answer = [v2.RandomAffine(0, translate=(0.13, 0.13)), v2.RandomHorizontalFlip(0.5)]",
    ),
)
def shift_and_flip(answer) -> str | tuple[str, dict]:
    """Three colored marks on black tell what a transform does, whatever it is made of."""
    index = torch.arange(256)
    color = torch.tensor([200, 120, 40], dtype=torch.uint8)
    plain = color[:, None, None].expand(256, 3, 32, 32).contiguous()  # which the answer may change in place
    filled, _ = apply_transform(answer, plain, index, Step(0, 0, index, 0.0))
    center = filled[:, :, 16, 16]
    seen = center[center.amax(1) > 0]  # a far shift leaves black; all else here would be a change of color
    if ((seen - color / 255).abs().amax(1) > 0.02).float().mean() > 0.2:
        return "color"
    marks = torch.zeros(256, 3, 32, 32, dtype=torch.uint8)
    for channel, (row, column) in enumerate([(12, 12), (12, 19), (19, 12)]):
        marks[:, channel, row, column] = 255
    moved, _ = apply_transform(answer, marks, index, Step(0, 0, index, 0.0))
    brightness = moved.sum((2, 3))
    places = torch.arange(32.0)
    rows, columns = (moved.sum(axis) @ places / brightness for axis in (3, 2))
    inside = ((rows > 1) & (rows < 30) & (columns > 1) & (columns < 30)).all(1)  # all three marks are
    if not inside.any():
        return "shape"
    red, green, blue = torch.stack([rows, columns], 2)[inside].unbind(1)  # [n, 2] each: row and column
    count = len(red)
    mirrored = (green - red)[:, 1] < 0
    across = torch.where(mirrored, -7.0, 7.0)
    zero = torch.zeros(count)
    expected = torch.stack([zero, across, zero + 7, zero], 1)
    found = torch.cat([green - red, blue - red], 1)
    if not torch.allclose(found, expected, atol=0.2):
        return "shape"
    shift = ((green + blue) / 2 - 15.5).abs().amax(0)  # the largest along rows and columns, in pixels
    if shift.max() > 4.2:
        return "far", {"pixels": shift.max().item()}
    if (moved.amax((2, 3)) < 0.9).any():  # a mark is erased or blurred
        return "shape"
    if shift.min() < 0.5 <= shift.max():
        return "axis"
    if shift.min() < 3.5:
        return "little", {"pixels": shift.min().item()}
    if (filled.amin((1, 2, 3)) < 0.01).float().mean() < 0.8:  # nearly all images were moved, so they have black edges
        return "shape"
    fraction = mirrored.float().mean().item()
    return RIGHT if 0.35 < fraction < 0.65 else ("mirror", {"fraction": fraction})


@exercise(
    "1.3",
    "Repair",
    "Images for training and validation",
    hints=(
        "Compare what the function does to the two splits. Which of them stands for the images of real use?",
        "Validation images tell how good the network is on images as they are.",
        "One of the two calls of the policy has to go.",
    ),
    wrong={
        "both": Wrong(
            "validation images are augmented",
            "def answer(train, val, policy):\n"
            "    return policy(train.images, train.index), policy(val.images, val.index)",
            "The second result differs from val.images. You would measure the network on images unlike those "
            "that it will be used on, and the accuracy would change with every epoch's draws.",
        ),
        "swapped": Wrong(
            "the policy on the wrong split",
            "def answer(train, val, policy):\n    return train.images, policy(val.images, val.index)",
            "The policy is applied to the wrong split.",
        ),
        "none": Wrong(
            "no augmentation at all",
            "def answer(train, val, policy):\n    return train.images, val.images",
            "Now no image is augmented. Training needs the policy.",
        ),
        "result": Wrong(
            "one result instead of two",
            "def answer(train, val, policy):\n    return policy(train.images, train.index)",
            "The function must return two batches: training images, then validation images.",
        ),
        "images": Wrong(
            "training on validation images",
            "def answer(train, val, policy):\n    return policy(val.images, val.index), val.images",
            "With a policy that changes nothing, the first result is not the training images.",
        ),
    },
    meaning="Only training images are augmented. Compare the results with val.images to find this bug in any program.",
    sound=(
        "def answer(train, val, policy):\n    return policy(train.images, train.index), val.images",
        "def answer(train, val, policy):\n    return policy(train.images, train.index, 3), val.images / 255",
    ),
)
def prepared_images(answer) -> str:
    train, val = (part.select(torch.arange(8)) for part in images())
    found = answer(train, val, Policy(degrees=40, translate=(0.2, 0.2)))
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        return "result"
    first, second = (not torch.allclose(to_float(x), y.images / 255, atol=0.01) for x, y in zip(found, (train, val)))
    if not first or second:
        return {(True, True): "both", (False, True): "swapped", (False, False): "none"}[first, second]
    unchanged, _ = answer(train, val, Policy())
    return RIGHT if torch.allclose(to_float(unchanged), train.images / 255, atol=0.01) else "images"


KINDS = {
    "rotation": ("degrees", "shear"),
    "shift": ("translate",),
    "zoom": ("scale",),
    "perspective": ("distortion_scale", "perspective_p"),
    "color": ("brightness", "contrast", "saturation"),
}
TOO_MUCH = "The shipped network classifies {before:.0%} correctly without augmentation and {after:.0%} with yours. "


@exercise(
    "1.4",
    "Code",
    "Your policy",
    hints=(
        "Start from one of PRESETS and change a field: replace(full, degrees=15).",
        "Look at the images in notebook 1's explorer: would you still name each class?",
        "If the reply names one kind of transform, halve its range and check again.",
    ),
    wrong={
        "type": Wrong(
            "another kind of transform",
            "answer = v2.RandomHorizontalFlip()",
            "Notebook 3 reads a Policy from a file, so this exercise takes a Policy.",
        ),
        "nothing": Wrong("an empty policy", "answer = Policy()", "This policy leaves every image as it is."),
        "rotation": Wrong(
            "a rotation by any angle",
            "answer = Policy(flip_p=0.5, degrees=180)",
            TOO_MUCH + "Rotation costs the most accuracy: when have you seen a ship upside down?",
        ),
        "shift": Wrong(
            "shifts out of the image",
            "answer = Policy(flip_p=0.5, translate=(0.9, 0.9))",
            TOO_MUCH + "Shifts cost the most accuracy: much of the object is outside.",
        ),
        "zoom": Wrong(
            "objects of a few pixels",
            "answer = Policy(scale=(0.15, 0.5))",
            TOO_MUCH + "The zoom costs the most accuracy: how many pixels are left of the object?",
        ),
        "perspective": Wrong(
            "the largest perspective",
            "answer = Policy(distortion_scale=1, perspective_p=1)",
            TOO_MUCH + "Perspective costs the most accuracy: look at the corners.",
        ),
        "color": Wrong(
            "black or white images",
            "answer = Policy(brightness=2, contrast=2, saturation=2)",
            TOO_MUCH + "Colors cost the most accuracy: look for images that are nearly black or white.",
        ),
        "together": Wrong(
            "a little too much of everything",
            "answer = PRESETS['full'].scaled(2.5)",
            TOO_MUCH + "No single transform is too strong, but together they are: try my_policy.scaled(0.5).",
        ),
    },
    meaning="Under this policy, the shipped network keeps at least 85% of its accuracy: most images still show their "
    "class.",
    sound=('answer = PRESETS["full"]', 'answer = PRESETS["flip_and_shift"]', "answer = Policy(flip_p=0.5, degrees=15)"),
    then=lambda policy: _save(policy),
)
def your_policy(answer) -> str | tuple[str, dict]:
    if not isinstance(answer, Policy):
        return "type"
    if not (answer.is_geometric or answer.changes_color):
        return "nothing"
    before, after = survival(Policy()), survival(answer)
    if after >= SURVIVAL * before:
        return RIGHT
    alone = {kind: survival(_only(answer, fields)) for kind, fields in KINDS.items()}
    worst = min(alone, key=alone.get)
    name = worst if alone[worst] < SURVIVAL * before else "together"
    return name, {"before": before, "after": after}


@cache
def survival(policy: Policy) -> float:
    """The shipped network's accuracy on the validation images when this policy augments them, 0 to 1.

    It was not trained on them: the whole sample lies in the validation split of the full set.
    """
    part = images()[1]
    logits = outputs(shipped(), [to_float(policy(part.images, part.index))])
    return (logits.argmax(1) == part.labels).float().mean().item()


def _only(policy: Policy, fields: tuple[str, ...]) -> Policy:
    return replace(Policy(), **{name: getattr(policy, name) for name in fields})


def _save(policy: Policy) -> str:
    file = settings.policy_file()
    replaces = file.exists() and file.read_bytes() != policy.to_json().encode()
    network_file.save_policy(policy, backup=replaces)
    kept = f" The policy that was there is now in {checkpoint.previous(file).name}." if replaces else ""
    return f"It is saved for notebook 3, in {file.parent.name}/{file.name}.{kept}"


@exercise(
    "1.5",
    "Explore",
    "The strength that halves the accuracy",
    hints=(
        "Hand in a strength: the reply gives the accuracy with and without augmentation.",
        "Try 1, 2 and 4, then the middle of the two between which the half lies.",
    ),
    wrong={
        "weak": Wrong(
            "a strength that hardly hurts",
            "answer = 1.0",
            "At this strength the network still predicts {after:.0%} correctly, and {before:.0%} without augmentation.",
        ),
        "strong": Wrong(
            "the strongest policy",
            "answer = 6.0",
            "At this strength the network predicts only {after:.0%} correctly, and {before:.0%} without augmentation.",
        ),
        "number": Wrong(
            "a policy instead of its strength", 'answer = PRESETS["strong"]', "Hand in the strength, a number."
        ),
    },
    meaning="Do you still recognize the images at this strength? People often do where a network fails.",
    sound=("answer = 3.4", "answer = 3.6"),
    core=False,
)
def halving_strength(answer) -> str | tuple[str, dict]:
    if not isinstance(answer, (int, float)):
        return "number"
    before, after = survival(Policy()), survival(PRESETS["full"].scaled(answer))
    if abs(after - before / 2) <= 0.06:
        return RIGHT
    return ("weak" if after > before / 2 else "strong"), {"before": before, "after": after}
