"""What more processes buy: one training in shards by several of them, several participants, several trainings.

    python benchmarks/scale.py            # about 20 minutes; use the machine for nothing else meanwhile
    python benchmarks/scale.py --quick    # does everything run?

The plain network on the sample, full policy; configurations take turns. Images per second are taken from the runs'
histories, without the first epoch.

- One training: by one process with one and with two threads, in shards or not, and by two and four processes of one
  thread each under torchrun.
- Participants who train at the same time, each in a process of their own, with the machine's processors divided among
  them: images per second of all together.
- A sweep of four: trainings per hour, by processes of this machine and by workers of a Dask cluster on it. Starting
  the cluster is not counted; starting the sweep and loading the images are.

Written to benchmarks/results: scale.json, scale.md and scale.png.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from common import command_line, machine, save, spread, stoppable
from tqdm import tqdm

from cifar_utils import data, plots, settings

ROOT = Path(__file__).resolve().parent.parent
# Both as they are at first: a Dask cluster changes this process's environment to one thread and to returned memory.
ENVIRONMENT, CORES = dict(os.environ), settings.cores()
WAYS = {  # name -> processes, threads of each, shards (0: the usual training)
    "1 process, 1 thread": (1, 1, 0),
    "1 process, 2 threads": (1, 2, 0),
    "1 process, 1 thread, 4 shards": (1, 1, 4),
    "2 processes, 1 thread each, 2 shards": (2, 1, 2),
    "2 processes, 1 thread each, 4 shards": (2, 1, 4),
    "4 processes, 1 thread each, 4 shards": (4, 1, 4),
}
BASELINE = "1 process, 1 thread"
PARTICIPANTS = (1, 2, 4)
SWEEPS = {  # name -> trainings at a time, threads of each, whether on a Dask cluster
    "one at a time, 2 threads": (1, 2, False),
    "two at a time, 1 thread each": (2, 1, False),
    "1 Dask worker, 2 threads": (1, 2, True),
    "2 Dask workers, 1 thread each": (2, 1, True),
}


def rate_of(run: Path, epochs: int) -> float:
    """Images per second of a finished training, without its first epoch; validation is in."""
    seconds = [row["seconds"] for row in json.loads((run / "history.json").read_text())]
    count = len(data.split(data.cifar10(sample=True))[0])
    return count * (epochs - 1) / (seconds[-1] - seconds[0])


def images_per_second(processes: int, threads: int, shards: int, epochs: int, extra: list[str]) -> float:
    """Of one training."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(launcher if processes > 1 else []), "-m", "cifar_utils", "train", "--sample"]
        command += ["--epochs", str(epochs), "--folder", f"{folder}/run", *extra]
        command += ["--shards", str(shards)] if shards else []
        environment = ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
        return rate_of(Path(folder, "run"), epochs)


def images_per_second_of_all(participants: int, epochs: int, extra: list[str]) -> float:
    """Of so many participants who start a training each at the same moment, with seeds of their own."""
    threads = str(max(1, CORES // participants))
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder, str(seed)) for seed in range(participants)]
        command = [sys.executable, "-m", "cifar_utils", "train", "--sample", "--epochs", str(epochs), *extra]
        started = [
            subprocess.Popen(
                [*command, "--seed", run.name, "--folder", run], env=ENVIRONMENT | {"OMP_NUM_THREADS": threads},
                cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for run in runs
        ]  # fmt: skip
        if any([process.wait() for process in started]):
            sys.exit(f"one of {participants} trainings failed")
        return sum(rate_of(run, epochs) for run in runs)


@contextlib.contextmanager
def dask_cluster(workers: int):
    """The address of a Dask scheduler on this machine with so many worker processes of one Dask thread each.

    They keep freed memory, as docs/more_than_one.md says.
    """
    import dask
    from distributed import LocalCluster

    keeps = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2147483647}
    options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    with dask.config.set(keeps), LocalCluster(**options) as cluster:
        yield cluster.scheduler_address


