"""Images as uint8 tensors: CIFAR-10, the sample that ships with the workshop, or a folder of your own.

A whole data set is in memory, so a batch is `dataset.images[positions]`, without worker processes.
"""

import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cifar_utils import download, settings
from cifar_utils.files import ArrayUnpickler, DataError, find_images, read_checked, read_image, square
from cifar_utils.progress import bar

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SAMPLE = Path(__file__).parent / "sample"
_told: set[str] = set()  # why the full set could not be had


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labeled images. A data set checks itself when made; its ValueError says what is wrong and what to do.
    Labels in another order than the images and blue-green-red channels cannot be recognized: look at some images."""

    images: Tensor  # [N, 3, S, S] uint8, red, green, blue; S from 16 to 256
    labels: Tensor  # [N] int64, positions in `classes`
    classes: tuple[str, ...]  # 2 to 1,000 different names
    index: Tensor | None = None  # [N] int64, each image's own position in its source; None for 0 to N - 1
    split: str = "training"  # or "validation" or "test"
    source: str = "images"  # "CIFAR-10", "SAMPLE", or the name of a folder
    seed: int | None = None  # of the `split` that made this data set
    held_out: Tensor | None = None  # [N] bool, the images that the source reserves for validation, see `split`

    size = property(lambda self: self.images.shape[-1], doc="Height and width of the images in pixels.")
    is_sample = property(lambda self: self.source == "SAMPLE")

    def __post_init__(self) -> None:
        if self.index is None and isinstance(self.labels, Tensor):
            object.__setattr__(self, "index", torch.arange(self.labels.numel()))
        if problem := _class_problem(self.classes) or _problem(self):
            raise ValueError(problem)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        """For figure titles and tables: how many images of which source, and whether they are the sample."""
        prefix = {"CIFAR-10": "", "SAMPLE": "SAMPLE, "}.get(self.source, f"{self.source}: ")
        return f"{prefix}{len(self):,} {self.split} image{'s' if len(self) > 1 else ''}"

    def select(self, positions: Tensor | list[int], split: str | None = None) -> "Dataset":
        """The images at these positions (or where this [N] bool mask is True), in this order.

        Raises:
            ValueError: a position is beyond the last image, the mask has another length, or no image is selected.
        """
        names = ("images", "labels", "index", "held_out")
        try:
            chosen = torch.as_tensor(positions)
            values = {name: value[chosen] for name in names if (value := getattr(self, name)) is not None}
        except (IndexError, RuntimeError, TypeError, ValueError):
            what = f"whole numbers from 0 to {len(self) - 1}, or a mask of {len(self)} bools"
            raise ValueError(f"positions must be {what}") from None
        if not values["labels"].numel():
            raise ValueError(f"no image is selected of {self}")
        return replace(self, **values, split=split or self.split)

    def fingerprint(self) -> str:
        """SHA-256 of pixels and labels."""
        sha = hashlib.sha256(self.images.contiguous().numpy().data)
        sha.update(self.labels.contiguous().numpy().data)
        return sha.hexdigest()


def _problem(d: Dataset) -> str:
    """What is wrong with the tensors and what to do about it, or an empty string."""
    for name, dtype, dimensions, cure in (
        ("images", torch.uint8, 4, "images in 0 to 1 become bytes by (255 * images).round().to(torch.uint8)"),
        ("labels", torch.int64, 1, "class numbers are converted by torch.as_tensor(labels).long()"),
        ("index", torch.int64, 1, "positions are converted by torch.as_tensor(index).long()"),
        ("held_out", torch.bool, 1, "zeros and ones are converted by torch.as_tensor(held_out).bool()"),
    ):
        value = getattr(d, name)
        if value is None and name == "held_out":
            continue
        wanted, found = f"{dtype} with {dimensions} dimensions on cpu", f"a {type(value).__name__}"
        if isinstance(value, Tensor):
            found = f"{value.dtype} with {value.ndim} dimensions on {value.device.type}"
        if found != wanted:
            return f"{name} must be a tensor, {wanted}, not {found}; {cure}"
        if not 0 < len(value) == len(d):
            return f"there must be images and as many {name}, not {len(d):,} images and {len(value):,} {name}"
    _, channels, height, width = d.images.shape
    low, high = d.labels.min().item(), d.labels.max().item()
    faults = {
        "images must be [N, 3, S, S], not [N, S, S, 3]; use images.permute(0, 3, 1, 2)": width == 3 != channels,
        f"images must have 3 channels, not {channels}; repeat gray by images.expand(-1, 3, -1, -1)": channels != 3,
        f"images must be square, not {height} x {width} pixels; crop each by data.square": height != width,
        f"images must be 16 to 256 pixels wide, not {width}; resize each by data.square": not 16 <= width <= 256,
        f"labels must be 0 to {len(d.classes) - 1}, not {low} to {high}": low < 0 or high >= len(d.classes),
        "index must be each image's own position, not repeated or negative": (
            len(d.index.unique()) < len(d) or d.index.min() < 0
        ),
        f"split must be training, validation or test, not {d.split}": d.split not in ("training", "validation", "test"),
    }
    return next((problem for problem, is_there in faults.items() if is_there), "")


def _class_problem(classes: tuple[str, ...]) -> str:
    if not isinstance(classes, tuple) or not all(isinstance(name, str) for name in classes):
        return "classes must be a tuple of names"
    if unprintable := [name for name in classes if not (name.strip() and name.isprintable())]:
        return f"the class {unprintable[0]!r} has no name that can be printed; rename it"
    if not 2 <= len(classes) <= 1000:
        return f"there must be 2 to 1,000 classes, not {len(classes):,}"
    folded = sorted((name.casefold(), name) for name in classes)
    twins = [f"{a!r} and {b!r}" for (fold, a), (other, b) in zip(folded, folded[1:]) if fold == other]
    return f"the classes {twins[0]} are the same but for upper and lower case; rename one" if twins else ""


def beyond_0_to_1(images: Tensor) -> str:
    """The range of float images [3, H, W], one or many, if they were normalized or never divided by 255; else ""."""
    low, high = (x.item() for x in images.detach().aminmax())
    return "" if low >= -0.5 and high <= 1.5 else f"{low:.3g} to {high:.3g}"  # some transforms leave 0 to 1 by a little


def cifar10(train: bool = True, sample: bool | None = None, directory: str | Path | None = None) -> Dataset:
    """CIFAR-10's training set, to be divided by `split`, or its test set, on which no choice may depend.

    Args:
        sample: True for the sample of 4,000 and 1,000 images that ships with the workshop, False for the full set,
            None for the full set if it is there or can be downloaded, otherwise for the sample, and a line says so.
        directory: the data directory, see `settings.in_project`; if None, CIFAR10_DIR, and without that the folder
            data/ beside the notebooks.

    Raises:
        DataError: the full set cannot be had with sample=False, or the sample is damaged.
        ValueError: train is neither True nor False.
    """
    if not isinstance(train, bool):
        raise ValueError(f"train is {train!r}; it must be True for the training set, or False for the test set")
    name = "training" if train else "test"
    directory = settings.data_directory(directory)
    try:
        if not sample:
            return Dataset(*_full(directory, train), CIFAR10_CLASSES, split=name, source="CIFAR-10")
    except DataError as error:
        if sample is False:
            raise
        reason = f"{error}\n" if str(error) not in _told else ""  # once, for training and test images
        print(f"{reason}Continuing with the sample that ships with the workshop; figures and tables say SAMPLE.")
        _told.add(str(error))
    sheet = SAMPLE / ("train.webp" if train else "test.webp")
    try:
        entry = json.loads((SAMPLE / "index.json").read_text())[sheet.stem]
        pixels = read_image(sheet).unfold(1, 32, 32).unfold(2, 32, 32).permute(1, 2, 3, 4, 0).reshape(-1, 32, 32, 3)
        if hashlib.sha256(pixels.numpy().data).hexdigest() != entry["sha256"]:
            raise DataError("The pixels are not those of CIFAR-10.")
    except (OSError, ValueError, KeyError, DataError):
        raise DataError(f"The sample {sheet} is damaged. Install the workshop again.") from None
    images, labels, index = pixels.permute(0, 3, 1, 2).contiguous(), torch.tensor(entry["label"]), entry["index"]
    return Dataset(images, labels, CIFAR10_CLASSES, torch.tensor(index), name, "SAMPLE")


def _full(directory: Path, train: bool) -> tuple[Tensor, Tensor]:
    download.ensure(directory)
    images, labels = [], []
    for name, md5 in download.MD5.items():  # all are checked, so that training and test images are there, or neither
        path = download.folder(directory) / name
        content = read_checked(path, md5)
        if name.startswith("data_batch" if train else "test_batch"):
            try:
                batch = ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
                images.append(torch.from_numpy(batch["data"].reshape(-1, 3, 32, 32)))
                labels.append(torch.tensor(batch["labels"], dtype=torch.int64))
            except Exception as error:  # unpickling raises whatever a file leads it to
                raise DataError(f"{path} holds no images ({error}). Delete the folder {path.parent}.") from None
    return torch.cat(images), torch.cat(labels)


def split(dataset: Dataset, fraction: float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Divides a training set into training and validation, with the same fraction of every class (stratified).

    Args:
        dataset: if it has `held_out` images, those are the validation images; fraction and seed are not used.
        fraction: of every class, 0 to 1, rounded; at least one image goes into validation, and one stays in training.
        seed: same seed, same split, on every machine: NumPy freezes RandomState's stream for good (NEP 19).

    Raises:
        ValueError: not a training set, a class of a single image, all or none of the images held out, or a fraction or
            seed out of range.
    """
    if dataset.split != "training":
        raise ValueError(f"only training images are split, not {dataset}")
    mask = dataset.held_out
    if mask is None:
        if not (isinstance(fraction, float) and 0 < fraction < 1 and isinstance(seed, int) and 0 <= seed < 2**32):
            wanted = "fraction must be within 0 to 1, and seed an int from 0 to 2**32 - 1"
            raise ValueError(f"{wanted}, not {fraction}, {seed}")
        mask, random = torch.zeros(len(dataset), dtype=torch.bool), np.random.RandomState(seed)
        for label in dataset.labels.unique().tolist():
            members = np.flatnonzero(dataset.labels.numpy() == label)
            if len(members) == 1:
                name = dataset.classes[label]
                raise ValueError(f"the class {name} has a single image, but training and validation need one each")
            count = min(max(round(len(members) * fraction), 1), len(members) - 1)
            mask[random.permutation(members)[:count]] = True
    if mask.all() or not mask.any():
        raise ValueError(f"of {dataset}, {'all' if mask.all() else 'none'} are held out for validation; select others")
    whole = replace(dataset, seed=seed if dataset.held_out is None else None, held_out=None)
    return whole.select(~mask), whole.select(mask, "validation")


