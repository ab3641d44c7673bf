"""What a policy does to images, for people to look at: draws, sweeps of one transform, and whether labels survive."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from cifar_utils.augment import Parameters, augment, draw
from cifar_utils.data import CLASSES, Normalisation, Split
from cifar_utils.evaluation import proportion
from cifar_utils.policy import Policy
from cifar_utils.predictions import network_outputs

PLAIN = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # pixels from 0 to 1
SWEEPS = (
    "flip_p",
    "degrees",
    "translate",
    "scale",
    "shear",
    "distortion_scale",
    "brightness",
    "contrast",
    "saturation",
)


def choose(split: Split, classes: tuple[str, ...], count: int, start: int = 0) -> Split:
    """Images for a look: `count` of these classes in turn; a higher `start` gives the next ones.

    Raises:
        ValueError: no class, or one that does not exist, or none of its images is in the split.
    """
    unknown = [name for name in classes if name not in CLASSES]
    if unknown or not classes:
        raise ValueError(f"choose at least one of {', '.join(CLASSES)}" + (f"; not {unknown[0]!r}" if unknown else ""))
    members = [torch.nonzero(split.labels == CLASSES.index(name))[:, 0] for name in classes]
    if min(map(len, members)) == 0:
        raise ValueError(f"{split} have no {classes[[len(m) for m in members].index(0)]}")
    turns = [(start + i) // len(classes) for i in range(count)]
    places = [(start + i) % len(classes) for i in range(count)]
    return split.select(torch.stack([members[p][t % len(members[p])] for p, t in zip(places, turns)]))


def draws(split: Split, policy: Policy, seed: int, count: int) -> np.ndarray:
    """[N, count, 32, 32, 3] uint8: each image augmented several times, as in the first epochs of training."""
    return np.stack([_pixels(split, draw(policy, seed, epoch, split.index), policy) for epoch in range(count)], 1)


def sweep(split: Split, policy: Policy, field: str, count: int) -> np.ndarray:
    """[N, count, 32, 32, 3] uint8: one of SWEEPS alone, from one end of the policy's range to the other."""
    n = len(split)
    still = draw(Policy(fill=policy.fill), 0, 0, split.index)
    columns = [_at(still, policy, field, place, n) for place in torch.linspace(-1, 1, count).tolist()]
    return np.stack([_pixels(split, p, replace(policy, flip_p=1.0, brightness=1.0)) for p in columns], 1)


def _at(p: Parameters, policy: Policy, field: str, place: float, n: int) -> Parameters:
    """The parameters of n images at a place of a sweep, from -1 (one end) to 1 (the other)."""
    if field == "flip_p":
        return replace(p, flip=torch.full((n,), policy.flip_p > 0 and place > 0))
    if field == "degrees":
        return replace(p, angle=torch.full((n,), place * policy.degrees))
    if field == "translate":
        return replace(p, translate=torch.tensor([[place * t * 32 for t in policy.translate]] * n).round())
    if field == "scale":
        low, high = policy.scale
        return replace(p, scale=torch.full((n,), low + (high - low) * (place + 1) / 2))
    if field == "shear":
        return replace(p, shear=torch.full((n,), place * policy.shear))
    if field == "distortion_scale":  # the upper corners come closer to each other, or the lower ones
        depth = round(abs(place) * policy.distortion_scale * 16)
        inwards = torch.tensor([[1, 0], [1, 0], [0, 0], [0, 0]] if place > 0 else [[0, 0], [0, 0], [1, 0], [1, 0]])
        return replace(p, corners=(depth * inwards).float().expand(n, 4, 2))
    if field in ("brightness", "contrast", "saturation"):
        low, high = max(0.0, 1 - getattr(policy, field)), 1 + getattr(policy, field)
        return replace(p, **{field: torch.full((n,), low + (high - low) * (place + 1) / 2)})
    raise ValueError(f"{field!r} cannot be swept; one of {', '.join(SWEEPS)} can")


def _pixels(split: Split, p: Parameters, policy: Policy) -> np.ndarray:
    x = augment(split.images, p, policy, *PLAIN.tensors())
    return (x * 255).round().byte().permute(0, 2, 3, 1).numpy()


def contact_sheet(originals: Tensor, others: np.ndarray, gap: int = 2) -> np.ndarray:
    """[H, W, 3] uint8: a row an image, the original, a wider gap, then its others, on white.

    Args:
        originals: [N, 3, 32, 32] uint8.
        others: [N, D, 32, 32, 3] uint8, see `draws` and `sweep`.
    """
    n, count = others.shape[:2]
    side = 32 + gap
    sheet = np.full((n * side - gap, (count + 1) * side - gap + 2 * gap, 3), 255, np.uint8)
    for row in range(n):
        top = row * side
        sheet[top : top + 32, :32] = originals[row].permute(1, 2, 0).numpy()
        for column in range(count):
            left = (column + 1) * side + 2 * gap
            sheet[top : top + 32, left : left + 32] = others[row, column]
    return sheet


def survival(
    network: nn.Module, split: Split, policy: Policy, normalisation: Normalisation, seed: int = 0
) -> tuple[float, float, float]:
    """How often a trained network still recognises augmented images: (share, low, high), 95 % interval.

    A network that has learnt from a policy stands more of it than one that has not: this is a warning, no proof.
    """
    x = augment(split.images, draw(policy, seed, 0, split.index), policy, *normalisation.tensors())
    return proportion((network_outputs(network, x.split(250)).argmax(1) == split.labels).numpy())


def verdict(augmented: tuple[float, float, float], plain: tuple[float, float, float]) -> tuple[bool, str]:
    """Whether a policy is likely to destroy labels, and the sentence that says so.

    It is, where even the interval's upper end is below 80 % of what the network recognises without augmentation.
    """
    kept, low, high = augmented
    destroys = high < 0.8 * plain[0]
    warning = "This policy is likely to destroy labels: " if destroys else "Labels survive: "
    return destroys, (
        f"{warning}a trained network recognises {kept:.0%} ({low:.0%} to {high:.0%}) of such images, "
        f"and {plain[0]:.0%} of the originals."
    )
