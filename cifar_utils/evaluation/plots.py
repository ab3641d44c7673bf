"""Figures of an evaluation, from plain arrays: what `cifar_utils.plots` is for data and training.

Every figure carries its text alternative; colors are those of `cifar_utils.plots`, and series also differ by marker and
line. The confusion matrix is there because training logs it as well.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cifar_utils.data import square
from cifar_utils.evaluation.calibration import Reliability
from cifar_utils.evaluation.metrics import best_and_worst, which_listed, wilson_interval
from cifar_utils.plots import BLUE, ORANGE, SERIES, confusion_matrix, literal, new_figure, percent, to_pixels

__all__ = [
    "class_accuracy", "class_activation_maps", "confusion_matrix", "model_accuracies", "photo_and_square",
    "probabilities", "reliability_diagram", "robustness_curves",
]  # fmt: skip


def _dots(axis, rows: list[tuple[float, float, float]], names: list[str], margin: float) -> None:
    """Values with their 95% intervals, one beneath the other: (value, low, high), nothing where that is NaN."""
    for place, (value, low, high) in enumerate(rows):
        if not np.isnan(value):
            axis.plot([low, high], [place, place], color=BLUE, linewidth=2)
            axis.plot(value, place, "o", color=BLUE)
            axis.annotate(f"{value:.1%}", (high, place), xytext=(6, 0), textcoords="offset points", va="center")
    axis.set(xlabel="accuracy, with 95% interval", ylim=(len(rows) - 0.5, -0.5))
    axis.set_yticks(range(len(rows)), [literal(name, 40) for name in names])
    axis.xaxis.set_major_formatter(percent)
    axis.margins(x=margin)
    axis.grid(alpha=0.3, axis="x")


def _in_words(value: float, low: float, high: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:.1%} ({low:.1%} to {high:.1%})"


def class_accuracy(recall: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Dots with intervals: the accuracy of each class, best first; of more than 20 the ten best and the ten worst.

    Args:
        recall: [C, 3] float: value, low, high, see `metrics.per_class`.
        classes: C names.
        title: of the figure.
    """
    order = best_and_worst(recall[:, 0])
    if len(order) < len(classes):
        title = f"{title}\n{which_listed(recall[:, 0])}"
    figure, axis = new_figure(figsize=(8, max(1.8, 0.8 + 0.3 * len(order))))
    names = [f"{classes[i]} (n/a)" if np.isnan(recall[i, 0]) else classes[i] for i in order]
    _dots(axis, [tuple(recall[i]) for i in order], names, margin=0.12)
    axis.set_title(literal(title))
    values = "; ".join(f"{classes[i]} {_in_words(*recall[i])}" for i in order)
    figure.alt_text = f"{' - '.join(title.splitlines())}. Accuracy of each class, best first: {values}."
    return figure


def reliability_diagram(curves: dict[str, Reliability], title: str) -> Figure:
    """Accuracy against confidence, bin by bin, with 95% intervals, and how many images each bin holds.

    Args:
        curves: name -> bins, up to six; all with the same edges.
        title: of the figure.
    """
    figure, (axis, counts) = new_figure(2, 1, figsize=(6.4, 6.6), height_ratios=(3, 1), sharex=True)
    axis.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="accuracy equals confidence")
    words = []
    for (name, bins), (color, marker, line) in zip(curves.items(), SERIES):
        filled, error = bins.count > 0, bins.expected_calibration_error
        label, x, y = f"{name}: calibration error {error:.1%}", bins.confidence[filled], bins.accuracy[filled]
        axis.plot(x, y, line, color=color, marker=marker, label=literal(label))
        correct = np.rint(y * bins.count[filled]).astype(int).tolist()
        intervals = [wilson_interval(*pair) for pair in zip(correct, bins.count[filled].tolist())]
        axis.vlines(x, *zip(*intervals), color=color, alpha=0.4)
        counts.stairs(bins.count, bins.edges, color=color, linestyle=line, linewidth=1.5)
        points = ", ".join(f"{c:.0%} and {a:.0%} ({n:,} images)" for c, a, n in zip(x, y, bins.count[filled]))
        widest = max(high - low for low, high in intervals)
        words.append(
            f"{label}; confidence and accuracy of the bins {points}, intervals up to {100 * widest:.0f} points wide"
        )
    axis.set(title=literal(title), ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    counts.set(xlabel="confidence (probability of the predicted class)", ylabel="images")
    axis.xaxis.set_major_formatter(percent)
    axis.yaxis.set_major_formatter(percent)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.alt_text = f"{title}. Reliability diagram, {len(bins.count)} equally wide bins. {'. '.join(words)}."
    return figure


def model_accuracies(
    accuracies: dict[str, tuple[float, float, float]], title: str, comparisons: dict[str, str] | None = None
) -> Figure:
    """Dots with intervals: the accuracy of each model.

    Args:
        accuracies: name -> (value, low, high), 0 to 1.
        title: of the figure.
        comparisons: name -> its comparison with another model, in a few words: intervals of two models may overlap
            although one is better.
    """
    notes = [f" {comparisons[name]}" if name in (comparisons or {}) else "" for name in accuracies]
    figure, axis = new_figure(figsize=(11 if comparisons else 8, 1.4 + 0.45 * len(accuracies)))
    _dots(axis, list(accuracies.values()), list(accuracies), margin=0.15)
    for place, note in enumerate(notes):
        axis.text(1.01, place, note, transform=axis.get_yaxis_transform(), va="center")
    axis.set_title(literal(title))
    values = "; ".join(f"{name} {_in_words(*value)}{note}" for (name, value), note in zip(accuracies.items(), notes))
    figure.alt_text = f"{title}. Accuracy with 95% intervals: {values}."
    return figure


def robustness_curves(panels: dict[str, dict[str, np.ndarray]], units: dict[str, str], title: str) -> Figure:
    """Accuracy against the severity of a corruption, with intervals, for several models on the same axes.

    Args:
        panels: corruption -> model -> [A, 4] float64: severity, accuracy, low, high. Up to six models.
        units: corruption -> unit of its severity.
        title: of the figure.
    """
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, figsize=(3.1 * columns, 2.9 * rows + 0.7), squeeze=False, sharey=True)
    words = []
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (corruption, models) in zip(axes.flat, panels.items()):
        for (name, points), (color, marker, line) in zip(models.items(), SERIES):
            severity, value, low, high = points.T
            axis.fill_between(severity, low, high, color=color, alpha=0.15, linewidth=0)
            axis.plot(severity, value, line, color=color, marker=marker, markersize=4, label=literal(name))
            ends = f"{value[0]:.0%} at {severity[0]:g}, {value.max():.0%} at best, {value[-1]:.0%} at {severity[-1]:g}"
            words.append(f"{corruption}, {name}: {ends} (intervals up to {100 * (high - low).max():.0f} points wide)")
        axis.set(title=corruption, xlabel=units[corruption])
        axis.yaxis.set_major_formatter(percent)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylim(0, 1)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(literal(title))
    figure.alt_text = f"{title}. Line plots of accuracy against the severity of each corruption. {'. '.join(words)}."
    return figure


