"""Data sets that check themselves, CIFAR-10 and its sample, and the division into training and validation images."""

import hashlib
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import CIFAR10

from cifar_utils import data, download, runs
from cifar_utils.data import CIFAR10_CLASSES, DataError, Dataset, cifar10, split

IMAGES = torch.arange(8 * 3 * 16 * 16).remainder(251).to(torch.uint8).view(8, 3, 16, 16)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
CLASSES = ("cat", "dog", "horse")


def dataset(labels: torch.Tensor, classes: int = 10, **values) -> Dataset:
    """A data set of these labels and of gray images."""
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8).expand(len(labels), -1, -1, -1)
    return Dataset(images, labels, tuple(f"class {i}" for i in range(classes)), **values)


@pytest.fixture(scope="module", params=["sample", pytest.param("full", marks=pytest.mark.full_data)])
def splits(request) -> SimpleNamespace:
    """All three splits, of the sample and of the full set, and how many images they should have."""
    sample = request.param == "sample"
    directory = None if sample else request.getfixturevalue("full_data")
    training, validation = split(cifar10(True, sample, directory))
    sizes = (3_600, 400, 1_000) if sample else (45_000, 5_000, 10_000)
    return SimpleNamespace(
        training=training, validation=validation, test=cifar10(False, sample, directory), sizes=sizes, sample=sample
    )


def each(splits):
    return splits.training, splits.validation, splits.test


# A data set checks itself


def test_a_data_set_knows_its_size_source_and_length():
    d = Dataset(IMAGES, LABELS, CLASSES)
    assert (len(d), d.size, d.split, d.source, d.is_sample, d.seed, d.held_out) == (
        8,
        16,
        "training",
        "images",
        False,
    ) + (None,) * 2
    assert torch.equal(d.index, torch.arange(8))
    assert str(d) == repr(d) == "images: 8 training images"
    assert str(replace(d, source="CIFAR-10", split="test")) == "8 test images"
    assert str(replace(d, source="SAMPLE")) == "SAMPLE, 8 training images" and replace(d, source="SAMPLE").is_sample
    assert str(d.select([3], "validation")) == "images: 1 validation image"
    with pytest.raises(AttributeError):
        d.labels = LABELS + 1


