"""What a network says of a split, as one table: computed once, kept as a plain file, checked on entry."""

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_utils.data import CLASSES, Normalisation, Split

COLUMNS = ["split", "index", "true", "predicted"]  # of the file; the ten probabilities follow where they are known


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row an image; every metric is a function of it, and of nothing else.

    Attributes:
        index: [N] int64, each image's position in CIFAR-10's own training or test set, each once.
        labels: [N] int64, true classes, positions in CLASSES.
        probabilities: [N, 10] float32, rows sum to 1; None where only the predicted classes are known.
        predicted: [N] int64; by default the class with the highest probability, the first of equals.
        split: "training", "validation" or "test".

    Raises:
        ValueError: a column has the wrong length, a class is not from 0 to 9, a probability is not a number from 0 to
            1, or a row of them does not sum to 1 (within 0.001, for those saved as 16-bit numbers).
    """

    index: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray | None = None
    predicted: np.ndarray | None = None
    split: str = "test"

    def __post_init__(self) -> None:
        if self.probabilities is not None:
            object.__setattr__(self, "probabilities", _checked_probabilities(self.probabilities))
        if self.predicted is None:
            if self.probabilities is None:
                raise ValueError("predictions need probabilities or predicted classes; there are neither")
            object.__setattr__(self, "predicted", self.probabilities.argmax(1))
        for name, highest in (("labels", 9), ("predicted", 9), ("index", None)):
            object.__setattr__(self, name, _whole_numbers(name, getattr(self, name), highest))
        lengths = {"index": len(self.index), "labels": len(self.labels), "predicted": len(self.predicted)}
        if self.probabilities is not None:
            lengths["probabilities"] = len(self.probabilities)
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns differ in length: {', '.join(f'{k} {n:,}' for k, n in lengths.items())}")
        if len(self.index) == 0:
            raise ValueError("there are no predictions: the table is empty")
        if len(np.unique(self.index)) < len(self.index):
            values, counts = np.unique(self.index, return_counts=True)
            raise ValueError(f"image {values[counts > 1][0]} appears more than once")

    def __len__(self) -> int:
        return len(self.index)

    @property
    def correct(self) -> np.ndarray:
        """[N] bool."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """Share of images whose predicted class is the true one (top-1), 0 to 1."""
        return float(self.correct.mean())

    @property
    def confidence(self) -> np.ndarray:
        """[N] float32: the probability of the predicted class."""
        return self.known_probabilities()[np.arange(len(self)), self.predicted]

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats (negative log-likelihood): that of guessing is ln 10 = 2.303."""
        true = self.known_probabilities()[np.arange(len(self)), self.labels].astype(np.float64)
        return float(0.0 - np.log(np.maximum(true, 1e-12)).mean())  # not -mean: a loss of -0.0 reads odd

    def known_probabilities(self) -> np.ndarray:
        """The probabilities; a ValueError in words where only the predicted classes are known."""
        if self.probabilities is None:
            raise ValueError("these predictions are classes only; this needs the probabilities of all ten")
        return self.probabilities

    def select(self, rows: np.ndarray) -> "Predictions":
        """These rows: positions or a mask."""
        probabilities = None if self.probabilities is None else self.probabilities[rows]
        return Predictions(self.index[rows], self.labels[rows], probabilities, self.predicted[rows], self.split)

    @classmethod
    def of(cls, values, split: Split) -> "Predictions":
        """The predictions of any model, from anywhere, for a split.

        Args:
            values: in the split's order, one entry an image: classes as [N] whole numbers from 0 to 9 or as names, or
                [N, 10] probabilities. A list or an array.
            split: what they are predictions of.

        Raises:
            ValueError: they do not fit the split, or see `Predictions`.
        """
        values = np.asarray(values)
        if len(values.shape) == 0 or len(values) != len(split):
            given = "one value" if values.ndim == 0 else f"{len(values):,} predictions"
            raise ValueError(f"{given} for {split}: one for each image is needed, in the data set's order")
        probabilities = predicted = None
        if values.ndim == 2 and values.dtype.kind in "fiu":
            probabilities = values
        elif values.ndim == 1 and values.dtype.kind in "UO":
            predicted = _from_names(values)
        else:
            predicted = values
        return cls(split.index.numpy(), split.labels.numpy(), probabilities, predicted, split.name)

    def save(self, path: Path) -> None:
        """Writes the table as CSV: `split, index, true, predicted` and, if known, a column for each probability.

        Nine digits give back every float32 as it was. The file appears whole or not at all.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        known = self.probabilities is not None
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS + list(CLASSES) * known)
            for i, row in enumerate(zip(self.index, self.labels, self.predicted)):
                shares = [f"{p:.9g}" for p in self.probabilities[i]] if known else []
                writer.writerow([self.split, *row, *shares])
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Reads what `save` wrote.

        Raises:
            ValueError: not such a file, or its content is not that of predictions; the message names the file.
        """
        with path.open(newline="") as file:
            try:
                header, *rows = list(csv.reader(file))
            except (ValueError, csv.Error):
                raise ValueError(f"{path} is not a table of predictions: it has no lines of text") from None
        if header not in (COLUMNS, COLUMNS + list(CLASSES)):
            raise ValueError(f"{path} is not a table of predictions: its first line is not {','.join(COLUMNS)},...")
        for number, row in enumerate(rows, start=2):
            if len(row) != len(header) or row[0] != rows[0][0]:
                raise ValueError(f"{path}, line {number}: {len(header)} entries of one split are needed")
        try:
            index, labels, predicted = (np.array([int(row[c]) for row in rows]) for c in (1, 2, 3))
            known = len(header) > len(COLUMNS)
            probabilities = np.array([row[4:] for row in rows], np.float32) if known else None
            return cls(index, labels, probabilities, predicted, rows[0][0] if rows else "test")
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path}: {error}") from None


