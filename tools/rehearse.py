"""Carries out the half-day plan of docs/teaching.md by the clock, and writes its log, docs/rehearsal.md.

    python tools/rehearse.py                        # a quarter of an hour with the full data set in CIFAR10_DIR
    python tools/rehearse.py --output /tmp/log.md   # the log elsewhere

Row by row as a participant goes through it: one folder of runs, one kernel per notebook, the solutions as answers. So
notebook 3 trains the policy of exercise 1.4 and the network of exercise 2.4, and notebook 4 evaluates that run. What
computers do is measured. What people do is estimated: reading at 200 words per minute (code included), and four
minutes per exercise. Where a row's sum exceeds its minutes, the log says so.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient

from cifar_utils import data, settings

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))
from common import machine  # noqa: E402

WORDS_PER_MINUTE, MINUTES_PER_EXERCISE = 200, 4
PYTHON = [sys.executable, "-m"]
# Start of a row in the guide's plan -> the notebook and the last section (heading) that it reaches, exercises,
# commands. Sections named "Extra" are passed over. In the other rows, computers have nothing to do.
WORK = {
    "0:00": ((1, ""), (), [["cifar_utils", "doctor"], ["jupyterlab", "--version"]]),
    "0:10": ((1, "The whole game"), (), []),
    "0:20": ((1, "What to remember"), (), []),
    "0:50": (None, ("1.1", "1.4"), []),
    "1:10": ((2, "What to remember"), (), []),
    "1:35": (None, ("2.3", "2.4"), []),
    "1:50": ((3, "What `fit` adds"), ("3.2", "3.3"), []),
    "2:10": ((3, "Training with a dashboard"), (), []),
    "2:20": ((4, "The images behind each cell"), ("3.4",), [["cifar_utils", "runs"]]),
    "2:45": (None, ("4.3", "4.4"), []),
    "2:55": ((7, "The class activation map"), (), []),
}


def plan() -> list[tuple[str, int, str]]:
    """Start, minutes, and what, of each row of the guide's half day."""
    guide = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d:\d\d) \| (\d+) \| (.*?) \|", guide.split("## Half a day")[1].split("\n## ")[0], re.M)
    assert set(WORK) <= {start for start, _, _ in rows}, "the plan has other times than this script"
    return [(start, int(minutes), what) for start, minutes, what in rows]


class OpenNotebook:
    """A notebook whose kernel stays, and whose cells run in order, as far as they are asked for.

    Args:
        path: of the notebook.
        stack: ends the kernel.
    """

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        self.notebook, self.next = nbformat.read(path, as_version=4), 0
        place = {"metadata": {"path": str(path.parent)}}
        self.client = NotebookClient(self.notebook, timeout=None, kernel_name="python3", resources=place)
        self.client.reset_execution_trackers()
        stack.enter_context(self.client.setup_kernel())

    def sections(self) -> list[str]:
        """The heading above each cell, "" before the first."""
        heading, found = "", []
        for cell in self.notebook.cells:
            titles = re.findall(r"^## (.*)$", cell.source, re.M) if cell.cell_type == "markdown" else []
            heading = titles[-1] if titles else heading
            found.append(heading)
        return found

    def run_to(self, last: str) -> int:
        """Runs the cells up to the end of a section, given by its heading or the start of it; the words in them."""
        sections, words = self.sections(), 0
        end = max(i for i, heading in enumerate(sections) if heading == last or last and heading.startswith(last)) + 1
        for index in range(self.next, end):
            cell = self.notebook.cells[index]
            if not sections[index].startswith("Extra"):
                words += len(cell.source.split())
                self.client.execute_cell(cell, index)
        self.next = max(self.next, end)
        return words


class Participant:
    """Open notebooks by number, and those of the solutions; all is ended together.

    Args:
        stack: ends the kernels.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.open: dict[str, OpenNotebook] = {}

    def notebook(self, pattern: str) -> OpenNotebook:
        if pattern not in self.open:
            (path,) = (ROOT / "notebooks").glob(pattern)
            self.open[pattern] = OpenNotebook(path, self.stack)
        return self.open[pattern]

    def row(self, start: str) -> tuple[float, float, int, list[str]]:
        """Carries out one row: seconds of computation, minutes of reading and of exercises (estimates), and notes."""
        section, exercises, commands = WORK.get(start, (None, (), ()))
        begin, words, notes = time.perf_counter(), 0, []
        for command in commands:
            seconds, text = run_command(command)
            notes.append(f"- {start}: `{text}` took {seconds:.0f} seconds")
        if exercises:
            self.notebook(f"exercises/solutions/0{exercises[0][0]}_*.ipynb").run_to(exercises[-1])
        if section:
            words = self.notebook(f"{section[0]:02}_*.ipynb").run_to(section[1])
        seconds = time.perf_counter() - begin
        return seconds, words / WORDS_PER_MINUTE, MINUTES_PER_EXERCISE * len(exercises), notes


def run_command(arguments: list[str]) -> tuple[float, str]:
    """Seconds that `python -m ...` takes, and the command; it must succeed."""
    start = time.perf_counter()
    found = subprocess.run([*PYTHON, *arguments], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{found.stdout}{found.stderr}")
    return time.perf_counter() - start, " ".join(["python -m", *arguments])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "rehearsal.md", help="by default docs/")
    args = parser.parse_args()
    lines = [
        "# Timed rehearsal of the half-day plan",
        "",
        "Made by tools/rehearse.py, row by row in one folder of runs, with one kernel per notebook and the solutions",
        "as answers: notebook 3 trains the policy of exercise 1.4 and the network of exercise 2.4, and notebook 4",
        "evaluates that run. Computation is measured. Reading and exercises are estimates: "
        f"{WORDS_PER_MINUTE} words per minute,",
        f"code included, and {MINUTES_PER_EXERCISE} minutes per exercise.",
        "",
        *(f"- {name}: {value}" for name, value in machine(torch.get_num_threads()).items() if name != "command"),
        f"- images: {data.cifar10(sample=settings.profile().sample)}",
        "",
        "| start | planned | what | computed | reading | exercises | left for people |",
        "|---|--:|---|--:|--:|--:|--:|",
    ]
    notes, total = [], 0
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.environ |= {"CIFAR_HEADLESS": "1", "CIFAR_RUNS": folder}
        participant = Participant(stack)
        for start, planned, what in plan():
            seconds, reading, practice, told = participant.row(start)
            left = planned - seconds / 60 - reading - practice
            row = f"| {start} | {planned} | {what} | {seconds / 60:.1f} | {reading:.1f} | {practice} | {left:.1f} |"
            print(row, flush=True)
            lines.append(row)
            notes += told
            total += planned
            if left < 0:
                notes.append(f"- {start}: {-left:.1f} minutes too long, if everybody reads every word")
        runs = ", ".join(sorted(path.parent.name for path in Path(folder).glob("*/run.json")))
        notes.append(f"- runs in the folder at the end: {runs}")
    args.output.write_text("\n".join([*lines, "", f"{total} minutes in all.", "", *notes]) + "\n")


if __name__ == "__main__":
    main()
