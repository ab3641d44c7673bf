"""Figures from plain arrays. Every figure carries its text alternative, made from the numbers that it shows.

Colours: the Okabe-Ito palette and viridis or cividis, which colour-blind readers and black-and-white printers can
tell apart; series also differ by marker or line style.
"""

from pathlib import Path

import numpy as np
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
FONT = {"font.size": 11, "axes.titlesize": 12}


def new_figure(rows: int = 1, columns: int = 1, **options):
    with plt.rc_context(FONT):
        figure, axes = plt.subplots(rows, columns, layout="constrained", **options)
    plt.close(figure)  # shown once, by `show`, and not a second time at the end of the notebook's cell
    return figure, axes


def percent(share: float, position: int) -> str:
    """A tick's label, with no more decimals than it needs."""
    return f"{100 * share:.6g}%"


def show(figure: Figure) -> None:
    """Displays a figure in a notebook together with its text alternative."""
    display(figure, metadata={"image/png": {"alt": figure.alt_text}})


def save(figure: Figure, path: Path) -> None:
    """Saves a figure as PNG, its text alternative in the file's Description."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Description": figure.alt_text})


def to_pixels(images, mean=None, std=None) -> np.ndarray:
    """[N, 3, H, W] uint8, or float32 normalised with mean and std, -> [N, H, W, 3] uint8 for display."""
    x = np.asarray(images)
    if x.dtype != np.uint8:
        x = x * np.reshape(std, (3, 1, 1)) + np.reshape(mean, (3, 1, 1))
        x = (x * 255).round().clip(0, 255).astype(np.uint8)
    return x.transpose(0, 2, 3, 1)


def mosaic(images, mean=None, std=None, columns: int = 8, rows: int = 4, gap: int = 2) -> np.ndarray:
    """[3, H, W] uint8: the first rows x columns images on a white ground, for TensorBoard and previews."""
    x = to_pixels(images, mean, std)[: rows * columns]
    side = x.shape[1] + gap
    sheet = np.full((-(-len(x) // columns) * side + gap, columns * side + gap, 3), 255, np.uint8)
    for i, image in enumerate(x):
        top, left = i // columns * side + gap, i % columns * side + gap
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet.transpose(2, 0, 1)


def picture(pixels: np.ndarray, title: str) -> Figure:
    """One picture under its title. pixels: [H, W, 3] uint8."""
    figure, axis = new_figure(figsize=(7, 7 * pixels.shape[0] / pixels.shape[1] + 0.4))
    axis.imshow(pixels, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(title)
    figure.alt_text = f"{title}: a picture of {pixels.shape[1]} x {pixels.shape[0]} pixels."
    return figure


def image_grid(images, captions: list[str], title: str, columns: int = 10) -> Figure:
    """Images under their captions. images: [N, 3, H, W] uint8."""
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
        axis.set_title(caption, fontsize=9)
    figure.suptitle(title)
    figure.alt_text = (
        f"{title}: a grid of {len(pixels)} images, row by row: {', '.join(' '.join(c.split()) for c in captions)}."
    )
    return figure


def augmentation_preview(originals, draws, captions: list[str], title: str) -> Figure:
    """Each original beside several draws of its augmentation.

    Args:
        originals: [N, 3, H, W] uint8.
        draws: [N, D, H, W, 3] uint8, see `to_pixels`.
        captions: N names.
        title: of the figure.
    """
    count = draws.shape[1]
    figure, axes = new_figure(
        len(originals), count + 1, figsize=(count + 2, len(originals) * 1.08 + 0.6), squeeze=False
    )
    for row, (original, caption) in enumerate(zip(to_pixels(originals), captions)):
        for column, image in enumerate([original, *draws[row]]):
            axes[row, column].imshow(image, interpolation="nearest")
            axes[row, column].set(xticks=[], yticks=[])
            axes[row, column].spines[:].set_visible(column == 0)
            axes[row, column].spines[:].set(color=ORANGE, linewidth=2.5)
        axes[row, 0].set_ylabel(caption, rotation=0, ha="right", va="center")
    axes[0, 0].set_title("original", fontsize=10)
    axes[0, 1].set_title(f"{count} draw{'s' * (count > 1)}", fontsize=10, loc="left")
    figure.suptitle(title)
    figure.alt_text = (
        f"{title}. {len(originals)} rows ({', '.join(captions)}): the original image on the left in a frame, "
        f"then {count} randomly augmented version{'s' * (count > 1)} of it."
    )
    return figure


def class_counts(counts: dict[str, np.ndarray], classes, title: str) -> Figure:
    """Bars: images of each class in each split. counts: split name -> [10]."""
    figure, axis = new_figure(figsize=(10, 3.4))
    width = 0.8 / len(counts)
    for i, ((name, values), colour) in enumerate(zip(counts.items(), (BLUE, ORANGE, GREEN))):
        bars = axis.bar(
            np.arange(len(classes)) + (i - (len(counts) - 1) / 2) * width, values, width, label=name, color=colour
        )
        axis.bar_label(bars, fontsize=8)
    axis.set(ylabel="images", xticks=range(len(classes)), xticklabels=classes)
    axis.set_title(title, loc="left")
    axis.margins(x=0.01, y=0.12)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(counts), frameon=False)
    parts = [f"{name}: " + ", ".join(f"{c} {v}" for c, v in zip(classes, values)) for name, values in counts.items()]
    figure.alt_text = f"{title}. Bar chart of images a class. {'. '.join(parts)}."
    return figure


def curve(values: list[float], title: str, xlabel: str, ylabel: str) -> Figure:
    """One line: values against their position."""
    figure, axis = new_figure(figsize=(7, 3))
    axis.plot(values, color=BLUE)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axis.grid(alpha=0.3)
    figure.alt_text = (
        f"{title}. Line plot of {ylabel} against {xlabel}, {len(values)} values: it starts at {values[0]:.3g}, its "
        f"highest value is {max(values):.3g}, its lowest {min(values):.3g}, it ends at {values[-1]:.3g}."
    )
    return figure


def accuracy_against_time(histories: dict[str, list[dict]], title: str) -> Figure:
    """Validation accuracy after each epoch against seconds of training, a line a run. histories: see `train`."""
    figure, axis = new_figure(figsize=(7, 3.4))
    said = []
    for (name, history), colour, marker, line in zip(histories.items(), (BLUE, ORANGE, GREEN), "os^", ("--", "-", ":")):
        seconds, accuracy = ([row[key] for row in history] for key in ("seconds", "validation_accuracy"))
        axis.plot(seconds, accuracy, line, marker=marker, color=colour, label=name)
        said.append(f"{name} {accuracy[-1]:.1%} after {len(history)} epochs in {seconds[-1]:.0f} seconds")
    axis.set(title=title, xlabel="seconds of training", ylabel="validation accuracy", xlim=(0, None))
    axis.yaxis.set_major_formatter(percent)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.alt_text = (
        f"{title}. Line plot of validation accuracy against seconds of training. At the end: {'; '.join(said)}."
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
        for split, colour, marker, line in (("training", BLUE, "o", "--"), ("validation", ORANGE, "s", "-")):
            values = [row[f"{split}_{name}"] for row in history]
            axis.plot(epochs, values, line, color=colour, marker=marker, markersize=4, label=split)
        axis.axvline(best["epoch"], color="0.5", linestyle=":", label=f"best epoch ({best['epoch']})")
        axis.set(xlabel="epoch", ylabel=name, xlim=(0.5, epochs[-1] + 0.5))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("loss (cross-entropy, nats)")
    axes[1].yaxis.set_major_formatter(percent)
    axes[0].legend()
    figure.suptitle(title)
    first, last = history[0], history[-1]
    figure.alt_text = (
        f"{title}. Two line plots over {len(history)} epoch{'s' * (len(history) > 1)}. "
        f"Training loss goes from {first['training_loss']:.2f} to "
        f"{last['training_loss']:.2f}, validation loss from {first['validation_loss']:.2f} to "
        f"{last['validation_loss']:.2f}; validation accuracy from {first['validation_accuracy']:.1%} to "
        f"{last['validation_accuracy']:.1%}. The best epoch by validation loss is epoch {best['epoch']}."
    )
    return figure
