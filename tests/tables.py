"""Predictions, images and networks made up for tests."""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from cifar_utils.data import CIFAR10_CLASSES, Dataset
from cifar_utils.evaluation.predictions import Predictions


def names(count: int) -> tuple[str, ...]:
    """CIFAR-10's, or so many others."""
    return CIFAR10_CLASSES if count == 10 else tuple(f"class {i}" for i in range(count))


def certain(labels, predicted, probability=1.0, split="test", classes=10, **about) -> Predictions:
    """Predictions that give one class this probability and share the rest equally."""
    probabilities = np.full((len(labels), classes), (1 - probability) / (classes - 1), np.float32)
    probabilities[np.arange(len(labels)), predicted] = probability
    index, about = np.arange(len(labels)), about | {"classes": names(classes), "split": split}
    return Predictions(index, np.array(labels), probabilities, np.array(predicted), **about)


def random_predictions(seed: int, count: int = 200, split: str = "test", classes: int = 10, **about) -> Predictions:
    """About half of them right, index shuffled."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), count).astype(np.float32)
    labels = np.where(rng.random(count) < 0.5, probabilities.argmax(1), rng.integers(0, classes, count))
    return Predictions(rng.permutation(count), labels, probabilities, classes=names(classes), split=split, **about)


def random_images(count: int = 20, classes: int = 10, size: int = 32, split: str = "test", seed: int = 0) -> Dataset:
    """Smooth noise, index shuffled: pictures that a warp changes no more than it would change a photo."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    images = (nn.functional.interpolate(coarse, (size, size), mode="bilinear") * 255).round().to(torch.uint8)
    labels = torch.randint(0, classes, (count,), generator=generator)
    index = torch.randperm(count, generator=generator)
    return Dataset(images, labels, names(classes), index, split=split, source="made up")


def small_network(classes: int = 10, seed: int = 0) -> nn.Sequential:
    """Batch norm with statistics, in-place activation, dropout; for images of any size, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = {
            "conv1": nn.Conv2d(3, 8, 3, padding=1),
            "norm": nn.BatchNorm2d(8),
            "relu": nn.ReLU(inplace=True),
            "pool": nn.MaxPool2d(2),
            "conv2": nn.Conv2d(8, 16, 3, padding=1),
            "average": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
            "dropout": nn.Dropout(0.3),
            "head": nn.Linear(16, classes),
        }
        model = nn.Sequential(OrderedDict(layers))
        with torch.no_grad():
            model.head.weight.mul_(20)  # so that images differ in their predicted class
            model(torch.rand(32, 3, 32, 32))
    return model


class Transformer(nn.Module):
    """Patches, a position embedding of three dimensions, one block of attention, and a scale that is one number."""

    def __init__(self, classes: int = 10, size: int = 32, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.position = nn.Parameter(torch.randn(1, (size // 8) ** 2, width) / 10)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.block = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.block(tokens).mean(1)) * self.scale
