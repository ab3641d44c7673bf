"""What each trick buys: the fast recipe, of five epochs here, and the same with one trick left out.

    python benchmarks/ablation.py                 # a quarter of an hour per seed; stopped, the same command resumes
    python benchmarks/ablation.py --seeds 5 --only everything "no mirror symmetry"
    python benchmarks/ablation.py --seeds 10 --jobs 12   # 12 at once, for a GPU: accuracies only
    python benchmarks/ablation.py --finished      # the table of the runs that are finished so far
    python benchmarks/ablation.py --quick         # does everything run?

All are trained on the 45,000 training images for as many steps; the accuracy is that of the validation images, since
this is how tricks are chosen. Each run has a process of its own. Reference seconds are explained in clock.py; they are
left out where several runs share the machine, or other work slowed it. Differences are paired: each run is compared
with the run of everything with the same seed on the same machine, and the interval is Student's, of 95 %.

Written to benchmarks/results: ablation.json (every run), ablation.md and ablation.png. Runs add up over sessions and
machines; those of the session under way lie in build/ablation.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from clock import Clock
from common import cached_run, command_line, in_a_new_process, machine, processor, save, stoppable
from matplotlib import pyplot as plt
from time_to_accuracy import train_by_the_clock
from torch import nn

from cifar_utils import data, speedrun
from cifar_utils.evaluation.comparison import mean_and_interval
from cifar_utils.evaluation.predictions import predict
from cifar_utils.progress import bar
from cifar_utils.speedrun import recipes
from cifar_utils.speedrun.muon import sgd
from cifar_utils.speedrun.winograd import accelerate
from cifar_utils.train import best_device, warm_up_and_decay

ROOT = Path(__file__).resolve().parent.parent
# Of five epochs: with the easiest half dropped, these are as many steps as three epochs with all images.
FAST = replace(speedrun.RECIPES["fast"], epochs=5)

QUIET = 0.85  # of the best rate: a machine that multiplies more slowly is also at work for others


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
        autocast: whether products are of 16 bits where the device has instructions for them.
        tunes_malloc: whether freed memory is kept for the next step.
        saves_time_only: it changes a CPU's time, and nothing else but rounding; not run where time is not measured.
    """

    recipe: dict = field(default_factory=dict)
    mirror: bool = True
    change: Callable[[nn.Module], None] | None = None
    optimizer: str = "muon"
    autocast: bool = True
    tunes_malloc: bool = True
    saves_time_only: bool = False


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
    "32-bit products": Variant(autocast=False),
    "32-bit products, no Winograd": Variant(
        autocast=False, change=partial(accelerate, enabled=False), saves_time_only=True
    ),
    "freed memory handed back": Variant(tunes_malloc=False, saves_time_only=True),
}


def fit_options(variant: Variant, model: nn.Module, train: data.Dataset, chosen: recipes.Recipe, seed: int) -> dict:
    """Keyword arguments for `fit`."""
    if not variant.tunes_malloc:
        recipes.tune_malloc = lambda: None
    options = speedrun.recipe(model, train, chosen, seed=seed)
    total_steps = options["sampler"].total_steps(options["epochs"])
    if variant.optimizer == "sgd":
        options["optimizer"] = sgd(model)
        options["scheduler"] = warm_up_and_decay(options["optimizer"], total_steps)
    elif variant.optimizer == "slow biases":
        options["optimizer"] = recipes.muon(model, chosen.lr, size=train.size, head_lr_scale=8.0, bias_lr_scale=1.0)
        options["scheduler"] = warm_up_and_decay(options["optimizer"], total_steps, warm_up=0.0)
    return options if variant.autocast else options | {"autocast": None}


def run(variant: Variant, chosen: recipes.Recipe, seed: int, sample: bool, threads: int, is_timed: bool = True) -> dict:
    """Trains once: validation accuracy, and, where it has the machine to itself, the time of all but validation."""
    torch.set_num_threads(threads)
    device = best_device()
    clock = Clock(device)
    train, val = data.split(data.cifar10(sample=sample))
    model = speedrun.network(train, seed, mirror=variant.mirror)
    if variant.change:
        variant.change(model)
    few = val.select(torch.arange(10))  # validated once, at the end, outside the clock
    train_by_the_clock(clock, model, train, few, device, **fit_options(variant, model, train, chosen, seed))
    times = clock.times() if is_timed else {}
    return {"accuracy": predict(model, val).accuracy} | times


def paired(rows: list[dict], others: list[dict], key: str, difference: Callable) -> list[float]:
    """difference(row, other) of a figure, for runs of the same seed on the same machine that both have it."""

    def where(row: dict) -> tuple:
        return row["setting"]["seed"], row["setting"]["machine"]

    found = {where(row): row[key] for row in others if key in row}
    return [difference(row[key], found[where(row)]) for row in rows if key in row and where(row) in found]


def summary(rows_of: dict[str, list[dict]]) -> dict[str, dict]:
    """Variant -> per pair of runs, points of accuracy more than with everything, and how many times the time.

    Times are compared only between runs that had the machine to themselves: during those, it multiplied at nearly the
    best rate that it reached in any of them.
    """
    best: dict[str, float] = {}
    for row in [row for rows in rows_of.values() for row in rows if "rate" in row]:
        best[row["setting"]["machine"]] = max(best.get(row["setting"]["machine"], 0), row["rate"])

    def undisturbed(rows: list[dict]) -> list[dict]:
        return [row for row in rows if "rate" in row and row["rate"] >= QUIET * best[row["setting"]["machine"]]]

    everything = rows_of.get("everything", [])
    return {
        name: {
            "points": paired(rows, everything, "accuracy", lambda a, b: 100 * (a - b)),
            "times": paired(undisturbed(rows), undisturbed(everything), "reference_seconds", lambda a, b: a / b),
        }
        for name, rows in rows_of.items()
    }


