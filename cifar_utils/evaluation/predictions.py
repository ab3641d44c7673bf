"""What a network predicts for a data set, as one table: computed once, kept as a plain file, checked on entry."""

import csv
import hashlib
import math
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from itertools import chain
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_utils import data
from cifar_utils.data import Dataset
from cifar_utils.models import uncompiled

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
        model: fingerprint of the network, see `fingerprint`; "" where unknown.

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
        """Mean cross-entropy in nats (negative log-likelihood): that of guessing among C classes is ln C."""
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
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.unlink(missing_ok=True)
        with partial.open("x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*COLUMNS, *self.classes])
            for i, row in enumerate(zip(self.index, self.labels, self.predicted)):
                known = self.probabilities is not None
                cells = [f"{p:.9g}" for p in self.probabilities[i]] if known else [""] * len(self.classes)
                writer.writerow([self.split, *row, *cells])
        os.replace(partial, path)

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
        path = Path(path)
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


# From a network


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer is; the CPU for a model that has none."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the names, shapes, types and values in the model's state_dict: equal for equal networks only."""
    digest = hashlib.sha256()
    for name, value in uncompiled(model).state_dict().items():
        if isinstance(value, Tensor):  # modules may keep other objects as well
            value = value.int_repr() if value.is_quantized else value
            digest.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the duration; afterwards every layer's mode and all random states are as they were.

    Within, random numbers start from a fixed seed, so that a network that draws some (dropout kept on, say) predicts
    the same every time.
    """
    device = device_of(model)
    modes = {module: module.training for module in model.modules()}
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            random.seed(0)
            np.random.seed(0)
            torch.default_generator.manual_seed(0)  # torch.manual_seed would seed other devices as well
            if device.type == "cuda":
                torch.cuda.default_generators[device.index or 0].manual_seed(0)
            model.eval()
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            random.setstate(python)
            np.random.set_state(numpy)


@torch.no_grad()
def outputs(model: nn.Module, batches: Iterable[Tensor], classes: int | None = None) -> Tensor:
    """[N, C] float32 logits on the CPU, in evaluation mode; the model is left as found, see `evaluation_mode`.

    Args:
        model: any network, from [n, 3, S, S] to [n, C]; one compiled as a whole is evaluated uncompiled.
        batches: [n, 3, S, S] float32 in 0 to 1, on any device.
        classes: C, where it is known.

    Raises:
        ValueError: the model fails on such images, or what it returns is not [n, C] logits.
        FloatingPointError: an output is infinite or not a number.
    """
    model = checked_model(model)
    device = device_of(model)
    with evaluation_mode(model):
        logits = torch.cat([_checked_logits(model, batch.to(device), classes).float() for batch in batches]).cpu()
    bad = len(logits) - int(logits.isfinite().all(1).sum())
    if bad:
        raise FloatingPointError(
            f"The network's outputs for {bad:,} of {len(logits):,} images are infinite or not numbers (NaN): its "
            "training may have diverged (a lower learning rate helps), or a layer overflows, divides by zero or takes "
            "the logarithm of zero."
        )
    return logits


def predict(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 500,
    tta: bool | float = False,
    device: torch.device | str | None = None,
) -> Predictions:
    """Runs a network over a data set, without augmentation; the network is left as found.

    Args:
        model: see `outputs`. It is handed float32 images in 0 to 1.
        dataset: what to predict.
        batch_size: images at a time; the predictions do not depend on it but for rounding.
        tta: test-time augmentation: average the logits over the image (half of the weight) and the image shifted by one
            pixel to the upper left and to the lower right, each together with its mirror image (as in K. Jordan's
            airbench, 2024). A network that is built to predict the same for mirror images is spared these. A fraction
            does so for that fraction of the images, those with the lowest confidence: these profit most (Hiverge's
            CIFAR-10 speed run, 2025).
        device: where to compute; by default where the model is. The model returns to its device afterwards.

    Raises:
        ValueError, FloatingPointError: see `outputs`; or the data set is not a Dataset, or tta not from 0 to 1.
    """
    model = checked_model(model)
    check_dataset(dataset)
    check_batch_size(batch_size)
    if not isinstance(tta, (bool, int, float)) or not 0 <= tta <= 1:
        raise ValueError(f"tta is {tta!r}; it must be True, False, or a fraction of the images from 0 to 1")
    home = device_of(model)

    def logits(images: Tensor, turn=lambda x: x) -> Tensor:
        batches = images.split(min(batch_size, len(images)))
        there = device_of(model)
        return outputs(model, (turn(x.to(there).float() / 255) for x in batches), len(dataset.classes))

    def shifted(x: Tensor, by: int) -> Tensor:
        size = x.shape[-1]
        return F.pad(x, (1, 1, 1, 1), mode="reflect")[..., 1 - by : 1 - by + size, 1 - by : 1 - by + size]

    def averaged(images: Tensor, found: Tensor) -> Tensor:
        few = images[:8].to(device_of(model)).float() / 255
        one, other = (outputs(model, [x]) for x in (few, few.flip(3)))
        is_symmetric = (one - other).abs().max() <= 1e-3 * one.std()
        views = [found] + [logits(images, lambda x, by=by: shifted(x, by)) for by in (-1, 1)]
        if not is_symmetric:
            mirrored = [logits(images, lambda x, by=by: shifted(x, by).flip(3)) for by in (0, -1, 1)]
            views = [(a + b) / 2 for a, b in zip(views, mirrored)]
        return views[0] / 2 + views[1] / 4 + views[2] / 4

    try:
        if device is not None:
            model.to(device)
        found = logits(dataset.images)
        if tta:
            unsure = found.softmax(1).amax(1).argsort(stable=True)[: math.ceil(tta * len(found))]
            found[unsure] = averaged(dataset.images[unsure], found[unsure])
    finally:
        if device is not None:
            model.to(home)
    if (found >= 0).all() and torch.allclose(found.sum(1), torch.ones(len(found)), atol=1e-4):
        warnings.warn("the model's outputs are probabilities; leave out the softmax at its end", stacklevel=2)
    columns = dataset.index.numpy(), dataset.labels.numpy(), found.softmax(1).numpy()
    about = {"classes": dataset.classes, "split": dataset.split, "source": dataset.source}
    return Predictions(*columns, **about, model=fingerprint(model))


def classify(
    model: nn.Module,
    photo: str | Path | Image.Image | Tensor,
    classes: Sequence[str],
    *,
    size: int | None = None,
    temperature: float = 1.0,
) -> dict[str, float]:
    """What a network predicts for one photo; the network is left as found.

    Args:
        model: see `outputs`.
        photo: a file, a PIL image or a [3, H, W] uint8 tensor. It is turned upright, cut to its central square and
            resized, see `data.read_image` and `data.square`.
        classes: names, in the order of the model's outputs.
        size: side in pixels of the images that the model was trained on; by default what its `Normalize` layer knows
            of them, or 32.
        temperature: divides the logits, see `calibration.fit_temperature`.

    Returns:
        class -> probability, most probable class first; the probabilities sum to 1.

    Raises:
        DataError: the file is missing or not an image.
        ValueError: the model has another number of classes, or the temperature is not above 0.
        FloatingPointError: see `outputs`.
    """
    model, classes = checked_model(model), checked_classes(classes)
    if size is None:
        size = next((s for layer in model.modules() if (s := getattr(layer, "image_size", None))), 32)
    if size not in range(16, 257):
        raise ValueError(f"size is {size!r}; it must be a whole number of pixels from 16 to 256")
    image = data.square(_pixels(photo), size)
    logits = outputs(model, [image[None].float() / 255], len(classes))[0]
    check_temperature(temperature, fingerprint(model))
    p = (logits.double() / temperature).softmax(0).tolist()
    return {classes[c]: p[c] for c in sorted(range(len(classes)), key=lambda c: -p[c])}


def _pixels(photo: str | Path | Image.Image | Tensor) -> Tensor:
    """[3, H, W] uint8: turned as its EXIF data say, alpha over white."""
    if isinstance(photo, Tensor):
        if photo.dtype != torch.uint8 or photo.ndim != 3 or photo.shape[0] != 3:
            raise ValueError(f"the photo is {list(photo.shape)} of {photo.dtype}; a tensor must be [3, H, W] of uint8")
        return photo.cpu()
    if isinstance(photo, (str, Path)):
        return data.read_image(photo)
    if not isinstance(photo, Image.Image):
        raise ValueError(f"a photo is a path, a PIL image or a tensor, not a {type(photo).__name__}")
    if photo.mode[0] in "IF":
        raise ValueError("the photo has 16 or more bits per pixel and channel; give its file instead")
    photo = ImageOps.exif_transpose(photo)
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return torch.from_numpy(np.array(photo.convert("RGB"))).permute(2, 0, 1)


# Checks


def checked_model(model: nn.Module) -> nn.Module:
    """The network, without the wrapper of `torch.compile`: compiling for evaluation takes longer than it saves.

    Raises:
        ValueError: it is not an nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model is a {type(model).__name__}; a torch.nn.Module is needed")
    return uncompiled(model)


def checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; a ValueError where they are not two or more different names."""
    names = () if isinstance(classes, str) else tuple(classes)
    if len(names) < 2 or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"classes must be two or more different names; they are {str(classes)[:100]}")
    return names


def check_temperature(temperature: float, model: str) -> None:
    """Refuses, by a ValueError, a temperature that is not above 0 or that was fitted on another network's predictions.

    Args:
        temperature: a number, or a `calibration.Temperature`, which knows its network.
        model: fingerprint of the network at hand; "" where it is unknown.
    """
    if not isinstance(temperature, Real) or not 0 < temperature < float("inf"):
        raise ValueError(f"the temperature is {temperature!r}; it must be a number above 0")
    if model and getattr(temperature, "model", "") not in ("", model):
        raise ValueError("the temperature was fitted on the predictions of another network; fit it on this one's")


def check_dataset(dataset) -> None:
    """Raises ValueError: it is not a Dataset."""
    if not isinstance(dataset, Dataset):
        raise ValueError(f"a data.Dataset is needed, as data.cifar10() makes it, not a {type(dataset).__name__}")


def check_batch_size(batch_size) -> None:
    """Raises ValueError: it is not a whole number from 1."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; it must be a whole number from 1")


def _channels_last(model: nn.Module, batch: Tensor) -> Tensor:
    """The outputs for images in the layout in which convolutions are fastest, unless the model fails on it.

    A model may, if it calls `view` on features, where `reshape` or `flatten` copy.
    """
    try:
        return model(batch.contiguous(memory_format=torch.channels_last))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return model(batch)


def _checked_logits(model: nn.Module, batch: Tensor, classes: int | None) -> Tensor:
    try:
        logits = _channels_last(model, batch)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(f"the model fails on images of the shape {list(batch.shape)}: {error}") from error
    needed = f"logits [{len(batch)}, {classes or 'number of classes'}]"
    if not isinstance(logits, Tensor):
        raise ValueError(f"the model returns a {type(logits).__name__}; a tensor of {needed} is needed")
    if logits.ndim != 2 or len(logits) != len(batch) or logits.shape[1] != (classes or logits.shape[1]):
        rows = "one row per image, one column per class"
        raise ValueError(f"the model returns the shape {list(logits.shape)}; {needed} are needed: {rows}")
    if not logits.is_floating_point():
        raise ValueError(f"the model returns numbers of the type {logits.dtype}; floating-point {needed} are needed")
    return logits


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
