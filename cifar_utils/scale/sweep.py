"""Many trainings from one file: every combination of policies, seeds, networks and settings, each in its own folder.

    # sweep.yaml                                   python -m cifar_utils sweep sweep.yaml --dry-run
    policy: [none, full]                           python -m cifar_utils sweep sweep.yaml
    seed: [0, 1, 2]                                python -m cifar_utils sweep sweep.yaml --dask tcp://host:8786
    sample: true

A training is what `python -m cifar_utils train` does with the same options. They run in processes of this machine
(joblib), or on the workers of a Dask cluster. The same command again trains what is not finished, resumes what was
interrupted, and repeats nothing.
"""

import csv
import hashlib
import importlib.util
import io
import itertools
import json
import logging
import math
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import chdir, closing, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
import yaml
from joblib import Parallel, delayed, parallel_config

from cifar_utils import checkpoint, cli, data, files, overview, settings, train
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.evaluation.comparison import mean_and_interval
from cifar_utils.evaluation.inference import predict
from cifar_utils.progress import bar

OPTIONS = ("policy", "model", "recipe", "epochs", "seed", "shards", "profile", "sample", "images", "size", "data")
TRAINING_GB = 2.0  # of memory, for one training on the full data set
PROBE_STEPS = 8  # that an estimate times
STOPPED = "stopped; the same command resumes"
_one_at_a_time = threading.Lock()  # threads and random generators are a process's, not a training's


@dataclass(frozen=True)
class Training:
    """One training of a sweep.

    Attributes:
        options: option of `python -m cifar_utils train` without its dashes -> value.
        folder: of its run.
        profile: of the process in which the sweep was started, for trainings that name none.
    """

    options: dict
    folder: Path
    profile: str
    start: Path = field(default_factory=Path.cwd)  # relative paths are from here, also for workers elsewhere

    @property
    def all_options(self) -> dict:
        """The options with the profile, whether the file names one or not."""
        return {"profile": self.profile} | self.options

    @property
    def arguments(self) -> list[str]:
        """For the command line."""
        found = ["train", "--folder", str(self.folder)]
        for name, value in self.all_options.items():
            if value is not False:
                found += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return found


def read(file: Path, folder: Path) -> list[Training]:
    """The trainings that a file lists, each once.

    Args:
        file: YAML, or a Python file with a variable `trainings`: option -> value or list of values, of which every
            combination is trained; or a list of such mappings.
        folder: of all their runs.

    Raises:
        ValueError: the file cannot be read, or it asks for something that `train` does not take; or CIFAR_PROFILE names
            no profile.
    """
    _names_and_sizes.cache_clear()  # the folders may have changed
    blocks = _content(file)
    blocks = [blocks] if isinstance(blocks, dict) else blocks
    if not isinstance(blocks, list) or not blocks or not all(isinstance(block, dict) and block for block in blocks):
        raise ValueError(f"{file}: a mapping from options to values is needed, or a list of such mappings")
    profile = settings.profile().name
    found: dict[str, Training] = {}
    for block in blocks:
        if unknown := [name for name in block if name not in OPTIONS]:
            raise ValueError(f"{file}: there is no option {unknown[0]!r}; one of {', '.join(OPTIONS)} is needed")
        values = [value if isinstance(value, list) else [value] for value in block.values()]
        for combination in itertools.product(*values):
            given = {name: value for name, value in zip(block, combination) if value is not None}
            options = {name: given[name] for name in OPTIONS if name in given}  # the order in the file does not matter
            training = Training(options, folder / _name(options, profile), profile)
            _check(file, training)
            key = json.dumps({"seed": 0, "profile": profile} | options, sort_keys=True, default=str)
            found.setdefault(key, training)
    if not found:
        raise ValueError(f"{file}: a list of values is empty, so there is no combination to train")
    return list(found.values())


