"""The effect of a policy on images: random draws, sweeps of one transform, and whether labels survive."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from cifar_utils import plots, warp
from cifar_utils.augment import Policy, draw
from cifar_utils.data import Dataset
from cifar_utils.evaluation.inference import outputs
from cifar_utils.evaluation.metrics import proportion
from cifar_utils.widgets.base import shrink

SWEEPS = (
    "flip_p", "degrees", "translate", "scale", "shear", "distortion_scale", "brightness", "contrast", "saturation",
)  # fmt: skip


def choose(dataset: Dataset, classes: tuple[str, ...], count: int, start: int = 0) -> Dataset:
    """Selects `count` images (fewer if there are no more), of these classes in turn; a higher `start` gives the next.

    Raises:
        ValueError: no class is given, or one that does not exist, or one without images.
    """
    unknown = [name for name in classes if name not in dataset.classes]
    if unknown or not classes:
        choice = ", ".join([*dataset.classes[:20], *(["..."] if len(dataset.classes) > 20 else [])])
        raise ValueError(f"choose at least one of {choice}" + (f"; {unknown[0]!r} is none of them" if unknown else ""))
    members = [torch.nonzero(dataset.labels == dataset.classes.index(name))[:, 0] for name in classes]
    if min(map(len, members)) == 0:
        raise ValueError(f"{dataset} have no {classes[[len(m) for m in members].index(0)]}")
    positions: dict[int, None] = {}  # each once, in this order
    for i in range(start, start + len(classes) * max(map(len, members))):
        turn, place = divmod(i, len(classes))
        positions[int(members[place][turn % len(members[place])])] = None
        if len(positions) == count:
            break
    return dataset.select(list(positions))


def draws(dataset: Dataset, policy: Policy, seed: int, count: int) -> np.ndarray:
    """[N, count, S, S, 3] uint8: each image augmented several times, as in the first epochs of training."""
    images = (policy(dataset.images, dataset.index, epoch, seed) for epoch in range(count))
    return np.stack([plots.to_pixels(x) for x in images], 1)


def sweep(dataset: Dataset, policy: Policy, field: str, count: int) -> np.ndarray:
    """[N, count, S, S, 3] uint8: one of SWEEPS alone, from one end of the policy's range to the other."""
    columns = _columns(dataset, policy, field, count)
    style, fill = policy.interpolation, policy.fill
    images = (warp.apply(dataset.images, p, interpolation=style, fill=fill) for p in columns)
    return np.stack([plots.to_pixels(x) for x in images], 1)


def sweep_values(dataset: Dataset, policy: Policy, field: str, count: int) -> list[str]:
    """The angle, factor or shift of each column of `sweep`, for the captions."""
    return [_value(p, field) for p in _columns(dataset, policy, field, count)]


def _columns(dataset: Dataset, policy: Policy, field: str, count: int) -> list[warp.Parameters]:
    neutral = draw(Policy(), 0, 0, dataset.index, dataset.size)
    return [_at(neutral, policy, field, place, dataset.size) for place in torch.linspace(-1, 1, count).tolist()]


def _value(p: warp.Parameters, field: str) -> str:
    """What `_at` changed, which is the same for all images."""
    if field == "flip_p":
        return "flip" if p.flip[0] else "no flip"
    if field in ("degrees", "shear"):
        x = (p.angle if field == "degrees" else p.shear)[0].item() + 0.0  # -0 + 0 is 0
        text = f"{x:.0f}°" if abs(x) >= 10 or x == 0 else f"{x:.1f}°"
    elif field == "translate":
        x, y = (p.translate[0] + 0.0).tolist()
        text = f"{x:.0f} px" if x == y else f"{x:.0f}, {y:.0f} px"
    elif field == "distortion_scale":
        depth = p.corners[0, :, 0].tolist()
        text = f"{'top' if depth[0] else 'bottom'} {max(depth):.0f} px"
    else:
        text = f"{getattr(p, field)[0].item():.2f}×"
    return text.replace("-", "\u2212")