def class_activation_maps(images, maps: np.ndarray, captions: list[str], title: str) -> Figure:
    """Images, and beneath each the places that support the class in its caption (purple) or speak against it (orange).

    Each map has a scale of its own: its strongest place is in full color.

    Args:
        images: [N, 3, H, W], see `cifar_utils.plots.to_pixels`.
        maps: [N, H, W] float, positive where a place supports the class, see `saliency.enlarge`.
        captions: N.
        title: of the figure.
    """
    count, maps = len(maps), np.asarray(maps)
    figure, axes = new_figure(2, count, figsize=(max(3, 1.35 * count), 3.6), squeeze=False)
    for (above, beneath), image, places, caption in zip(axes.T, to_pixels(images), maps, captions):
        limit = max(float(abs(places).max()), 1e-9)
        gray = image.mean(2)
        above.imshow(image, interpolation="nearest")
        above.set_title(literal(caption), fontsize=9)
        beneath.imshow(gray, cmap="gray", vmin=0, vmax=255)
        beneath.imshow(places, cmap="PuOr", vmin=-limit, vmax=limit, alpha=0.6)
        above.set_axis_off()
        beneath.set_axis_off()
    figure.suptitle(literal(title))
    scales = "\n(each map on a scale of its own)" * (count > 1)
    figure.supxlabel(f"purple: for the class; orange: against it{scales}", fontsize=9)
    rows, columns = ("top", "middle", "bottom"), ("left", "center", "right")

    def strongest(places: np.ndarray) -> str:
        if places.max() <= 0:
            return "no place supports it"
        row, column = np.unravel_index(places.argmax(), places.shape)
        return f"most at the {rows[3 * row // places.shape[0]]} {columns[3 * column // places.shape[1]]}"

    words = "; ".join(f"{' '.join(c.split())}: {strongest(m)}" for c, m in zip(captions, maps))
    what = "Heat maps of the places that support a class, over each image, each on a scale of its own"
    figure.alt_text = f"{title}. {what}. {words}."
    return figure


def photo_and_square(photo, size: int, title: str) -> Figure:
    """A photo with its central square in a frame, and beside it that square as a network gets it.

    Args:
        photo: [3, H, W] uint8, see `files.read_image`.
        size: side in pixels of the images that the network takes.
        title: of the figure.
    """
    (height, width), seen = photo.shape[1:], square(photo, size)
    side = min(height, width)
    ratio = width / side
    figure, (left, right) = new_figure(1, 2, figsize=(min(12, 3.4 * (ratio + 1)), 4.1), width_ratios=(ratio, 1))
    left.imshow(photo.permute(1, 2, 0).numpy())
    corner = (width - side) / 2, (height - side) / 2
    left.add_patch(Rectangle(corner, side - 1, side - 1, fill=False, color=ORANGE, linewidth=3))
    left.set_title(f"the photo,\n{width} x {height}")
    right.imshow(seen.permute(1, 2, 0).numpy(), interpolation="nearest")
    right.set_title(f"what the network sees,\n{size} x {size}")
    for axis in (left, right):
        axis.set_axis_off()
    figure.suptitle(literal(title))
    figure.alt_text = (
        f"{title}. Left: the photo, its central square in a frame. Right: the square, {size} x {size} pixels."
    )
    return figure


def probabilities(of_class: dict[str, float], title: str) -> Figure:
    """One bar per class. of_class: name -> probability, 0 to 1, the most probable first, see `classify`."""
    figure, axis = new_figure(figsize=(7, 0.8 + 0.32 * len(of_class)))
    texts = [f"{value:.1%}" for value in of_class.values()]
    bars = axis.barh([literal(name) for name in of_class], list(of_class.values()), color=BLUE)
    axis.bar_label(bars, texts, padding=3)
    axis.invert_yaxis()
    axis.set(title=literal(title), xlim=(0, 1.12), xlabel="probability")
    axis.xaxis.set_major_formatter(percent)
    words = ", ".join(f"{name} {text}" for name, text in zip(of_class, texts))
    figure.alt_text = f"{title}. Bars, the most probable class first: {words}."
    return figure