def run(
    file: Path,
    folder: Path | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    dask: str | None = None,
    dry_run: bool = False,
) -> bool:
    """Trains all that a file lists and that is not finished yet, and writes the tables after each training.

    Args:
        file: see `read`.
        folder: of the runs, and of results.csv and summary.csv; by default one in `settings.runs_directory()`, named
            like the file.
        jobs: trainings at once on this machine; by default as many as cores and free memory allow.
        threads: number of threads of a training; by default as many as the runs in the folder were trained with or, for
            the first, the cores divided by the jobs. The last bits of a result depend on it.
        dask: address of a Dask scheduler, whose workers train instead. Each needs this package, and the same folders.
        dry_run: print the trainings and an estimate of the hours, and train nothing.

    Returns:
        Whether all trainings are finished.

    Raises:
        ValueError: see `read`; or the Dask cluster cannot be used.
    """
    folder = settings.in_project(folder or settings.runs_directory() / file.stem)
    folder = folder.resolve()  # for workers that started elsewhere
    trainings = read(file, folder)
    done = {name for name, run in _runs(folder).items() if run.is_complete}
    todo = [training for training in trainings if training.folder.name not in done]
    cores = settings.cores()
    fits = int(settings.free_memory() / 1e9 / TRAINING_GB)
    threads = threads or _threads_before(folder)
    jobs = jobs or max(1, min(cores // (threads or 1), fits, len(trainings)))
    threads = threads or (1 if dask else max(1, cores // jobs))  # nothing is known of the workers' machines
    print(f"{len(trainings)} runs, {len(trainings) - len(todo)} of them finished; they are in {folder}")
    if dry_run:
        _show_plan(trainings, done, jobs, threads, dask)
        return not todo
    folder.mkdir(parents=True, exist_ok=True)
    problems, tasks = {}, [(training, threads, _has_full_set(training)) for training in todo]
    outcomes = _on_a_cluster(tasks, dask) if dask and tasks else _on_this_machine(tasks, jobs, threads)
    with bar(len(todo), "Sweep", "run") as progress:
        for training, problem in outcomes:
            name = training.folder.name
            elsewhere = f"it finished on another machine, whose {folder} is not this one: use a disk that all share"
            problems[name] = problem or elsewhere  # which counts only where the run is not complete here
            rows = results(trainings, problems)
            status = next(row["status"] for row in rows if row["folder"] == name)
            print(f"{name}: {problem or status}", flush=True)
            try:
                _write(folder, rows)
            except CheckpointError as error:  # as on Windows, where Excel has the table open; it is written again
                print(error, flush=True)
            progress.update()
    rows = results(trainings, problems)
    _write(folder, rows)
    print(as_text(summary(rows)))
    print(f"Saved in {folder}: results.csv (one row per run), summary.csv (means over the seeds)")
    left = sum(row["status"] != "finished" for row in rows)
    if left:
        print(f"Not finished: {left} of {len(rows)} runs. The same command resumes them.")
    return not left


def train_one(training: Training, threads: int, needs_full_set: bool) -> tuple[Training, str]:
    """Trains, or resumes, in this process; what it prints goes to log.txt in the run's folder.

    Args:
        training: see `Training`.
        threads: number of threads with which torch computes.
        needs_full_set: refuse to train on the sample, as a worker without the data would.

    Returns:
        The training, and what went wrong in a sentence, or "".
    """
    with _one_at_a_time:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        log, is_interrupted = io.StringIO(), False
        try:
            with chdir(training.start), redirect_stdout(log), redirect_stderr(log):
                _names_and_sizes.cache_clear()
                if _are_here(training.options) and training.folder.name != _name(training.options, training.profile):
                    return training, "a file that it names has changed since the sweep began: give the command again"
                if needs_full_set:
                    data.cifar10(False, False, training.options.get("data"))  # a DataError where there is none
                code = cli.run(training.arguments)
        except KeyboardInterrupt:
            code, is_interrupted = 130, True
            log.write(STOPPED)
        except (Exception, SystemExit) as error:  # such as a network's own: the other trainings must go on
            code = 1
            log.write(f"error: {type(error).__name__}: {error}")
        finally:
            torch.set_num_threads(before)
        try:
            training.folder.mkdir(parents=True, exist_ok=True)
            file = training.folder / "log.txt"
            earlier = file.read_bytes() if file.is_file() and not file.is_symlink() else b""
            checkpoint.write(file, earlier + log.getvalue().encode())
        except (OSError, CheckpointError) as error:
            return training, f"{training.folder} cannot be written to: {getattr(error, 'strerror', None) or error}"
    if is_interrupted:
        return training, STOPPED
    lines = [line for line in log.getvalue().splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return training, "" if code == 0 else (told or lines or ["stopped"])[-1]


def results(trainings: list[Training], problems: dict[str, str]) -> list[dict]:
    """One row per training: its options, epochs, validation accuracy with its 95% interval, minutes, and status."""
    runs = _runs(trainings[0].folder.parent)
    rows = []
    for training in trainings:
        row = {name: training.options.get(name, "") for name in OPTIONS if any(name in t.options for t in trainings)}
        found = runs.get(training.folder.name)
        accuracy = found.accuracy if found else None
        row |= dict(zip(("validation_accuracy", "low", "high"), accuracy or ("", "", "")))
        row |= {"epochs_done": found.epoch if found else 0, "minutes": found.minutes if found else 0.0}
        is_finished = found is not None and found.is_complete
        row["trained_on"] = found.words["images"] if found else ""
        row["status"] = "finished" if is_finished else problems.get(training.folder.name, "not finished")
        rows.append(row | {"folder": training.folder.name})
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """Means over the seeds: one row per combination of the other options and of images, of finished trainings only.

    `low` and `high` are Student's 95% interval of the mean (empty for a single seed), the variation between seeds; it
    does not contain that between samples of validation images.
    """
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["status"] == "finished":
            key = tuple((name, row[name]) for name in (*OPTIONS, "trained_on") if name in row and name != "seed")
            groups.setdefault(key, []).append(row)
    found = []
    for key, members in groups.items():
        values = [row["validation_accuracy"] for row in members]
        mean, half = mean_and_interval(values)
        row = dict(key) | {"seeds": len(values), "validation_accuracy": mean}
        ends = ("", "") if math.isinf(half) else (max(0.0, mean - half), min(1.0, mean + half))
        row |= dict(zip(("low", "high"), ends))
        found.append(row | {"minutes": statistics.mean(member["minutes"] for member in members)})
    return sorted(found, key=lambda row: -row["validation_accuracy"])


def _content(file: Path):
    try:
        if file.suffix == ".py":
            spec = importlib.util.spec_from_file_location("sweep_file", file)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            if not hasattr(module, "trainings"):
                raise ValueError("a variable named trainings is needed")
            return module.trainings
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except Exception as error:  # whatever the file raises when it runs
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from None


def _name(options: dict, profile: str) -> str:
    """A folder's name: the same options get the same one, others, and those of another profile, another."""
    numbers = ("seed", "shards", "epochs", "size")
    words = [f"{name}-{value}" if name in numbers else str(value) for name, value in options.items()]
    words = [word.rpartition(".py:")[2] for word in words if word not in ("True", "False")]  # of FILE.py:NAME, the name
    words = [re.sub(r"[^\w.=]+", "-", word)[:30].strip("-.") for word in words]
    text = json.dumps({"profile": profile} | options, sort_keys=True, default=str)
    for file in _files(options):  # a file that was edited makes another training
        text += hashlib.sha256(file.read_bytes()).hexdigest()
    if "images" in options:  # so does an image that was added, moved, or replaced by one of another size
        text += _names_and_sizes(str(options["images"]))
    return "_".join([*words, hashlib.sha256(text.encode()).hexdigest()[:6]])


@cache
def _names_and_sizes(folder: str) -> str:
    """Of the image files in the folder; "" where `data.from_folder` will say what is wrong."""
    root = Path(folder).expanduser()
    try:
        images, _ = files.find_images(root)
        return json.dumps({str(f.relative_to(root)): f.stat().st_size for part in images.values() for f in part})
    except (files.DataError, OSError):
        return ""


def _are_here(options: dict) -> bool:
    """Whether this machine has the images and files that the options name; what is missing, `train` tells."""
    named = [path for path in _named(options) if path.suffix]  # a preset or a recipe of the package has none
    return all(path.is_file() for path in named) and Path(options.get("images", ".")).expanduser().is_dir()


def _files(options: dict) -> list[Path]:
    """The files that the options name: a policy's, and the code of a network or recipe."""
    return [path for path in _named(options) if path.is_file()]


def _named(options: dict) -> list[Path]:
    """What the options name as a policy, network or recipe: of FILE.py:NAME the file, of a preset its name."""
    named = [str(options.get(name, "")) for name in ("policy", "model", "recipe")]
    return [Path(text.rpartition(":")[0] if ".py:" in text else text) for text in named if text]


def _check(file: Path, training: Training) -> None:
    """Raises ValueError: the command line does not take these options."""
    for name, value in training.options.items():
        if not isinstance(value, (str, int, bool)) or (name == "sample") != isinstance(value, bool):
            kind = "true or false" if name == "sample" else "a name or a whole number"
            raise ValueError(f"{file}: {name} is {value!r}; it must be {kind}")
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            cli.parse(training.arguments)
    except SystemExit:
        problem = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
        raise ValueError(f"{file}: {problem}") from None


def _threads_before(folder: Path) -> int | None:
    """With how many threads the runs in a folder were trained; None without runs."""
    for file in sorted(folder.glob("*/run.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads(file.read_text())["environment"]["threads"])
    return None


def _runs(folder: Path) -> dict[str, overview.Run]:
    """Name of a run's folder -> the run, for all in a folder, those of an earlier file included."""
    return {run.folder.name: run for run in overview.find_runs(directory=folder)}


def _has_full_set(training: Training) -> bool:
    """Whether a training here would use the full data set, so that a worker must not fall back to the sample."""
    options = training.all_options
    if options.get("sample") or options.get("images") or settings.profile(options["profile"]).sample:
        return False
    return _full_set_is_in(options.get("data") or str(settings.data_directory()))


@cache  # all trainings of a sweep ask, and where the data is missing, each answer would be a try to download it
def _full_set_is_in(directory: str) -> bool:
    return not data.cifar10(False, None, directory).is_sample


def _on_this_machine(todo: list[tuple], jobs: int, threads: int) -> Iterator[tuple[Training, str]]:
    """Runs the tasks, each the arguments of `train_one`, in processes; yields what they return, first done first."""
    with parallel_config("loky", n_jobs=jobs, inner_max_num_threads=threads):
        try:
            for training, problem in Parallel(return_as="generator_unordered")(delayed(train_one)(*t) for t in todo):
                yield training, problem
                if jobs == 1 and problem == STOPPED:  # it ran in this process, for which the signal was meant
                    raise KeyboardInterrupt
        except BrokenProcessPool:
            problem = "the process of a run was killed, as where memory runs out: try fewer --jobs"
            raise ValueError(f"{problem}. The same command resumes") from None


def _on_a_cluster(todo: list[tuple], address: str) -> Iterator[tuple[Training, str]]:
    """The same on Dask's workers: a task whose worker is lost runs again on another one, and resumes.

    joblib's own Dask backend is not used: with a single worker, it trains in this process.
    """
    try:
        from dask.distributed import Client, as_completed
    except ImportError:
        raise ValueError('--dask needs the package distributed: pip install -e ".[cluster]"') from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # its tracebacks: what matters is a sentence
    try:
        client = Client(address, timeout=20)
    except (OSError, ValueError) as error:
        raise ValueError(f"there is no Dask scheduler at {address}: {error}") from None
    with client:
        if not client.scheduler_info()["workers"]:
            raise ValueError(f"the Dask scheduler at {address} has no workers; start one: dask worker {address}")
        futures = {client.submit(train_one, *task, pure=False): task for task in todo}
        for future in as_completed(futures):
            if future.status == "finished":
                yield future.result()
            elif future.status == "error":
                problem = future.exception()
                yield futures[future][0], f"{type(problem).__name__}: {' '.join(str(problem).split())}"
            else:
                raise ValueError(f"the Dask scheduler at {address} is gone. Start it anew: the same command resumes")


def _show_plan(trainings: list[Training], done: set[str], jobs: int, threads: int, dask: str | None) -> None:
    seconds: dict[str, float] = {}
    total = 0.0
    for training in trainings:
        if training.folder.name in done:
            print(f"  {training.folder.name}: finished")
            continue
        key = json.dumps({n: v for n, v in training.options.items() if n != "seed"}, sort_keys=True, default=str)
        if key not in seconds:  # seeds take equally long
            try:
                seconds[key] = _estimate(training, threads)
            except (files.DataError, CheckpointError, FloatingPointError, ValueError, OSError) as error:
                print(f"  {training.folder.name}: it would fail: {error}")
                continue
        total += seconds[key]
        print(f"  {training.folder.name}: about {seconds[key] / 60:.1f} minutes")
    hours, jobs = total / 3600, max(1, min(jobs, sum(training.folder.name not in done for training in trainings)))
    together = "" if dask else f", {hours / jobs:.1f} with {jobs} at once"
    print(
        f"About {hours:.1f} hours one after the other{together} on this machine ({threads} threads each). Nothing was "
        "trained. Runs share the machine, shards cost more, and images that grow during training cost less at first, "
        "so this is rough."
    )


def _estimate(training: Training, threads: int) -> float:
    """Seconds of a training, from its first steps and one validation."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
            model, images, val, options = cli.prepare(cli.parse(training.arguments))
            ends = []
            with closing(train.steps(model, images, val, run=Path(folder) / "run", **options)) as states:
                for state in itertools.islice(states, 4 + PROBE_STEPS):  # the last tells of a stop in the one before
                    _ = state.loss  # on a GPU, to read a value is to wait for it
                    ends.append((time.perf_counter(), state.step))
            if state.stop:
                raise KeyboardInterrupt
            # Without those that end with an epoch's validation and saves.
            gaps = [b - a for (a, _), (b, step) in itertools.pairwise(ends[: 3 + PROBE_STEPS]) if step]
            step = statistics.median(gaps[2:] or gaps)  # the first steps warm up
            start = time.perf_counter()
            predict(model, val)
            validation = time.perf_counter() - start
            sampler, epochs = options.get("sampler"), options["epochs"]  # later epochs may have fewer steps
            steps = sampler.total_steps(epochs) if sampler else epochs * state.steps_per_epoch
            return steps * step + epochs * validation
    finally:
        torch.set_num_threads(before)


def _write(folder: Path, rows: list[dict]) -> None:
    """Writes both tables, each as a whole or not at all."""
    for name, table in (("results.csv", rows), ("summary.csv", summary(rows))):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, table[0] if table else ["seeds"])
        writer.writeheader()
        writer.writerows(table)
        checkpoint.write(folder / name, text.getvalue().encode())


def as_text(means: list[dict]) -> str:
    """The summary as a table, the highest validation accuracy first."""
    if not means:
        return "No run is finished yet."
    names = [name for name in OPTIONS if name in means[0]]
    if len({row.get("trained_on") for row in means}) > 1:  # the data arrived in between
        names.append("trained_on")
    lines = [[*names, "seeds", "validation accuracy", "minutes"]]
    for row in means:
        interval = f" ({row['low']:.1%} to {row['high']:.1%})" if row["low"] != "" else ""
        accuracy = f"{row['validation_accuracy']:.1%}{interval}"
        lines.append([*(str(row[name]) for name in names), str(row["seeds"]), accuracy, f"{row['minutes']:.1f}"])
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in lines)
