"""What a network predicts for a data set, as one table: kept as a plain file, checked on entry."""

import csv
import io
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from cifar_utils import checkpoint
from cifar_utils.data import Dataset

COLUMNS = ["split", "index", "true", "predicted"]  # of the file; one column per class follows
SPLITS = ("training", "validation", "test")
CIFAR10_SIZES = {"training": 50_000, "validation": 50_000, "test": 10_000}  # validation is cut from the training set


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """One row per image; every metric is a function of this table alone.

    Attributes:
        index: [N] int64, each image's position in its source, see `data.Dataset`; no position twice.
        labels: [N] int64, true classes, positions in `classes`.
        probabilities: [N, C] float32, rows sum to 1; None where only the predicted classes are known.
        predicted: [N] int64; by default the class with the highest probability, the first of equals.
        classes: C names.
        split: "training", "validation" or "test".
        source: of the images: "CIFAR-10", "SAMPLE" or a folder's name; "" where unknown.
        model: fingerprint of the network, see `inference.fingerprint`, and test-time augmentation, if any; "" where
            unknown.

    Raises:
        ValueError: a column has the wrong length, a class does not exist, a probability is not a number from 0 to 1, a
            row of them does not sum to 1 (within 0.001, for those saved in 16 bits) or contradicts the predicted
            class, or an index is beyond CIFAR-10's set.
    """

    index: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray | None = None
    predicted: np.ndarray | None = None
    _: KW_ONLY
    classes: Sequence[str]
    split: str = "test"
    source: str = ""
    model: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", checked_classes(self.classes))
        if self.split not in SPLITS:
            raise ValueError(f"there is no split {self.split!r}; one of {', '.join(SPLITS)} is needed")
        if self.probabilities is not None:
            object.__setattr__(self, "probabilities", _checked_probabilities(self.probabilities, len(self.classes)))
        if self.predicted is None:
            if self.probabilities is None:
                raise ValueError("predictions need probabilities or predicted classes; both are missing")
            object.__setattr__(self, "predicted", self.probabilities.argmax(1))
        highest = len(self.classes) - 1
        for name, limit in (("labels", highest), ("predicted", highest), ("index", None)):
            object.__setattr__(self, name, _whole_numbers(name, getattr(self, name), limit))
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
        if self.source in ("CIFAR-10", "SAMPLE") and self.index.max() >= CIFAR10_SIZES[self.split]:
            size = CIFAR10_SIZES[self.split]
            raise ValueError(f"there is no {self.split} image {self.index.max():,}: CIFAR-10 has {size:,}, from 0")
        if self.probabilities is not None:
            # Where rounding made two classes equal, either may be the predicted one.
            below = self.confidence < 0.998 * self.probabilities.max(1)
            if below.any():
                row = below.argmax()
                given, highest = (self.classes[c] for c in (self.predicted[row], self.probabilities[row].argmax()))
                raise ValueError(f"row {row} contradicts itself: predicted {given}, but {highest} is the most probable")

    def __len__(self) -> int:
        return len(self.index)

    def __str__(self) -> str:
        """For titles: always names the split, and the source where it is known."""
        source = {"": "", "SAMPLE": "SAMPLE, "}.get(self.source, f"{self.source}: ")
        return f"{source}{len(self):,} {self.split} image{'s' if len(self) > 1 else ''}"

    def __repr__(self) -> str:
        return f"Predictions({self}, {len(self.classes)} classes, accuracy {self.accuracy:.2%})"

    @property
    def correct(self) -> np.ndarray:
        """[N] bool."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """Fraction of images whose predicted class is the true one (top-1), 0 to 1."""
        return float(self.correct.mean())

    @property
    def confidence(self) -> np.ndarray:
        """[N] float32: the probability of the predicted class."""
        return self.known_probabilities()[np.arange(len(self)), self.predicted]

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats (negative log-likelihood), at most 27.6 for an image (a probability of 1e-12).

        That of guessing among C classes is ln C.
        """
        true = self.known_probabilities()[np.arange(len(self)), self.labels].astype(np.float64)
        return float(0.0 - np.log(np.maximum(true, 1e-12)).mean())  # not -mean: a loss of -0.0 reads odd

    def known_probabilities(self) -> np.ndarray:
        """The probabilities; a ValueError where only the predicted classes are known."""
        if self.probabilities is None:
            raise ValueError("these predictions are classes only; this needs the probability of every class")
        return self.probabilities

    def select(self, rows: np.ndarray) -> "Predictions":
        """These rows: positions or a mask."""
        probabilities = None if self.probabilities is None else self.probabilities[rows]
        columns = {"index": self.index[rows], "labels": self.labels[rows], "predicted": self.predicted[rows]}
        return replace(self, probabilities=probabilities, **columns)

    @classmethod
    def from_array(cls, values, dataset: Dataset) -> "Predictions":
        """The predictions of any model, from anywhere, for a data set.

        Args:
            values: in the data set's order, one entry per image: classes as [N] whole numbers or names, or [N, C]
                probabilities. A list, an array or a tensor.
            dataset: the images that were predicted.

        Raises:
            ValueError: they do not fit the data set, or see `Predictions`.
        """
        check_dataset(dataset)
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            values = values.float() if values.is_floating_point() else values  # NumPy has no bfloat16
        values = np.asarray(values)
        if values.ndim == 0 or len(values) != len(dataset):
            given = "one value" if values.ndim == 0 else f"{len(values):,} predictions"
            raise ValueError(f"{given} for {dataset}: one per image is needed, in the data set's order")
        probabilities = predicted = None
        if values.ndim == 2 and values.dtype.kind in "fiu":
            probabilities = values
        elif values.ndim == 1 and values.dtype.kind in "UO":
            predicted = _from_names(values, dataset.classes)
        else:
            predicted = values
        columns = dataset.index.numpy(), dataset.labels.numpy(), probabilities, predicted
        return cls(*columns, classes=dataset.classes, split=dataset.split, source=dataset.source)

    def save(self, path: str | Path) -> None:
        """Writes the table as CSV in UTF-8: `split, index, true, predicted` and one column of probabilities per class.

        The columns are empty where only the predicted classes are known. Nine digits give back every float32 as it
        was. The file appears whole or not at all, and a link at its place is replaced, not followed.

        Raises:
            CheckpointError: it cannot be written.
        """
        path, text = Path(path).expanduser(), io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow([*COLUMNS, *self.classes])
        for i, row in enumerate(zip(self.index, self.labels, self.predicted)):
            known = self.probabilities is not None
            cells = [f"{p:.9g}" for p in self.probabilities[i]] if known else [""] * len(self.classes)
            writer.writerow([self.split, *row, *cells])
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write(path, text.getvalue().encode())

    @classmethod
    def load(cls, path: str | Path, dataset: Dataset | None = None) -> "Predictions":
        """Reads what `save` wrote, or a .npy file of what `from_array` takes.

        Args:
            path: of a .csv or .npy file.
            dataset: the images that were predicted, all of them. A .csv file is checked against it (index, true
                classes, names of the classes); a .npy file needs it.

        Raises:
            ValueError: there is no such file, it is not a table of predictions, or the predictions are of other images;
                the message names the file.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise ValueError(f"there is no file {path}" if not path.exists() else f"{path} is not a file")
        if dataset is not None:
            check_dataset(dataset)
        try:
            if path.suffix == ".npy":
                if dataset is None:
                    raise ValueError("an array does not say which images it is of; give their data set as well")
                return cls.from_array(_read_array(path), dataset)
            predictions = _read_table(path)
            return predictions if dataset is None else _checked_against(predictions, dataset)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path}: {error}") from None


def _read_table(path: Path) -> Predictions:
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin the file with a byte order mark
        try:
            header, *rows = list(csv.reader(file))
        except (ValueError, csv.Error):
            raise ValueError("this is not a table of predictions: it has no lines of text") from None
    if header[: len(COLUMNS)] != COLUMNS:
        raise ValueError(f"this is not a table of predictions: its first line is not {','.join(COLUMNS)},...")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header) or row[0] != rows[0][0]:
            raise ValueError(f"line {number}: {len(header)} entries of one split are needed")
    index, labels, predicted = (np.array([int(row[c]) for row in rows]) for c in (1, 2, 3))
    known = any(any(row[4:]) for row in rows)
    probabilities = np.array([row[4:] for row in rows], np.float32) if known else None
    split = rows[0][0] if rows else "test"
    return Predictions(index, labels, probabilities, predicted, classes=header[4:], split=split)


def _read_array(path: Path) -> np.ndarray:
    try:
        # Mapped, not read: a header that promises more rows than the file holds is refused before memory is allocated.
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises whatever a damaged header leads it to
        raise ValueError(f"this is not an array as numpy.save writes it ({error})") from None
    if not isinstance(values, np.ndarray):
        raise ValueError("this is an archive of arrays; one array as numpy.save writes it is needed")
    return values


def _checked_against(predictions: Predictions, dataset: Dataset) -> Predictions:
    """The predictions, now with the data set's source; a ValueError where they are not of all its images."""
    if predictions.classes != tuple(dataset.classes):
        raise ValueError(f"its classes are not those of {dataset}, or their order differs")
    order = np.argsort(dataset.index.numpy())
    index, labels = dataset.index.numpy()[order], dataset.labels.numpy()[order]
    rows = np.argsort(predictions.index)
    if predictions.split != dataset.split or not np.array_equal(predictions.index[rows], index):
        raise ValueError(f"these are predictions for {predictions}, but not for exactly the images of {dataset}")
    wrong = np.flatnonzero(predictions.labels[rows] != labels)
    if len(wrong):
        raise ValueError(f"its true classes are not those of {dataset}: image {index[wrong[0]]} has another one")
    return replace(predictions, source=dataset.source)


def checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; a ValueError where they are not two or more different names."""
    names = () if isinstance(classes, str) else tuple(classes)
    if len(names) < 2 or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"classes must be two or more different names; they are {str(classes)[:100]}")
    return names


def check_dataset(dataset) -> None:
    """Raises ValueError: it is not a Dataset."""
    if not isinstance(dataset, Dataset):
        raise ValueError(f"a data.Dataset is needed, as data.cifar10() makes it, not a {type(dataset).__name__}")


def _checked_probabilities(values, classes: int) -> np.ndarray:
    try:
        p = np.array(values, dtype=np.float32)  # a copy: what was checked stays as it is
    except (TypeError, ValueError):
        raise ValueError("probabilities must be numbers, one per image and class") from None
    if p.ndim != 2 or p.shape[1] != classes:
        raise ValueError(f"probabilities have the shape {list(p.shape)}; [number of images, {classes}] is needed")
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
        raise ValueError(f"{name} has the shape {list(x.shape)}; one whole number per image is needed")
    wrong, most = np.ones(len(x), bool), 2**31 if highest is None else highest
    if x.dtype.kind in "iuf":
        wrong = ~((x == np.floor(x)) & (x >= 0) & (x <= most))
    elif x.dtype.kind == "O":  # so NumPy stores numbers beyond 64 bits
        wrong = np.array([not isinstance(value, int) or not 0 <= value <= most for value in x])
    if wrong.any():
        limit = "whole number from 0" + (f" to {highest}" if highest else "")
        raise ValueError(f"{name}[{wrong.argmax()}] is {x.tolist()[wrong.argmax()]!r}; each must be a {limit}")
    return x.astype(np.int64)


def _from_names(values: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    places = {name: place for place, name in enumerate(classes)}
    unknown = [name for name in values.tolist() if name not in places]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a class; the classes are {', '.join(classes)}")
    return np.array([places[name] for name in values.tolist()])
