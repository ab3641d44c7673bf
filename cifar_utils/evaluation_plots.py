"""Figures of an evaluation, from plain arrays: what `plots` is for data and training.

Every figure carries its text alternative; colours are those of `plots`, and series also differ by marker and line.
"""

import numpy as np
from matplotlib.figure import Figure

from cifar_utils.calibration import Reliability
from cifar_utils.plots import BLUE, GREEN, ORANGE, new_figure, percent, to_pixels

SERIES = [  # colour, marker, line style: told apart in black and white as well
    (BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", "-."), ("#CC79A7", "D", ":"), ("#56B4E9", "v", "-"),
    ("#E69F00", "P", "--"),
]  # fmt: skip


def ink(share: float) -> str:
    """The colour of text on cividis at this share: black from where cividis is equally far from both."""
    return "black" if share > 0.47 else "white"


def _dots(axis, rows: list[tuple[float, float, float]], margin: float) -> None:
    """Values with their 95 % intervals, one beneath the other: (value, low, high), nothing where that is NaN."""
    for place, (value, low, high) in enumerate(rows):
        if not np.isnan(value):
            axis.plot([low, high], [place, place], color=BLUE, linewidth=2)
            axis.plot(value, place, "o", color=BLUE)
            axis.annotate(f"{value:.1%}", (high, place), xytext=(6, 0), textcoords="offset points", va="center")
    axis.set(xlabel="accuracy, with 95 % interval", yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5))
    axis.xaxis.set_major_formatter(percent)
    axis.margins(x=margin)
    axis.grid(alpha=0.3, axis="x")


