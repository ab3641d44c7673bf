"""Winograd convolution, with a fifth of the multiplications, against PyTorch's.

    python benchmarks/winograd.py            # minutes; leave the machine alone meanwhile
    python benchmarks/winograd.py --quick    # does everything run?

Timed are forward and backward passes: of single layers, and of whole networks with the loss. The two take turns, and
what counts is their ratio in the same round.

Written to benchmarks/results: winograd.json (every round), winograd.md and winograd.png.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from common import command_line, machine, save, spread, take_turns
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_utils.speedrun import CNN, RECIPES, winograd
from cifar_utils.speedrun.cnn import WIDTHS
from cifar_utils.speedrun.malloc import tune_malloc
from cifar_utils.speedrun.mirror import MirrorConv2d

CPU = torch.device("cpu")
Forward = Callable[[nn.Module, Tensor], Tensor]  # a forward pass in one of two ways
LAYERS = (
    (24, 64, 31), (64, 64, 15), (64, 128, 15), (128, 128, 7), (64, 256, 15), (128, 256, 7), (256, 256, 7),
    (256, 256, 3),
)  # fmt: skip
NETWORKS = tuple(
    (widths, size) for widths in (WIDTHS, (64, 128, 256), RECIPES["wide"].network["widths"]) for size in (32, 24, 16)
)


def plain(module: nn.Module, x: Tensor) -> Tensor:
    return winograd.accelerate(module, enabled=False)(x)


def fast(module: nn.Module, x: Tensor) -> Tensor:
    return winograd.accelerate(module)(x)


def always(module: nn.Module, x: Tensor) -> Tensor:
    """Layers of any number of channels in the fast way."""
    with patch.object(winograd, "MIN_CHANNELS", 0):
        return fast(module, x)


def compare(name: str, module: nn.Module, x: Tensor, ways: tuple[Forward, Forward], rounds: int, loss=None) -> dict:
    """Milliseconds of both ways, plain and fast, forward and backward, and how many times faster the second is."""

    def passes(way: Forward) -> None:
        out = way(module, x).float()
        (loss(out) if loss else out).backward(None if loss else torch.ones_like(out))

    runs = {title: partial(passes, way) for title, way in zip(("plain", "fast"), ways)}
    take_turns(runs, 1, f"{name}, warming up", CPU)
    seconds = take_turns(runs, rounds, name, CPU)
    ratios = [plain / fast for plain, fast in zip(seconds["plain"], seconds["fast"])]
    return {"name": name} | {k: spread([1000 * s for s in v]) for k, v in seconds.items()} | {"ratio": spread(ratios)}


def layer(kind: type[nn.Conv2d], shape: tuple[int, int, int], ways, batch: int, rounds: int) -> dict:
    channels_in, channels_out, size = shape
    x = torch.randn(batch, channels_in, size, size).to(memory_format=torch.channels_last).requires_grad_()
    module = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False) if kind is nn.Conv2d else kind(*shape[:2])
    return compare(f"{channels_in} to {channels_out} channels, {size}x{size}", module, x, ways, rounds)


def network(widths: tuple[int, int, int], size: int, ways, batch: int, rounds: int) -> dict:
    labels = torch.zeros(batch, dtype=torch.long)
    name = f"network {'/'.join(map(str, widths))}, {size}x{size}"
    x = torch.randn(batch, 3, size, size)
    return compare(name, CNN(widths=widths), x, ways, rounds, lambda logits: F.cross_entropy(logits, labels))


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
    """One dot per row at the median of its ratio, with its quartiles."""
    rows = results["rows"][::-1]
    figure, axis = plt.subplots(figsize=(8, 1 + 0.3 * len(rows)), layout="constrained")
    for y, row in enumerate(rows):
        color = "#0072B2" if row["name"].startswith("network") else "#D55E00"
        axis.plot(row["ratio"]["quartiles"], [y, y], color=color, linewidth=2)
        axis.plot(row["ratio"]["median"], y, "s" if row["name"].startswith("network") else "o", color=color)
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
        layers, networks: make one row each, called with the batch's size and the number of rounds.
    """
    parser = command_line(text)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each (default: 9)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 8 images")
    args = parser.parse_args()
    rounds, batch = (2, 8) if args.quick else (max(2, args.rounds), 500)
    torch.set_num_threads(args.threads)
    tune_malloc()  # as training does
    rows = [row(batch=batch, rounds=rounds) for row in [*layers, *networks]]
    results = about | {"machine": machine(args.threads), "batch": batch, "rounds": rounds, "rows": rows}
    save(args.output, name, results, markdown(results), plot)


def main() -> None:
    layers = [partial(layer, MirrorConv2d, shape, (plain, always)) for shape in LAYERS]
    networks = [partial(network, widths, size, (plain, fast)) for widths, size in NETWORKS]
    note = f"the networks take the fast way where {winograd.MIN_CHANNELS} channels or more come in"
    measure(__doc__, "winograd", {"title": "Winograd convolution", "note": note}, layers, networks)


if __name__ == "__main__":
    main()
