"""Two versions of the recipes, trained in turn on one machine: does a redesign cost accuracy or time?

    python benchmarks/versions.py COMMIT --only fast class sample --seeds 3   # COMMIT against this working tree

Each version trains by its own benchmarks/time_to_accuracy.py, seed by seed, first one, then the other; only the
interface of that script must be the same. An hour of a shared machine differs from the next, so compare pairs.

Written to benchmarks/results: versions.json, one row per run; runs of other machines and seeds stay. The table in
benchmarks/RESULTS.md is made from it by tools/make_readme.py.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from common import RESULTS, command_line, processor, stoppable

from cifar_utils.progress import bar

ROOT = Path(__file__).resolve().parent.parent
KEY = ("version", "machine", "name", "seed")


def checked_out(commit: str, folder: Path) -> Path:
    """The project as it was at this commit, in a folder of its own."""
    found = folder / commit
    if not found.exists():
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(found)], check=True)
        subprocess.run(["git", "-C", str(found), "checkout", "--quiet", commit], check=True)
    return found


def version_of(project: Path) -> str:
    return re.search(r'^version = "(.+)"', (project / "pyproject.toml").read_text(), re.M)[1]


def rows_of(project: Path, name: str, seeds: int, folder: Path, quick: bool) -> list[dict]:
    """What this version's script reaches with so many seeds; those that it has trained before, it does not repeat."""
    words = ["--only", name, "--seeds", seeds, "--runs", folder / "runs", "--output", folder / "results"]
    command = [sys.executable, project / "benchmarks" / "time_to_accuracy.py", *words, *["--quick"] * quick]
    environment = os.environ | {"PYTHONPATH": str(project)}  # before an editable installation of another version
    (folder / "results").mkdir(parents=True, exist_ok=True)
    subprocess.run(list(map(str, command)), check=True, env=environment, cwd=project)
    file = folder / ("runs/time_to_accuracy/quick" if quick else "results") / "time_to_accuracy.json"
    return [row for row in json.loads(file.read_text())["rows"] if row["name"] == name]


def merged(old: list[dict], new: list[dict]) -> list[dict]:
    """All rows, the new ones in place of those of the same version, machine, recipe and seed."""
    rows = {tuple(row[name] for name in KEY): row for row in [*old, *new]}
    return [rows[key] for key in sorted(rows, key=str)]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("commit", help="of the version to compare this working tree with")
    parser.add_argument("--only", nargs="+", default=["fast", "class", "sample"], help="these recipes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="1 epoch of the sample, 1 seed; results beside the runs")
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "versions", help="folder of finished runs")
    args = parser.parse_args()
    projects = [checked_out(args.commit, args.runs), ROOT]
    if version_of(projects[0]) == version_of(ROOT):
        parser.error("both have the same version in pyproject.toml: give this one another")
    args.output = args.runs if args.quick and args.output == RESULTS else args.output
    file, where = args.output / "versions.json", processor()
    todo = [(seed, name, p) for seed in range(1 if args.quick else args.seeds) for name in args.only for p in projects]
    for seed, name, project in bar(len(todo), "Runs", "run", iterable=todo):
        version = version_of(project)
        rows = rows_of(project, name, seed + 1, args.runs / f"{version}-{name}", args.quick)
        rows = [row | {"version": version, "machine": where} for row in rows]
        old = json.loads(file.read_text()) if file.exists() else []
        file.write_text(json.dumps(merged(old, rows), indent=1) + "\n")


if __name__ == "__main__":
    stoppable(main)
