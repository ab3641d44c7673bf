"""Figures: what they say in words, that their text can be read, and pixels that stay as they are."""

from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from tables import certain, random_predictions
from tiny import tiny

from cifar_utils import evaluation, evaluation_plots, plots
from cifar_utils.calibration import reliability
from cifar_utils.data import CLASSES, Normalisation


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


def matrix() -> np.ndarray:
    """Every shade: recall from 0 to 100 %, counts of up to four digits, and no image of a frog."""
    result = np.full((10, 10), 11)
    for label, hits in enumerate([0, 25, 60, 80, 99, 150, 0, 300, 901, 0]):
        result[label, label] = hits
    result[6] = 0
    result[9] = np.eye(10, dtype=int)[9] * 1000
    return result


def grid(count: int, caption: str) -> Figure:
    split = tiny(count)
    return plots.image_grid(split.images, [caption.format(CLASSES[label]) for label in split.labels], "Some images")


def preview(rows: int, draws: int) -> Figure:
    images = tiny(rows).images
    repeated = np.stack([plots.to_pixels(images)] * draws, 1)
    return plots.augmentation_preview(images, repeated, list(CLASSES[:rows]), "Policy")


def class_accuracy() -> Figure:
    recall = evaluation.classwise(matrix())["recall"]
    return evaluation_plots.class_accuracy(recall[:, 0], recall[:, 1:], CLASSES, "SAMPLE, 1,000 test images")


def confusion_matrix() -> Figure:
    return evaluation_plots.confusion_matrix(
        matrix(), CLASSES, "SAMPLE, 1,000 test images", evaluation.confusions(matrix())
    )


def robustness(panels: int) -> Figure:
    points = np.array([[-1, 0.1, 0.05, 0.2], [0, 0.9, 0.85, 0.95], [1, 0.2, 0.1, 0.3]])
    changes = ["rotation", "translation", "scale", "perspective", "brightness", "contrast", "saturation"][:panels]
    curves = {change: {"full": points, "none": points * [1, 0.5, 0.5, 0.5]} for change in changes}
    return evaluation_plots.robustness_curves(curves, {change: "amount" for change in changes}, "Robustness")


def attention() -> Figure:
    maps = np.zeros((2, 32, 32))
    maps[0, 2, 3] = maps[1, 30, 31] = 1
    maps[0, 20, 20] = -2
    return evaluation_plots.attention(tiny(2).images, maps, ["airplane", "automobile"], "Where it looks")


COUNTS = {"training": np.arange(4500, 4510), "validation": np.arange(500, 510), "test": np.arange(1000, 1010)}
FIGURES = {  # how to draw it, and what its text alternative must say
    "grid": (lambda: grid(20, "{}"), ["20 images", "airplane, airplane", "truck"]),
    "grid of mistakes": (lambda: grid(13, "{}\nas automobile\n100.0 %"), ["13 images", "truck as automobile 100.0 %."]),
    "preview": (lambda: preview(3, 5), ["3 rows (airplane, automobile, bird)", "5 randomly augmented versions"]),
    "preview of one": (lambda: preview(1, 1), ["1 randomly augmented version of"]),
    "counts": (lambda: plots.class_counts(COUNTS, CLASSES, "Images"), ["training: airplane 4500", "truck 1009"]),
    "counts of one": (lambda: plots.class_counts({"test": np.full(10, 100)}, CLASSES, "Images"), ["truck 100"]),
    "curve": (lambda: plots.curve([0.1, 2.5, 0.25], "Curve", "step", "rate"), ["3 values", "2.5", "0.25"]),
    "curves": (
        lambda: plots.training_curves(history(12), "Run"),
        ["12 epochs", "1.84 to 0.16", "1.25 to 2.11", "20.1% to 88.7%", "best epoch by validation loss is epoch 3."],
    ),
    "curves of one epoch": (lambda: plots.training_curves(history(1), "Run"), ["1 epoch.", "is epoch 1."]),
    "race": (
        lambda: plots.accuracy_against_time({"plain": history(3), "fast": history(8)}, "A race"),
        ["plain 55.8% after 3 epochs in 30 seconds", "fast 84.3% after 8 epochs in 80 seconds"],
    ),
    "curves of two epochs": (lambda: plots.training_curves(history(2), "Run"), ["2 epochs", "is epoch 2."]),
    "confusion matrix": (
        confusion_matrix,
        ["airplane 0%", "bird 38%", "frog n/a", "truck 100%", "airplane is called automobile 11.1% of the time"],
    ),
    "class accuracy": (class_accuracy, ["best first: truck 100.0%, ship 90.1%", "airplane 0.0%", "frog n/a."]),
    "reliability": (
        lambda: evaluation_plots.reliability_diagram(
            {"as trained": reliability(random_predictions(0), 5), "of one": reliability(certain([1], [1], 0.7), 5)}, "R"
        ),
        ["5 equally wide bins", "as trained: calibration error", "right when", "of one: calibration error 30.0%"],
    ),
    "runs": (
        lambda: evaluation_plots.run_accuracies({"mine": (0.857, 0.85, 0.864), "yours": (0.1, 0.05, 0.2)}, "Runs"),
        ["mine 85.7% (85.0% to 86.4%)", "yours 10.0%"],
    ),
    "robustness": (lambda: robustness(7), ["rotation, full: 10% at -1, 90% at best, 20% at 1", "contrast, none"]),
    "robustness of one": (lambda: robustness(1), ["rotation, full"]),
    "attention": (attention, ["airplane: most at the top left", "automobile: most at the bottom right"]),
    "perfect": (
        lambda: evaluation_plots.class_accuracy(np.ones(10), [(0.999, 1.0)] * 10, CLASSES, "All"),
        ["airplane 100.0%"],
    ),
}


