"""What augmentation buys: the same network trained under several policies, and how each stands changed test images.

    python benchmarks/robustness.py              # an hour on two cores; stopped, it goes on where it was
    python benchmarks/robustness.py --finished   # the tables of the runs that are finished so far
    python benchmarks/robustness.py --quick      # does everything run?

Each policy trains with the same seeds for the same number of epochs, once for a short and once for a longer budget, on
the sample's 3,600 training images (--full: on the full set, which takes a GPU, or a day), by plain SGD on whole
pictures. Validation chooses each run's epoch, as in the notebooks; the test images are met once a run, at the end, as
they are and changed by fixed amounts (`cifar_utils.robustness`). Nothing is chosen by what they say.

Written to benchmarks/results: robustness.json (every run), robustness.md (the table) and robustness.png. The runs
themselves lie in build/robustness.
"""

import json
import statistics
from pathlib import Path

import numpy as np
import torch
from common import command_line, machine, save, stoppable

from cifar_utils import data, evaluation, evaluation_plots, plots, runs, training
from cifar_utils.policy import PRESETS
from cifar_utils.predictions import predict
from cifar_utils.progress import bar
from cifar_utils.robustness import CHANGES, predict_changed

ROOT = Path(__file__).resolve().parent.parent
DONE = "robustness.json"  # in a run's folder: its figures


def one_run(policy: str, epochs: int, seed: int, splits, folder: Path, device: torch.device) -> dict:
    """Trains, or goes on, or finds it done; then evaluates. Returns the figures of the run."""
    training_split, validation, test = splits
    normalisation = data.Normalisation.of(training_split)
    network = training.new_network(training_split, normalisation, seed, mirror=False)  # let flips show what they buy
    size = 128 if training_split.is_sample else 256
    config = training.Config(
        epochs=epochs, batch_size=size, seed=seed, skip=0.0, label_smoothing=0.1, small_sides=(), **training.PLAIN_SGD
    )
    run = folder / f"{policy}-{epochs}-{seed}"
    done = run / DONE
    if done.exists():
        return json.loads(done.read_text())
    setting = training_split, validation, PRESETS[policy], config, normalisation, run, device
    if len(training.train(network, *setting)) < epochs:
        raise KeyboardInterrupt
    network, normalisation, about = training.restore(run / runs.BEST)
    network.to(device)
    curves = {}
    for change, how in CHANGES.items():
        hits = [predict_changed(network, test, normalisation, change, a).correct.sum() for a in how.amounts]
        curves[change] = {"amount": how.amounts, "hits": list(map(int, hits))}
    row = {
        "policy": policy,
        "epochs": epochs,
        "seed": seed,
        "best_epoch": about["state"]["epoch"],
        "validation_accuracy": about["state"]["history"][-1]["validation_accuracy"],
        "training_accuracy": about["state"]["history"][-1]["training_accuracy"],
        "test_hits": int(predict(network, test, normalisation).correct.sum()),
        "test_images": len(test),
        "curves": curves,
    }
    done.write_text(json.dumps(row))
    return row


def of(results: dict, policy: str, epochs: int) -> list[dict]:
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
        low, high = evaluation.wilson_interval(mean * images, images)
        points.append([amount, mean, min(low, *shares), max(high, *shares)])
    return np.array(points)


def retained(rows: list[dict]) -> list[float]:
    """Of each seed: accuracy over all changes and amounts, as a share of the accuracy on unchanged images."""
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
        "Changed: the mean over all amounts of rotation, translation, scale, perspective, brightness, contrast and",
        "saturation in `cifar_utils.robustness.CHANGES`. Kept: changed as a share of unchanged.",
    ]
    for epochs in results["epochs"]:
        lines += [
            "",
            f"## {epochs} epochs",
            "",
            "| policy | seeds | training | validation | test, unchanged | changed | kept |",
        ]
        lines += ["|---|--:|--:|--:|--:|--:|--:|"]
        for policy in results["policies"]:
            rows = of(results, policy, epochs)
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
    rows = {policy: of(results, policy, epochs) for policy in results["policies"]}
    panels = {c: {policy: mean_curve(r, c) for policy, r in rows.items() if r} for c in CHANGES}
    seeds = sorted({len(r) for r in rows.values() if r})
    how_many = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' * (seeds[0] > 1)}"
    title = f"Trained for {epochs} epochs on {results['data'][0]}; mean of {how_many}"
    units = {change: how.unit for change, how in CHANGES.items()}
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
    splits = [*data.load_training(sample=not args.full), data.load_test(sample=not args.full)]
    if args.quick:
        args.seeds, args.epochs, args.runs = 1, [1, 2], args.runs / "quick"
        splits = [split.select(torch.arange(0, len(split), len(split) // 128)) for split in splits]
    device = training.best_device()
    results = {
        "machine": machine(torch.get_num_threads()),
        "data": [str(split) for split in splits],
        "policies": args.policies,
        "epochs": args.epochs,
        "seeds": list(range(args.seeds)),
        "rows": [],
    }
    todo = [(p, e, s) for s in range(args.seeds) for e in args.epochs for p in args.policies]  # a seed at a time
    if args.finished:
        todo = [(p, e, s) for p, e, s in todo if (args.runs / f"{p}-{e}-{s}" / DONE).exists()]
    for policy, epochs, seed in bar(len(todo), "Runs", "run", iterable=todo):
        results["rows"].append(one_run(policy, epochs, seed, splits, args.runs, device))
    save(args.output, "robustness", results, markdown(results), plot)


if __name__ == "__main__":
    stoppable(main)
