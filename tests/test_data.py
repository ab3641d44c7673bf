"""The data set as the notebooks get it: which images, in which split, normalised how, and what if there are none."""

import hashlib
import json
import math
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import CIFAR10

from cifar_utils import data, download
from cifar_utils.data import DataError, Normalisation, load_test, load_training, split_indices

LABELS = torch.arange(50_000) % 10


@pytest.fixture(scope="module", params=["sample", pytest.param("full", marks=pytest.mark.full_data)])
def splits(request) -> SimpleNamespace:
    """All three splits, of the sample and of the full set, and how many images they should have."""
    sample = request.param == "sample"
    directory = None if sample else request.getfixturevalue("full_data")
    training, validation = load_training(directory, sample)
    sizes = (3_600, 400, 1_000) if sample else (45_000, 5_000, 10_000)
    return SimpleNamespace(
        training=training, validation=validation, test=load_test(directory, sample), sizes=sizes, sample=sample
    )


def each(splits):
    return splits.training, splits.validation, splits.test


@pytest.fixture(scope="module")
def originals(full_data) -> dict[bool, CIFAR10]:
    return {train: CIFAR10(full_data, train=train) for train in (True, False)}


def test_splits_are_balanced_uint8_images(splits):
    assert tuple(map(len, each(splits))) == splits.sizes
    for split, name in zip(each(splits), ("training", "validation", "test")):
        assert split.name == name and split.is_sample == splits.sample
        assert str(split) == f"{'SAMPLE, ' if splits.sample else ''}{len(split):,} {name} images"
        assert split.images.shape == (len(split), 3, 32, 32) and split.images.dtype == torch.uint8
        assert split.labels.dtype == split.index.dtype == torch.int64
        assert split.labels.bincount().tolist() == [len(split) // 10] * 10


@pytest.mark.full_data
def test_images_and_labels_are_those_of_cifar10_at_their_index(splits, originals):
    for split in each(splits):
        original = originals[split.name != "test"]
        expected = torch.from_numpy(original.data[split.index]).permute(0, 3, 1, 2)
        assert torch.equal(split.images, expected)
        assert torch.equal(split.labels, torch.tensor(original.targets)[split.index])
    assert tuple(original.classes) == data.CLASSES


def test_training_and_validation_share_no_image_and_leave_none_out(splits):
    entry = json.loads((data.SAMPLE / "index.json").read_text())["train"]
    positions = torch.cat([splits.training.index, splits.validation.index]).tolist()
    assert sorted(positions) == (sorted(entry["index"]) if splits.sample else list(range(50_000)))


def test_no_image_is_there_twice(splits):
    """Pixel for pixel the 60,000 images of CIFAR-10 all differ, so nothing of one split is in another."""
    hashes = [hashlib.sha256(image.tobytes()).digest() for split in each(splits) for image in split.images.numpy()]
    assert len(set(hashes)) == len(hashes) == sum(splits.sizes)


def test_normalisation_constants(splits):
    """The known ones, those of NumPy's plain formula, and to the last bit those of exact sums."""
    constants = Normalisation.of(splits.training)
    near = 5e-3 if splits.sample else 5e-4
    assert constants.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=near)
    assert constants.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=near)
    for channel, mean, std in zip(splits.training.images.unbind(1), constants.mean, constants.std):
        assert (mean, std) == pytest.approx((channel.numpy().mean() / 255, channel.numpy().std() / 255), rel=1e-9)
        count, total, squares = channel.numel(), channel.sum().item(), channel.long().square().sum().item()
        assert mean == total / count / 255
        assert std == math.sqrt(squares / count - (total / count) ** 2) / 255


@pytest.mark.parametrize("name", ["validation", "test"])
def test_normalisation_constants_come_from_the_training_split_only(name):
    training, _ = load_training(sample=True)
    with pytest.raises(ValueError, match=name):
        Normalisation.of(training.select(torch.arange(10), name))


def test_validation_images_are_not_augmented(splits):
    """Undoing the normalisation gives back every pixel of every image."""
    normalisation = Normalisation.of(splits.training)
    mean, std = (constant[:, None, None] for constant in normalisation.tensors())
    for split in (splits.validation, splits.test):
        normalised = normalisation(split.images)
        assert normalised.dtype == torch.float32
        assert torch.equal(((normalised * std + mean) * 255).round().to(torch.uint8), split.images)


def test_select_keeps_image_label_and_index_together(splits):
    positions = torch.tensor([950, 3, 3])
    chosen = splits.test.select(positions)
    assert (chosen.name, len(chosen), chosen.is_sample) == ("test", 3, splits.sample)
    for attribute in ("images", "labels", "index"):
        assert torch.equal(getattr(chosen, attribute), getattr(splits.test, attribute)[positions])


def digest(positions: torch.Tensor) -> str:
    return hashlib.sha256(positions.numpy().astype("<i8").tobytes()).hexdigest()


def test_the_split_is_the_same_on_every_machine():
    """Typed in when the split was first made: should one ever differ, earlier results cannot be compared any more."""
    sample = torch.tensor(json.loads((data.SAMPLE / "index.json").read_text())["train"]["label"])
    assert digest(split_indices(sample, seed=0)[1]) == (
        "3d0bbf5cb6d9b75e5f82a1ed64a3ac3b80c1350a174cc161922d104ffd87a4b0"
    )
    assert digest(split_indices(LABELS, seed=0)[1]) == (
        "39010c31f7e19609d4c8edfff2230d219e6de96c357c2fb04657b12db02238af"
    )


