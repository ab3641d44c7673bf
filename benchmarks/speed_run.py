"""The published speed run, airbench, on the same GPU: optional (pip install airbench), and for CUDA only."""

import tempfile
from contextlib import chdir
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from clock import Clock
from torchvision.datasets import CIFAR10

from cifar_utils import settings

# As a recipe in time_to_accuracy.py.
ABOUT = {"policy": "its own", "epochs": 9.9, "accuracy": 0.94, "tta": True, "published": True}


def is_there(device: torch.device) -> bool:
    """Whether it can run here."""
    return device.type == "cuda" and find_spec("airbench") is not None


@cache
def its_folder() -> tempfile.TemporaryDirectory:
    """A folder with the data set where airbench looks for it, so that it downloads nothing; there until Python ends."""
    folder = tempfile.TemporaryDirectory()
    (Path(folder.name) / "cifar10").mkdir()
    for name, is_training in (("train", True), ("test", False)):
        split = CIFAR10(settings.data_directory(), train=is_training)
        content = {"images": torch.tensor(split.data), "labels": torch.tensor(split.targets)}
        torch.save(content | {"classes": split.classes}, Path(folder.name) / "cifar10" / f"{name}.pt")
    return folder


def airbench_94(seed: int, device: torch.device) -> dict:
    """Its 94% network trained once from files on the disk, as `time_to_accuracy.run_recipe` does ours: its figures.

    Source: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, the package of the same author.
    """
    import airbench

    with chdir(its_folder().name):
        clock = Clock(device)
        torch.manual_seed(seed)
        network = airbench.train94(run=seed, verbose=False)
        test = airbench.CifarLoader("cifar10", train=False, batch_size=2000)
        row = {"accuracy": airbench.evaluate(network, test, tta_level=0)} | clock.times()
        row["accuracy_shifted"] = airbench.evaluate(network, test, tta_level=2)
        return row | clock.times_of_more_looks(row, looks=6)  # the image, two shifts of it, and the three in the mirror
