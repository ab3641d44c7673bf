"""What augmentation buys: one network trained under several policies, and how robust each is to corrupted test images.

    python benchmarks/robustness.py              # an hour on two cores; stopped, the same command resumes
    python benchmarks/robustness.py --finished   # the tables of the runs that are finished so far
    python benchmarks/robustness.py --quick      # does everything run?

Each policy trains with the same seeds for the same number of epochs, once for a short and once for a longer budget, on
the sample's 3,600 training images (--full: on the full set, which takes a GPU, or a day), by plain SGD at the images'
full size; the network is the fast one without its mirror symmetry, so that flips can show what they buy. Validation
chooses each run's epoch, as in the notebooks; the test images are used once per run, at the end, as they are and
corrupted by fixed amounts (`evaluation.robustness`). Nothing is chosen by their results.

Written to benchmarks/results: robustness.json (every run), robustness.md (the table) and robustness.png. The runs
themselves lie in build/robustness.
"""

import json
import statistics
from pathlib import Path

import numpy as np
import torch
from common import command_line, machine, save, stoppable
from torch import nn

from cifar_utils import data, plots, runs, speedrun
from cifar_utils.augment import PRESETS
from cifar_utils.evaluation import metrics
from cifar_utils.evaluation import plots as evaluation_plots
from cifar_utils.evaluation.predictions import predict
from cifar_utils.evaluation.robustness import CORRUPTIONS, predict_corrupted
from cifar_utils.progress import bar
from cifar_utils.speedrun.muon import sgd
from cifar_utils.train import best_device, steps

ROOT = Path(__file__).resolve().parent.parent
DONE = "robustness.json"  # in a run's folder: its figures


def one_run(policy: str, epochs: int, seed: int, datasets, folder: Path, device: torch.device) -> dict:
    """Trains, or resumes, or finds it done; then evaluates. Returns the figures of the run."""
    train, val, test = datasets
    run = folder / f"{policy}-{epochs}-{seed}"
    done = run / DONE
    if done.exists():
        return json.loads(done.read_text())
    model = speedrun.network(train, seed, mirror=False)
    options = {"transform": PRESETS[policy], "epochs": epochs, "batch_size": 128 if train.is_sample else 256}
    options |= {"loss": nn.CrossEntropyLoss(label_smoothing=0.1), "optimizer": sgd(model), "seed": seed}
    *_, state = steps(model, train, val, run=run, device=device, **options)
    if state.stop:
        raise KeyboardInterrupt
    best, about = runs.load(run, model), runs.about(run)
    curves = {}
    for name, corruption in CORRUPTIONS.items():
        correct = [predict_corrupted(best, test, name, s).correct.sum() for s in corruption.severities]
        curves[name] = {"amount": corruption.severities, "hits": list(map(int, correct))}
    row = {
        "policy": policy,
        "epochs": epochs,
        "seed": seed,
        "best_epoch": about["epoch"],
        "validation_accuracy": about["history"][-1]["validation_accuracy"],
        "training_accuracy": about["history"][-1]["training_accuracy"],
        "test_hits": int(predict(best, test).correct.sum()),
        "test_images": len(test),
        "curves": curves,
    }
    done.write_text(json.dumps(row))
    return row


def rows_for(results: dict, policy: str, epochs: int) -> list[dict]:
    return [row for row in results["rows"] if (row["policy"], row["epochs"]) == (policy, epochs)]


def mean_curve(rows: list[dict], change: str) -> np.ndarray:
    """[A, 4]: amount, accuracy over the seeds, and its 95 % interval: the wider of the images' and the seeds' own.

    The seeds are tested on the same images, so these count once, however many seeds there are.
    """
    amounts, images = rows[0]["curves"][change]["amount"], rows[0]["test_images"]
    points = []
    for i, amount in enumerate(amounts):
        shares = [row["curves"][change]["hits"][i] / images for row in rows]
        mean = statistics.mean(shares)
        low, high = metrics.wilson_interval(mean * images, images)
        points.append([amount, mean, min(low, *shares), max(high, *shares)])
    return np.array(points)


