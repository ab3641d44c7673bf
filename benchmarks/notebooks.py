"""What a participant's notebooks need: minutes, processor time, and memory of each, measured in its kernel.

    python benchmarks/notebooks.py                  # about 20 minutes; use the machine for nothing else meanwhile
    python benchmarks/notebooks.py --in-place       # the same, and write the outputs into notebooks/ (to commit them)
    python benchmarks/notebooks.py --only 01_data_and_augmentation
    CIFAR_PROFILE=smoke python benchmarks/notebooks.py --output /tmp/quick

Each notebook is executed once, from a fresh kernel and without its widgets' browser, in a temporary folder of runs
(where the first training is found by the notebooks after it, as in a workshop). Every 0.1 s the resident memory of the
kernel is read: the peak is what a machine must have free, the rest is what an open notebook holds once all its cells
have run. JupyterLab itself takes about 0.15 GB, and a browser what browsers take.

Written to benchmarks/results: notebooks.json, notebooks.md and notebooks.png.
"""

import itertools
import json
import os
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch
from common import command_line, machine, save, stoppable

from cifar_utils import data, plots, settings
from cifar_utils.workshop.speed import step_milliseconds

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))
from run_notebooks import run  # noqa: E402

PATHS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}


class Meter(threading.Thread):
    """Reads the memory and processor time of a kernel, and of the processes that it starts, until it is stopped.

    Attributes:
        peak, last: bytes of resident memory.
        cpu_seconds: of all their threads so far.
    """

    def __init__(self, process: psutil.Process, pause: float = 0.1) -> None:
        super().__init__(daemon=True)
        self.process, self.pause, self.stopped = process, pause, threading.Event()
        self.peak = self.last = 0
        self.cpu_seconds = 0.0

    def read(self) -> None:
        try:
            found = [self.process, *self.process.children(recursive=True)]
            self.last = sum(process.memory_info().rss for process in found) or self.last  # 0 of one that has ended
            # Those that have ended count as the children of the process that started them.
            times = [process.cpu_times() for process in found]
            self.cpu_seconds = sum(t.user + t.system + t.children_user + t.children_system for t in times)
            self.peak = max(self.peak, self.last)
        except psutil.Error:  # one has ended meanwhile
            pass

    def run(self) -> None:
        while not self.stopped.wait(self.pause):
            self.read()

    def stop(self) -> None:
        self.read()
        self.stopped.set()
        self.join()


def measure(path: Path, target: Path, pages: Path, step: float) -> dict:
    """Executes one notebook: seconds, cpu_seconds, peak and open (bytes), and sections (heading -> seconds)."""
    meters, marks = [], [("", time.perf_counter())]

    def observe(client, cell) -> None:
        if not meters:
            meters.append(Meter(psutil.Process(client.km.provisioner.pid)))
            meters[0].start()
        titles = re.findall(r"^## (.*)$", cell.source, re.M) if cell and cell.cell_type == "markdown" else []
        if titles or not cell:
            marks.append((titles[-1] if titles else "", time.perf_counter()))
        if not cell:
            meters[0].stop()

    found = run(path, target, pages, step, observe)
    if found["problem"]:
        raise SystemExit(f"{path.name}: {found['problem']}")
    sections = {heading: end - start for (heading, start), (_, end) in itertools.pairwise(marks)}
    row = {"seconds": found["seconds"], "cpu_seconds": meters[0].cpu_seconds}
    return row | {"peak": meters[0].peak, "open": meters[0].last, "sections": sections}


def markdown(results: dict) -> str:
    lines = ["# Notebooks", "", *(f"- {name}: {value}" for name, value in results["machine"].items())]
    lines += [f"- images: {results['images']}", f"- profile: {results['profile']}", ""]
    lines += ["| notebook | minutes | processor minutes | peak memory, GB | once run, GB |", "|---|--:|--:|--:|--:|"]
    for name, row in results["rows"].items():
        minutes = f"{row['seconds'] / 60:.1f} | {row['cpu_seconds'] / 60:.1f}"
        lines.append(f"| {name} | {minutes} | {row['peak'] / 1e9:.2f} | {row['open'] / 1e9:.2f} |")
    everything = [sum(row[key] for row in results["rows"].values()) for key in ("seconds", "cpu_seconds", "open")]
    lines.append(
        f"| all, left open | {everything[0] / 60:.1f} | {everything[1] / 60:.1f} | | {everything[2] / 1e9:.2f} |"
    )
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    rows = results["rows"]
    figure, axis = plots.new_figure(figsize=(8, 0.5 * len(rows) + 1.2))
    names = list(rows)[::-1]
    axis.barh(names, [rows[name]["peak"] / 1e9 for name in names], color=plots.ORANGE, height=0.7, label="peak")
    axis.barh(names, [rows[name]["open"] / 1e9 for name in names], color=plots.BLUE, height=0.4, label="once run")
    axis.set(xlabel="memory of the kernel, GB", title=f"Memory per notebook ({results['images']})")
    axis.legend()
    words = [f"{name} {row['peak'] / 1e9:.2f}, once run {row['open'] / 1e9:.2f}" for name, row in rows.items()]
    figure.alt_text = (
        f"Bars of a kernel's memory in GB for each notebook, at its peak and once run: {'; '.join(words)}."
    )
    plots.save(figure, path)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--only", nargs="+", choices=PATHS, default=list(PATHS), metavar="NAME", help="without .ipynb")
    parser.add_argument("--in-place", action="store_true", help="write the outputs into the notebooks themselves")
    args = parser.parse_args()
    step, rows = round(step_milliseconds(), 1), {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"CIFAR_HEADLESS": "1", "CIFAR_RUNS": folder}
        pages = ROOT / "build"
        pages.mkdir(exist_ok=True)
        for name in args.only:
            path = PATHS[name]
            rows[name] = measure(path, path if args.in_place else Path(folder, path.name), pages, step)
    file, profile = args.output / "notebooks.json", settings.profile()
    about = {"images": str(data.cifar10(sample=profile.sample)), "profile": profile.name}
    about |= {"machine": machine(torch.get_num_threads())}
    earlier = json.loads(file.read_text()) if file.exists() else {"rows": {}}
    if earlier["rows"] and all(earlier[name] == about[name] for name in ("images", "profile")):
        if earlier["machine"]["CPU"] == about["machine"]["CPU"]:  # those that were not measured now stay
            rows = {name: row for name, row in sorted((earlier["rows"] | rows).items()) if name in PATHS}
    results = about | {"rows": rows}
    save(args.output, "notebooks", results, markdown(results), plot)


if __name__ == "__main__":
    stoppable(main)
