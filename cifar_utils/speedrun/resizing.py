"""Progressive resizing: training starts on small images, which cost less and teach the coarse features.

Source: J. Howard's fast.ai team in DAWNBench, 2018; M. Tan and Q. Le, "EfficientNetV2", 2021.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_utils.augment import Policy, Step, apply_transform, describe, flatten, takes_labels

SIZES = ((0.5, 0.15), (0.75, 0.65))  # half the size in the first 15% of all steps, three quarters until 65%
MULTIPLE, SMALLEST = 8, 16  # pixels: sizes that networks halve three times without a rest


def image_size(size: int, progress: float, sizes: tuple[tuple[float, float], ...] = SIZES) -> int:
    """The side of the training images, in pixels.

    Args:
        size: of the images themselves.
        progress: the fraction of all training steps that are done, 0 to 1.
        sizes: pairs (fraction of the size, until which fraction of all steps), in turn; afterwards the full size.
    """
    return scaled(size, next((fraction for fraction, until in sizes if progress < until), 1))


def scaled(size: int, fraction: float) -> int:
    """This fraction of the size, rounded to a multiple of 8 of at least 16; never more than the size."""
    return size if fraction == 1 else min(size, max(SMALLEST, MULTIPLE * round(size * fraction / MULTIPLE)))


class ProgressiveResizing:
    """A transform for `fit`: augments images by another transform, and makes them smaller early in training.

        fit(model, train, val, transform=ProgressiveResizing(PRESETS["full"]))

    A Policy resamples images anyway, and does so at the pixels of the smaller image, at no cost. Images of any other
    transform are resized afterwards. MixUp and CutMix belong behind this one, in a list.

    Args:
        transform: a Policy, or whatever `fit` takes, but it must leave labels alone.
        sizes: see `image_size`.
    """

    def __init__(self, transform=None, sizes: tuple[tuple[float, float], ...] = SIZES) -> None:
        self.transform, self.sizes = transform, tuple((fraction, until) for fraction, until in sizes)
        if any(takes_labels(part) and not hasattr(part, "at_step") for part in flatten(transform)):
            raise ValueError(f"{describe(transform)} takes labels: put it behind ProgressiveResizing, in a list")
        ends = [0, *(until for _, until in self.sizes)]
        if ends != sorted(set(ends)) or ends[-1] > 1 or not all(0 < fraction <= 1 for fraction, _ in self.sizes):
            raise ValueError(f"sizes are {sizes}; they are pairs (fraction of the size, until which fraction of steps)")

    def at_step(self, images: Tensor, step: Step) -> Tensor:
        """[N, 3, S, S] uint8 -> [N, 3, T, T] float32 in 0 to 1; a ValueError where the transform changes labels."""
        size = image_size(images.shape[-1], step.progress, self.sizes)
        if isinstance(self.transform, Policy):
            return self.transform.at_step(images, step, size)
        labels = torch.zeros_like(step.index)  # stand-ins
        images, found = apply_transform(self.transform, images, labels, step)
        if found is not labels:
            raise ValueError(f"{describe(self.transform)} changes labels: put it behind ProgressiveResizing, in a list")
        if images.shape[-1] == size:
            return images
        return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)

    def __repr__(self) -> str:
        return f"ProgressiveResizing({describe(self.transform)}, sizes={self.sizes})"