@pytest.mark.parametrize(
    "fault, said",
    [
        ({"images": IMAGES.numpy()}, "images must be a tensor, .*, not a ndarray"),
        ({"images": IMAGES.tolist()}, "images must be a tensor, .*, not a list"),
        ({"images": IMAGES / 255}, r"images must be .*uint8.*, not torch.float32.*255 \* images"),
        ({"images": IMAGES.double()}, "not torch.float64"),
        ({"images": IMAGES.permute(0, 2, 3, 1)}, r"permute\(0, 3, 1, 2\)"),
        ({"images": IMAGES[:, 0]}, "4 dimensions on cpu, not torch.uint8 with 3 dimensions"),
        ({"images": IMAGES[:, :1]}, "must have 3 channels, not 1; repeat gray"),
        ({"images": IMAGES.repeat(1, 2, 1, 1)}, "must have 3 channels, not 6"),
        ({"images": torch.zeros(8, 3, 16, 17, dtype=torch.uint8)}, "must be square, not 16 x 17"),
        ({"images": IMAGES[..., :15, :15]}, "must be 16 to 256 pixels wide, not 15"),
        (
            {"images": torch.zeros(1, 3, 257, 257, dtype=torch.uint8).expand(8, -1, -1, -1)},
            "16 to 256 pixels wide, not 257",
        ),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "there must be images"),
        ({"images": IMAGES.to("meta")}, "on cpu, not .* on meta"),
        ({"images": None}, "images must be a tensor, .*, not a NoneType"),
        ({"labels": LABELS.int()}, r"labels must be .*int64.*, not torch.int32.*long\(\)"),
        ({"labels": LABELS.float()}, "not torch.float32"),
        ({"labels": LABELS.tolist()}, "labels must be a tensor, .*, not a list"),
        ({"labels": LABELS.numpy()}, "labels must be a tensor, .*, not a ndarray"),
        (
            {"labels": torch.nn.functional.one_hot(LABELS)},
            "with 1 dimensions on cpu, not torch.int64 with 2 dimensions",
        ),
        ({"labels": LABELS + 1}, "labels must be 0 to 2, not 1 to 3"),
        ({"labels": LABELS - 100}, "labels must be 0 to 2, not -100 to -98"),
        ({"labels": LABELS[:7], "index": None}, "as many labels, not 8 images and 7 labels"),
        ({"labels": LABELS.repeat(2), "index": None}, "not 8 images and 16 labels"),
        ({"index": torch.zeros(8, dtype=torch.int64)}, "index must be each image's own position, not repeated"),
        ({"index": torch.tensor([0, 1, 2, 3, 4, 5, 6, 6])}, "not repeated or negative"),
        ({"index": torch.arange(8) - 1}, "not repeated or negative"),
        ({"index": torch.arange(9)}, "8 images and 9 index"),
        ({"index": torch.arange(8.0)}, "index must be a tensor, torch.int64"),
        ({"held_out": LABELS}, "held_out must be a tensor, torch.bool"),
        ({"held_out": LABELS[:3] > 0}, "8 images and 3 held_out"),
        ({"split": "train"}, "split must be training, validation or test, not train"),
        ({"split": None}, "split must be training, validation or test, not None"),
        ({"classes": ("cat", "dog", "cat")}, "'cat' and 'cat' are the same"),
        ({"classes": ("cat", "dog", "Cat")}, "'Cat' and 'cat' are the same but for upper and lower case"),
        ({"classes": ("straße", "dog", "STRASSE")}, "are the same but for upper and lower case"),
        ({"classes": ("cat", "dog", "")}, "the class '' has no name that can be printed"),
        ({"classes": ("cat", "dog", "a\nb")}, "has no name that can be printed; rename it"),
        ({"classes": ("cat", "dog", 3)}, "must be a tuple of names"),
        ({"classes": "catdog"}, "must be a tuple of names"),
        ({"classes": ["cat", "dog", "horse"]}, "must be a tuple of names"),
        ({"classes": 3}, "must be a tuple of names"),
        ({"classes": ("cat",), "labels": LABELS * 0}, "2 to 1,000 classes, not 1"),
        ({"classes": ()}, "2 to 1,000 classes, not 0"),
        ({"classes": tuple(map(str, range(1001)))}, "2 to 1,000 classes, not 1,001"),
    ],
)
def test_a_faulty_data_set_is_refused_in_one_sentence(fault, said):
    values = {"images": IMAGES, "labels": LABELS, "classes": CLASSES, "index": torch.arange(8)}
    Dataset(**values)
    with pytest.raises(ValueError, match=said) as error:
        Dataset(**values | fault)
    assert "\n" not in str(error.value) and len(str(error.value)) < 220


def test_select_keeps_image_label_index_and_mask_together(splits):
    d = replace(splits.test, held_out=splits.test.labels > 4)
    positions = torch.tensor([950, 3, 17])
    for chosen in (d.select(positions), d.select(positions.tolist()), d.select(np.array([950, 3, 17]))):
        assert (chosen.split, len(chosen), chosen.is_sample) == ("test", 3, splits.sample)
        for attribute in ("images", "labels", "index", "held_out"):
            assert torch.equal(getattr(chosen, attribute), getattr(d, attribute)[positions])
    assert torch.equal(d.select(d.held_out).index, d.index[d.held_out])
    for wrong in ([3, 3], [], d.labels > 100):  # one image twice, and none at all
        with pytest.raises((ValueError, IndexError)):
            d.select(wrong)


def test_the_fingerprint_is_that_of_pixels_and_labels():
    d = Dataset(IMAGES, LABELS, CLASSES)
    expected = hashlib.sha256(IMAGES.numpy().tobytes() + LABELS.numpy().tobytes()).hexdigest()
    other_layout = IMAGES.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert d.fingerprint() == expected == Dataset(other_layout, LABELS, CLASSES).fingerprint()
    changed = IMAGES.clone()
    changed[7, 2, 15, 15] ^= 1
    others = [Dataset(changed, LABELS, CLASSES), Dataset(IMAGES, LABELS.flip(0), CLASSES), d.select([*range(7)])]
    assert len({expected, *(other.fingerprint() for other in others)}) == 4