def test_another_seed_is_another_split():
    assert len({digest(split_indices(LABELS, seed)[1]) for seed in range(5)}) == 5
    first, second = load_training(sample=True, seed=0), load_training(sample=True, seed=1)
    assert not torch.equal(first[1].index, second[1].index)


@given(
    labels=st.lists(st.integers(0, 9), max_size=200),
    seed=st.integers(0, 2**32 - 1),
    fraction=st.floats(0, 1),
)
def test_a_split_is_stratified_and_holds_every_position_once(labels, seed, fraction):
    labels = torch.tensor(labels, dtype=torch.int64)
    training, validation = split_indices(labels, seed, fraction)
    assert torch.cat([training, validation]).sort().values.tolist() == list(range(len(labels)))
    for part in (training, validation):
        assert part.dtype == torch.int64 and torch.equal(part, part.sort().values)
    counts = labels.bincount(minlength=10).tolist()
    assert labels[validation].bincount(minlength=10).tolist() == [round(n * fraction) for n in counts]


def test_the_sample_is_small():
    assert sum(path.stat().st_size for path in data.SAMPLE.iterdir()) < 10_000_000


def change_a_pixel(sheet: Path, bits: int = 1):
    pixels = np.asarray(Image.open(sheet)).copy()
    pixels[100, 100] ^= bits
    Image.fromarray(pixels).save(sheet, lossless=True, method=0)


@pytest.mark.parametrize(
    "damage",
    [
        change_a_pixel,
        Path.unlink,
        lambda sheet: sheet.write_bytes(b""),
        lambda sheet: sheet.write_bytes(sheet.read_bytes()[:100_000]),
    ],
    ids=["pixel", "missing", "empty", "cut"],
)
def test_a_damaged_sample_is_refused(damage, tmp_path, monkeypatch):
    for name in ("index.json", "test.webp"):
        (tmp_path / name).write_bytes((data.SAMPLE / name).read_bytes())
    monkeypatch.setattr(data, "SAMPLE", tmp_path)
    change_a_pixel(tmp_path / "test.webp", bits=0)
    assert len(load_test(sample=True)) == 1_000
    damage(tmp_path / "test.webp")
    with pytest.raises(DataError, match=r"test\.webp is damaged.* Install the workshop again\."):
        load_test(sample=True)


def test_training_never_touches_the_test_sheet(monkeypatch):
    opened, really_open = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(Path(path).name) or really_open(path))
    load_training(sample=True)
    assert opened == ["train.webp"]
    load_test(sample=True)
    assert opened == ["train.webp", "test.webp"]


def test_training_never_loads_the_test_batch(imitation, tmp_path, monkeypatch):
    loaded, really_load = [], pickle.load
    monkeypatch.setattr(pickle, "load", lambda f, **k: loaded.append(Path(f.name).name) or really_load(f, **k))
    imitation.write(tmp_path)
    assert list(map(len, load_training(tmp_path))) == [90, 10]
    assert loaded == ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "batches.meta"]
    loaded.clear()
    assert len(load_test(tmp_path)) == 20
    assert loaded == ["test_batch", "batches.meta"]


@pytest.fixture
def no_network(monkeypatch):
    """An address where nobody listens, and a child that asks there as torchvision does but starts at once."""
    url = "http://127.0.0.1:9/cifar-10-python.tar.gz"
    monkeypatch.setenv("CIFAR10_MIRROR", url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "_CHILD", "import sys, urllib.request; urllib.request.urlopen(sys.argv[2])")
    return url


def test_without_data_and_network_the_sample_steps_in(no_network, tmp_path, monkeypatch, capsys):
    tries, really_ensure = [], download.ensure
    monkeypatch.setattr(download, "ensure", lambda directory: tries.append(directory) or really_ensure(directory))
    for load in (lambda: load_training(tmp_path)[1], lambda: load_test(tmp_path)):
        assert str(load()).startswith("SAMPLE, ")
        output = capsys.readouterr().out
        assert f"could not be downloaded from {no_network} (" in output and "SAMPLE" in output
    with pytest.raises(DataError, match="could not be downloaded"):
        load_training(tmp_path, sample=False)
    assert tries == [tmp_path]  # one try was enough
    data._problem.cache_clear()
    with pytest.raises(DataError, match="could not be downloaded"):
        load_test(tmp_path, sample=False)
    assert tries == [tmp_path] * 2


def test_the_sample_needs_no_data_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "_problem", None)
    monkeypatch.chdir(tmp_path)
    load_training(tmp_path / "data", sample=True)
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "argument, variable, inside, expected",
    [
        ("given", "set", "", "given"),
        ("~/given", "~/set", "", "home/given"),
        (Path("~/given"), None, "notebooks", "home/given"),
        (None, "~/set", "notebooks", "home/set"),
        (None, "set", "", "set"),
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
    monkeypatch.setattr(data, "_problem", lambda directory: asked.append(directory) or "not there")
    with pytest.raises(DataError, match="not there"):
        load_training(argument, sample=False)
    assert asked == [Path(expected) if expected in ("given", "set") else tmp_path / expected]
