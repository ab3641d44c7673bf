"""What augmentation buys: one network trained under several policies, and how robust each is to corrupted test images.

    python benchmarks/robustness.py                    # half an hour on two cores; stopped, the same command resumes
    python benchmarks/robustness.py --sweep FILE       # other policies, budgets or seeds, or the full set
    python benchmarks/robustness.py --finished         # the tables of the runs that are finished so far
    python benchmarks/robustness.py --quick            # does everything run?

The trainings are the sweep robustness.yaml: the plain network of notebook 2, by the default settings of notebook 3, on
the sample's training images; each policy with the same seeds for the same number of epochs, once for a short and once
for a longer budget. Each network is taken after its last epoch, as in notebook 6, so that runs differ in nothing but
augmentation. The test images are used once per run, at the end, as they are and corrupted by fixed amounts
(`evaluation.robustness`). Nothing is chosen by their results.

Written to benchmarks/results: robustness.json (every run), robustness.md (the table) and robustness.png. The runs
themselves lie in build/robustness.
"""

import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from common import cached_run, command_line, machine, save, stoppable

from cifar_utils import data, network_file, plots, runs
from cifar_utils.data import Dataset
from cifar_utils.evaluation import metrics
from cifar_utils.evaluation import plots as evaluation_plots
from cifar_utils.evaluation.inference import predict
from cifar_utils.evaluation.robustness import CORRUPTIONS, predict_corrupted
from cifar_utils.progress import bar
from cifar_utils.scale import sweep

ROOT = Path(__file__).resolve().parent.parent
QUICK = "policy: [none, full]\nepochs: 1\nprofile: smoke\n"


def figures(training: sweep.Training, test: Dataset) -> dict:
    """What a finished training's last model predicts on the test images, as they are and corrupted."""
    model = runs.load(training.folder, network_file.trained(training.folder), "last")
    curves = {}
    for name, corruption in CORRUPTIONS.items():
        correct = [predict_corrupted(model, test, name, s).correct.sum() for s in corruption.severities]
        curves[name] = {"amount": corruption.severities, "hits": list(map(int, correct))}
    last = runs.about(training.folder, "last")["history"][-1]
    return {
        "policy": training.options.get("policy", "full"),
        "epochs": training.options["epochs"],
        "seed": training.options.get("seed", 0),
        "validation_accuracy": last["validation_accuracy"],
        "training_accuracy": last["training_accuracy"],
        "test_hits": int(predict(model, test).correct.sum()),
        "test_images": len(test),
        "curves": curves,
    }


def rows_for(results: dict, policy: str, epochs: int) -> list[dict]:
    return [row for row in results["rows"] if (row["policy"], row["epochs"]) == (policy, epochs)]


def mean_curve(rows: list[dict], change: str) -> np.ndarray:
    """[A, 4]: amount, mean accuracy over the seeds, low, high: the 95% interval over images, widened to all seeds.

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
    """Of each seed: accuracy over all corruptions, as a fraction of the accuracy on clean images.

    Each corruption counts alike, however many severities it has. The severity that changes nothing is no corruption.
    """
    return [statistics.mean(map(mean_hits, row["curves"], row["curves"].values())) / row["test_hits"] for row in rows]


def mean_hits(corruption: str, curve: dict) -> float:
    neutral = CORRUPTIONS[corruption].neutral
    return statistics.mean(hits for hits, amount in zip(curve["hits"], curve["amount"]) if amount != neutral)


def markdown(results: dict) -> str:
    lines = ["# What augmentation buys", ""]
    lines += [f"- {name}: {value}" for name, value in results["machine"].items()]
    lines += [f"- data: {'; '.join(results['data'])}", "- means over seeds (lowest to highest)", ""]
    lines += [
        "Networks after their last epoch. Corrupted: the mean over rotation, translation, scale, perspective,",
        "brightness, contrast and saturation, each averaged over its severities (`evaluation.robustness.CORRUPTIONS`,",
        "without the one that changes nothing). Kept: corrupted as a fraction of clean.",
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
    default = Path(__file__).with_name("robustness.yaml")
    parser.add_argument("--sweep", type=Path, default=default, help="the trainings (default: robustness.yaml)")
    parser.add_argument("--finished", action="store_true", help="train nothing more")
    parser.add_argument("--quick", action="store_true", help="few test images, two policies, 1 epoch")
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "robustness", help="folder of the runs")
    args = parser.parse_args()
    if args.quick:
        args.runs /= "quick"
        args.runs.mkdir(parents=True, exist_ok=True)
        args.sweep = args.runs / "quick.yaml"
        args.sweep.write_text(QUICK)
    trainings = sweep.read(args.sweep, args.runs)
    taken = {"policy", "epochs", "seed", "sample", "profile"}
    if any(set(training.options) - taken or "epochs" not in training.options for training in trainings):
        sys.exit(f"{args.sweep}: this benchmark takes {', '.join(sorted(taken))}, and needs epochs.")
    if len({training.options.get("sample") for training in trainings}) > 1:
        sys.exit(f"{args.sweep}: sample must be the same in all trainings.")
    if not args.finished and not sweep.run(args.sweep, args.runs):
        sys.exit("Not all trainings are finished. The same command resumes.")
    statuses = [row["status"] for row in sweep.results(trainings, {})]
    finished = [training for training, status in zip(trainings, statuses) if status == "finished"]
    if not finished:
        sys.exit(f"No training is finished in {args.runs}.")
    about = runs.about(finished[0].folder)["settings"]["data"]
    test = data.cifar10(train=False, sample=about["source"] == "SAMPLE")
    test = test.select(torch.arange(0, len(test), 20)) if args.quick else test
    rows = []
    for training in bar(len(finished), "Corrupted test images", "run", iterable=finished):
        setting = {"options": training.options, "run": runs.about(training.folder)["run"], "test": str(test)}
        rows.append(cached_run(training.folder / "robustness.json", setting, lambda t=training: figures(t, test)))
    results = {
        "machine": machine(torch.get_num_threads()),
        "data": [about["title"], f"{about['validation_images']:,} validation images", str(test)],
        "policies": list(dict.fromkeys(row["policy"] for row in rows)),
        "epochs": sorted({row["epochs"] for row in rows}),
        "rows": [{key: value for key, value in row.items() if key != "setting"} for row in rows],
    }
    save(args.output, "robustness", results, markdown(results), plot)


if __name__ == "__main__":
    stoppable(main)
