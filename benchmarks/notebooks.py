"""What a participant's notebooks need: minutes, processor time, and memory of each, measured in its kernel.

    python benchmarks/notebooks.py                  # about 20 minutes; use the machine for nothing else meanwhile
    python benchmarks/notebooks.py --only 01_data_and_augmentation
    CIFAR_PROFILE=smoke python benchmarks/notebooks.py --output /tmp/quick

Each notebook is executed once, from a fresh kernel and without its widgets' browser, in a temporary folder of runs
(where the first training is found by the notebooks after it, as in a workshop). Every 50 ms the resident memory of the
kernel and its child processes is read: the peak is what a machine must have free, the rest is what an open notebook
holds once all its cells have run. JupyterLab itself takes about 0.15 GB, and a browser what browsers take.

Written to benchmarks/results: notebooks.json, notebooks.md and notebooks.png.
"""

import os
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import psutil
import torch
from common import command_line, machine, save, stoppable
from nbclient import NotebookClient
from tqdm import tqdm

from cifar_utils import data, plots, settings

ROOT = Path(__file__).resolve().parent.parent
PATHS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}


class Meter(threading.Thread):
    """Reads a kernel's memory and processor time until it is stopped.

    Attributes:
        peak, last: bytes of resident memory.
        cpu_seconds: of all its threads so far.
    """

    def __init__(self, process: psutil.Process, pause: float = 0.05) -> None:
        super().__init__(daemon=True)
        self.process, self.pause, self.stopped = process, pause, threading.Event()
        self.peak = self.last = 0
        self.cpu_seconds = 0.0

    def read(self) -> None:
        try:
            family = [self.process, *self.process.children(recursive=True)]
            self.last = sum(member.memory_info().rss for member in family)
            times = self.process.cpu_times()
            self.cpu_seconds = times.user + times.system
            self.peak = max(self.peak, self.last)
        except psutil.Error:  # it has ended meanwhile
            pass

    def run(self) -> None:
        while not self.stopped.wait(self.pause):
            self.read()

    def stop(self) -> None:
        self.read()
        self.stopped.set()
        self.join()


def measure(path: Path) -> dict:
    """Executes one notebook and returns its row: seconds, cpu_seconds, peak and open (bytes)."""
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", resources=place, store_widget_state=False)
    with client.setup_kernel():
        meter = Meter(psutil.Process(client.km.provisioner.pid))
        meter.start()
        start = time.perf_counter()
        try:
            for number, cell in enumerate(notebook.cells):
                client.execute_cell(cell, number)
        finally:
            meter.stop()
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "cpu_seconds": meter.cpu_seconds, "peak": meter.peak, "open": meter.last}


def markdown(results: dict) -> str:
    lines = ["# Notebooks", "", *(f"- {name}: {value}" for name, value in results["machine"].items())]
    lines += [f"- images: {results['images']}", f"- profile: {results['profile']}", ""]
    lines += ["| notebook | minutes | processor minutes | peak memory, GB | once run, GB |", "|---|--:|--:|--:|--:|"]
    for name, row in results["rows"].items():
        minutes = f"{row['seconds'] / 60:.1f} | {row['cpu_seconds'] / 60:.1f}"
        lines.append(f"| {name} | {minutes} | {row['peak'] / 1e9:.2f} | {row['open'] / 1e9:.2f} |")
    everything = [sum(row[key] for row in results["rows"].values()) for key in ("seconds", "cpu_seconds", "open")]
    lines.append(f"| all, left open | {everything[0] / 60:.1f} | {everything[1] / 60:.1f} | | {everything[2] / 1e9:.2f} |")
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
    figure.alt_text = f"Bars of a kernel's memory in GB for each notebook, at its peak and once run: {'; '.join(words)}."
    plots.save(figure, path)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--only", nargs="+", choices=PATHS, default=list(PATHS), metavar="NAME", help="without .ipynb")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"CIFAR_HEADLESS": "1", "CIFAR_RUNS": folder}
        rows = {name: measure(PATHS[name]) for name in tqdm(args.only, desc="Notebooks")}
    profile = settings.profile()
    results = {
        "machine": machine(torch.get_num_threads()),
        "images": str(data.cifar10(sample=profile.sample)),
        "profile": profile.name,
        "rows": rows,
    }
    save(args.output, "notebooks", results, markdown(results), plot)


if __name__ == "__main__":
    stoppable(main)