def markdown(results: dict) -> str:
    lines = [
        "# Ablation: what each trick buys",
        "",
        *(f"- last session, {key}: {value}" for key, value in results["machine"].items()),
        *(f"- accuracies of {name}: {count} runs" for name, count in results["machines"].items()),
        f"- {results['setting']}; time only of runs that had the machine to themselves",
        "",
        "| left out or changed | seeds | validation accuracy, points more than everything | time, of everything's |",
        "|---|--:|--:|--:|",
    ]
    for name, found in results["summary"].items():
        accuracies = [row["accuracy"] for row in results["rows"][name]]
        cells = [name, f"{len(accuracies)}", f"{statistics.mean(accuracies):.2%}", "1"]
        if name != "everything":
            cells[2:] = [with_interval(found["points"], "+.2f"), with_interval(found["times"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def with_interval(values: list[float], form: str = ".2f") -> str:
    if not values:
        return "not measured"
    mean, half = mean_and_interval(values)
    return f"{mean:{form}} " + ("(one run)" if math.isinf(half) else f"± {half:{form.strip('+')}}")


def plot(results: dict, path: Path) -> None:
    """Two panels, one row per variant: the difference in accuracy, with intervals, and the time."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), sharey=True, layout="constrained")
    found = {name: row for name, row in results["summary"].items() if name != "everything"}
    for axis, key, neutral in zip(axes, ("points", "times"), (0, 1)):
        for height, row in enumerate(found.values()):
            if not row[key]:
                continue
            mean, half = mean_and_interval(row[key])
            axis.plot(row[key], [height] * len(row[key]), "o", color="#0072B2", alpha=0.4)
            axis.errorbar(mean, height, xerr=0 if math.isinf(half) else half, fmt="D", color="black", capsize=4)
        axis.axvline(neutral, color="#0072B2", linestyle="--", linewidth=1)
        axis.grid(alpha=0.3)
    axes[0].set(xlabel="validation accuracy minus everything's, points", yticks=range(len(found)), yticklabels=[*found])
    axes[1].set(xlabel="time, divided by everything's")
    axes[0].invert_yaxis()
    means = [f"{name} {with_interval(row['points'], '+.2f')}" for name, row in found.items()]
    alt = f"What each trick buys. Points of validation accuracy more than with everything: {'; '.join(means)}."
    figure.savefig(path, dpi=120, metadata={"Description": alt})
    plt.close(figure)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="these variants")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; with more than one, time is not measured")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--finished", action="store_true", help="train nothing more")
    parser.add_argument("--quick", action="store_true", help="an epoch of the sample each")
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "ablation", help="folder of finished runs")
    args = parser.parse_args()
    base = FAST
    if args.quick:
        args.seeds, args.runs, base = 1, args.runs / "quick", replace(FAST, epochs=1)
    device = best_device()
    where = torch.cuda.get_device_name() if device.type == "cuda" else processor()
    is_timed = args.jobs == 1 and device.type == "cpu"

    def train(name: str, seed: int) -> None:
        variant = VARIANTS[name]
        chosen = replace(base, **variant.recipe)
        work = partial(in_a_new_process, run, variant, chosen, seed, args.quick, args.threads, is_timed)
        about = {"variant": name, "seed": seed, "recipe": asdict(chosen), "optimizer": variant.optimizer}
        about |= {"machine": where, "timed": is_timed}
        cached_run(args.runs / f"{name}-{seed}-{'timed' if is_timed else 'untimed'}.json", about, work)

    todo = [(name, seed) for seed in range(args.seeds) for name in args.only]
    todo = [(name, seed) for name, seed in todo if is_timed or not VARIANTS[name].saves_time_only]
    if not args.finished:
        with ThreadPoolExecutor(args.jobs) as pool, bar(len(todo), "Runs", "run") as progress:
            for _ in pool.map(lambda run: train(*run), todo):
                progress.update()
    text = f"{base.epochs} epochs of {base.policy}; means and 95 % intervals over the seeds"
    recipes_now = {name: json.loads(json.dumps(asdict(replace(base, **v.recipe)))) for name, v in VARIANTS.items()}
    results = {"machine": machine(args.threads), "setting": text} | collect(args.runs, args.output, recipes_now)
    save(args.output, "ablation", results, markdown(results), plot)


def collect(folder: Path, output: Path, recipes_now: dict[str, dict]) -> dict:
    """The rows of each variant with its recipe of today, earlier sessions' too; and how many each machine has made."""
    earlier = output / "ablation.json"
    old = json.loads(earlier.read_text())["rows"] if earlier.exists() else {}
    found = [row for rows in old.values() for row in rows]
    found += [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    found = [row for row in found if row["setting"].get("recipe") == recipes_now.get(row["setting"]["variant"], ())]
    unique = {json.dumps(row["setting"], sort_keys=True): row for row in found}
    rows = {name: [row for row in unique.values() if row["setting"]["variant"] == name] for name in VARIANTS}
    rows = {name: sorted(some, key=lambda row: row["setting"]["seed"]) for name, some in rows.items() if some}
    machines = Counter(row["setting"]["machine"] for row in unique.values())
    return {"machines": machines, "summary": summary(rows), "rows": rows}


if __name__ == "__main__":
    stoppable(main)
