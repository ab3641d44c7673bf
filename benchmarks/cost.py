"""What training costs as the work grows: seconds per epoch and peak memory, one quantity changed at a time.

    python benchmarks/cost.py            # about ten minutes; use the machine for nothing else meanwhile
    python benchmarks/cost.py --quick    # does everything run?

The plain network, SGD and the full policy, 45,000 training images of 32 pixels in batches of 128, unless a row says
otherwise. Larger sets repeat the images of the sample, larger and smaller images are resized ones: their content costs
nothing. Each measurement has a process of its own, which times a number of steps after the first three; seconds per
epoch are their median times the steps of an epoch. Rounds take turns; ratios are formed within a round, to the setting
that all rows have in common. Memory is the process's largest resident set, the libraries' 0.4 GB or so included.

Written to benchmarks/results: cost.json, cost.md and cost.png.
"""

import resource
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

import torch
from common import command_line, in_a_new_process, machine, save, spread, stoppable
from torch import nn
from torch.nn import functional as F

from cifar_utils import data, plots
from cifar_utils.augment import PRESETS
from cifar_utils.models import Normalize, SmallCNN
from cifar_utils.progress import bar
from cifar_utils.train import steps


@dataclass(frozen=True)
class Setting:
    """What is trained.

    Attributes:
        images: how many, for training.
        size: their side in pixels.
        width: factor of the plain network's numbers of channels.
        batch_size: images per step.
    """

    images: int = 45_000
    size: int = 32
    width: float = 1.0
    batch_size: int = 128


USUAL = Setting()
VALUES = {
    "images": (4_000, 10_000, 20_000, 45_000),
    "size": (16, 24, 32, 48, 64),
    "width": (0.5, 1.0, 1.5, 2.0),
    "batch_size": (32, 128, 512, 1024),
}
UNITS = {
    "images": "training images",
    "size": "pixels per side",
    "width": "times the channels",
    "batch_size": "images per batch",
}
WARM = 3  # steps that are not timed


def measure(setting: Setting, count: int, threads: int) -> dict[str, float]:
    """Seconds per epoch, and the peak memory of this process in bytes; called in a process of its own."""
    torch.set_num_threads(threads)
    sample, others = data.cifar10(sample=True), data.cifar10(train=False, sample=True)
    images, unseen = (
        F.interpolate(x.images.float(), size=setting.size, mode="bilinear").round().to(torch.uint8)
        for x in (sample, others)
    )
    positions = torch.arange(setting.images) % len(images)
    train = data.Dataset(images[positions], sample.labels[positions], sample.classes)
    index = torch.arange(10) + setting.images
    val = data.Dataset(unseen[:10], others.labels[:10], sample.classes, index, "validation")  # predicted once, untimed
    widths = tuple(round(setting.width * channels) for channels in (32, 64, 128))
    model = nn.Sequential(Normalize.from_dataset(train), SmallCNN(len(train.classes), widths=widths))
    options = {"transform": PRESETS["full"], "batch_size": setting.batch_size}
    with tempfile.TemporaryDirectory() as folder:
        with closing(steps(model, train, val, run=Path(folder) / "run", **options)) as states:
            ends = []
            for state in islice(states, 1 + WARM + count):  # noqa: B007 (the first is the start)
                ends.append(time.perf_counter())
        taken = [end - start for start, end in pairwise(ends[WARM:])]
        epoch = statistics.median(taken) * state.steps_per_epoch
    return {"seconds": epoch, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def markdown(results: dict) -> str:
    lines = ["# What training costs", "", *(f"- {name}: {value}" for name, value in results["machine"].items())]
    lines += [f"- {results['rounds']} rounds: medians, and quartiles of the ratio to the usual setting", ""]
    for what, rows in results["rows"].items():
        lines += [f"## {UNITS[what].capitalize()}", "", "| | seconds per epoch | times the usual | peak memory, GB |"]
        lines += ["|--:|--:|--:|--:|"]
        for row in rows:
            low, high = row["ratio"]["quartiles"]
            ratio = f"{row['ratio']['median']:.2f} ({low:.2f} to {high:.2f})"
            cells = [f"{row['value']:,}", f"{row['seconds']['median']:.1f}", ratio, f"{row['memory'] / 1e9:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def plot(results: dict, path: Path) -> None:
    """Two rows of four panels: times the usual seconds per epoch, and peak memory, against each quantity."""
    figure, axes = plots.new_figure(2, len(VALUES), figsize=(12, 5.5), sharey="row")
    described = []
    for column, (what, rows) in zip(axes.T, results["rows"].items()):
        values = [row["value"] for row in rows]
        ratios = [row["ratio"]["median"] for row in rows]
        column[0].plot(values, ratios, "o-", color=plots.BLUE)
        column[1].plot(values, [row["memory"] / 1e9 for row in rows], "o-", color=plots.BLUE)
        column[1].set(xlabel=UNITS[what])
        for axis in column:
            axis.set(xscale="log", yscale="log" if axis is column[0] else "linear")
            axis.set_xticks(values, [f"{value:,}" for value in values])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        described.append(f"{UNITS[what]} {values[0]:,} to {values[-1]:,}: {ratios[0]:.2f} to {ratios[-1]:.2f} times")
    axes[0, 0].set(ylabel="seconds per epoch,\ntimes the usual")
    axes[1, 0].set(ylabel="peak memory, GB", ylim=(0, None))
    figure.alt_text = f"Lines: cost of an epoch, relative to the usual setting. {'; '.join(described)}."
    plots.save(figure, path)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each setting (default: 3)")
    parser.add_argument("--steps", type=int, default=15, help="that are timed (default: 15)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of two steps and few images")
    args = parser.parse_args()
    rounds, count = (1, 2) if args.quick else (args.rounds, args.steps)
    usual = replace(USUAL, images=4_000) if args.quick else USUAL
    settings = {(what, value): replace(usual, **{what: value}) for what, values in VALUES.items() for value in values}
    different = list(dict.fromkeys(settings.values()))
    found: dict[Setting, list[dict]] = {setting: [] for setting in different}
    todo = [setting for _ in range(rounds) for setting in different]
    for setting in bar(len(todo), "Cost", "measurement", iterable=todo):
        found[setting].append(in_a_new_process(measure, setting, count, args.threads))
    rows: dict[str, list[dict]] = {what: [] for what in VALUES}
    for (what, value), setting in settings.items():
        seconds = [row["seconds"] for row in found[setting]]
        ratios = [mine["seconds"] / base["seconds"] for mine, base in zip(found[setting], found[usual])]
        memory = statistics.median(row["memory"] for row in found[setting])
        rows[what].append({"value": value, "seconds": spread(seconds), "ratio": spread(ratios), "memory": memory})
    results = {"machine": machine(args.threads), "rounds": rounds, "rows": rows}
    save(args.output, "cost", results, markdown(results), plot)


if __name__ == "__main__":
    stoppable(main)
