"""What each trick buys: the fast recipe, of five epochs here, and the same with one trick left out.

    python benchmarks/ablation.py               # an hour and a half; stopped, the same command resumes
    python benchmarks/ablation.py --seeds 10 --only "no mirror symmetry"   # with everything, its partner
    python benchmarks/ablation.py --jobs 12     # 12 trainings at once, for a GPU
    python benchmarks/ablation.py --finished    # the table of what is finished so far
    python benchmarks/ablation.py --quick       # does everything run?

The variants are functions of ablation_variants.py, and a sweep trains them on the 45,000 training images for as many
steps. The accuracy is that of the validation images after the last epoch, since this is how tricks are chosen.
Differences are paired: each run is compared with the run of everything with the same seed on the same machine, and the
interval is Student's, of 95%.

Times are taken apart from that, on a CPU that nothing else uses: all variants train in turn on a ninth of the images,
and so for a ninth of the steps at each image size. Each time, in reference seconds (clock.py) without the validation,
is divided by that of everything in the same round. It contains the start of the training, so the ratios are nearer to
1 than those of whole trainings.

Written to benchmarks/results: ablation.json (every run), ablation.md and ablation.png. Runs of this version add up over
sessions and machines, and none is trained twice on one: after a change of a variant, remove its rows. Those of the
session under way lie in build/ablation.
"""

import json
import math
import statistics
from collections import Counter
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from ablation_variants import FAST, VARIANTS
from clock import Clock
from common import RESULTS, cached_run, command_line, in_a_new_process, machine, processor, save, spread, stoppable
from matplotlib import pyplot as plt
from time_to_accuracy import train_by_the_clock
from torch import nn

from cifar_utils import checkpoint, data, runs
from cifar_utils.evaluation.comparison import mean_and_interval
from cifar_utils.models import Normalize
from cifar_utils.progress import bar
from cifar_utils.scale import sweep
from cifar_utils.train import best_device

ROOT = Path(__file__).resolve().parent.parent
FILE = Path(__file__).with_name("ablation_variants.py")
TIMED_EVERY = 9  # only so many images are trained on for the clock


def trainings(
    names: list[str], seeds: int, folder: Path, quick: bool, known: set[tuple[str, int]]
) -> tuple[Path, dict[str, tuple[str, int]]]:
    """The file of a sweep, a seed at a time, and the name of each run's folder -> variant and seed.

    Those that are known are left out.
    """
    wanted = [(name, seed) for seed in range(seeds) for name in names if (name, seed) not in known]
    size = {"profile": "smoke", "epochs": 1} if quick else {"profile": "class"}
    blocks = []
    for name, seed in wanted:
        recipe, network = (f"{FILE}:{part.__name__}" for part in (VARIANTS[name].recipe, VARIANTS[name].network))
        blocks.append({"seed": seed, "model": network, "recipe": recipe} | size)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "ablation.yaml"
    file.write_text(yaml.safe_dump(blocks, sort_keys=False))
    found = sweep.read(file, folder) if wanted else []
    return file, {training.folder.name: which for training, which in zip(found, wanted)}


def finished(folder: Path, of: dict[str, tuple[str, int]], where: str) -> list[dict]:
    """One row per finished run of the sweep."""
    rows = []
    for name, (variant, seed) in of.items():
        if checkpoint.exists(folder / name / runs.LAST):
            about = runs.about(folder / name, "last")
            if len(about["history"]) == about["settings"]["epochs"]:
                accuracy = about["history"][-1]["validation_accuracy"]
                rows.append({"variant": variant, "seed": seed, "machine": where, "accuracy": accuracy})
    return rows


def one_round(names: list[str], threads: int, quick: bool) -> dict[str, float]:
    """Variant -> reference seconds of a short training, without validation."""
    torch.set_num_threads(threads)
    train, val = data.split(data.cifar10(sample=quick))
    train, few = train.select(torch.arange(0, len(train), TIMED_EVERY)), val.select(torch.arange(10))
    device, found = best_device(), {}
    order = sorted(names, key="freed memory handed back".__ne__)  # first: memory, once kept, stays
    for name in (order[0], *order):  # the first twice: what a process trains first is slower, and does not count
        torch.manual_seed(0)
        model = nn.Sequential(Normalize.from_dataset(train), VARIANTS[name].network(len(train.classes)))
        options = VARIANTS[name].recipe(model, train, seed=0, epochs=1 if quick else None)
        clock = Clock(device)
        train_by_the_clock(clock, model, train, few, device, **options)
        found[name] = clock.times()["reference_seconds"]
    return found


def summary(rows: list[dict], rounds: list[dict]) -> dict[str, dict]:
    """Variant -> per pair of runs, points of accuracy more than with everything; per round, how many times the time."""
    partners = {(row["seed"], row["machine"]): row for row in rows if row["variant"] == "everything"}
    found = {name: {"points": [], "times": []} for name in VARIANTS}
    for row in rows:
        partner = partners.get((row["seed"], row["machine"]))
        if partner:
            found[row["variant"]]["points"].append(100 * (row["accuracy"] - partner["accuracy"]))
    for seconds in rounds:
        for name, value in seconds.items():
            found[name]["times"].append(value / seconds["everything"])
    return {name: values for name, values in found.items() if values["points"] or values["times"]}


