"""The images that ship for notebook 7: drawn shapes, which can be drawn again, and two photos."""

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestCentroid

from cifar_utils import data

ROOT = Path(__file__).resolve().parent.parent
SHAPES, PHOTOS = ROOT / "cifar_utils" / "shapes", ROOT / "cifar_utils" / "photos"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("make_shapes", ROOT / "tools" / "make_shapes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def splits(tool):
    """The data sets of train/, val/ and test/."""
    train, val = data.split(data.from_folder(SHAPES, size=tool.SIZE))
    return {"train": train, "val": val, "test": data.from_folder(SHAPES, size=tool.SIZE, train=False)}


def as_saved(image: Image.Image) -> np.ndarray:
    """[H, W, 3] float: the pixels after JPEG, which loses some."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return np.asarray(Image.open(file), dtype=float)


def test_four_classes_with_as_many_images_each(tool, splits):
    for name, dataset in splits.items():
        assert dataset.classes == tool.CLASSES
        assert torch.bincount(dataset.labels).tolist() == [tool.PER_CLASS[name]] * len(tool.CLASSES)
        assert dataset.images.shape[1:] == (3, tool.SIZE, tool.SIZE)
    assert [dataset.split for dataset in splits.values()] == ["training", "validation", "test"]
    assert all(Image.open(path).size == (tool.SIZE, tool.SIZE) for path in SHAPES.glob("*/*/*.jpg"))


def test_only_the_readme_is_left_out(tool, capsys):
    data.from_folder(SHAPES, size=16, train=False)
    assert capsys.readouterr().out.strip().endswith("1 left out (hidden, or not an image): README.md")


def test_no_image_is_there_twice(splits):
    images = torch.cat([dataset.images for dataset in splits.values()]).flatten(1)
    assert len(images.unique(dim=0)) == len(images)


def test_drawing_again_gives_the_same_images(tool):
    for split, count in tool.PER_CLASS.items():
        for name in tool.CLASSES:
            for number in (0, count - 1):
                shipped = np.asarray(Image.open(SHAPES / split / name / f"{number:03}.jpg"), dtype=float)
                again = as_saved(tool.draw(split, name, number))
                assert np.abs(again - shipped).mean() < 2  # another libjpeg may round otherwise
                other = as_saved(tool.draw(split, name, number + count))
                assert np.abs(other - shipped).mean() > 10, "images of another number would pass as well"


def test_the_package_stays_small():
    assert sum(path.stat().st_size for folder in (SHAPES, PHOTOS) for path in folder.rglob("*.*")) < 600_000


def test_pixels_alone_do_not_tell_the_classes(splits):
    """A network has something to learn: the nearest average image is little better than guessing."""
    train, test = (splits[name] for name in ("train", "test"))
    baseline = NearestCentroid().fit(train.images.flatten(1).numpy(), train.labels.numpy())
    assert baseline.score(test.images.flatten(1).numpy(), test.labels.numpy()) < 0.45


def test_every_photo_is_named_with_its_license():
    text = (PHOTOS / "README.md").read_text()
    photos = [path for path in PHOTOS.iterdir() if path.name != "README.md"]
    assert len(photos) == 2
    for photo in photos:
        assert f"`{photo.name}`" in text
        assert min(data.read_image(photo).shape[1:]) >= 300
    assert "CC0" in text and "CC0" in (SHAPES / "README.md").read_text()
