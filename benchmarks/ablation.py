"""What each trick buys: the fast recipe, of five epochs here, and the same with one trick left out.

    python benchmarks/ablation.py                 # a quarter of an hour per seed; stopped, the same command resumes
    python benchmarks/ablation.py --seeds 3
    python benchmarks/ablation.py --finished      # the table of the runs that are finished so far
    python benchmarks/ablation.py --quick         # does everything run?

All are trained on the 45,000 training images for as many steps; the accuracy is that of the validation images, since
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
from common import cached_run, command_line, machine, save, stoppable
from matplotlib import pyplot as plt
from time_to_accuracy import train_by_the_clock
from time_to_accuracy_report import mean_and_error
from torch import nn

from cifar_utils import data, speedrun
from cifar_utils.evaluation.predictions import predict
from cifar_utils.progress import bar
from cifar_utils.speedrun import recipes
from cifar_utils.speedrun.muon import sgd
from cifar_utils.train import best_device, warm_up_and_decay

ROOT = Path(__file__).resolve().parent.parent
# Of five epochs: with the easiest half dropped, these are as many steps as three epochs with all images.
FAST = replace(speedrun.RECIPES["fast"], epochs=5)


def trained_first_layer(model: nn.Module) -> None:
    model[1].whiten.reset_parameters()
    model[1].whiten.weight.requires_grad_(True)


def random_filters(model: nn.Module) -> None:
    for layer in model[1].blocks.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()


@dataclass(frozen=True)
class Variant:
    """What differs from the fast recipe.

    Attributes:
        recipe: fields of speedrun.recipes.Recipe.
        mirror: whether the network is built to give mirror images the same logits.
        change: is called with the new network.
        optimizer: "muon"; "sgd" with rates of its own; or "slow biases", Muon with the filters' rate for biases.
        tunes_malloc: whether freed memory is kept for the next step.
    """

    recipe: dict = field(default_factory=dict)
    mirror: bool = True
    change: Callable[[nn.Module], None] | None = None
    optimizer: str = "muon"
    tunes_malloc: bool = True


VARIANTS = {
    "everything": Variant(),
    "no mirror symmetry": Variant(mirror=False),
    "SGD instead of Muon": Variant(optimizer="sgd"),
    "first layer trained, not computed": Variant(change=trained_first_layer),
    "random filters, no identity": Variant(change=random_filters),
    "biases learn as slowly as filters": Variant(optimizer="slow biases"),
    "no progressive resizing": Variant(recipe={"sizes": ()}),
    "no example dropped, as many steps": Variant(recipe={"drop_easiest": 0.0, "epochs": 3}),
    "no flips and shifts": Variant(recipe={"policy": "none"}),
    "freed memory handed back": Variant(tunes_malloc=False),
}


def fit_options(variant: Variant, model: nn.Module, train: data.Dataset, chosen: recipes.Recipe, seed: int) -> dict:
    """Keyword arguments for `fit`."""
    if not variant.tunes_malloc:
        recipes.tune_malloc = lambda: None
    recipes.RECIPES["variant"] = chosen
    options = speedrun.recipe(model, train, "variant", seed=seed)
    total_steps = options["sampler"].total_steps(options["epochs"])
    if variant.optimizer == "sgd":
        options["optimizer"] = sgd(model)
        options["scheduler"] = warm_up_and_decay(options["optimizer"], total_steps)
    elif variant.optimizer == "slow biases":
        options["optimizer"] = recipes.muon(model, chosen.lr, size=train.size, head_lr_scale=8.0, bias_lr_scale=1.0)
        options["scheduler"] = warm_up_and_decay(options["optimizer"], total_steps, warm_up=0.0)
    return options


def run(variant: Variant, chosen: recipes.Recipe, seed: int, sample: bool, threads: int) -> dict:
    """Trains once: validation accuracy, and the time of everything but validation."""
    torch.set_num_threads(threads)
    device = best_device()
    clock = Clock(device)
    train, val = data.split(data.cifar10(sample=sample))
    model = speedrun.network(train, seed, mirror=variant.mirror)
    if variant.change:
        variant.change(model)
    few = val.select(torch.arange(10))  # validated once, at the end, outside the clock
    train_by_the_clock(clock, model, train, few, device, **fit_options(variant, model, train, chosen, seed))
    times = clock.times()
    return {"accuracy": predict(model, val).accuracy} | times


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
    """Two panels of dots, one row per variant: accuracy and time; a line marks the recipe with everything."""
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
    base = FAST
    if args.quick:
        args.seeds, args.runs, base = 1, args.runs / "quick", replace(FAST, epochs=1)
    text = f"{base.epochs} epochs of {base.policy}; means and their standard errors over the seeds"
    results = {"machine": machine(args.threads), "setting": text, "rows": {}}
    todo = [(name, seed) for seed in range(args.seeds) for name in VARIANTS]
    for name, seed in bar(len(todo), "Runs", "run", iterable=todo):
        variant = VARIANTS[name]
        chosen = replace(base, **variant.recipe)
        work = partial(in_a_new_process, variant, chosen, seed, args.quick, args.threads)
        about = {"variant": name, "seed": seed, "recipe": asdict(chosen), "optimizer": variant.optimizer}
        row = cached_run(args.runs / f"{name}-{seed}.json", about, None if args.finished else work)
        if row:
            results["rows"].setdefault(name, []).append(row)
    save(args.output, "ablation", results, markdown(results), plot)


if __name__ == "__main__":
    stoppable(main)
