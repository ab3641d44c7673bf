"""Carries out the half-day plan of docs/teaching.md by the clock, and writes its log, docs/rehearsal.md.

    python benchmarks/notebooks.py   # first: the seconds that each section of the notebooks computes on this machine
    python tools/rehearse.py         # the plan's commands and exercises, run now; then the log

What computers do is measured. What people do is estimated: reading at 200 words per minute (code included), and four
minutes per exercise. Where a row's sum exceeds its minutes, the log says so.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from cifar_utils.exercises import EXERCISES

ROOT = Path(__file__).resolve().parent.parent
WORDS_PER_MINUTE, MINUTES_PER_EXERCISE = 200, 4
PYTHON = [sys.executable, "-m"]
# Start of a row in the guide's plan -> sections of notebooks (number, first and last heading, "" is the beginning),
# exercises, commands. In the other rows, computers have nothing to do.
WORK = {
    "0:00": ([(1, "", "")], (), [["cifar_utils", "doctor"], ["jupyterlab", "--version"]]),
    "0:10": ([(1, "The whole game", "The whole game")], (), []),
    "0:20": ([(1, "Ten classes of small images", "Your policy, for notebook 3")], (), []),
    "0:50": ([], ("1.1", "1.4"), []),
    "1:10": ([(2, "", "What to remember")], (), []),
    "1:35": ([], ("2.3", "2.4"), []),
    "1:50": ([(3, "", "What `fit` adds")], ("3.2", "3.3"), []),
    "2:10": ([(3, "Training with a dashboard", "Training with a dashboard")], (), []),
    "2:20": ([(4, "", "The images behind each cell")], ("3.4",), [["cifar_utils", "runs"]]),
    "2:45": ([], ("4.3", "4.4"), []),
    "2:55": ([(7, "", "The class activation map")], (), []),
}


def plan() -> list[tuple[str, int, str]]:
    """Start, minutes, and what, of each row of the guide's half day."""
    guide = (ROOT / "docs" / "teaching.md").read_text()
    rows = re.findall(r"^\| (\d:\d\d) \| (\d+) \| (.*?) \|", guide.split("## Half a day")[1].split("\n## ")[0], re.M)
    assert set(WORK) <= {start for start, _, _ in rows}, "the plan has other times than this script"
    return [(start, int(minutes), what) for start, minutes, what in rows]


def sections(number: int, first: str, last: str, measured: dict) -> tuple[float, int]:
    """Seconds of computation and words from one heading of a notebook to another, both included."""
    (path,) = (ROOT / "notebooks").glob(f"{number:02}_*.ipynb")
    words, heading, inside, headings = 0, "", first == "", set()
    for cell in nbformat.read(path, as_version=4).cells:
        titles = re.findall(r"^## (.*)$", cell.source, re.M) if cell.cell_type == "markdown" else []
        if titles:
            if heading == last and inside:
                break
            heading = titles[-1]
            inside = inside or heading == first
        if inside:
            words += len(cell.source.split())
            headings.add(heading)
    return sum(measured[path.stem]["sections"].get(heading, 0.0) for heading in headings), words


def run_command(arguments: list[str]) -> tuple[float, str]:
    start = time.perf_counter()
    found = subprocess.run([*PYTHON, *arguments], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{found.stdout}{found.stderr}")
    return time.perf_counter() - start, " ".join(["python -m", *arguments])


def run_exercises(number: int) -> float:
    """Seconds that the notebook with the solutions of all exercises of a notebook takes."""
    path = ROOT / "notebooks" / "exercises" / "solutions" / f"{number:02}_solutions.ipynb"
    place = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(nbformat.read(path, as_version=4), timeout=None, kernel_name="python3", resources=place)
    start = time.perf_counter()
    client.execute()
    return time.perf_counter() - start


def main() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "notebooks.json").read_text())
    lines = [
        "# The half-day plan, carried out by the clock",
        "",
        "Made by tools/rehearse.py. Computation is measured: each section of a notebook, each command, and the",
        f"notebooks of solutions. Reading ({WORDS_PER_MINUTE} words per minute, code included) and exercises "
        f"({MINUTES_PER_EXERCISE} minutes each) are estimates.",
        "",
        *(f"- {name}: {value}" for name, value in results["machine"].items() if name != "command"),
        f"- images: {results['images']}",
        "",
        "| start | planned | what | computed | reading | exercises | left for people |",
        "|---|--:|---|--:|--:|--:|--:|",
    ]
    notes, total = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"CIFAR_HEADLESS": "1", "CIFAR_RUNS": folder}
        done = {number: run_exercises(number) for number in (1, 2, 3, 4)}
        for start, planned, what in plan():
            parts, exercises, commands = WORK.get(start, ((), (), ()))
            found = [sections(*part, results["rows"]) for part in parts]
            seconds, words = sum(s for s, _ in found), sum(w for _, w in found)
            seconds += sum(done[int(name[0])] / sum(key[0] == name[0] for key in EXERCISES) for name in exercises)
            for command in commands:
                took, text = run_command(command)
                notes.append(f"- {start}: `{text}` took {took:.0f} seconds")
                seconds += took
            reading, practice = words / WORDS_PER_MINUTE, MINUTES_PER_EXERCISE * len(exercises)
            left = planned - seconds / 60 - reading - practice
            row = f"| {start} | {planned} | {what} | {seconds / 60:.1f} | {reading:.1f} | {practice} | {left:.1f} |"
            lines.append(row)
            total += planned
            print(row, flush=True)
            if left < 0:
                notes.append(f"- {start}: {-left:.1f} minutes too long, if everybody reads every word")
    notes += [f"- all solutions of notebook {number} ran in {seconds:.0f} seconds" for number, seconds in done.items()]
    text = "\n".join([*lines, "", f"{total:.0f} minutes in all.", "", *notes])
    (ROOT / "docs" / "rehearsal.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
