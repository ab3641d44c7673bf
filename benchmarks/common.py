"""What the benchmarks share: the command line made from a script's own text, and the machine that ran it."""

import argparse
import datetime
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from cifar_utils.data import DataError

RESULTS = Path(__file__).resolve().parent / "results"


def command_line(text: str) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring; `--output` is the folder of the results."""
    summary, _, details = text.partition("\n")
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=summary, epilog=details, formatter_class=layout)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    return parser


def processor() -> str:
    """The CPU's name with its family and model: where machines are rented, generations go by one name."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = (line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in lines}
    name = facts.get("model name", platform.processor())
    return f"{name} (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else name


def machine(threads: int, *packages: str) -> dict[str, str]:
    """CPU, GPU, the versions of this package, of torch and of the packages that are compared, date and command."""
    facts = {"CPU": f"{processor()}, {threads} threads"}
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    for package in ("cifar_utils", "torch", "torchvision", *packages):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts | {"date": datetime.date.today().isoformat(), "command": shlex.join(["python", *sys.argv])}


def stoppable(main: Callable[[], None]) -> None:
    """Runs a benchmark that keeps its finished runs; what stops it is reported in one line."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command resumes.")
    except DataError as error:
        sys.exit(str(error))


def save(folder: Path, name: str, results: dict, text: str, plot: Callable[[dict, Path], None]) -> None:
    """Writes name.json (the results), name.md (the table, which is printed as well) and name.png (the plot)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)
    plot(results, folder / f"{name}.png")
    print(text)


def cached_run(file: Path, setting: dict, run: Callable[[], dict] | None) -> dict | None:
    """The figures of one run: from its file, if they were made with this setting, else by running it now.

    So a benchmark of hours can be stopped and resumed, and rows of other settings never get into its table.

    Args:
        file: JSON; the row, with "setting" and the "date" of the run.
        setting: all that decides about the result, as JSON-like data.
        run: makes the row, or None to take what is there.

    Returns:
        The row, or None: there is none and none was to be made.
    """
    setting = json.loads(json.dumps(setting))  # tuples become lists, as they will when read back
    if file.exists():
        row = json.loads(file.read_text())
        if row.get("setting") == setting:
            return row
    if run is None:
        return None
    row = run() | {"date": datetime.date.today().isoformat(), "setting": setting}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(row) + "\n")
    return row


def in_a_new_process(work: Callable[..., dict], *arguments) -> dict:
    """What `work` returns in a process of its own: a fresh memory, and settings that end with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def take_turns(runs: dict[str, Callable], rounds: int, title: str, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each run in each round; every round begins with another one."""
    seconds, names = {name: [] for name in runs}, list(runs)
    with tqdm(total=rounds * len(runs), desc=title) as bar:
        for i in range(rounds * len(runs)):
            name = names[(i + i // len(names)) % len(names)]
            bar.set_postfix_str(name)
            start = time.perf_counter()
            runs[name]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
            bar.update()
    return seconds


def spread(values: list[float]) -> dict:
    """Median and quartiles; of a single value, as in a quick run, that value."""
    low, median, high = statistics.quantiles(values * 2 if len(values) == 1 else values, n=4, method="inclusive")
    return {"median": median, "quartiles": [low, high], "rounds": values}