def markdown(results: dict) -> str:
    lines = [
        "# Ablation: what each trick buys",
        "",
        *(f"- last session, {key}: {value}" for key, value in results["machine"].items()),
        *(f"- accuracies of {name}: {count} runs" for name, count in results["machines"].items()),
        f"- {results['setting']}; median time of {len(results['rounds'])} rounds, with its quartiles",
        "",
        "| left out or changed | seeds | validation accuracy minus that of *everything*, points "
        "| time, relative to *everything* |",
        "|---|--:|--:|--:|",
    ]
    for name, found in results["summary"].items():
        accuracies = [row["accuracy"] for row in results["rows"] if row["variant"] == name]
        accuracy = with_interval(found["points"]) if name != "everything" else f"0 ({statistics.mean(accuracies):.2%})"
        lines.append(f"| {name} | {len(accuracies) or ''} | {accuracy} | {with_quartiles(found['times'])} |")
    return "\n".join(lines) + "\n"


def with_interval(points: list[float]) -> str:
    if not points:
        return "not measured"
    mean, half = mean_and_interval(points)
    return f"{round(mean, 2) + 0.0:+.2f} " + ("(one run)" if math.isinf(half) else f"± {half:.2f}")


def with_quartiles(ratios: list[float]) -> str:
    if not ratios:
        return "not measured"
    found = spread(ratios)
    return f"{found['median']:.2f} ({found['quartiles'][0]:.2f} to {found['quartiles'][1]:.2f})"


def plot(results: dict, path: Path) -> None:
    """Two panels, one row per variant: accuracy (with mean and interval), and time (with median and quartiles)."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), sharey=True, layout="constrained")
    found = {name: row for name, row in results["summary"].items() if name != "everything"}
    for axis, key, neutral in zip(axes, ("points", "times"), (0, 1)):
        for height, row in enumerate(found.values()):
            if not row[key]:
                continue
            axis.plot(row[key], [height] * len(row[key]), "o", color="#0072B2", alpha=0.4)
            if key == "points":
                middle, half = mean_and_interval(row[key])
                sides = 0 if math.isinf(half) else half
            else:
                middle, quartiles = spread(row[key])["median"], spread(row[key])["quartiles"]
                sides = [[middle - quartiles[0]], [quartiles[1] - middle]]
            axis.errorbar(middle, height, xerr=sides, fmt="D", color="black", capsize=4)
        axis.axvline(neutral, color="#0072B2", linestyle="--", linewidth=1)
        axis.grid(alpha=0.3)
    axes[0].set(xlabel="validation accuracy minus everything's, points", yticks=range(len(found)), yticklabels=[*found])
    axes[1].set(xlabel="time, divided by everything's")
    axes[0].invert_yaxis()
    means = [f"{name} {with_interval(row['points'])}" for name, row in found.items()]
    alt = f"What each trick buys. Points of validation accuracy more than with everything: {'; '.join(means)}."
    figure.savefig(path, dpi=120, metadata={"Description": alt})
    plt.close(figure)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="these, and everything")
    parser.add_argument("--jobs", type=int, help="trainings at once (default: by cores and memory)")
    parser.add_argument("--rounds", type=int, default=5, help="of the clock; 0 where other work runs")
    parser.add_argument("--finished", action="store_true", help="train nothing more")
    parser.add_argument("--quick", action="store_true", help="an epoch of few images each; results beside the runs")
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "ablation", help="folder of finished runs")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.rounds, args.runs = 1, 1, args.runs / "quick"
        args.output = args.runs if args.output == RESULTS else args.output
    is_gpu = best_device().type == "cuda"
    where = torch.cuda.get_device_name() if is_gpu else processor()
    threads = torch.get_num_threads()
    names = [name for name in VARIANTS if name == "everything" or name in args.only]
    known = {(row["variant"], row["seed"]) for row in earlier(args.output).get("rows", []) if row["machine"] == where}
    trained = [name for name in names if not VARIANTS[name].saves_time_only]
    file, of = trainings(trained, args.seeds, args.runs, args.quick, known)
    if not args.finished:
        if of:
            sweep.run(file, args.runs, args.jobs)
        about = {"machine": where, "threads": threads, "version": version("cifar_utils"), "variants": names}
        for i in bar(rounds := 0 if is_gpu else args.rounds, "Clock", "round", iterable=range(rounds)):
            cached_run(
                args.runs / f"round-{i}.json", about, partial(in_a_new_process, one_round, names, threads, args.quick)
            )
    text = f"{FAST.epochs} epochs of {FAST.policy}; means and 95% intervals over the seeds"
    found = {"machine": machine(threads), "version": version("cifar_utils"), "setting": text}
    found |= collect(args.runs, args.output, finished(args.runs, of, where))
    save(args.output, "ablation", found, markdown(found), plot)


def earlier(output: Path) -> dict:
    """The results of earlier sessions of this version; {} where there are none."""
    file = output / "ablation.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    return found if found.get("version") == version("cifar_utils") else {}


def collect(folder: Path, output: Path, rows: list[dict]) -> dict:
    """These rows and the times in a folder, with those of earlier sessions of this version."""
    rounds = [json.loads(part.read_text()) for part in sorted(folder.glob("round-*.json"))]
    rounds = [row for row in rounds if row["setting"]["version"] == version("cifar_utils")]
    rounds = [{name: row[name] for name in VARIANTS if name in row} for row in rounds]
    if before := earlier(output):
        rounds = rounds or before["rounds"]  # times are of one machine
        rows = before["rows"] + rows
    unique = {(row["variant"], row["seed"], row["machine"]): row for row in rows}
    rows = [unique[key] for key in sorted(unique)]
    machines = Counter(row["machine"] for row in rows)
    return {"machines": machines, "rows": rows, "rounds": rounds, "summary": summary(rows, rounds)}


if __name__ == "__main__":
    stoppable(main)