# CIFAR-10 and its sample


@pytest.fixture(scope="module")
def originals(full_data) -> dict[bool, CIFAR10]:
    return {train: CIFAR10(full_data, train=train) for train in (True, False)}


def test_splits_are_balanced_uint8_images(splits):
    assert tuple(map(len, each(splits))) == splits.sizes
    for part, name, seed in zip(each(splits), ("training", "validation", "test"), (0, 0, None)):
        assert (part.split, part.is_sample, part.seed) == (name, splits.sample, seed)
        assert part.source == ("SAMPLE" if splits.sample else "CIFAR-10") and part.classes == CIFAR10_CLASSES
        assert str(part) == f"{'SAMPLE, ' if splits.sample else ''}{len(part):,} {name} images"
        assert part.images.shape == (len(part), 3, 32, 32) and part.images.dtype == torch.uint8
        assert part.images.is_contiguous() and part.labels.dtype == part.index.dtype == torch.int64
        assert part.labels.bincount().tolist() == [len(part) // 10] * 10


@pytest.mark.full_data
def test_images_and_labels_are_those_of_cifar10_at_their_index(splits, originals):
    for part in each(splits):
        original = originals[part.split != "test"]
        expected = torch.from_numpy(original.data[part.index]).permute(0, 3, 1, 2)
        assert torch.equal(part.images, expected)
        assert torch.equal(part.labels, torch.tensor(original.targets)[part.index])
    assert tuple(original.classes) == CIFAR10_CLASSES


def test_training_and_validation_share_no_image_and_leave_none_out(splits):
    entry = json.loads((data.SAMPLE / "index.json").read_text())["train"]
    positions = torch.cat([splits.training.index, splits.validation.index]).tolist()
    assert sorted(positions) == (sorted(entry["index"]) if splits.sample else list(range(50_000)))


def test_no_image_is_there_twice(splits):
    """Pixel for pixel the 60,000 images of CIFAR-10 all differ, so nothing of one split is in another."""
    hashes = [hashlib.sha256(image.tobytes()).digest() for part in each(splits) for image in part.images.numpy()]
    assert len(set(hashes)) == len(hashes) == sum(splits.sizes)


@pytest.mark.full_data
def test_no_network_that_was_trained_on_the_full_set_has_seen_the_sample(full_data):
    """So the sample's images are honest validation images for it, as notebooks 1, 4 and 7 and exercise 1.4 use them."""
    _, val = split(cifar10(sample=False, directory=full_data))
    sample = cifar10(sample=True)
    assert torch.isin(sample.index, val.index).all() and val.seed == 0
    assert runs.about(runs.SHIPPED)["settings"]["data"]["validation"] == val.fingerprint()


def test_the_sample_is_small():
    assert sum(path.stat().st_size for path in data.SAMPLE.iterdir()) < 10_000_000


def change_a_pixel(sheet: Path, bits: int = 1):
    pixels = np.asarray(Image.open(sheet)).copy()
    pixels[100, 100] ^= bits
    Image.fromarray(pixels).save(sheet, lossless=True, quality=0, method=0)


@pytest.mark.parametrize(
    "damage",
    [
        change_a_pixel,
        Path.unlink,
        lambda sheet: sheet.write_bytes(b""),
        lambda sheet: sheet.write_bytes(sheet.read_bytes()[:100_000]),
        lambda sheet: (sheet.parent / "index.json").write_text("{}"),
        lambda sheet: (sheet.parent / "index.json").write_text("["),
    ],
    ids=["pixel", "missing", "empty", "cut", "no entry", "no index"],
)
def test_a_damaged_sample_is_refused(damage, tmp_path, monkeypatch):
    for name in ("index.json", "test.webp"):
        (tmp_path / name).write_bytes((data.SAMPLE / name).read_bytes())
    monkeypatch.setattr(data, "SAMPLE", tmp_path)
    change_a_pixel(tmp_path / "test.webp", bits=0)
    assert len(cifar10(False, sample=True)) == 1_000
    with pytest.raises(ValueError, match="train is 'test'; it must be True for the training set, or False"):
        cifar10("test", sample=True)
    damage(tmp_path / "test.webp")
    with pytest.raises(DataError, match=r"test\.webp is damaged\. Install the workshop again\."):
        cifar10(False, sample=True)


def test_training_never_touches_the_test_sheet(monkeypatch):
    opened, really_open = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path, **options: opened.append(Path(path).name) or really_open(path))
    cifar10(sample=True)
    assert opened == ["train.webp"]
    cifar10(False, sample=True)
    assert opened == ["train.webp", "test.webp"]


