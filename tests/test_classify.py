"""One photo: read as the training images were, judged by any network, which is left as it was."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from tables import Transformer, names, random_images, random_predictions, small_network
from torch import nn

from cifar_utils import data, fit, runs
from cifar_utils.data import CIFAR10_CLASSES, DataError
from cifar_utils.evaluation.calibration import fit_temperature
from cifar_utils.evaluation.inference import fingerprint, predict
from cifar_utils.evaluation.photo import classify
from cifar_utils.models import Normalize


def photo(folder: Path, name: str = "photo.png", size=(48, 40), mode: str = "RGB", **options) -> Path:
    """A file of smooth noise, wider than high."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR).convert(mode)
    image.save(folder / name, **options)
    return folder / name


def test_every_kind_of_photo_is_the_same_photo(tmp_path):
    path, network = photo(tmp_path), small_network()
    expected = classify(network, path, CIFAR10_CLASSES)
    with Image.open(path) as image:
        image.load()
    for same in (str(path), image, data.read_image(path)):
        assert classify(network, same, CIFAR10_CLASSES) == expected
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its side: to be turned by 90 degrees clockwise
    image.rotate(90, expand=True).save(tmp_path / "turned.png", exif=turned)
    assert classify(network, tmp_path / "turned.png", CIFAR10_CLASSES) == pytest.approx(expected)
    with Image.open(tmp_path / "turned.png") as lying:
        assert classify(network, lying, CIFAR10_CLASSES) == pytest.approx(expected)
    assert classify(network, image.rotate(90, expand=True), CIFAR10_CLASSES) != pytest.approx(expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "CMYK", "I;16"])
def test_gray_alpha_and_print_colors(tmp_path, mode):
    path = photo(tmp_path, "photo.tif" if mode == "CMYK" else "photo.png", mode="L" if mode == "I;16" else mode)
    if mode == "I;16":
        with Image.open(path) as image:
            Image.fromarray(np.asarray(image).astype(np.uint16) * 257).save(path)
    found = classify(small_network(), path, CIFAR10_CLASSES)
    assert sum(found.values()) == pytest.approx(1)
    with Image.open(path) as image:
        if image.mode[0] == "I":
            with pytest.raises(ValueError, match="16 or more bits per pixel and channel; give its file"):
                classify(small_network(), image, CIFAR10_CLASSES)
        else:
            assert classify(small_network(), image, CIFAR10_CLASSES) == pytest.approx(found)


@pytest.mark.parametrize("classes,size", [(2, 16), (10, 32), (100, 64)])
def test_the_probabilities_are_those_of_predict(classes, size):
    dataset, network = random_images(5, classes, size), small_network(classes)
    p = predict(network, dataset).probabilities
    for image, row in zip(dataset.images, p):
        found = classify(network, image, dataset.classes, size=size)
        assert list(found) == [dataset.classes[c] for c in np.argsort(-row, kind="stable")]
        assert list(found.values()) == pytest.approx(sorted(row, reverse=True), abs=1e-5)
        assert sum(found.values()) == pytest.approx(1, abs=1e-12)


def test_the_most_probable_comes_first_and_of_equals_the_first():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.copy_(torch.tensor([0.0, 2.0, 0.0, 1.0]))
    found = classify(network, random_images(1).images[0], ["a", "b", "c", "d"])
    assert list(found) == ["b", "d", "a", "c"]
    hot = classify(network, random_images(1).images[0], ["a", "b", "c", "d"], temperature=2)
    assert hot["b"] == pytest.approx(1 / (1 + np.exp(-0.5) + 2 * np.exp(-1)))


def test_a_fitted_temperature_is_used_for_its_own_network_only():
    network, image = small_network(), random_images(1).images[0]
    validation = random_predictions(0, split="validation", model=fingerprint(network))
    temperature = fit_temperature(validation)
    found = classify(network, image, CIFAR10_CLASSES, temperature=temperature)
    assert found == classify(network, image, CIFAR10_CLASSES, temperature=float(temperature))
    with pytest.raises(ValueError, match="predictions of another network"):
        classify(small_network(seed=1), image, CIFAR10_CLASSES, temperature=temperature)


@pytest.mark.parametrize(
    "make",
    [
        small_network,
        Transformer,
        lambda: torchvision.models.resnet18(num_classes=10),
        lambda: torch.compile(small_network(), backend="eager"),
        lambda: nn.Sequential(small_network(), nn.Dropout(0.5)),
    ],
)
@pytest.mark.parametrize("mode", [True, False])
def test_the_network_is_left_as_found(make, mode):
    network = make().train(mode)
    next(network.children()).train(not mode)
    for p in list(network.parameters())[::2]:
        p.grad = torch.ones_like(p)
    modes = [module.training for module in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    first = classify(network, random_images(1).images[0], CIFAR10_CLASSES)
    assert classify(network, random_images(1).images[0], CIFAR10_CLASSES) == first
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all((p.grad is None and g is None) or torch.equal(p.grad, g) for p, g in zip(network.parameters(), grads))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]


