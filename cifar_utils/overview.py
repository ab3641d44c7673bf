"""All runs as one table: what differs between them, how far they got, how good they are, and how long they took.

    print(overview.table(overview.find_runs(val)))

A row is read from run.json and history.json, without the checkpoints, so a table of many runs appears at once.
"""

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from cifar_utils import identity, settings
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.data import Dataset
from cifar_utils.evaluation.metrics import wilson_interval


@dataclass(frozen=True)
class Run:
    """One row of the table.

    Attributes:
        folder: of the run.
        words: setting -> its value in a few words, see `identity.in_words`.
        epoch, epochs: finished, and planned.
        accuracy: of the validation images after the epoch with the lowest validation loss: value, low, high (the 95%
            Wilson interval), 0 to 1; None before the first epoch's end.
        minutes: of training.
        details: setting -> its value, where `words` has less than all of it.
        validation: fingerprint of the validation images; only runs with the same ones can be compared.
    """

    folder: Path
    words: dict[str, str]
    epoch: int
    epochs: int
    accuracy: tuple[float, float, float] | None
    minutes: float
    details: dict[str, str]
    validation: str

    @property
    def is_complete(self) -> bool:
        """Whether all planned epochs are finished."""
        return self.epoch >= self.epochs


def find_runs(val: Dataset | None = None, directory: str | Path | None = None) -> list[Run]:
    """The runs in a folder, the highest validation accuracy first. Unreadable runs are left out, and a line names them.

    Args:
        val: only runs that were validated on exactly these images.
        directory: by default `settings.runs_directory()`.
    """
    found = []
    for file in sorted(settings.in_project(directory or settings.runs_directory()).glob("*/run.json")):
        try:
            if any(x.name == "history.json" or x.suffix == ".safetensors" for x in file.parent.iterdir()):
                found.append(_read(file.parent))  # others were refused before anything was saved
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            print(f"Left out: {file.parent.name}, whose run.json or history.json cannot be read.")
    if val is not None:
        wanted = val.fingerprint()
        found = [run for run in found if run.validation == wanted]
    return sorted(found, key=lambda run: -run.accuracy[0] if run.accuracy else 0)


def _read(folder: Path) -> Run:
    about, history = (
        json.loads(file.read_text()) if file.is_file() else []  # to read a pipe would be to wait
        for file in (folder / "run.json", folder / "history.json")
    )
    about = about["settings"]
    accuracy, count = None, about["data"]["validation_images"]
    if not isinstance(history, list):
        raise TypeError("history.json holds no list")
    if history:
        value = min(history, key=lambda row: row["validation_loss"])["validation_accuracy"]
        accuracy = (value, *wilson_interval(round(value * count), count))
    minutes, words = history[-1]["seconds"] / 60 if history else 0.0, identity.in_words(about)
    if any(row.get("learning_rate_scale", 1) != 1 for row in history):
        words["optimizer"] += ", rate changed by hand"
    validation = about["data"]["validation"]
    return Run(folder, words, len(history), about["epochs"], accuracy, minutes, _details(about), validation)


def _details(about: dict) -> dict[str, str]:
    """What tells apart two runs that are equal in a few words, such as two momenta or widths."""
    found = {"parameters": f"{about['parameters']:,}"} | about["optimizer"]["defaults"]
    found |= {name: about[name] for name in ("shards", "loss", "scheduler", "sampler", "transform", "autocast")}
    return {name: str(value) for name, value in found.items()}


def table(found: list[Run]) -> str:
    """The runs as text, one per line, counted from 0 as a list is; of their settings, those in which they differ.

    Runs that are equal in these get a column *also*, with the details in which they differ from one another. Of a long
    folder name there is the end, which no other run shares; the command line takes it for the whole.
    """
    if not found:
        return f"There are no runs in {settings.runs_directory()} yet."
    names = [name for name in found[0].words if len({run.words[name] for run in found}) > 1]
    also, ends = _differing_details(found), Counter(run.folder.name[-6:] for run in found)
    rows = [["", *names, *(["also"] if also else []), "epochs", "validation accuracy", "minutes", "folder"]]
    for number, run in enumerate(found):
        accuracy = "{:.1%} ({:.1%} to {:.1%})".format(*run.accuracy) if run.accuracy else "none yet"
        words = [run.words[name][:40] for name in names]
        if also:
            words.append(", ".join(f"{name} {run.details.get(name, 'none')}"[:40] for name in also))
        progress = f"{run.epoch} of {run.epochs}"
        rows.append([f"{number}", *words, progress, accuracy, f"{run.minutes:.1f}", _short(run.folder.name, ends)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _short(name: str, ends: Counter) -> str:
    """A folder's name, or its end: a line of the table has to fit a notebook's cell beside the file browser."""
    return name if len(name) <= 20 or ends[name[-6:]] > 1 else f"…{name[-6:]}"


def _differing_details(found: list[Run]) -> list[str]:
    groups: dict[tuple, list[Run]] = {}
    for run in found:
        groups.setdefault((*run.words.values(), run.epochs), []).append(run)
    names = {name: None for run in found for name in run.details}
    differ = [n for n in names if any(len({run.details.get(n) for run in same}) > 1 for same in groups.values())]
    return differ[:3]  # a different number of parameters, say, changes much else


def folder_of(path: Path) -> Path:
    """The path, or the run in the folder of all runs with this name, or with this end of six characters or more."""
    if path.exists():
        return path.absolute()
    everywhere, end = list(settings.runs_directory().glob("*/")), path.name.lstrip("…")
    same_name = [folder for folder in everywhere if folder.name == path.name]
    same_end = [folder for folder in everywhere if folder.name.endswith(end) and len(end) >= 6]
    for found in (same_name, same_end):
        if len(found) == 1:
            return found[0]
    return settings.in_project(path)


def delete(folder: str | Path) -> None:
    """Deletes a run's folder for good. Ask first, as the command line does.

    Raises:
        CheckpointError: see `check_deletable`, or a training holds the folder.
    """
    folder = settings.in_project(folder)
    check_deletable(folder)
    try:
        with FileLock(folder / ".lock", timeout=0):
            # The file by which a run is known goes last: what is interrupted can be deleted again.
            for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == "run.json"):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry.name != ".lock":  # Windows deletes no file that is open
                    entry.unlink()
        shutil.rmtree(folder)
    except Timeout:
        raise CheckpointError(f"{folder} is in use: a training holds it. Stop it first.") from None
    except (OSError, NotImplementedError) as error:  # the latter of a file system without locks
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{folder} cannot be deleted: {reason}.") from None


def check_deletable(folder: str | Path) -> None:
    """Raises CheckpointError: this is not the folder of a run, but of something else or a link to one."""
    folder = settings.in_project(folder)
    if folder.is_symlink() or not (folder / "run.json").is_file():
        raise CheckpointError(f"{folder} is not the folder of a run: there is no run.json in it, or it is a link.")
