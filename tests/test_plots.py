"""Figures of data and training: what they tell in words, that their text can be read, and pixels that stay."""

from functools import cache

import numpy as np
import pytest
import torch
from figures import check_texts, drawn_texts
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image
from tables import names
from test_evaluation_plots import FORMULA
from tiny import tiny

from cifar_utils import plots
from cifar_utils.data import CIFAR10_CLASSES


def history(epochs: int) -> list[dict]:
    """Made up; the validation loss is lowest in epoch 3."""
    return [
        {
            "epoch": epoch,
            "training_loss": 2.3 * 0.8**epoch,
            "validation_loss": 1 + 0.123 * abs(epoch - 3),
            "training_accuracy": 1 - 0.8**epoch,
            "validation_accuracy": 0.901 - 0.7**epoch,
            "seconds": 10.0 * epoch,
        }
        for epoch in range(1, epochs + 1)
    ]


def image_grid(count: int, caption: str, title: str = "Some images") -> Figure:
    dataset = tiny(count)
    captions = [caption.format(CIFAR10_CLASSES[label]) for label in dataset.labels]
    return plots.image_grid(dataset.images, captions, title)


def preview(rows: int, draws: int, captions=CIFAR10_CLASSES, title: str = "Policy") -> Figure:
    images = tiny(rows).images
    repeated = np.stack([plots.to_pixels(images)] * draws, 1)
    return plots.augmentation_preview(images, repeated, list(captions[:rows]), title)


def counts(classes=CIFAR10_CLASSES, **splits) -> Figure:
    splits = splits or {"training": 4500, "validation": 500, "test": 1000}
    values = {name: np.arange(first, first + len(classes)) for name, first in splits.items()}
    return plots.class_counts(values, classes, "Images")


FIGURES = {  # how to draw it, and what its text alternative must contain
    "grid": (lambda: image_grid(20, "{}"), ["20 images", "airplane, airplane", "truck"]),
    "grid of errors": (
        lambda: image_grid(13, "{}\nas automobile\n100.0%"),
        ["13 images", "truck as automobile 100.0%."],
    ),
    "preview": (lambda: preview(3, 5), ["3 rows (airplane, automobile, bird)", "5 randomly augmented versions"]),
    "preview of one": (lambda: preview(1, 1), ["1 randomly augmented version of"]),
    "one image": (
        lambda: plots.one_image(plots.grid(tiny(8).images, rows=1), "A sheet"),
        ["A sheet: an image of 274 x 36 pixels."],
    ),
    "counts": (counts, ["training: airplane 4500", "truck 1009"]),
    "counts of 2 classes": (lambda: counts(names(2)), ["training: class 0 4500, class 1 4501"]),
    "counts of 20 classes": (lambda: counts(names(20)), ["class 19 519"]),
    "counts of 100 classes": (lambda: counts(names(100)), ["class 99 1099"]),
    "counts of 300 classes": (lambda: counts(names(300)), ["class 299 1299"]),
    "counts of long names": (lambda: counts(("a" * 90, "b" * 90, "c")), ["a" * 90]),
    "counts of one": (lambda: counts(test=100), ["truck 109"]),
    "curve": (lambda: plots.curves({"a": [0.1, 2.5, 0.25]}, "Curve", "step", "rate"), ["3 values", "2.5", "0.25"]),
    "two curves": (
        lambda: plots.curves({"plain": [1.0, 2.0], "normalized": [3.0, 0.5, 4.0]}, "Curves", "step", "loss"),
        ["plain, 2 values", "normalized, 3 values", "ends at 4"],
    ),
    "curves": (
        lambda: plots.training_curves(history(12), "Run"),
        ["12 epochs", "1.84 to 0.16", "1.25 to 2.11", "20.1% to 88.7%", "best epoch by validation loss is epoch 3."],
    ),
    "curves of one epoch": (lambda: plots.training_curves(history(1), "Run"), ["1 epoch.", "is epoch 1."]),
    "curves of two epochs": (lambda: plots.training_curves(history(2), "Run"), ["2 epochs", "is epoch 2."]),
    "race": (
        lambda: plots.accuracy_against_time({"plain": history(3), "fast": history(8)}, "A race"),
        ["plain 55.8% after 3 epochs in 30 seconds", "fast 84.3% after 8 epochs in 80 seconds"],
    ),
    "race of five": (
        lambda: plots.accuracy_against_time({"stopped": [], **dict.fromkeys("abcd", history(3))}, "Five"),
        ["stopped no epoch finished", "a 55.8%", "d 55.8%"],
    ),
    "race of none": (lambda: plots.accuracy_against_time({"stopped": []}, "None"), ["stopped no epoch finished"]),
    "formulas as captions": (lambda: image_grid(4, FORMULA, FORMULA), [FORMULA]),
    "formulas as rows": (lambda: preview(2, 2, (FORMULA, "$"), FORMULA), [FORMULA]),
    "formulas as classes": (lambda: counts((FORMULA, "$y$", "c"), test=9), [FORMULA]),
    "formulas as runs": (
        lambda: plots.accuracy_against_time({FORMULA: history(3), "$": history(4)}, FORMULA),
        [f"{FORMULA} 55.8%"],
    ),
    "a formula as a title": (lambda: plots.training_curves(history(3), FORMULA), [FORMULA]),
    "a formula above a curve": (lambda: plots.curves({FORMULA: [1.0, 2.0]}, FORMULA, FORMULA, FORMULA), [FORMULA]),
}


