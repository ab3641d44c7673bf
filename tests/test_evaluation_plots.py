"""Figures of an evaluation: their text alternatives, that their text can be read, and up to 100 classes."""

from functools import cache

import numpy as np
import pytest
import torch
from figures import check_texts
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image
from tables import certain, names, random_images, random_predictions

from cifar_utils import plots
from cifar_utils.data import CIFAR10_CLASSES
from cifar_utils.evaluation import metrics
from cifar_utils.evaluation import plots as evaluation_plots
from cifar_utils.evaluation.calibration import reliability

FORMULA = "$\\frac$ & $x$"


def matrix() -> np.ndarray:
    """Every shade: recall from 0 to 100%, counts of up to four digits, and no image of a frog."""
    result = np.full((10, 10), 11)
    for label, correct in enumerate([0, 25, 60, 80, 99, 150, 0, 300, 901, 0]):
        result[label, label] = correct
    result[6] = 0
    result[9] = np.eye(10, dtype=int)[9] * 1000
    return result


def class_accuracy(counts=None, classes=CIFAR10_CLASSES, title="SAMPLE, 1,000 test images") -> Figure:
    counts = matrix() if counts is None else counts
    return evaluation_plots.class_accuracy(metrics.per_class(counts)["recall"], classes, title)


def confusion_matrix(classes: int, title="SAMPLE, 1,000 test images") -> Figure:
    counts = matrix() if classes == 10 else metrics.confusion_matrix(random_predictions(0, 5000, classes=classes))
    return plots.confusion_matrix(counts, names(classes), title, metrics.top_confusions(counts, names(classes)))


def robustness(panels: int, models=("full", "none")) -> Figure:
    points = np.array([[-1, 0.1, 0.05, 0.2], [0, 0.9, 0.85, 0.95], [1, 0.2, 0.1, 0.3]])
    corruptions = ["rotation", "translation", "scale", "perspective", "brightness", "contrast", "saturation"][:panels]
    curves = {name: {models[0]: points, models[1]: points * [1, 0.5, 0.5, 0.5]} for name in corruptions}
    return evaluation_plots.robustness_curves(curves, {name: "severity" for name in corruptions}, "Robustness")


def activation_maps(captions=("airplane", "automobile"), size: int = 32) -> Figure:
    maps = np.zeros((2, size, size))
    maps[0, 2, 3] = maps[1, -2, -1] = 1
    maps[0, 20, 20] = -2
    images = random_images(2, size=size).images
    return evaluation_plots.class_activation_maps(images, maps, list(captions), "Where it looks")


def calibration_curves(first="as trained") -> Figure:
    curves = {first: reliability(random_predictions(0), 5), "of one": reliability(certain([1], [1], 0.7), 5)}
    return evaluation_plots.reliability_diagram(curves, "R")


