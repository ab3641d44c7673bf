"""CIFAR-10 as uint8 tensors: the full set or the sample that ships here, in training, validation and test splits.

60,000 images are 180 MB, so they are held in memory whole. There is no DataLoader and there are no worker processes
(which fail in notebooks on Windows and macOS): a batch is `split.images[index]`.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import CIFAR10

from cifar_utils import download, settings
from cifar_utils.download import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SAMPLE = Path(__file__).parent / "sample"


@dataclass(frozen=True)
class Split:
    """One split of the data set.

    Attributes:
        name: "training", "validation" or "test".
        images: [N, 3, 32, 32] uint8, red, green, blue.
        labels: [N] int64, positions in CLASSES.
        index: [N] int64, each image's position in CIFAR-10's own training or test set.
        is_sample: whether this is the shipped sample instead of the full set.
    """

    name: str
    images: Tensor
    labels: Tensor
    index: Tensor
    is_sample: bool

    def __len__(self) -> int:
        return len(self.images)

    def __str__(self) -> str:
        """For figure titles and tables: says how many images, and that it is the sample if it is."""
        return f"{'SAMPLE, ' if self.is_sample else ''}{len(self):,} {self.name} images"

    def select(self, positions: Tensor, name: str | None = None) -> "Split":
        """The images at these positions of the split, in this order."""
        return Split(
            name or self.name, self.images[positions], self.labels[positions], self.index[positions], self.is_sample
        )


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each colour channel, of images scaled to 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, split: Split) -> "Normalisation":
        """Measures a split; only ever the training split, for anything else would leak into training.

        The sums over uint8 values are exact integers, so every machine gets the same constants.
        """
        if split.name != "training":
            raise ValueError(f"normalisation constants come from the training split only, not from {split.name}")
        values = torch.arange(256, dtype=torch.float64)
        histogram = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in split.images.unbind(1)]).double()
        mean = histogram @ values / histogram.sum(1)
        variance = histogram @ values**2 / histogram.sum(1) - mean**2
        return cls(tuple((mean / 255).tolist()), tuple((variance.sqrt() / 255).tolist()))

    def tensors(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Mean and standard deviation as two [3] float32 tensors."""
        return torch.tensor(self.mean, device=device), torch.tensor(self.std, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] uint8 -> float32: (image in 0 to 1 - mean) / std. No augmentation."""
        mean, std = self.tensors(images.device)
        return (images.float() / 255 - mean[:, None, None]) / std[:, None, None]


def load_training(data_dir: str | Path | None = None, sample: bool | None = None, seed: int = 0) -> tuple[Split, Split]:
    """The training and the validation split: CIFAR-10's training set, divided 90/10.

    Args:
        data_dir: where CIFAR-10 is or is to be downloaded to; if None, the environment variable CIFAR10_DIR, and
            without that the folder data/ beside the notebooks.
        sample: True takes the shipped sample of 4,000 images, False insists on the full set, None takes the full
            set where it is there or can be downloaded in reasonable time and else the sample, and says so.
        seed: of the split, see `split_indices`.

    Raises:
        DataError: with sample=False, when the full set cannot be had.
    """
    whole = _load(True, data_dir, sample)
    training, validation = split_indices(whole.labels, seed)
    return whole.select(training, "training"), whole.select(validation, "validation")


def load_test(data_dir: str | Path | None = None, sample: bool | None = None) -> Split:
    """The test split. It is for the very end: no choice of model, epoch or policy may depend on it.

    Arguments and errors as of `load_training`; the sample has 1,000 test images.
    """
    return _load(False, data_dir, sample)


def split_indices(labels: Tensor, seed: int, validation_fraction: float = 0.1) -> tuple[Tensor, Tensor]:
    """Divides positions into training and validation, with the same share of every class in both (stratified).

    Args:
        labels: [N] int64.
        seed: same seed, same split, on every machine: NumPy freezes RandomState's stream for good (NEP 19).
        validation_fraction: of every class, rounded to whole images.

    Returns:
        Two sorted int64 tensors that together hold every position once.
    """
    rng = np.random.RandomState(seed)
    is_validation = np.zeros(len(labels), dtype=bool)
    for label in range(len(CLASSES)):
        members = np.flatnonzero(labels.numpy() == label)
        is_validation[rng.permutation(members)[: round(len(members) * validation_fraction)]] = True
    return torch.from_numpy(np.flatnonzero(~is_validation)), torch.from_numpy(np.flatnonzero(is_validation))


def _load(train: bool, data_dir: str | Path | None, sample: bool | None) -> Split:
    if not sample:
        directory = Path(data_dir).expanduser() if data_dir else settings.data_directory()
        problem = _problem(directory)
        if not problem:
            full = CIFAR10(directory, train=train)
            images = torch.from_numpy(full.data).permute(0, 3, 1, 2).contiguous()
            return _split(train, images, full.targets, range(len(images)), is_sample=False)
        if sample is False:
            raise DataError(problem)
        print(f"{problem}\nGoing on with the sample that ships with the workshop; figures and tables say SAMPLE.")
    name = "train" if train else "test"
    entry = json.loads((SAMPLE / "index.json").read_text())[name]
    try:
        with Image.open(SAMPLE / f"{name}.webp") as image:
            sheet = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise DataError(f"The sample {SAMPLE / name}.webp is damaged ({error}). Install the workshop again.") from None
    rows, columns = sheet.shape[0] // 32, sheet.shape[1] // 32
    pixels = np.ascontiguousarray(sheet.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2)).reshape(-1, 32, 32, 3)
    if hashlib.sha256(pixels.tobytes()).hexdigest() != entry["sha256"]:
        raise DataError(f"The sample {SAMPLE / name}.webp is damaged. Install the workshop again.")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return _split(train, images, entry["label"], entry["index"], is_sample=True)


def _split(train: bool, images: Tensor, labels, index, is_sample: bool) -> Split:
    return Split("training" if train else "test", images, torch.tensor(labels), torch.tensor(index), is_sample)


@cache  # one try a process: a notebook loads two splits and should not wait for a dead server twice
def _problem(directory: Path) -> str:
    """Why the full set cannot be had, in a sentence or two; empty when it is there, whole and checked."""
    try:
        download.ensure(directory)
        download.check(directory)
    except DataError as error:
        return str(error)
    return ""