def trainings_per_hour(jobs: int, threads: int, on_dask: bool, epochs: int, extra: dict) -> float:
    """Of a sweep of four seeds, start and loading included."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = Path(folder, "sweep.yaml")
        file.write_text(json.dumps({"sample": True, "epochs": epochs, "seed": [0, 1, 2, 3]} | extra))
        command = [sys.executable, "-m", "cifar_utils", "sweep", file, "--folder", f"{folder}/runs"]
        command += ["--threads", str(threads)]
        command += ["--dask", stack.enter_context(dask_cluster(jobs))] if on_dask else ["--jobs", str(jobs)]
        start = time.perf_counter()
        subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)
        return 3600 * 4 / (time.perf_counter() - start)


def markdown(results: dict) -> str:
    lines = ["# More than one process", "", *(f"- {name}: {value}" for name, value in results["machine"].items())]
    lines += [f"- {results['rounds']} rounds: medians, and quartiles of the ratio", "", "## One run", ""]
    lines += ["| | images per second | times as fast as one thread |", "|---|--:|--:|"]
    for name, row in results["trainings"].items():
        low, high = row["ratio"]["quartiles"]
        ratio = f"{row['ratio']['median']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"| {name} | {row['rate']['median']:,.0f} | {ratio} |")
    lines += ["", "## Participants who train at the same time", "", "| | images per second of all | of each |"]
    lines += ["|---|--:|--:|"]
    for count, row in results["participants"].items():
        lines.append(f"| {count} | {row['median']:,.0f} | {row['median'] / int(count):,.0f} |")
    lines += ["", "## A sweep of four runs", "", "| | runs per hour |", "|---|--:|"]
    lines += [f"| {name} | {row['median']:.1f} |" for name, row in results["sweeps"].items()]
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    trainings = {name: row["ratio"]["median"] for name, row in results["trainings"].items()}
    together = {f"{count} at once": row["median"] for count, row in results["participants"].items()}
    sweeps = {name: row["median"] for name, row in results["sweeps"].items()}
    parts = {
        "One run: times as fast as one thread": trainings,
        "Participants: images per second of all": together,
        "A sweep: runs per hour": sweeps,
    }
    heights = [len(rows) for rows in parts.values()]
    figure, axes = plots.new_figure(3, 1, figsize=(8, 6.5), height_ratios=heights)
    for axis, (title, rows), color in zip(axes, parts.items(), (plots.BLUE, plots.ORANGE, plots.GREEN)):
        names = list(rows)[::-1]
        axis.barh(names, [rows[name] for name in names], color=color)
        axis.set_title(title)
    axes[0].axvline(1, color="0.4", linestyle=":")
    figure.alt_text = " ".join(
        f"Bars. {title}: {', '.join(f'{name} {value:,.4g}' for name, value in rows.items())}."
        for title, rows in parts.items()
    )
    plots.save(figure, path)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each way (default: 3)")
    parser.add_argument("--epochs", type=int, default=3, help="of each training (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one round of the smoke profile")
    args = parser.parse_args()
    rounds, extra = (1, ["--profile", "smoke"]) if args.quick else (args.rounds, [])
    epochs = 2 if args.quick else args.epochs
    if not find_spec("distributed"):  # to find out after the first round would lose that
        sys.exit('Dask is missing: pip install -e ".[cluster]"')
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    together: dict[str, list[float]] = {str(count): [] for count in PARTICIPANTS}
    sweeps: dict[str, list[float]] = {name: [] for name in SWEEPS}
    with tqdm(total=rounds * (len(WAYS) + len(PARTICIPANTS) + len(SWEEPS))) as bar:
        for _ in range(rounds):
            for name, way in WAYS.items():
                rates[name].append(images_per_second(*way, epochs, extra))
                bar.update()
            for name in together:
                together[name].append(images_per_second_of_all(int(name), epochs, extra))
                bar.update()
            for name, way in SWEEPS.items():
                sweeps[name].append(trainings_per_hour(*way, epochs, {"profile": "smoke"} if args.quick else {}))
                bar.update()
    trainings = {}
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(values, rates[BASELINE])]
        trainings[name] = {"rate": spread(values), "ratio": spread(ratios)}
    results = {
        "machine": machine(torch.get_num_threads()),
        "rounds": rounds,
        "trainings": trainings,
        "participants": {name: spread(values) for name, values in together.items()},
        "sweeps": {name: spread(values) for name, values in sweeps.items()},
    }
    save(args.output, "scale", results, markdown(results), plot)


if __name__ == "__main__":
    stoppable(main)