ACCURACIES = {"mine": (0.857, 0.85, 0.864), "yours": (0.1, 0.05, 0.2)}
MANY = metrics.confusion_matrix(random_predictions(0, 5000, classes=100))
FIGURES = {  # how to draw it, and what its text alternative must contain
    "confusion matrix": (
        lambda: confusion_matrix(10),
        ["airplane 0%", "bird 38%", "frog n/a", "truck 100%", "airplane is predicted as automobile 11.1% of the time"],
    ),
    "confusion matrix of 2": (lambda: confusion_matrix(2), ["class 0 ", "class 1 ", "class 1 is predicted as class 0"]),
    "confusion matrix of 20": (lambda: confusion_matrix(20), ["on the diagonal: class 0 ", "class 19 "]),
    "confusion matrix of 21": (
        lambda: confusion_matrix(21),
        ["the 10 best and the 10 worst of 21 classes: class "],
    ),
    "confusion matrix of 50": (
        lambda: confusion_matrix(50),
        ["the 10 best and the 10 worst of 50 classes: class "],
    ),
    "confusion matrix of 100": (lambda: confusion_matrix(100), ["of 100 classes", "is predicted as"]),
    "confusion matrix of 300": (lambda: confusion_matrix(300), ["of 300 classes", "is predicted as"]),
    "models compared": (
        lambda: evaluation_plots.model_accuracies(ACCURACIES, "M", {"yours": "(-75.7 points, p = 1e-200)"}),
        ["mine 85.7% (85.0% to 86.4%); yours 10.0% (5.0% to 20.0%) (-75.7 points, p = 1e-200)."],
    ),
    "models of long names compared": (
        lambda: evaluation_plots.model_accuracies(
            {"a_long_name_of_a_run_" * 3 + str(i): (0.36 + i / 30, 0.33 + i / 30, 0.39 + i / 30) for i in range(2)},
            "M",
            {"a_long_name_of_a_run_" * 3 + "1": "(+3.33 points, p = 1.62e-06)"},
        ),
        ["(+3.33 points, p = 1.62e-06)"],
    ),
    "class accuracy": (
        class_accuracy,
        ["first: truck 100.0% (", "); ship 90.1% (", "airplane 0.0% (", "frog n/a."],
    ),
    "class accuracy of 2": (
        lambda: class_accuracy(np.eye(2, dtype=int), ("cat", "dog")),
        ["cat 100.0% (20.7% to 100.0%); dog 100.0% (20.7% to 100.0%)."],
    ),
    "class accuracy of 100": (
        lambda: class_accuracy(MANY, names(100)),
        ["1,000 test images - the 10 best and the 10 worst of 100 classes."],
    ),
    "reliability": (
        calibration_curves,
        [
            "5 equally wide bins",
            "as trained: calibration",
            "of one: calibration error 30.0%",
            "70% and 100% (1 images)",
        ],
    ),
    "models": (
        lambda: evaluation_plots.model_accuracies(ACCURACIES, "Models"),
        ["mine 85.7% (85.0% to 86.4%)", "yours 10.0%"],
    ),
    "robustness": (
        lambda: robustness(7),
        ["rotation, full: 10% at -1, 90% at best, 20% at 1 (intervals up to", "contrast, none"],
    ),
    "robustness of one": (lambda: robustness(1), ["rotation, full"]),
    "activation maps": (activation_maps, ["airplane: most at the top left", "automobile: most at the bottom right"]),
    "activation maps against": (
        lambda: evaluation_plots.class_activation_maps(random_images(1).images, -np.ones((1, 8, 8)), ["cat"], "T"),
        ["cat: no place supports it"],
    ),
    "a photo": (
        lambda: evaluation_plots.photo_and_square(torch.zeros(3, 40, 90, dtype=torch.uint8), 48, FORMULA),
        [f"{FORMULA}. Left: the photo", "the square, 48 x 48 pixels."],
    ),
    "probabilities": (
        lambda: evaluation_plots.probabilities({FORMULA: 0.75, "dog": 0.25}, "A photo"),
        [f"A photo. Bars, the most probable class first: {FORMULA} 75.0%, dog 25.0%."],
    ),
    "activation maps of 64 pixels": (lambda: activation_maps(size=64), ["airplane: most at the top left"]),
    "perfect": (lambda: class_accuracy(np.diag([1000] * 10), title="All"), ["airplane 100.0%"]),
    "formulas": (lambda: confusion_matrix(10, FORMULA), [FORMULA]),
    "formulas as classes": (
        lambda: plots.confusion_matrix(np.eye(2, dtype=int), (FORMULA, "$$"), "T"),
        [f"{FORMULA} 100%, $$ 100%"],
    ),
    "formulas as dots": (
        lambda: class_accuracy(np.eye(2, dtype=int), (FORMULA, "x"), FORMULA),
        [f"{FORMULA} 100.0%"],
    ),
    "formulas as curves": (lambda: robustness(1, (FORMULA, "$y$")), [f"rotation, {FORMULA}"]),
    "formulas as captions": (lambda: activation_maps((FORMULA, "$y$")), [f"{FORMULA}: most at"]),
    "formulas as bins": (lambda: calibration_curves(FORMULA), [f"{FORMULA}: calibration error"]),
    "formulas as models": (
        lambda: evaluation_plots.model_accuracies({FORMULA: (0.5, 0.4, 0.6)}, FORMULA),
        [f"{FORMULA} 50.0%"],
    ),
    "long names": (
        lambda: plots.confusion_matrix(np.eye(3, dtype=int), ("a" * 90, "b" * 90, "c"), "T"),
        ["a" * 90],
    ),
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
    assert "nan" not in picture.alt_text and len(picture.alt_text) < 1500


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_saved_with_its_words(name, tmp_path):
    picture = drawn(name)
    plots.save(picture, tmp_path / "new" / "x.png")
    with Image.open(tmp_path / "new" / "x.png") as image:
        assert image.text["Description"] == picture.alt_text
        assert min(image.size) >= 150 and max(image.size) < 2000 and len(np.unique(np.asarray(image))) > 10


def test_no_figure_stays_open():
    for name in FIGURES:
        drawn(name)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_off_or_covers_another(name, monkeypatch):
    check_texts(drawn(name), monkeypatch, fewest=3)


def luminance(color) -> float:
    c = np.array(color[:3])
    return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("classes", [2, 10, 20])
def test_every_cell_of_the_confusion_matrix_can_be_read(classes):
    """Enough contrast in every shade (4.5 to 1, WCAG 2 level AA), and the text fits its cell."""
    shades = np.zeros((classes, classes), int)
    for label in range(classes):  # fractions of 0 to 99%
        shades[label, 0], shades[label, 1] = 1000 - (high := 450 + 110 * label // classes), high
    for m in (shades, matrix()) if classes == 10 else (shades,):
        picture = plots.confusion_matrix(m, names(classes), "Title")
        picture.draw_without_rendering()
        axis = picture.axes[0]
        (image,) = axis.images
        assert len(axis.texts) == classes**2
        for text in axis.texts:
            column, row = map(int, text.get_position())
            fraction, count = text.get_text().split("\n")
            assert int(count) == m[row, column]
            assert fraction == (f"{m[row, column] / m[row].sum():.0%}" if m[row].sum() else "n/a")
            ground = luminance(image.cmap(image.norm(image.get_array()[row, column])))
            ink = luminance((0, 0, 0) if text.get_color() == "black" else (1, 1, 1))
            assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) > 4.5
            box = text.get_window_extent().transformed(axis.transData.inverted())
            assert abs(box.x0 - column) < 0.5 and abs(box.x1 - column) < 0.5
            assert abs(box.y0 - row) < 0.5 and abs(box.y1 - row) < 0.5
        assert axis.get_ylabel() == "true class" and axis.get_xlabel() == "predicted class"


@pytest.mark.parametrize("classes", [20, 21, 60, 100, 101, 1000])
def test_large_confusion_matrices_show_colors_and_names_as_far_as_they_can_be_read(classes):
    counts = np.eye(classes, dtype=int)
    figure = plots.confusion_matrix(counts, names(classes), "Title")
    axis = figure.axes[0]
    assert (len(axis.texts) > 0) == (classes <= 20)
    assert max(figure.get_size_inches()) < 16
    labels = axis.get_yticklabels()
    if classes <= 100:
        assert [label.get_text() for label in labels] == list(names(classes))
        pixels = labels[0].get_fontsize() * 120 / 72  # as saved
        assert pixels > 10
    else:
        assert len(labels) < classes / 5
    assert (axis.images[0].get_array() == counts).all()


def test_class_accuracy_is_sorted_and_has_its_intervals():
    recall = metrics.per_class(matrix())["recall"]
    axis = class_accuracy().axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels[:2] == ["truck", "ship"] and labels[-1] == "frog (n/a)"
    lines = [line for line in axis.lines if len(line.get_xdata()) == 2]
    assert [tuple(line.get_xdata()) for line in lines] == [
        tuple(recall[CIFAR10_CLASSES.index(name), 1:]) for name in labels if "n/a" not in name
    ]


def test_of_many_classes_the_ends_are_shown():
    axis = drawn("class accuracy of 100").axes[0]
    assert len(axis.get_yticklabels()) == 20 and "the 10 best and the 10 worst of 100 classes" in axis.get_title()


@pytest.mark.parametrize("name", ["perfect", "class accuracy", "reliability", "models", "robustness"])
def test_ticks_have_labels_of_their_own(name):
    picture = drawn(name)
    picture.draw_without_rendering()
    for axis in picture.axes:
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            texts = [label.get_text() for label in labels]
            assert len(set(texts)) == len(texts)


def test_text_is_drawn_as_it_is():
    for text in (FORMULA, "$", "$$", "\\$", "100% $ 5", "a_b^c"):
        figure = plt.Figure()
        label = figure.text(0, 0, plots.literal(text))
        figure.draw_without_rendering()
        shown, is_formula = label._preprocess_math(label.get_text())
        assert (shown, is_formula) == (text, False)
    assert plots.literal("abc" * 10, 20) == "abcabcabcabca…abcabc"


def test_two_seeds_of_one_recipe_have_labels_of_their_own():
    names = [f"CNN_ProgressiveResizing-full_Muon-0.18_9-epochs_seed-{seed}_ab12cd" for seed in (1, 2)]
    figure = evaluation_plots.model_accuracies({name: (0.9, 0.8, 0.95) for name in names}, "Two seeds")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(set(labels)) == 2 and all(len(label) == 40 for label in labels)


def test_a_long_title_is_saved_whole(tmp_path):
    """The picture grows with it: the title ends with the split and the source of the images."""
    widths = []
    for title in ("SAMPLE, 40 test images", 3 * "a_long_name_of_a_run_" + ": SAMPLE, 40 test images"):
        plots.save(activation_maps_of_one(title), tmp_path / "map.png")
        with Image.open(tmp_path / "map.png") as picture:
            widths.append(picture.width)
            edges = np.asarray(picture.convert("L"))[:, [0, -1]]
        assert (edges == 255).all()
    assert widths[1] > 2 * widths[0]


def activation_maps_of_one(title: str) -> Figure:
    return evaluation_plots.class_activation_maps(random_images(1).images, np.eye(32)[None], ["cat"], title)


def test_a_name_with_an_underscore_is_in_the_legend():
    points = np.array([[-1, 0.1, 0.05, 0.2], [0, 0.9, 0.85, 0.95]])
    figure = evaluation_plots.robustness_curves({"scale": {"_mine": points}}, {"scale": "factor"}, "One run")
    (legend,) = figure.legends
    assert [text.get_text().strip("\u200b") for text in legend.get_texts()] == ["_mine"]


@pytest.mark.parametrize("classes", [10, 30])
def test_a_class_without_images_is_not_drawn_as_one_at_0_percent(classes):
    counts = np.eye(classes, dtype=int)
    counts[3] = 0
    (image, *_) = plots.confusion_matrix(counts, names(classes), "Three is missing").axes[0].images
    shown = image.to_rgba(image.get_array())
    assert (shown[3] == shown[3, 0]).all() and not np.allclose(shown[3, 0], shown[2, 0])


def test_the_bins_of_a_reliability_diagram_have_their_intervals():
    predictions = random_predictions(0)
    bins = reliability(predictions, 5)
    figure = evaluation_plots.reliability_diagram({"as trained": bins}, "R")
    (lines,) = [c for c in figure.axes[0].collections if hasattr(c, "get_segments")]
    filled = bins.count > 0
    expected = [
        metrics.wilson_interval(round(accuracy * n), int(n))
        for accuracy, n in zip(bins.accuracy[filled], bins.count[filled])
    ]
    np.testing.assert_allclose([segment[:, 1] for segment in lines.get_segments()], expected)