def retained(rows: list[dict]) -> list[float]:
    """Of each seed: accuracy over all corruptions, as a fraction of the accuracy on clean images."""
    shares = []
    for row in rows:
        hits = [hit for curve in row["curves"].values() for hit in curve["hits"]]
        shares.append(statistics.mean(hits) / row["test_hits"])
    return shares


def markdown(results: dict) -> str:
    lines = ["# What augmentation buys", ""]
    lines += [f"- {name}: {value}" for name, value in results["machine"].items()]
    lines += [f"- data: {', '.join(results['data'])}", "- means over seeds (lowest to highest)", ""]
    lines += [
        "Corrupted: the mean over all severities of rotation, translation, scale, perspective, brightness, contrast",
        "and saturation in `evaluation.robustness.CORRUPTIONS`. Kept: corrupted as a fraction of clean.",
    ]
    for epochs in results["epochs"]:
        lines += [
            "",
            f"## {epochs} epochs",
            "",
            "| policy | seeds | training | validation | test, clean | corrupted | kept |",
        ]
        lines += ["|---|--:|--:|--:|--:|--:|--:|"]
        for policy in results["policies"]:
            rows = rows_for(results, policy, epochs)
            if not rows:
                continue
            clean = [row["test_hits"] / row["test_images"] for row in rows]
            kept = retained(rows)
            columns = [
                [row["training_accuracy"] for row in rows],
                [row["validation_accuracy"] for row in rows],
                clean,
                [a * b for a, b in zip(clean, kept)],
                kept,
            ]
            cells = (f"{statistics.mean(c):.1%} ({min(c):.1%} to {max(c):.1%})" for c in columns)
            lines.append(f"| {policy} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    epochs = results["epochs"][-1]
    rows = {policy: rows_for(results, policy, epochs) for policy in results["policies"]}
    panels = {c: {policy: mean_curve(r, c) for policy, r in rows.items() if r} for c in CORRUPTIONS}
    seeds = sorted({len(r) for r in rows.values() if r})
    how_many = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' * (seeds[0] > 1)}"
    title = f"Trained for {epochs} epochs on {results['data'][0]}; mean of {how_many}"
    units = {change: how.unit for change, how in CORRUPTIONS.items()}
    plots.save(evaluation_plots.robustness_curves(panels, units, title), path)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--full", action="store_true", help="the full data set instead of the sample")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, nargs="+", default=[8, 32], help="budgets, short first (default: 8 32)")
    parser.add_argument("--policies", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--finished", action="store_true", help="train nothing more")
    parser.add_argument("--quick", action="store_true", help="few images, 1 seed, 1 and 2 epochs")
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "robustness", help="folder of the runs")
    args = parser.parse_args()
    datasets = [*data.split(data.cifar10(sample=not args.full)), data.cifar10(train=False, sample=not args.full)]
    if args.quick:
        args.seeds, args.epochs, args.runs = 1, [1, 2], args.runs / "quick"
        datasets = [d.select(torch.arange(0, len(d), len(d) // 128)) for d in datasets]
    device = best_device()
    results = {
        "machine": machine(torch.get_num_threads()),
        "data": [str(d) for d in datasets],
        "policies": args.policies,
        "epochs": args.epochs,
        "seeds": list(range(args.seeds)),
        "rows": [],
    }
    todo = [(p, e, s) for s in range(args.seeds) for e in args.epochs for p in args.policies]  # a seed at a time
    if args.finished:
        todo = [(p, e, s) for p, e, s in todo if (args.runs / f"{p}-{e}-{s}" / DONE).exists()]
    for policy, epochs, seed in bar(len(todo), "Runs", "run", iterable=todo):
        results["rows"].append(one_run(policy, epochs, seed, datasets, args.runs, device))
    save(args.output, "robustness", results, markdown(results), plot)


if __name__ == "__main__":
    stoppable(main)