def _at(p: warp.Parameters, policy: Policy, field: str, place: float, size: int) -> warp.Parameters:
    """The parameters at a place of a sweep, from -1 (one end) to 1 (the other)."""
    n = len(p.flip)
    if field == "flip_p":
        return replace(p, flip=torch.full((n,), policy.flip_p > 0 and place > 0))
    if field == "translate":
        return replace(p, translate=torch.tensor([[place * t * size for t in policy.translate]] * n).round())
    if field == "distortion_scale":  # the upper corners move towards each other, or the lower ones
        deepest = int(policy.distortion_scale * (size // 2)) if policy.perspective_p else 0  # as `augment.draw` has it
        depth = round(abs(place) * deepest)
        inwards = torch.tensor([[1, 0], [1, 0], [0, 0], [0, 0]] if place > 0 else [[0, 0], [0, 0], [1, 0], [1, 0]])
        return replace(p, corners=(depth * inwards).float().expand(n, 4, 2))
    if field not in SWEEPS:
        raise ValueError(f"{field!r} cannot be swept; choose one of {', '.join(SWEEPS)}")
    value = getattr(policy, field)
    if field in ("degrees", "shear"):
        low, high = -value, value
    else:
        low, high = value if field == "scale" else (max(0.0, 1 - value), 1 + value)
    name = "angle" if field == "degrees" else field
    return replace(p, **{name: torch.full((n,), low + (high - low) * (place + 1) / 2)})


def contact_sheet(originals: Tensor, others: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8: one row per image on white: the original, a wider gap, then its others.

    Images of more than `base.MAX_SIDE` pixels are reduced to it.

    Args:
        originals: [N, 3, S, S] uint8.
        others: [N, D, S, S, 3] uint8, see `draws` and `sweep`.
    """
    rows, columns = others.shape[:2]
    right = torch.from_numpy(others).flatten(0, 1).permute(0, 3, 1, 2)
    return np.hstack([plots.grid(shrink(originals), 1, rows), plots.grid(shrink(right), columns, rows)])


def accuracy_under_augmentation(
    network: nn.Module, dataset: Dataset, policy: Policy, seed: int = 0
) -> tuple[float, float, float]:
    """The accuracy of a trained network on augmented images: (fraction, low, high), 95% interval.

    A network that was trained with a policy is more robust to it than one that was not: read it as a warning, not as
    a proof.

    Raises:
        ValueError, FloatingPointError: see `inference.outputs`.
    """
    parts = zip(dataset.images.split(50), dataset.index.split(50))
    batches = (policy(images, index, 0, seed) for images, index in parts)
    logits = outputs(network, batches, len(dataset.classes))
    return proportion((logits.argmax(1) == dataset.labels).numpy())


def warning(augmented: tuple[float, float, float], plain: tuple[float, float, float], classes: int) -> tuple[bool, str]:
    """Whether a policy is likely to destroy labels, and the same in a sentence.

    It is likely if even the interval's upper end is below 80% of the accuracy without augmentation. Between this and
    an accuracy whose interval meets that on the original images, some labels may be lost.

    Args:
        augmented, plain: accuracy under augmentation and without, see `accuracy_under_augmentation`.
        classes: how many there are: a network that only guesses is no judge.
    """
    accuracy, low, high = plain
    if low <= 1 / classes:
        return False, (
            f"This network cannot judge a policy: its accuracy on the original images is {accuracy:.0%} ({low:.0%} to "
            f"{high:.0%}), and guessing gives {1 / classes:.0%}."
        )
    accuracy, low, high = augmented
    destroys, verdict = high < 0.8 * plain[0], "Labels survive this policy"
    if destroys:
        verdict = "This policy is likely to destroy labels"
    elif high < plain[1]:
        verdict = "This policy may destroy some labels"
    return destroys, (
        f"{verdict}: accuracy under augmentation is {accuracy:.0%} ({low:.0%} to {high:.0%}), and {plain[0]:.0%} on "
        "the original images."
    )
