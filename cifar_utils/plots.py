"""Figures from plain arrays. Every figure carries its text alternative, made from the values that it shows.

Colors: the Okabe-Ito palette and cividis, which color-blind readers and black-and-white printers can tell apart;
series also differ by marker or line style.
"""

import io
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cifar_utils import checkpoint
from cifar_utils.evaluation.metrics import best_and_worst, which_listed

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
SERIES = [  # color, marker, line style: told apart in black and white as well
    (BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", "-."), ("#CC79A7", "D", ":"), ("#56B4E9", "v", "-"),
    ("#E69F00", "P", "--"),
]  # fmt: skip
CONFUSION_GAMMA = 0.5  # the square root of a fraction is shown: beside 90%, confusions of 5% would all look alike
FONT: dict[Any, Any] = {"font.size": 11, "axes.titlesize": 12}


def new_figure(rows: int = 1, columns: int = 1, **options):
    """A figure for `show` and `save`, and its axes: a number of rows and columns of them.

    options: see `plt.subplots`.
    """
    with plt.rc_context(FONT):
        figure, axes = plt.subplots(rows, columns, layout="constrained", **options)
    plt.close(figure)  # shown once, by `show`, and not a second time at the end of the notebook's cell
    return figure, axes


def percent(share: float, position: int) -> str:
    """The label of a tick at `share`, a fraction, with no more decimals than it needs; `position` is not used."""
    return f"{100 * share:.6g}%"


def show(figure: Figure) -> None:
    """Displays a figure in a notebook together with its text alternative."""
    display(figure, metadata={"image/png": {"alt": figure.alt_text}})  # type: ignore[attr-defined]


def save(figure: Figure, path: Path) -> None:
    """Saves a figure as PNG, its text alternative in the file's Description; see `checkpoint.write`.

    The picture is at least as wide as its title, so that no title is cut off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    png = io.BytesIO()
    figure.savefig(png, dpi=120, bbox_inches="tight", metadata={"Description": figure.alt_text})  # type: ignore[attr-defined]
    checkpoint.write(path, png.getvalue())


def to_pixels(images) -> np.ndarray:
    """[N, 3, H, W] uint8, or float in 0 to 1, -> [N, H, W, 3] uint8 for display."""
    x = np.asarray(images)
    if x.dtype != np.uint8:
        x = (x.astype(np.float32) * 255).round().clip(0, 255).astype(np.uint8)
    return x.transpose(0, 2, 3, 1)


def grid(images, columns: int = 8, rows: int = 4, gap: int = 2) -> np.ndarray:
    """[height, width, 3] uint8: the first rows x columns images (see `to_pixels`), `gap` white pixels apart."""
    x = to_pixels(images)[: rows * columns]
    height, width = x.shape[1] + gap, x.shape[2] + gap
    sheet = np.full((-(-len(x) // columns) * height + gap, columns * width + gap, 3), 255, np.uint8)
    for i, image in enumerate(x):
        top, left = i // columns * height + gap, i % columns * width + gap
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def one_image(pixels: np.ndarray, title: str) -> Figure:
    """One image under its title. pixels: [H, W, 3] uint8."""
    figure, axis = new_figure(figsize=(7, 7 * pixels.shape[0] / pixels.shape[1] + 0.4))
    axis.imshow(pixels, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(literal(title))
    figure.alt_text = f"{title}: an image of {pixels.shape[1]} x {pixels.shape[0]} pixels."
    return figure


def image_grid(images, captions: list[str], title: str, columns: int = 10) -> Figure:
    """Images under their captions, `columns` per row. images: [N, 3, H, W], see `to_pixels`."""
    pixels = to_pixels(images)
    rows = -(-len(pixels) // columns)
    lines = [caption.splitlines() for caption in captions]
    width = max(1.05, 0.088 * max((len(line) for caption in lines for line in caption), default=0))
    height = 1.05 + 0.2 * max(map(len, lines), default=0)
    figure, axes = new_figure(rows, columns, figsize=(columns * width, rows * height + 0.4), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, caption in zip(axes.flat, pixels, captions):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(literal(caption), fontsize=9)
    figure.suptitle(literal(title))
    figure.alt_text = (
        f"{title}: a grid of {len(pixels)} images, row by row: {', '.join(' '.join(c.split()) for c in captions)}."
    )
    return figure


def augmentation_preview(originals, draws, captions: list[str], title: str, content: str = "") -> Figure:
    """Each original beside several draws of its augmentation.

    Args:
        originals: [N, 3, H, W] uint8.
        draws: [N, D, H, W, 3] uint8, see `to_pixels`.
        captions: N names.
        title: of the figure.
        content: what the draws are, where they are not random.
    """
    count = draws.shape[1]
    many = "s" * (count > 1)
    figure, axes = new_figure(
        len(originals), count + 1, figsize=(count + 2, len(originals) * 1.08 + 0.6), squeeze=False
    )
    for row, (original, caption) in enumerate(zip(to_pixels(originals), captions)):
        for column, image in enumerate([original, *draws[row]]):
            axes[row, column].imshow(image, interpolation="nearest")
            axes[row, column].set(xticks=[], yticks=[])
            axes[row, column].spines[:].set_visible(column == 0)
            axes[row, column].spines[:].set(color=ORANGE, linewidth=2.5)
        axes[row, 0].set_ylabel(literal(caption), rotation=0, ha="right", va="center")
    axes[0, 0].set_title("original", fontsize=10)
    axes[0, 1].set_title(literal(content or f"{count} draw{many}"), fontsize=10, loc="left")
    figure.suptitle(literal(title))
    figure.alt_text = (
        f"{title}. {len(originals)} rows ({', '.join(captions)}): the original image on the left in a frame, "
        f"then {content or f'{count} randomly augmented version{many} of it'}."
    )
    return figure


def class_counts(counts: dict[str, np.ndarray], classes, title: str) -> Figure:
    """Bars: images of each class in each split. counts: split name -> [classes]."""
    figure, axis = new_figure(figsize=(10, 3.4))
    width = 0.8 / len(counts)
    for i, ((name, values), color) in enumerate(zip(counts.items(), (BLUE, ORANGE, GREEN))):
        bars = axis.bar(
            np.arange(len(classes)) + (i - (len(counts) - 1) / 2) * width, values, width, label=name, color=color
        )
        if len(counts) * len(classes) <= 30:
            axis.bar_label(bars, fontsize=8)
    axis.set(ylabel="images", xticks=[])
    if len(classes) <= 100:
        names, crowded = [literal(name, 20) for name in classes], sum(map(len, classes)) > 90
        size, turn = min(11, 480 / len(classes)), 90 if crowded else 0
        axis.set_xticks(range(len(classes)), names, fontsize=size, rotation=turn)
    axis.set_title(literal(title), loc="left")
    axis.margins(x=0.01, y=0.12)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(counts), frameon=False)
    parts = [f"{name}: " + ", ".join(f"{c} {v}" for c, v in zip(classes, values)) for name, values in counts.items()]
    figure.alt_text = f"{title}. Bar chart of images per class. {'. '.join(parts)}."
    return figure


def curves(lines: dict[str, list[float]], title: str, xlabel: str, ylabel: str) -> Figure:
    """Up to three lines: values against their position. lines: name -> values; a single one needs no legend."""
    figure, axis = new_figure(figsize=(7, 3))
    words = []
    for (name, values), color, line in zip(lines.items(), (BLUE, ORANGE, GREEN), ("-", "--", ":")):
        axis.plot(values, line, color=color, label=literal(name))
        words.append(
            f"{name}, {len(values)} values: it starts at {values[0]:.3g}, its highest value is {max(values):.3g}, its "
            f"lowest {min(values):.3g}, it ends at {values[-1]:.3g}."
        )
    if len(lines) > 1:
        axis.legend()
    axis.set(title=literal(title), xlabel=literal(xlabel), ylabel=literal(ylabel))
    axis.grid(alpha=0.3)
    figure.alt_text = f"{title}. Line plot of {ylabel} against {xlabel}. {' '.join(words)}"
    return figure


def accuracy_against_time(histories: dict[str, list[dict]], title: str) -> Figure:
    """Validation accuracy after each epoch against seconds of training, one line per run. histories: see `fit`."""
    figure, axis = new_figure(figsize=(7, 3.4))
    points = []
    for (name, history), (color, marker, line) in zip(histories.items(), cycle(SERIES)):
        if not history:  # stopped within the first epoch
            points.append(f"{name} no epoch finished")
            continue
        seconds, accuracy = ([row[key] for row in history] for key in ("seconds", "validation_accuracy"))
        axis.plot(seconds, accuracy, line, marker=marker, color=color, label=literal(name))
        points.append(f"{name} {accuracy[-1]:.1%} after {len(history)} epochs in {seconds[-1]:.0f} seconds")
    axis.set(title=literal(title), xlabel="seconds of training", ylabel="validation accuracy", xlim=(0, None))
    axis.yaxis.set_major_formatter(percent)
    axis.grid(alpha=0.3)
    if any(histories.values()):
        axis.legend()
    figure.alt_text = (
        f"{title}. Line plot of validation accuracy against seconds of training. At the end: {'; '.join(points)}."
    )
    return figure


def training_curves(history: list[dict], title: str) -> Figure:
    """Loss and accuracy of training and validation against epochs, the best epoch (lowest validation loss) marked."""
    if not history:  # stopped within the first epoch: the notebook's next cell must run all the same
        figure, axis = new_figure(figsize=(6, 1))
        axis.set_axis_off()
        axis.text(0.5, 0.5, "No epoch is finished yet: run the training cell again.", ha="center", va="center")
        figure.alt_text = f"{title}. No epoch is finished yet."
        return figure
    figure, axes = new_figure(1, 2, figsize=(10, 3.6))
    epochs = [row["epoch"] for row in history]
    best = min(history, key=lambda row: row["validation_loss"])
    for axis, name in zip(axes, ("loss", "accuracy")):
        for split, color, marker, line in (("training", BLUE, "o", "--"), ("validation", ORANGE, "s", "-")):
            values = [row[f"{split}_{name}"] for row in history]
            axis.plot(epochs, values, line, color=color, marker=marker, markersize=4, label=split)
        axis.axvline(best["epoch"], color="0.5", linestyle=":", label=f"best epoch ({best['epoch']})")
        axis.set(xlabel="epoch", ylabel=name, xlim=(0.5, epochs[-1] + 0.5))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("loss (cross-entropy, nats)")
    axes[1].yaxis.set_major_formatter(percent)
    axes[0].legend()
    figure.suptitle(literal(title))
    first, last = history[0], history[-1]
    figure.alt_text = (
        f"{title}. Two line plots over {len(history)} epoch{'s' * (len(history) > 1)}. "
        f"Training loss goes from {first['training_loss']:.2f} to "
        f"{last['training_loss']:.2f}, validation loss from {first['validation_loss']:.2f} to "
        f"{last['validation_loss']:.2f}; validation accuracy from {first['validation_accuracy']:.1%} to "
        f"{last['validation_accuracy']:.1%}. The best epoch by validation loss is epoch {best['epoch']}."
    )
    return figure


def confusion_matrix(matrix: np.ndarray, classes, title: str, summary: str = "") -> Figure:
    """The confusion matrix: colors and percentages by row, the counts beneath; of many classes the colors alone.

    Args:
        matrix: [C, C] counts, rows are true classes; up to 100 classes have their names at the axes.
        classes: C names.
        title: of the figure.
        summary: the matrix in words, for the text alternative.
    """
    count, total = len(classes), matrix.sum(1, keepdims=True)
    fraction = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    few, named = count <= 20, count <= 100
    # Inches per class: room for two lines of text, for a name at the axis, or for neither.
    cell = (0.55 if count <= 10 else 0.48) if few else max(7 / count, 0.125 if named else 0.0125)
    width = max(5, 2 + cell * count) + (not few)  # beside the color bar
    figure, axis = new_figure(figsize=(width, max(4.9, 1.9 + cell * count)))
    norm = PowerNorm(CONFUSION_GAMMA, vmin=0, vmax=1)
    known = np.where(total > 0, fraction, np.nan)  # a class without images is gray, not dark as one at 0%
    image = axis.imshow(known, cmap=plt.get_cmap("cividis").with_extremes(bad="0.8"), norm=norm)
    if few:
        shown = np.where(total > 0, np.vectorize("{:.0%}".format)(fraction), "n/a")
        for (true, predicted), value in np.ndenumerate(known):
            text = f"{shown[true, predicted]}\n{matrix[true, predicted]}"
            size = 9 if count <= 10 else 7.5
            axis.text(predicted, true, text, ha="center", va="center", fontsize=size, color=ink(norm(value)))
    else:
        figure.colorbar(image, shrink=0.5, format=percent, label="fraction of the true class")
    axis.set(title=literal(title), xlabel="predicted class", ylabel="true class")
    if named:
        names, size = [literal(name, 20) for name in classes], min(11, 72 * cell * 0.75)
        turn = {"rotation": 40, "ha": "right"} if few else {"rotation": 90}
        axis.set_xticks(range(count), names, fontsize=size, **turn)
        axis.set_yticks(range(count), names, fontsize=size)
    order = range(count) if few else best_and_worst(known.diagonal())
    recall = ", ".join(f"{classes[i]} {fraction[i, i]:.0%}" if total[i] else f"{classes[i]} n/a" for i in order)
    which = "" if few else f", {which_listed(known.diagonal())}"
    words = f"{title}. Confusion matrix, fraction of each true class on the diagonal{which}: {recall}. {summary}"
    figure.alt_text = words.strip()
    return figure


def ink(fraction: float) -> str:
    """The color of text on cividis at this fraction, 0 to 1: black from where cividis is equally far from both.

    Black as well on the gray of a value that is missing (NaN).
    """
    return "white" if fraction <= 0.47 else "black"


def literal(text: str, longest: int = 200) -> str:
    """Text for a figure that matplotlib draws as it is: no formula after $, and no name that a legend leaves out since
    it begins with _.

    Of more than `longest` characters, some in the middle are left out: the ends of two runs' names tell them apart.
    """
    end = longest // 3
    short = text if len(text) <= longest else f"{text[: longest - 1 - end]}…{text[-end:]}"
    return ("\u200b" * short.startswith("_") + short).replace("$", r"\$")
