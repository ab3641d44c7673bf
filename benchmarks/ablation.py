"""What each trick buys: the fast schedule, of five epochs here, and the same with one trick left out.

    python benchmarks/ablation.py                 # a quarter of an hour a seed; stopped, it goes on with the next run
    python benchmarks/ablation.py --seeds 3
    python benchmarks/ablation.py --finished      # the table of the runs that are finished so far
    python benchmarks/ablation.py --quick         # does everything run?

All are trained on the 45,000 training images for as many steps; the accuracy is that on the validation images, since
this is how tricks are chosen. Each run has a process of its own. Reference seconds are explained in clock.py.

Written to benchmarks/results: ablation.json (every run), ablation.md and ablation.png. Finished runs lie in
build/ablation.
"""

import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from clock import Clock
from common import command_line, kept, machine, save, stoppable
from matplotlib import pyplot as plt
from time_to_accuracy import SCHEDULES, train_by_the_clock
from time_to_accuracy_report import mean_and_error

from cifar_utils import data, training
from cifar_utils.data import Normalisation
from cifar_utils.model import CNN
from cifar_utils.predictions import predict
from cifar_utils.progress import bar

ROOT = Path(__file__).resolve().parent.parent
# Of five epochs: with images skipped, these are as many steps as three epochs without.
FAST = replace(SCHEDULES["fast"], config=replace(SCHEDULES["fast"].config, epochs=5))


def trained_first_layer(network: CNN) -> None:
    network.whiten.reset_parameters()
    network.whiten.weight.requires_grad_(True)


def random_filters(network: CNN) -> None:
    for layer in network.blocks.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.reset_parameters()


@dataclass(frozen=True)
class Variant:
    """What is otherwise than in the fast schedule.

    Attributes:
        config: fields of training.Config.
        policy: of the augmentation.
        mirror: whether the network is built to give mirror images the same logits.
        change: is called with the new network.
        keeps_memory: whether freed memory is kept for the next step.
    """

    config: dict = field(default_factory=dict)
    policy: str = FAST.policy
    mirror: bool = True
    change: Callable[[CNN], None] | None = None
    keeps_memory: bool = True


VARIANTS = {
    "everything": Variant(),
    "no mirror symmetry": Variant(mirror=False),
    "SGD instead of Muon": Variant(config=training.PLAIN_SGD),
    "first layer trained, not measured": Variant(change=trained_first_layer),
    "random filters, no copies": Variant(change=random_filters),
    "biases learn as slowly as filters": Variant(config={"bias_rate": 1.0}),
    "no small pictures": Variant(config={"small_sides": ()}),
    "no image skipped, as many steps": Variant(config={"skip": 0.0, "epochs": 3}),
    "no flips and shifts": Variant(policy="none"),
    "freed memory handed back": Variant(keeps_memory=False),
}


def run(variant: Variant, config: training.Config, sample: bool, threads: int) -> dict:
    """Trains once: validation accuracy, and the time of everything but validation."""
    torch.set_num_threads(threads)
    if not variant.keeps_memory:
        training.keep_freed_memory = lambda: None
    device = training.best_device()
    clock = Clock(device)
    split, validation = data.load_training(sample=sample)
    normalisation = Normalisation.of(split)
    network = training.new_network(split, normalisation, config.seed, mirror=variant.mirror)
    if variant.change:
        variant.change(network)
    train_by_the_clock(clock, network, split, validation, variant.policy, config, normalisation, device)
    times = clock.times()
    return {"accuracy": predict(network, validation, normalisation).accuracy} | times


def in_a_new_process(*arguments) -> dict:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


def markdown(results: dict) -> str:
    lines = [
        "# Ablation: what each trick buys",
        "",
        *(f"- {key}: {value}" for key, value in results["machine"].items()),
    ]
    lines += [f"- {results['setting']}", "", "| | seeds | validation accuracy | reference seconds | GFLOP/s |"]
    lines += ["|---|--:|--:|--:|--:|"]
    for name, rows in results["rows"].items():
        cells = [
            name,
            f"{len(rows)}",
            mean_and_error([row["accuracy"] for row in rows], ".2%"),
            mean_and_error([row["reference_seconds"] for row in rows], ".0f"),
            f"{statistics.mean(row['rate'] for row in rows) / 1e9:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    """Two panels of dots, a row a variant: accuracy and time; a line marks the schedule with everything."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    names = list(results["rows"])
    for axis, key, title in zip(axes, ("accuracy", "reference_seconds"), ("validation accuracy", "reference seconds")):
        for height, rows in enumerate(results["rows"].values()):
            values = [row[key] for row in rows]
            axis.plot(values, [height] * len(values), "o", color="#0072B2", alpha=0.5)
            axis.plot(statistics.mean(values), height, "D", color="#000000")
            if height == 0:
                axis.axvline(statistics.mean(values), color="#0072B2", linestyle="--", linewidth=1)
        axis.set(xlabel=title, yticks=range(len(names)), yticklabels=names)
        axis.grid(alpha=0.3)
    axes[0].xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes[0].invert_yaxis()
    means = [f"{name} {statistics.mean(row['accuracy'] for row in rows):.1%}" for name, rows in results["rows"].items()]
    figure.savefig(path, dpi=120, metadata={"Description": f"What each trick buys: {'; '.join(means)}."})
    plt.close(figure)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--finished", action="store_true", help="train nothing more")
    parser.add_argument("--quick", action="store_true", help="an epoch of the sample each")
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "ablation", help="folder of finished runs")
    args = parser.parse_args()
    config = FAST.config
    if args.quick:
        args.seeds, args.runs, config = 1, args.runs / "quick", replace(config, epochs=1)
    text = f"{config.epochs} epochs of {FAST.policy}; means and their standard errors over the seeds"
    results = {"machine": machine(args.threads), "setting": text, "rows": {}}
    todo = [(name, seed) for seed in range(args.seeds) for name in VARIANTS]
    for name, seed in bar(len(todo), "Runs", "run", iterable=todo):
        variant = VARIANTS[name]
        its_config = replace(config, **variant.config, seed=seed)
        work = partial(in_a_new_process, variant, its_config, args.quick, args.threads)
        about = {"variant": name, "config": asdict(its_config), "policy": variant.policy}
        about |= {"network": str(CNN(mirror=variant.mirror))}
        row = kept(args.runs / f"{name}-{seed}.json", about, None if args.finished else work)
        if row:
            results["rows"].setdefault(name, []).append(row)
    save(args.output, "ablation", results, markdown(results), plot)


if __name__ == "__main__":
    stoppable(main)