def test_training_never_unpickles_the_test_batch(imitation, tmp_path, monkeypatch):
    """Neither batches.meta, nor any batch with the ordinary unpickler."""
    loaded, contents = [], {content: name for name, content in imitation.files.items()}
    really = data.ArrayUnpickler

    def unpickler(file, **options):
        loaded.append(contents[file.getvalue()])
        return really(file, **options)

    monkeypatch.setattr(data, "ArrayUnpickler", unpickler)
    monkeypatch.setattr(pickle, "load", None)
    monkeypatch.setattr(pickle, "loads", None)
    imitation.write(tmp_path)
    assert list(map(len, split(cifar10(directory=tmp_path)))) == [90, 10]
    assert loaded == [f"data_batch_{i}" for i in range(1, 6)]
    loaded.clear()
    assert len(cifar10(False, directory=str(tmp_path))) == 20
    assert loaded == ["test_batch"]


@pytest.fixture
def no_network(monkeypatch) -> str:
    """An address where no server listens."""
    url = "http://127.0.0.1:9/cifar-10-python.tar.gz"
    monkeypatch.setenv("CIFAR10_MIRROR", url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return url


def test_without_data_and_network_the_sample_steps_in(no_network, imitation, tmp_path, capsys):
    data._told.clear()
    for train in (True, False):
        assert str(cifar10(train, directory=tmp_path)).startswith("SAMPLE, ")
        output = capsys.readouterr().out
        assert (f"could not be downloaded: {no_network} failed (" in output) == train  # the reason is given once
        assert "Continuing with the sample" in output
    with pytest.raises(DataError, match="could not be downloaded"):
        cifar10(sample=False, directory=tmp_path)
    imitation.write(tmp_path)  # what was missing a moment ago is found as soon as it is there
    assert len(cifar10(directory=tmp_path)) == 100


def test_data_that_vanish_or_are_damaged_between_two_loads(no_network, imitation, tmp_path):
    imitation.write(tmp_path)
    assert len(cifar10(sample=False, directory=tmp_path)) == 100
    batch = download.folder(tmp_path) / "data_batch_2"
    batch.write_bytes(b"")
    for train in (True, False):  # a damaged training file also stops the test set: both sets are there, or neither
        with pytest.raises(DataError, match="data_batch_2 is damaged"):
            cifar10(train, False, tmp_path)
    for path in download.folder(tmp_path).iterdir():
        path.unlink()
    with pytest.raises(DataError, match="batches.meta is missing"):
        cifar10(sample=False, directory=tmp_path)
    download.folder(tmp_path).rmdir()
    with pytest.raises(DataError, match="could not be downloaded"):
        cifar10(sample=False, directory=tmp_path)


def test_the_sample_needs_no_data_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "ensure", None)
    monkeypatch.chdir(tmp_path)
    cifar10(sample=True, directory=tmp_path / "data")
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "argument, variable, inside, expected",
    [
        ("given", "set", "", "project/given"),
        ("~/given", "~/set", "", "home/given"),
        (Path("~/given"), None, "notebooks", "home/given"),
        (None, "~/set", "notebooks", "home/set"),
        (None, "set", "", "project/set"),
        (None, "set", "notebooks", "project/set"),
        (None, None, "", "project/data"),
        (None, "", "", "project/data"),
        (None, None, "notebooks", "project/data"),
    ],
)
def test_where_the_data_is_looked_for(argument, variable, inside, expected, tmp_path, monkeypatch):
    """The argument, else CIFAR10_DIR, else data/ in the project's folder, be it from there or from notebooks/."""
    (tmp_path / "project" / "notebooks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / inside)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("CIFAR10_DIR", raising=False)
    if variable is not None:
        monkeypatch.setenv("CIFAR10_DIR", variable)
    asked = []

    def ensure(directory):
        asked.append(directory)
        raise DataError("not there")

    monkeypatch.setattr(download, "ensure", ensure)
    with pytest.raises(DataError, match="not there"):
        cifar10(sample=False, directory=argument)
    assert asked == [Path(expected) if expected in ("given", "set") else tmp_path / expected]


# Batches are parsed without running what they name


class Payload:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


NAMES = ["batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_never_unpickled(name, imitation, tmp_path):
    crater, path = tmp_path / "crater", download.folder(tmp_path) / name
    imitation.write(tmp_path)
    path.write_bytes(pickle.dumps(Payload(crater)))
    for train in (True, False):
        with pytest.raises(DataError, match=f"{name} is damaged"):
            cifar10(train, False, tmp_path)
    assert not crater.exists()
    pickle.loads(path.read_bytes())
    assert crater.exists()  # so the test could have failed


def test_a_batch_swapped_after_the_check_is_not_what_is_parsed(imitation, tmp_path, monkeypatch):
    """Whoever owns a shared directory can replace a file at any moment; each is opened once only."""
    imitation.write(tmp_path)
    path, crater = download.folder(tmp_path) / "data_batch_1", tmp_path / "crater"
    really, read = data.read_checked, []

    def read_then_swap(file, md5):
        content = really(file, md5)
        read.append(file.name)
        if file == path:
            path.write_bytes(pickle.dumps(Payload(crater)))
        return content

    monkeypatch.setattr(data, "read_checked", read_then_swap)
    d = cifar10(sample=False, directory=tmp_path)
    expected = torch.from_numpy(pickle.loads(imitation.files["data_batch_1"])["data"]).view(-1, 3, 32, 32)
    assert torch.equal(d.images[:20], expected) and sorted(read) == sorted(NAMES) and not crater.exists()


@pytest.mark.parametrize(
    "value",
    [
        {"data": Payload(Path("crater")), "labels": [0]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [os.system]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [eval]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": [np.load]},
        {"data": np.zeros((1, 3071), np.uint8), "labels": [0]},
        {"data": np.zeros((1, 3072), np.uint8), "labels": ["cat"]},
        {"data": b"", "labels": []},
        {"data": np.zeros((1, 3072), np.uint8)},
        [1, 2, 3],
        None,
    ],
)
def test_a_batch_that_names_code_or_holds_no_images_is_refused_even_with_a_forged_sum(
    value, imitation, tmp_path, monkeypatch
):
    content = pickle.dumps(value, protocol=4)
    monkeypatch.setitem(download.MD5, "data_batch_1", hashlib.md5(content).hexdigest())
    imitation.write(tmp_path)
    (download.folder(tmp_path) / "data_batch_1").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"data_batch_1 holds no images \(.+\)\. Delete the folder"):
        cifar10(sample=False, directory=tmp_path)
    assert not Path("crater").exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_the_unpickler_names_what_it_refuses(protocol, imitation, tmp_path, monkeypatch):
    test_a_batch_that_names_code_or_holds_no_images_is_refused_even_with_a_forged_sum(
        {"data": os.system}, imitation, tmp_path, monkeypatch
    )
    content = pickle.dumps(os.system, protocol=protocol)
    with pytest.raises(pickle.UnpicklingError, match=r"it names (posix|nt)\.system"):
        data.ArrayUnpickler(__import__("io").BytesIO(content)).load()


# Training and validation


def digest(positions: torch.Tensor) -> str:
    return hashlib.sha256(positions.numpy().astype("<i8").tobytes()).hexdigest()


def test_the_split_is_the_same_on_every_machine():
    """Typed in when the split was first made: should one ever differ, earlier results cannot be compared any more."""
    sample = torch.tensor(json.loads((data.SAMPLE / "index.json").read_text())["train"]["label"])
    assert digest(split(dataset(sample))[1].index) == "3d0bbf5cb6d9b75e5f82a1ed64a3ac3b80c1350a174cc161922d104ffd87a4b0"
    full = torch.arange(50_000) % 10
    assert digest(split(dataset(full))[1].index) == "39010c31f7e19609d4c8edfff2230d219e6de96c357c2fb04657b12db02238af"


def test_another_seed_is_another_split():
    whole = dataset(torch.arange(5_000) % 10)
    parts = [split(whole, seed=seed) for seed in range(5)]
    assert len({digest(validation.index) for _, validation in parts}) == 5
    assert [(a.seed, b.seed) for a, b in parts] == [(seed, seed) for seed in range(5)]


@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=30),
    unused=st.integers(0, 3),
    fraction=st.floats(0, 1, exclude_min=True, exclude_max=True),
    seed=st.integers(0, 2**32 - 1),
    order=st.randoms(use_true_random=False),
)
def test_a_split_is_stratified_and_holds_every_image_once(counts, unused, fraction, seed, order):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    order.shuffle(labels)
    whole = dataset(torch.tensor(labels), len(counts) + unused)
    training, validation = split(whole, fraction, seed)
    assert (training.split, validation.split) == ("training", "validation")
    assert torch.cat([training.index, validation.index]).sort().values.tolist() == list(range(len(labels)))
    for part in (training, validation):
        assert torch.equal(part.index, part.index.sort().values) and torch.equal(part.labels, whole.labels[part.index])
        assert part.seed == seed and part.held_out is None and part.classes == whole.classes
    expected = [min(max(round(count * fraction), 1), count - 1) for count in counts]
    assert validation.labels.bincount(minlength=len(counts)).tolist() == expected
    assert training.labels.unique().tolist() == validation.labels.unique().tolist() == [*range(len(counts))]
    assert torch.equal(split(whole, fraction, seed)[1].index, validation.index)


