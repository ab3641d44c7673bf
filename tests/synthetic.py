"""Datasets and networks made up for tests of widgets: any size, any classes, no files."""

import torch
from torch import nn
from torch.nn import functional as F

from cifar_utils.data import CIFAR10_CLASSES, Dataset


def images(
    count: int = 64, split: str = "training", classes: int = 10, size: int = 32, source: str = "images"
) -> Dataset:
    """Smooth random images, classes in turn; 10 classes have CIFAR-10's names, others are called c00, c01, ..."""
    generator = torch.Generator().manual_seed(count + size)
    coarse = torch.randint(0, 256, (count, 3, 8, 8), generator=generator).float()
    pixels = F.interpolate(coarse, (size, size), mode="bilinear").round().byte()
    names = CIFAR10_CLASSES if classes == 10 else tuple(f"c{i:02}" for i in range(classes))
    offset = {"training": 0, "validation": 10_000, "test": 0}[split]
    index = torch.arange(offset, offset + count)
    return Dataset(pixels, torch.arange(count) % classes, names, index=index, split=split, source=source)


def linear(classes: int = 10, size: int = 32, seed: int = 0) -> nn.Module:
    """A network of a participant's own: one linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, classes))


def dark_and_bright(count: int = 200, split: str = "validation") -> Dataset:
    """Gray images of two classes that differ in brightness alone: around 51 and around 204 of 255."""
    labels = torch.arange(count) % 2
    levels = (51 + 153 * labels + torch.arange(count) % 7).byte()
    pixels = levels[:, None, None, None].expand(count, 3, 16, 16).contiguous()
    return Dataset(pixels, labels, ("dark", "bright"), split=split)


class Brightness(nn.Module):
    """A network that tells `dark_and_bright` apart without a mistake."""

    def forward(self, x):
        mean = x.mean((1, 2, 3)) - 0.5
        return torch.stack([-mean, mean], 1)