@cache
def drawn(name: str) -> Figure:
    return FIGURES[name][0]()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_told_in_words(name):
    picture = drawn(name)
    assert isinstance(picture, Figure)
    for words in FIGURES[name][1]:
        assert words in picture.alt_text
    assert "nan" not in picture.alt_text


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_saved_with_its_words(name, tmp_path):
    picture = drawn(name)
    plots.save(picture, tmp_path / "new" / "x.png")
    with Image.open(tmp_path / "new" / "x.png") as image:
        assert image.text["Description"] == picture.alt_text
        assert min(image.size) >= 100 and len(np.unique(np.asarray(image))) > 10


def test_no_figure_stays_open():
    for make, _ in FIGURES.values():
        make()
    assert plt.get_fignums() == []


def test_a_figure_is_shown_with_its_words(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", lambda picture, metadata: shown.append((picture, metadata)))
    picture = plots.training_curves(history(3), "Run")
    plots.show(picture)
    assert shown == [(picture, {"image/png": {"alt": picture.alt_text}})]


def test_a_saved_figure_replaces_a_link_instead_of_following_it(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "x.png").symlink_to(tmp_path / "victim")
    plots.save(drawn("curve"), tmp_path / "x.png")
    assert (tmp_path / "victim").read_text() == "mine" and not (tmp_path / "x.png").is_symlink()


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_off_or_covers_another(name, monkeypatch):
    check_texts(drawn(name), monkeypatch, fewest=1)


def test_six_runs_have_lines_of_their_own():
    (axis,) = plots.accuracy_against_time({f"run {i}": history(3) for i in range(6)}, "Six").axes
    assert len({(line.get_color(), line.get_marker()) for line in axis.lines}) == 6


def test_training_curves_show_the_history():
    rows = history(5)
    loss, accuracy = plots.training_curves(rows, "Run").axes
    for axis, name in ((loss, "loss"), (accuracy, "accuracy")):
        training, validation, best = axis.lines
        assert list(training.get_ydata()) == [row[f"training_{name}"] for row in rows]
        assert list(validation.get_ydata()) == [row[f"validation_{name}"] for row in rows]
        assert list(best.get_xdata()) == [3, 3]
        assert training.get_linestyle() != validation.get_linestyle()  # not by color alone
        assert training.get_marker() != validation.get_marker()


@pytest.mark.parametrize("epochs", [1, 2, 12])
def test_epochs_are_whole_numbers(epochs, monkeypatch):
    picture = plots.training_curves(history(epochs), "Run")
    with drawn_texts(monkeypatch) as texts:
        picture.draw_without_rendering()
    labels = {id(label): label.get_text() for axis in picture.axes for label in axis.get_xticklabels()}
    found = [labels[id(text)] for text in texts if id(text) in labels]
    assert found and all(text.isdigit() and 1 <= int(text) <= epochs for text in found)


@pytest.mark.parametrize("name", ["counts", "curves", "curves of one epoch", "race"])
def test_ticks_have_labels_of_their_own(name):
    picture = drawn(name)
    picture.draw_without_rendering()
    for axis in picture.axes:
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            texts = [label.get_text() for label in labels]
            assert len(set(texts)) == len(texts)


def test_training_that_was_stopped_in_its_first_epoch_still_has_a_figure():
    figure = plots.training_curves([], "Training on nothing")
    assert figure.alt_text == "Training on nothing. No epoch is finished yet."


# Pixels


def test_every_value_of_an_image_comes_back_exactly():
    images = torch.arange(256, dtype=torch.uint8).repeat(12).view(1, 3, 32, 32)
    expected = images.permute(0, 2, 3, 1).numpy()
    for x in (images, images / 255, images.numpy(), images.double() / 255):
        assert plots.to_pixels(x).dtype == np.uint8 and (plots.to_pixels(x) == expected).all()


def test_what_is_beyond_0_to_1_is_cut_off_and_not_wrapped_around():
    images = torch.tensor([-5.0, -0.1, 0.0, 1.0, 1.1, 300.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert (plots.to_pixels(images)[0, 0, :, 0] == [0, 0, 0, 255, 255, 255]).all()


@pytest.mark.parametrize(
    "count,columns,rows,shape", [(5, 3, 4, (11, 16, 3)), (2, 3, 4, (6, 16, 3)), (9, 2, 2, (11, 11, 3))]
)
def test_a_grid_has_every_pixel_in_its_place(count, columns, rows, shape):
    images = np.arange(count * 3 * 16, dtype=np.uint8).reshape(count, 3, 4, 4)
    sheet = plots.grid(images, columns=columns, rows=rows, gap=1)
    assert sheet.shape == shape and sheet.dtype == np.uint8
    for i in range(min(count, columns * rows)):
        top, left = i // columns * 5 + 1, i % columns * 5 + 1
        place = sheet[top : top + 4, left : left + 4]
        assert (place == images[i].transpose(1, 2, 0)).all()
        place[:] = 255
    assert (sheet == 255).all()  # the rest is white


def test_a_grid_shows_the_first_32_images_of_a_batch():
    dataset = tiny(40)
    sheet = plots.grid(dataset.images / 255)
    assert sheet.shape == (4 * 34 + 2, 8 * 34 + 2, 3)
    assert (sheet[2:34, 2:34] == plots.to_pixels(dataset.images)[0]).all()
    assert (sheet[104:136, 240:272] == plots.to_pixels(dataset.images)[31]).all()


@pytest.mark.parametrize("height,width", [(24, 24), (64, 64), (20, 30)])
def test_a_grid_of_any_size(height, width):
    images = torch.rand(3, 3, height, width)
    assert plots.grid(images, columns=2).shape == (2 * (height + 2) + 2, 2 * (width + 2) + 2, 3)