def confusion_matrix(matrix: np.ndarray, classes, title: str, summary: str = "") -> Figure:
    """The confusion matrix: colours and percentages by row, the counts beneath.

    Args:
        matrix: [10, 10] counts, rows are true classes.
        classes: ten names.
        title: of the figure.
        summary: the matrix in words, for the text alternative.
    """
    total = matrix.sum(1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    shown = np.where(total > 0, np.vectorize("{:.0%}".format)(share), "n/a")
    figure, axis = new_figure(figsize=(7.5, 7.4))
    axis.imshow(share, cmap="cividis", vmin=0, vmax=1)
    for (true, predicted), value in np.ndenumerate(share):
        axis.text(
            predicted, true, f"{shown[true, predicted]}\n{matrix[true, predicted]}", ha="center", va="center",
            fontsize=9, color=ink(value),
        )  # fmt: skip
    ticks = range(len(classes))
    axis.set(title=title, xlabel="predicted class", ylabel="true class", xticks=ticks, yticks=ticks)
    axis.set_xticklabels(classes, rotation=40, ha="right")
    axis.set_yticklabels(classes)
    recall = ", ".join(f"{name} {shown[i, i]}" for i, name in enumerate(classes))
    figure.alt_text = (
        f"{title}. Confusion matrix, share of each true class on the diagonal: {recall}. {summary}".strip()
    )
    return figure


def class_accuracy(accuracy: np.ndarray, intervals: list[tuple[float, float]], classes, title: str) -> Figure:
    """Dots with intervals: the accuracy of each class, best first."""
    order = np.argsort(-np.nan_to_num(accuracy, nan=-1), kind="stable")
    figure, axis = new_figure(figsize=(8, 3.8))
    _dots(axis, [(accuracy[i], *intervals[i]) for i in order], margin=0.12)
    axis.set_title(title)
    axis.set_yticklabels([f"{classes[i]} (n/a)" if np.isnan(accuracy[i]) else classes[i] for i in order])
    values = ", ".join(f"{classes[i]} {'n/a' if np.isnan(accuracy[i]) else f'{accuracy[i]:.1%}'}" for i in order)
    figure.alt_text = f"{title}. Accuracy of each class, best first: {values}."
    return figure


def reliability_diagram(curves: dict[str, Reliability], title: str) -> Figure:
    """Accuracy against confidence, bin by bin, and how many images each bin holds.

    Args:
        curves: name -> bins, up to six; all with the same edges.
        title: of the figure.
    """
    figure, (axis, counts) = new_figure(2, 1, figsize=(6.4, 6.6), height_ratios=(3, 1), sharex=True)
    axis.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="as often right as sure")
    said = []
    for (name, bins), (colour, marker, line) in zip(curves.items(), SERIES):
        filled, error = bins.count > 0, bins.expected_calibration_error
        label = f"{name}: calibration error {error:.1%}"
        axis.plot(bins.confidence[filled], bins.accuracy[filled], line, color=colour, marker=marker, label=label)
        counts.stairs(bins.count, bins.edges, color=colour, linestyle=line, linewidth=1.5)
        points = ", ".join(f"{c:.0%} sure {a:.0%}" for c, a in zip(bins.confidence[filled], bins.accuracy[filled]))
        said.append(f"{label}; right when {points}")
    axis.set(title=title, ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    counts.set(xlabel="probability of the predicted class", ylabel="images")
    axis.xaxis.set_major_formatter(percent)
    axis.yaxis.set_major_formatter(percent)
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left")
    figure.alt_text = f"{title}. Reliability diagram, {len(bins.count)} equally wide bins. {'. '.join(said)}."
    return figure


def run_accuracies(shares: dict[str, tuple[float, float, float]], title: str) -> Figure:
    """Dots with intervals: the accuracy of each run. shares: name -> (value, low, high)."""
    figure, axis = new_figure(figsize=(8, 1.4 + 0.45 * len(shares)))
    _dots(axis, list(shares.values()), margin=0.15)
    axis.set_title(title)
    axis.set_yticklabels(list(shares))
    values = "; ".join(f"{name} {v:.1%} ({low:.1%} to {high:.1%})" for name, (v, low, high) in shares.items())
    figure.alt_text = f"{title}. Accuracy with 95 % intervals: {values}."
    return figure


def robustness_curves(panels: dict[str, dict[str, np.ndarray]], units: dict[str, str], title: str) -> Figure:
    """Accuracy against the amount of a change, with intervals, for several runs on the same axes.

    Args:
        panels: change -> run -> [A, 4] float64: amount, accuracy, low, high. Up to six runs.
        units: change -> unit of its amount.
        title: of the figure.
    """
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, figsize=(3.1 * columns, 2.9 * rows + 0.7), squeeze=False, sharey=True)
    said = []
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (change, runs) in zip(axes.flat, panels.items()):
        for (name, points), (colour, marker, line) in zip(runs.items(), SERIES):
            amount, value, low, high = points.T
            axis.fill_between(amount, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(amount, value, line, color=colour, marker=marker, markersize=4, label=name)
            ends = f"{value[0]:.0%} at {amount[0]:g}, {value.max():.0%} at best, {value[-1]:.0%} at {amount[-1]:g}"
            said.append(f"{change}, {name}: {ends}")
        axis.set(title=change, xlabel=units[change])
        axis.yaxis.set_major_formatter(percent)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylim(0, 1)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(title)
    figure.alt_text = f"{title}. Line plots of accuracy against the amount of each change. {'. '.join(said)}."
    return figure


def attention(images, maps: np.ndarray, captions: list[str], title: str) -> Figure:
    """Images, and beneath each the places that speak for (purple) and against (orange) the class in its caption.

    Args:
        images: [N, 3, H, W] uint8.
        maps: [N, H, W] float, positive where a place speaks for the class.
        captions: N.
        title: of the figure.
    """
    count = len(maps)
    figure, axes = new_figure(2, count, figsize=(1.35 * count, 3.5), squeeze=False)
    for (above, beneath), image, places, caption in zip(axes.T, to_pixels(images), maps, captions):
        limit = max(float(abs(places).max()), 1e-9)
        grey = image.mean(2)
        above.imshow(image, interpolation="nearest")
        above.set_title(caption, fontsize=9)
        beneath.imshow(grey, cmap="gray", vmin=0, vmax=255)
        beneath.imshow(places, cmap="PuOr", vmin=-limit, vmax=limit, alpha=0.6)
        above.set_axis_off()
        beneath.set_axis_off()
    figure.suptitle(title)
    rows, columns = ("top", "middle", "bottom"), ("left", "centre", "right")

    def strongest(places: np.ndarray) -> str:
        row, column = np.unravel_index(places.argmax(), places.shape)
        return f"{rows[3 * row // places.shape[0]]} {columns[3 * column // places.shape[1]]}"

    said = "; ".join(f"{' '.join(c.split())}: most at the {strongest(m)}" for c, m in zip(captions, maps))
    figure.alt_text = f"{title}. Heat maps of the places that speak for a class, over each image. {said}."
    return figure
