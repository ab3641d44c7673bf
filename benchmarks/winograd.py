"""Winograd's convolution, with a fifth of the multiplications, against PyTorch's.

    python benchmarks/winograd.py            # minutes; leave the machine alone meanwhile
    python benchmarks/winograd.py --quick    # does everything run?

Timed are forward and backward passes: of single layers, and of whole networks with the loss. The two take turns, and
what counts is their ratio in the same round.

Written to benchmarks/results: winograd.json (every round), winograd.md and winograd.png.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from common import command_line, machine, save, spread, take_turns
from matplotlib import pyplot as plt
from torch import Tensor
from torch.nn import functional as F

from cifar_utils import model
from cifar_utils.memory import keep_freed_memory
from cifar_utils.settings import PROFILES

CPU = torch.device("cpu")
Way = Callable[[], AbstractContextManager]  # what the way forward happens in
LAYERS = (
    (24, 64, 31),
    (64, 64, 15),
    (64, 128, 15),
    (128, 128, 7),
    (64, 256, 15),
    (128, 256, 7),
    (256, 256, 7),
    (256, 256, 3),
)
WIDTHS = (PROFILES["class"].widths, (64, 128, 256), PROFILES["full"].widths)
NETWORKS = tuple((widths, side) for widths in WIDTHS for side in (32, 24, 16))
FAST, PLAIN = 0, math.inf  # from how many channels on the fast way is taken: always, never


def with_wide(wide: float) -> AbstractContextManager:
    """Layers of so many channels and more in the fast way."""
    return patch.object(model, "WIDE", wide)


def passes(part: Callable[[Tensor], Tensor], x: Tensor, way: Way) -> None:
    """Forward, in one of two ways, and backward through a layer or a network."""
    with way():
        out = part(x).float()
    out.backward(torch.ones_like(out))


def compare(name: str, part: Callable[[Tensor], Tensor], x: Tensor, ways: tuple[Way, Way], rounds: int) -> dict:
    """Milliseconds of both ways, plain and fast, and how many times faster the second is."""
    runs = {title: partial(passes, part, x, way) for title, way in zip(("plain", "fast"), ways)}
    take_turns(runs, 1, f"{name}, warming up", CPU)
    seconds = take_turns(runs, rounds, name, CPU)
    ratios = [plain / fast for plain, fast in zip(seconds["plain"], seconds["fast"])]
    return {"name": name} | {k: spread([1000 * s for s in v]) for k, v in seconds.items()} | {"ratio": spread(ratios)}


def layer(
    kind: type[model.Conv3x3], shape: tuple[int, int, int], ways: tuple[Way, Way], batch: int, rounds: int
) -> dict:
    channels_in, channels_out, side = shape
    x = torch.randn(batch, channels_in, side, side).to(memory_format=torch.channels_last).requires_grad_()
    name = f"{channels_in} to {channels_out} channels, {side}x{side}"
    return compare(name, kind(channels_in, channels_out), x, ways, rounds)


def network(widths: tuple[int, int, int], side: int, ways: tuple[Way, Way], batch: int, rounds: int) -> dict:
    name = f"network {'/'.join(map(str, widths))}, {side}x{side}"
    cnn, labels = model.CNN(widths), torch.zeros(batch, dtype=torch.long)

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(cnn(x).float(), labels)

    return compare(name, loss, torch.randn(batch, 3, side, side), ways, rounds)


def markdown(results: dict) -> str:
    lines = [f"# {results['title']}, forward and backward", ""]
    lines += [f"- {k}: {v}" for k, v in results["machine"].items()]
    lines += [f"- batches of {results['batch']}, {results['rounds']} rounds: medians, and quartiles of the ratio"]
    lines += [f"- {results['note']}", ""]
    lines += ["| | plain, ms | fast, ms | faster by a factor of |", "|---|--:|--:|--:|"]
    for row in results["rows"]:
        ratio = f"{row['ratio']['median']:.2f} ({' to '.join(f'{q:.2f}' for q in row['ratio']['quartiles'])})"
        lines.append(f"| {row['name']} | {row['plain']['median']:.1f} | {row['fast']['median']:.1f} | {ratio} |")
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    """A dot a row at the median of its ratio, with its quartiles."""
    rows = results["rows"][::-1]
    figure, axis = plt.subplots(figsize=(8, 1 + 0.3 * len(rows)), layout="constrained")
    for y, row in enumerate(rows):
        colour = "#0072B2" if row["name"].startswith("network") else "#D55E00"
        axis.plot(row["ratio"]["quartiles"], [y, y], color=colour, linewidth=2)
        axis.plot(row["ratio"]["median"], y, "s" if row["name"].startswith("network") else "o", color=colour)
    axis.axvline(1, color="#444444", linewidth=1)
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axis.set_xlabel("times as fast: median and quartiles")
    axis.set_title(f"{results['title']}, forward and backward", fontsize=12)
    axis.spines[["top", "right"]].set_visible(False)
    values = "; ".join(f"{row['name']} {row['ratio']['median']:.2f}" for row in results["rows"])
    figure.savefig(path, dpi=120, metadata={"Description": f"Dots: {values}."})
    plt.close(figure)


def measure(text: str, name: str, about: dict, layers: list[Callable], networks: list[Callable]) -> None:
    """A benchmark of two ways to convolve: its command line, its rows, its table and its picture.

    Args:
        text: the script's docstring.
        name: of its results.
        about: their title and a note.
        layers, networks: make a row each, called with the batch's size and the number of rounds.
    """
    parser = command_line(text)
    parser.add_argument("--rounds", type=int, default=9, help="how often the turn of each comes (default: 9)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 8 images")
    args = parser.parse_args()
    rounds, batch = (2, 8) if args.quick else (max(2, args.rounds), 500)
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as training does
    rows = [row(batch=batch, rounds=rounds) for row in [*layers, *networks]]
    results = about | {"machine": machine(args.threads), "batch": batch, "rounds": rounds, "rows": rows}
    save(args.output, name, results, markdown(results), plot)


def main() -> None:
    always, from_wide_on, never = (partial(with_wide, wide) for wide in (FAST, model.WIDE, PLAIN))
    layers = [partial(layer, model.MirrorConv2d, shape, (never, always)) for shape in LAYERS]
    networks = [partial(network, widths, side, (never, from_wide_on)) for widths, side in NETWORKS]
    note = f"the networks take the fast way where {model.WIDE} channels or more come in"
    measure(__doc__, "winograd", {"title": "Winograd's convolution", "note": note}, layers, networks)


if __name__ == "__main__":
    main()
