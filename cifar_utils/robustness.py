"""How accuracy falls as the test images are rotated, shifted, zoomed, distorted and recoloured: one change at a time.

The changes are those that `augment` trains with, here by a fixed amount instead of a random one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from cifar_utils.augment import Parameters, augment, draw
from cifar_utils.data import Normalisation, Split
from cifar_utils.evaluation import proportion
from cifar_utils.policy import Policy
from cifar_utils.predictions import Predictions, network_outputs

SEED = 2**63  # of the corners; no training run has it


@dataclass(frozen=True)
class Change:
    """One way to change an image by a given amount.

    Attributes:
        unit: of the amount, for the axis of a plot.
        amounts: to try, ascending; among them is `neutral`.
        neutral: the amount that changes nothing.
        apply: (parameters, amount) -> the parameters with the amount put in.
        policy: amount -> the policy from which the parameters are drawn: one that changes nothing, but for what cannot
            be said by one number.
    """

    unit: str
    amounts: tuple[float, ...]
    neutral: float
    apply: Callable[[Parameters, float], Parameters]
    policy: Callable[[float], Policy] = lambda amount: Policy()


def _set(name: str) -> Callable[[Parameters, float], Parameters]:
    """Puts the amount into this field for all images."""
    return lambda p, amount: replace(p, **{name: torch.full_like(getattr(p, name), amount)})


def _shift(p: Parameters, pixels: float) -> Parameters:
    return replace(p, translate=p.translate + torch.tensor([pixels, 0.0], device=p.translate.device))


CHANGES = {
    "rotation": Change("degrees, clockwise", (-60, -45, -30, -15, 0, 15, 30, 45, 60), 0, _set("angle")),
    "translation": Change("pixels to the right", (-12, -8, -4, -2, 0, 2, 4, 8, 12), 0, _shift),
    "scale": Change("zoom factor", (0.5, 0.7, 0.85, 1, 1.2, 1.5, 2), 1, _set("scale")),
    "perspective": Change(
        "distortion scale, corners at random",
        (0, 0.2, 0.4, 0.6, 0.8),
        0,
        lambda p, amount: p,
        lambda amount: Policy(distortion_scale=amount, perspective_p=1),
    ),
    "brightness": Change("factor", (0.1, 0.3, 0.6, 1, 1.5, 2, 3), 1, _set("brightness")),
    "contrast": Change("factor", (0.1, 0.3, 0.6, 1, 1.5, 2, 3), 1, _set("contrast")),
    "saturation": Change("factor", (0, 0.5, 1, 1.5, 2, 3), 1, _set("saturation")),
}
EVERYTHING = Policy(degrees=1, brightness=1)  # tells `augment` to warp and to recolour; the parameters say how


def changed_images(
    split: Split, normalisation: Normalisation, change: str, amount: float, device: torch.device | str = "cpu"
) -> Tensor:
    """[N, 3, 32, 32] float32: the images changed by a fixed amount, normalised. The split stays as it is.

    Args:
        change: a key of CHANGES.
        amount: in the change's unit.
    """
    how = CHANGES[change]
    p = how.apply(draw(how.policy(amount), SEED, 0, split.index.to(device)), amount)
    return augment(split.images.to(device), p, EVERYTHING, *normalisation.tensors(device))


def predict_changed(
    network: nn.Module,
    split: Split,
    normalisation: Normalisation,
    change: str,
    amount: float,
    batch_size: int = 500,
) -> Predictions:
    """What the network says of the images changed by a fixed amount; see `changed_images`.

    Raises:
        FloatingPointError: see `predictions.network_outputs`.
    """
    device = next(network.parameters()).device
    parts = (split.select(rows) for rows in torch.arange(len(split)).split(batch_size))
    batches = (changed_images(part, normalisation, change, amount, device) for part in parts)
    logits = network_outputs(network, batches)
    return Predictions(split.index.numpy(), split.labels.numpy(), logits.softmax(1).numpy(), split=split.name)


def robustness_curve(
    network: nn.Module, split: Split, normalisation: Normalisation, change: str, batch_size: int = 500
) -> np.ndarray:
    """Accuracy at each of a change's amounts: [A, 4] float64 of amount, accuracy and its 95 % Wilson interval."""
    return np.array(
        [
            (amount, *proportion(predict_changed(network, split, normalisation, change, amount, batch_size).correct))
            for amount in CHANGES[change].amounts
        ]
    )