@cache
def drawn(name: str) -> Figure:
    return FIGURES[name][0]()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_what_it_shows(name):
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
        assert min(image.size) >= 150 and len(np.unique(np.asarray(image))) > 10


@pytest.mark.parametrize("name", FIGURES)
def test_no_figure_stays_open(name):
    FIGURES[name][0]()
    assert plt.get_fignums() == []


def test_a_figure_is_shown_with_its_words(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", lambda picture, metadata: shown.append((picture, metadata)))
    picture = plots.training_curves(history(3), "Run")
    plots.show(picture)
    assert shown == [(picture, {"image/png": {"alt": picture.alt_text}})]


@contextmanager
def drawn_texts(monkeypatch):
    """The texts that are really drawn: matplotlib also keeps labels of ticks out of sight."""
    texts, draw = [], Text.draw
    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", lambda self, *args, **kwargs: (texts.append(self), draw(self, *args, **kwargs))[1])
        yield texts


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_off_or_covers_another(name, monkeypatch):
    picture = drawn(name)
    with drawn_texts(monkeypatch) as texts:
        picture.draw_without_rendering()
    texts = [text for text in dict.fromkeys(texts) if text.get_visible() and text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(texts) >= 3
    whole = picture.bbox.padded(1)
    for text, box in zip(texts, boxes):
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1, text
    for i, (text, box) in enumerate(zip(texts, boxes)):
        for other, other_box in zip(texts[:i], boxes):
            if not (text.get_rotation() % 90 or other.get_rotation() % 90):  # boxes of slanted labels say nothing
                assert not box.padded(-1).overlaps(other_box.padded(-1)), (text, other)


def luminance(colour) -> float:
    c = np.array(colour[:3])
    return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def test_every_cell_of_the_confusion_matrix_can_be_read():
    """Enough contrast in every shade (4.5 to 1, WCAG 2 level AA), and the text fits its cell."""
    shades = np.zeros((10, 10), int)
    for label in range(10):  # shares of 0 to 99 %
        shades[label, 0], shades[label, 1] = 1000 - (high := 450 + 11 * label), high
    for m in (matrix(), shades):
        picture = evaluation_plots.confusion_matrix(m, CLASSES, "Title")
        picture.draw_without_rendering()
        axis = picture.axes[0]
        (image,) = axis.images
        assert len(axis.texts) == 100
        for text in axis.texts:
            column, row = map(int, text.get_position())
            share, count = text.get_text().split("\n")
            assert int(count) == m[row, column]
            assert share == (f"{m[row, column] / m[row].sum():.0%}" if m[row].sum() else "n/a")
            ground = luminance(image.cmap(image.norm(image.get_array()[row, column])))
            ink = luminance((0, 0, 0) if text.get_color() == "black" else (1, 1, 1))
            assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) > 4.5
            box = text.get_window_extent().transformed(axis.transData.inverted())
            assert abs(box.x0 - column) < 0.5 and abs(box.x1 - column) < 0.5
            assert abs(box.y0 - row) < 0.5 and abs(box.y1 - row) < 0.5
        assert axis.get_ylabel() == "true class" and axis.get_xlabel() == "predicted class"


def test_class_accuracy_is_sorted_and_has_its_intervals():
    m = matrix()
    recall = evaluation.classwise(m)["recall"]
    intervals = list(map(tuple, recall[:, 1:]))
    axis = evaluation_plots.class_accuracy(recall[:, 0], intervals, CLASSES, "Title").axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels[:2] == ["truck", "ship"] and labels[-1] == "frog (n/a)"
    lines = [line for line in axis.lines if len(line.get_xdata()) == 2]
    assert [tuple(line.get_xdata()) for line in lines] == [
        intervals[CLASSES.index(name)] for name in labels if "n/a" not in name
    ]


def test_training_curves_show_the_history():
    rows = history(5)
    loss, accuracy = plots.training_curves(rows, "Run").axes
    for axis, name in ((loss, "loss"), (accuracy, "accuracy")):
        training, validation, best = axis.lines
        assert list(training.get_ydata()) == [row[f"training_{name}"] for row in rows]
        assert list(validation.get_ydata()) == [row[f"validation_{name}"] for row in rows]
        assert list(best.get_xdata()) == [3, 3]
        assert training.get_linestyle() != validation.get_linestyle()  # not by colour alone
        assert training.get_marker() != validation.get_marker()


@pytest.mark.parametrize("epochs", [1, 2, 12])
def test_epochs_are_whole_numbers(epochs, monkeypatch):
    picture = plots.training_curves(history(epochs), "Run")
    with drawn_texts(monkeypatch) as texts:
        picture.draw_without_rendering()
    labels = {id(label): label.get_text() for axis in picture.axes for label in axis.get_xticklabels()}
    drawn = [labels[id(text)] for text in texts if id(text) in labels]
    assert drawn and all(text.isdigit() and 1 <= int(text) <= epochs for text in drawn)


@pytest.mark.parametrize("name", ["perfect", "class accuracy", "curves", "curves of one epoch"])
def test_ticks_have_labels_of_their_own(name):
    picture = drawn(name)
    picture.draw_without_rendering()
    for axis in picture.axes:
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            texts = [label.get_text() for label in labels]
            assert len(set(texts)) == len(texts)


# Pixels


def test_normalised_images_come_back_exactly():
    rng = np.random.default_rng(0)
    split = tiny()
    normalisation = Normalisation.of(split)
    split.images[0] = split.images.new_tensor(rng.integers(0, 256, (3, 32, 32)))
    expected = split.images.permute(0, 2, 3, 1).numpy()
    normalised = normalisation(split.images)
    assert (plots.to_pixels(split.images) == expected).all()
    assert (plots.to_pixels(normalised, normalisation.mean, normalisation.std) == expected).all()
    beyond = plots.to_pixels(normalised * 100, normalisation.mean, normalisation.std)  # cut off, not wrapped around
    assert beyond.dtype == np.uint8 and set(np.unique(beyond)) >= {0, 255}
    assert ((beyond == 255) | (normalised.permute(0, 2, 3, 1).numpy() < 0.1)).all()


@pytest.mark.parametrize(
    "count,columns,rows,shape", [(5, 3, 4, (3, 11, 16)), (2, 3, 4, (3, 6, 16)), (9, 2, 2, (3, 11, 11))]
)
def test_a_mosaic_has_every_pixel_in_its_place(count, columns, rows, shape):
    images = np.arange(count * 3 * 16, dtype=np.uint8).reshape(count, 3, 4, 4)
    sheet = plots.mosaic(images, columns=columns, rows=rows, gap=1)
    assert sheet.shape == shape and sheet.dtype == np.uint8
    for i in range(min(count, columns * rows)):
        top, left = i // columns * 5 + 1, i % columns * 5 + 1
        place = sheet[:, top : top + 4, left : left + 4]
        assert (place == images[i]).all()
        place[:] = 255
    assert (sheet == 255).all()  # the rest is white


def test_a_mosaic_of_normalised_images():
    split = tiny(40)
    normalisation = Normalisation.of(split)
    sheet = plots.mosaic(normalisation(split.images), normalisation.mean, normalisation.std)
    assert sheet.shape == (3, 4 * 34 + 2, 8 * 34 + 2)  # of 40 images the first 32
    assert (sheet[:, 2:34, 2:34] == split.images[0].numpy()).all()
    assert (sheet[:, 104:136, 240:272] == split.images[31].numpy()).all()


def test_training_that_was_stopped_in_its_first_epoch_still_has_a_figure():
    figure = plots.training_curves([], "Training on nothing")
    assert figure.alt_text == "Training on nothing. No epoch is finished yet."
