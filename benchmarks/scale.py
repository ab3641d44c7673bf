"""What more processes buy: one training in shards by several of them, and several trainings side by side.

    python benchmarks/scale.py            # about ten minutes; use the machine for nothing else meanwhile
    python benchmarks/scale.py --quick    # does everything run?

The plain network on the sample, full policy. First: images per second of one training, from its history, without the
first epoch; by one process with one and with two threads, in shards or not, and by two and four processes of one
thread each under torchrun. Configurations take turns. Then: trainings per hour of a sweep of four, one after the other
with two threads each, and two at a time with one thread each.

Written to benchmarks/results: scale.json, scale.md and scale.png.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import command_line, machine, save, spread, stoppable
from tqdm import tqdm

from cifar_utils import data, plots

ROOT = Path(__file__).resolve().parent.parent
WAYS = {  # name -> processes, threads of each, shards (0: the usual training)
    "1 process, 1 thread": (1, 1, 0),
    "1 process, 2 threads": (1, 2, 0),
    "1 process, 1 thread, 4 shards": (1, 1, 4),
    "2 processes, 1 thread each, 2 shards": (2, 1, 2),
    "2 processes, 1 thread each, 4 shards": (2, 1, 4),
    "4 processes, 1 thread each, 4 shards": (4, 1, 4),
}
BASELINE = "1 process, 1 thread"
SWEEPS = {"one at a time, 2 threads": (1, 2), "two at a time, 1 thread each": (2, 1)}


def images_per_second(processes: int, threads: int, shards: int, epochs: int, extra: list[str]) -> float:
    """Of one training, without its first epoch; validation is in."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(launcher if processes > 1 else []), "-m", "cifar_utils", "train", "--sample"]
        command += ["--epochs", str(epochs), "--folder", f"{folder}/run", *extra]
        command += ["--shards", str(shards)] if shards else []
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
        seconds = [row["seconds"] for row in json.loads(Path(folder, "run", "history.json").read_text())]
    count = len(data.split(data.cifar10(sample=True))[0])
    return count * (epochs - 1) / (seconds[-1] - seconds[0])


def trainings_per_hour(jobs: int, threads: int, epochs: int) -> float:
    """Of a sweep of four seeds, start and loading included."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "sweep.yaml")
        file.write_text(f"sample: true\nepochs: {epochs}\nseed: [0, 1, 2, 3]\n")
        command = [sys.executable, "-m", "cifar_utils", "sweep", file, "--folder", f"{folder}/runs"]
        start = time.perf_counter()
        subprocess.run([*command, "--jobs", str(jobs), "--threads", str(threads)], check=True, capture_output=True)
        return 3600 * 4 / (time.perf_counter() - start)


def markdown(results: dict) -> str:
    lines = ["# More than one process", "", *(f"- {name}: {value}" for name, value in results["machine"].items())]
    lines += [f"- {results['rounds']} rounds: medians, and quartiles of the ratio", "", "## One training", ""]
    lines += ["| | images per second | times as fast as one thread |", "|---|--:|--:|"]
    for name, row in results["trainings"].items():
        low, high = row["ratio"]["quartiles"]
        ratio = f"{row['ratio']['median']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"| {name} | {row['rate']['median']:,.0f} | {ratio} |")
    lines += ["", "## A sweep of four trainings", "", "| | trainings per hour |", "|---|--:|"]
    lines += [f"| {name} | {row['median']:.1f} |" for name, row in results["sweeps"].items()]
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    rows = results["trainings"]
    figure, axis = plots.new_figure(figsize=(8, 3))
    names = list(rows)[::-1]
    middle = [rows[name]["ratio"]["median"] for name in names]
    axis.barh(names, middle, color=plots.BLUE)
    axis.axvline(1, color="0.4", linestyle=":")
    axis.set(xlabel="times as fast as one process with one thread", title="One training of the plain network")
    words = ", ".join(f"{name} {value:.2f}" for name, value in zip(names[::-1], middle[::-1]))
    figure.alt_text = f"Bars: how many times as fast as one process with one thread each way trains: {words}."
    plots.save(figure, path)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each way (default: 3)")
    parser.add_argument("--epochs", type=int, default=3, help="of each training (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one round of the smoke profile")
    args = parser.parse_args()
    rounds, extra = (1, ["--profile", "smoke"]) if args.quick else (args.rounds, [])
    epochs = 2 if args.quick else args.epochs
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    sweeps: dict[str, list[float]] = {name: [] for name in SWEEPS}
    with tqdm(total=rounds * (len(WAYS) + len(SWEEPS))) as bar:
        for _ in range(rounds):
            for name, way in WAYS.items():
                rates[name].append(images_per_second(*way, epochs, extra))
                bar.update()
            for name, way in SWEEPS.items():
                sweeps[name].append(trainings_per_hour(*way, 1 if args.quick else 3))
                bar.update()
    trainings = {}
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(values, rates[BASELINE])]
        trainings[name] = {"rate": spread(values), "ratio": spread(ratios)}
    results = {
        "machine": machine(torch.get_num_threads()),
        "rounds": rounds,
        "trainings": trainings,
        "sweeps": {name: spread(values) for name, values in sweeps.items()},
    }
    save(args.output, "scale", results, markdown(results), plot)


if __name__ == "__main__":
    stoppable(main)