def test_a_class_with_a_single_image_cannot_be_split():
    with pytest.raises(ValueError, match="class 11 has a single image"):
        split(dataset(torch.tensor([0, 0, 11, 3, 3]), 12))


def test_images_that_the_source_holds_out_are_the_validation_images():
    held_out = torch.tensor([False, True, True, False])
    whole = dataset(torch.tensor([0, 0, 1, 1]), held_out=held_out)
    for arguments in ({}, {"fraction": 0.5, "seed": 7}, {"fraction": None, "seed": None}):
        training, validation = split(whole, **arguments)
        assert training.index.tolist() == [0, 3] and validation.index.tolist() == [1, 2]
        assert training.seed is validation.seed is training.held_out is validation.held_out is None
    for nothing in (held_out | True, held_out & False):
        with pytest.raises(ValueError, match="(all|none) are held out for validation; select others"):
            split(replace(whole, held_out=nothing))


@pytest.mark.parametrize(
    "chosen,words",
    [
        (slice(3), "positions must be whole numbers from 0 to 3, or a mask of 4 bools"),
        ("all", "positions must be"),
        ([4], "positions must be"),
        (torch.arange(0), "no image is selected of images: 4 training images"),
        (torch.zeros(4, dtype=torch.bool), "no image is selected"),
    ],
)
def test_what_cannot_be_selected_is_said(chosen, words):
    with pytest.raises(ValueError, match=words):
        dataset(torch.tensor([0, 0, 1, 1])).select(chosen)


@pytest.mark.parametrize(
    "arguments",
    [{"fraction": 0}, {"fraction": 1}, {"fraction": -0.1}, {"fraction": float("nan")}, {"seed": -1}]
    + [{"seed": 2**32}, {"seed": 0.5}, {"seed": None}],
)
def test_a_fraction_or_seed_out_of_range_is_refused(arguments):
    with pytest.raises(ValueError, match=r"fraction must be within 0 to 1, and seed an int from 0 to 2\*\*32 - 1"):
        split(dataset(LABELS), **arguments)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_only_training_images_are_split(name):
    with pytest.raises(ValueError, match=f"only training images are split, not images: 8 {name} images"):
        split(dataset(LABELS, split=name))
