"""How accuracy falls as images are rotated, shifted, zoomed, distorted and recolored: one corruption at a time.

The corruptions are those that a `Policy` trains with, here with a fixed severity instead of a random one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
import torch
from torch import Tensor, nn

from cifar_utils import warp
from cifar_utils.augment import Policy, draw
from cifar_utils.data import Dataset
from cifar_utils.evaluation.inference import as_predictions, checked_batch_size, checked_model, device_of, outputs
from cifar_utils.evaluation.metrics import proportion
from cifar_utils.evaluation.predictions import Predictions, check_dataset

SEED = 2**63  # of the perspective's corners; no training run uses it


@dataclass(frozen=True)
class Corruption:
    """One way to corrupt an image by a given severity.

    Attributes:
        unit: of the severity, for the axis of a plot.
        severities: to try, ascending; among them is `neutral`.
        neutral: the severity that changes nothing.
        apply: (parameters, severity, size of the images) -> the parameters with the severity put in.
        policy: severity -> the policy from which the parameters are drawn: one that changes nothing, except for
            perspective, which takes random corners.
    """

    unit: str
    severities: tuple[float, ...]
    neutral: float
    apply: Callable[[warp.Parameters, float, int], warp.Parameters]
    policy: Callable[[float], Policy] = lambda severity: Policy()


def _set(name: str) -> Callable[[warp.Parameters, float, int], warp.Parameters]:
    """Puts the severity into this field for all images."""
    return lambda p, severity, size: replace(p, **{name: torch.full_like(getattr(p, name), severity)})


def _shift(p: warp.Parameters, pixels: float, size: int) -> warp.Parameters:
    """To the right, in pixels of an image that is 32 pixels wide."""
    return replace(p, translate=p.translate + p.translate.new_tensor([round(pixels * size / 32), 0]))


CORRUPTIONS = {
    "rotation": Corruption("degrees, clockwise", (-60, -45, -30, -15, 0, 15, 30, 45, 60), 0, _set("angle")),
    "translation": Corruption("pixels (of 32) to the right", (-12, -8, -4, -2, 0, 2, 4, 8, 12), 0, _shift),
    "scale": Corruption("zoom factor", (0.5, 0.7, 0.85, 1, 1.2, 1.5, 2), 1, _set("scale")),
    "perspective": Corruption(
        "distortion scale, random corners",
        (0, 0.2, 0.4, 0.6, 0.8),
        0,
        lambda p, severity, size: p,
        lambda severity: Policy(distortion_scale=severity, perspective_p=1),
    ),
    "brightness": Corruption("factor", (0.1, 0.3, 0.6, 1, 1.5, 2, 3), 1, _set("brightness")),
    "contrast": Corruption("factor", (0.1, 0.3, 0.6, 1, 1.5, 2, 3), 1, _set("contrast")),
    "saturation": Corruption("factor", (0, 0.5, 1, 1.5, 2, 3), 1, _set("saturation")),
}


def corrupt(dataset: Dataset, name: str, severity: float, device: torch.device | str = "cpu") -> Tensor:
    """[N, 3, S, S] float32 in 0 to 1: the images with one corruption; the data set stays as it is.

    Args:
        dataset: images of any size.
        name: a key of CORRUPTIONS.
        severity: in the corruption's unit (degrees, pixels, a factor), within the ends of its `severities`.
        device: where to compute.

    Raises:
        ValueError: no such corruption or severity, or not a Dataset.
    """
    check_dataset(dataset)
    how = _corruption(name)
    low, high = how.severities[0], how.severities[-1]
    if not isinstance(severity, Real) or not low <= severity <= high:
        raise ValueError(f"the severity of {name} is {severity!r}; it must be from {low} to {high} ({how.unit})")
    p = draw(how.policy(severity), SEED, 0, dataset.index.to(device), dataset.size)
    return warp.apply(dataset.images.to(device), how.apply(p, severity, dataset.size))


def predict_corrupted(model: nn.Module, dataset: Dataset, name: str, severity: float) -> Predictions:
    """What a network predicts for the images with one corruption; see `corrupt` and `inference.predict`.

    Args:
        model, dataset: see `inference.predict`.
        name, severity: see `corrupt`.

    Raises:
        ValueError, FloatingPointError: see `corrupt` and `inference.outputs`.
    """
    check_dataset(dataset)
    model = checked_model(model)
    parts = (dataset.select(rows) for rows in torch.arange(len(dataset)).split(checked_batch_size(None, dataset)))
    batches = (corrupt(part, name, severity, device_of(model)) for part in parts)
    return as_predictions(model, dataset, outputs(model, batches, len(dataset.classes)))


def robustness_curve(model: nn.Module, dataset: Dataset, name: str) -> np.ndarray:
    """Accuracy at each of a corruption's severities: [A, 4] float64 of severity, accuracy and its 95% interval.

    Accuracies are fractions, 0 to 1. model, dataset, name: see `predict_corrupted`.
    """
    points = []
    for severity in _corruption(name).severities:
        points.append((severity, *proportion(predict_corrupted(model, dataset, name, severity).correct)))
    return np.array(points)


def _corruption(name: str) -> Corruption:
    if name not in CORRUPTIONS:
        raise ValueError(f"there is no corruption {name!r}; one of {', '.join(CORRUPTIONS)} is needed")
    return CORRUPTIONS[name]