@pytest.mark.parametrize("name,content", [("absent.jpg", None), ("text.jpg", b"no image"), ("empty.png", b"")])
def test_what_is_no_photo(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, ValueError), match=name):
        classify(small_network(), tmp_path / name, CIFAR10_CLASSES)
    with pytest.raises((DataError, ValueError)):
        classify(small_network(), tmp_path, CIFAR10_CLASSES)


def test_a_photo_cut_off(tmp_path):
    path = photo(tmp_path, size=(400, 300))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="photo.png"):
        classify(small_network(), path, CIFAR10_CLASSES)


def test_tensors_that_are_no_photo():
    image = random_images(1).images[0]
    for wrong in (image / 255, image[None], image[:1], image.permute(1, 2, 0), image.long()):
        with pytest.raises(ValueError, match=r"the photo is .*; a tensor must be \[3, H, W\] of uint8"):
            classify(small_network(), wrong, CIFAR10_CLASSES)


@pytest.mark.parametrize(
    "options,match",
    [
        ({"classes": names(5)}, r"the model returns the shape \[1, 10\]; logits \[1, 5\] are needed"),
        ({"classes": ("cat",) * 10}, "different names"),
        ({"classes": "cats and dogs"}, "different names"),
        ({"classes": range(10)}, "different names"),
        ({"temperature": 0}, "the temperature is 0; it must be a number above 0"),
        ({"temperature": -1.0}, "number above 0"),
        ({"temperature": float("nan")}, "number above 0"),
        ({"temperature": float("inf")}, "number above 0"),
        ({"temperature": "1"}, "number above 0"),
        ({"size": 0}, "size is 0; it must be a whole number of pixels from 16 to 256"),
        ({"size": 32.5}, "size is 32.5"),
        ({"size": "32"}, "size is '32'"),
        ({"photo": 3}, "a photo is a path, a PIL image or a tensor, not a int"),
        ({"model": "runs/mine"}, "the model is a str; a torch.nn.Module is needed"),
    ],
)
def test_wrong_options_end_in_one_clear_error(options, match):
    options = {"model": small_network(), "photo": random_images(1).images[0], "classes": CIFAR10_CLASSES} | options
    with pytest.raises(ValueError, match=match):
        classify(**options)


def test_an_output_that_is_not_finite():
    network = small_network()
    with torch.no_grad():
        network.head.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="for 1 of 1 images"):
        classify(network, random_images(1).images[0], CIFAR10_CLASSES)


def test_the_size_is_that_of_the_training_images(tmp_path, monkeypatch):
    """Without it, a network of 64 pixels would get images of 32, and predict something plausible."""
    train = random_images(20, 10, 64, split="training")
    network = nn.Sequential(Normalize.from_dataset(train), small_network())
    image = random_images(1, 10, 100).images[0]
    right = classify(network, image, CIFAR10_CLASSES, size=64)
    assert classify(network, image, CIFAR10_CLASSES) == right != classify(network, image, CIFAR10_CLASSES, size=32)
    val = replace(random_images(12, 10, 64, seed=1, split="training"), split="validation", source="others")
    fit(network, train, val, epochs=1, run=tmp_path / "run")
    loaded = runs.load(tmp_path / "run", nn.Sequential(Normalize(), small_network()), "last")
    right = classify(network.eval(), image, CIFAR10_CLASSES, size=64)
    assert classify(loaded, image, CIFAR10_CLASSES) == pytest.approx(right)


@pytest.mark.parametrize("loads", [False, True])
def test_a_network_without_normalize_knows_its_images_size_as_well(tmp_path, loads):
    train = random_images(20, 10, 64, split="training")
    val = replace(random_images(12, 10, 64, seed=1, split="training"), split="validation", source="others")
    network = small_network()
    network.image_size = 99  # an attribute of its own, as torchvision's transformers have
    fit(network, train, val, epochs=1, run=tmp_path / "run")
    assert network.image_size == 99
    if loads:
        network = runs.load(tmp_path / "run", small_network(), "last")
    image = random_images(1, 10, 100).images[0]
    right = classify(network, image, CIFAR10_CLASSES, size=64)
    assert classify(network, image, CIFAR10_CLASSES) == right != classify(network, image, CIFAR10_CLASSES, size=32)