@torch.no_grad()
def network_outputs(network: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """[N, 10] float32 logits on the CPU, in evaluation mode; the mode of every layer is left as found.

    Args:
        batches: [n, 3, 32, 32] float32, normalised; on any device.

    Raises:
        FloatingPointError: an output is infinite or not a number.
    """
    device = next(network.parameters()).device
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        logits = torch.cat([network(batch.to(device)).float() for batch in batches]).cpu()
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not logits.isfinite().all():
        raise FloatingPointError(
            "The network's outputs are not all finite numbers: its training has diverged. Lower the learning rate."
        )
    return logits


def predict(
    network: nn.Module,
    split: Split,
    normalisation: Normalisation,
    batch_size: int = 500,
    averaging: bool = False,
) -> Predictions:
    """Runs the network over a split, without augmentation.

    Args:
        averaging: average the logits of each image, with half of the weight, and of the image shifted by one pixel to
            the upper left and to the lower right; and of the mirror images of these three, unless the network gives
            them the same answers anyway (test-time augmentation, as in airbench, see `model`).

    Raises:
        FloatingPointError: see `network_outputs`.
    """
    device = next(network.parameters()).device

    def outputs(turn) -> Tensor:
        return network_outputs(network, (turn(normalisation(x.to(device))) for x in split.images.split(batch_size)))

    def shifted(x: Tensor, by: int) -> Tensor:
        side = x.shape[-1]
        return F.pad(x, (1, 1, 1, 1), mode="reflect")[..., 1 - by : 1 - by + side, 1 - by : 1 - by + side]

    def both_ways(turn) -> Tensor:
        if getattr(network, "mirror", False):
            return outputs(turn)
        return (outputs(turn) + outputs(lambda x: turn(x).flip(3))) / 2

    if averaging:
        logits = both_ways(lambda x: x) / 2 + sum(both_ways(lambda x, by=by: shifted(x, by)) for by in (-1, 1)) / 4
    else:
        logits = outputs(lambda x: x)
    return Predictions(split.index.numpy(), split.labels.numpy(), logits.softmax(1).numpy(), split=split.name)


def _checked_probabilities(values) -> np.ndarray:
    try:
        p = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise ValueError("probabilities must be numbers, ten for each image") from None
    if p.ndim != 2 or p.shape[1] != len(CLASSES):
        raise ValueError(f"probabilities have the shape {list(p.shape)}; [number of images, {len(CLASSES)}] is needed")
    legal = (p >= 0) & (p <= 1 + 1e-3)  # NaN is neither
    if not legal.all():
        row, column = np.argwhere(~legal)[0]
        raise ValueError(
            f"row {row} has a probability of {p[row, column]:g}; they go from 0 to 1 (are these logits? apply softmax)"
        )
    total = p.sum(1, dtype=np.float64)
    if len(p) and abs(total - 1).max() > 1e-3:
        row = abs(total - 1).argmax()
        raise ValueError(f"the probabilities of row {row} sum to {total[row]:.6g} instead of 1")
    return p


def _whole_numbers(name: str, values, highest: int | None) -> np.ndarray:
    """As [N] int64."""
    x = np.asarray(values)
    if x.ndim != 1:
        raise ValueError(f"{name} has the shape {list(x.shape)}; one whole number for each image is needed")
    wrong = np.ones(len(x), bool)
    if x.dtype.kind in "iuf":
        wrong = ~((x == np.floor(x)) & (x >= 0) & (x <= (2**31 if highest is None else highest)))
    if wrong.any():
        limit = "whole number from 0" + (f" to {highest}" if highest else "")
        raise ValueError(f"{name}[{wrong.argmax()}] is {x[wrong.argmax()].item()!r}; each must be a {limit}")
    return x.astype(np.int64)


def _from_names(values: np.ndarray) -> np.ndarray:
    unknown = [name for name in values.tolist() if name not in CLASSES]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a class; the classes are {', '.join(CLASSES)}")
    return np.array([CLASSES.index(name) for name in values.tolist()])