def from_folder(path: str | Path, size: int = 32, train: bool = True) -> Dataset:
    """Your own images, cropped and resized by `square`, from a folder with one sub-folder of images per class.

    Sub-folders train/ and val/ or test/, each with the folders of the classes, are the splits if they are there.
    Hidden files, and those whose names do not end as an image's, are left out, and one line names them.

    Args:
        size: height and width of the images, 16 to 256.
        train: True for the training images (with those of val/ as `held_out`), False for those of test/.

    Raises:
        DataError: names the file or folder that is missing, damaged or out of place, or the memory needed.
        ValueError: the size is out of range.
    """
    root = Path(path).expanduser().absolute()
    if not isinstance(size, int) or not 16 <= size <= 256:
        raise ValueError(f"size must be a whole number of pixels from 16 to 256, not {size}")
    images_of, left_out = find_images(root)
    classes = tuple(name for part, name in images_of if part == "train")
    if problem := _class_problem(classes):
        hint = "; each is a sub-folder with images" if len(classes) < 2 else ""
        raise DataError(f"{root}: {problem}{hint}.")
    files = [(f, classes.index(n), p) for (p, n), fs in images_of.items() if train == (p != "test") for f in fs]
    if not files:
        raise DataError(f"{root} has no folder test/ with test images beside a folder train/.")
    needed, free = 2 * len(files) * 3 * size**2 / 1e9, settings.free_memory() / 1e9  # twice: `split` copies them
    if needed > free:
        what = f"{len(files):,} images of {size} x {size} pixels need {needed:,.1f} GB of memory, {free:,.1f} are free"
        raise DataError(f"{root}: {what}. Take a smaller size or fewer images.")
    if left_out:
        names = ", ".join(str(entry.relative_to(root)) for entry in left_out[:9])
        names += ", ..." if len(left_out) > 9 else ""
        print(f"{root.name}: {len(left_out)} left out (hidden, or not an image): {names}")
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    with ThreadPoolExecutor(4) as pool, bar(len(files), f"Reading {root.name}", " images", delay=2) as progress:
        for i, image in enumerate(pool.map(lambda file: square(read_image(file[0]), size), files)):
            images[i] = image
            progress.update()
    labels, held_out = (torch.tensor(values) for values in zip(*((label, part == "val") for _, label, part in files)))
    source = root.name if root.name not in ("", "CIFAR-10", "SAMPLE") else f"folder {root.name}"
    held_out = held_out if held_out.any() else None
    return Dataset(images, labels, classes, None, "training" if train else "test", source, held_out=held_out)


def has_test_folder(path: str | Path) -> bool:
    """Whether `from_folder` finds a folder test/ with test images there.

    Raises:
        DataError: see `files.find_images`.
    """
    return any(part == "test" for part, _ in find_images(Path(path).expanduser().absolute())[0])
