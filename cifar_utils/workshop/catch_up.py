"""Catching up with the group: saves what a notebook needs from earlier notebooks, if it is missing."""

import shutil
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory

from cifar_utils import checkpoint, network_file, runs, settings
from cifar_utils.augment import PRESETS
from cifar_utils.checkpoint import CheckpointError

NOTEBOOKS = range(1, 9)


def catch_up(notebook: int) -> list[str]:
    """Puts into the folder of runs what the notebooks before this one leave there. What is there already stays.

    Args:
        notebook: the number of the one that the group is at, 1 to 8.

    Returns:
        What was done, one line each.

    Raises:
        ValueError: there is no such notebook.
        OSError, CheckpointError: the folder of runs cannot be written to.
    """
    if notebook not in NOTEBOOKS:
        raise ValueError(f"there is no notebook {notebook}: name one from {NOTEBOOKS[0]} to {NOTEBOOKS[-1]}")
    done, home = [], settings.runs_directory()
    home.mkdir(parents=True, exist_ok=True)
    if notebook > 1 and not settings.policy_file().exists():
        done.append(f"Notebook 1: saved the policy full in {network_file.save_policy(PRESETS['full'])}.")
    if notebook > 2 and not settings.network_file().exists():
        checkpoint.write(settings.network_file(), b"from cifar_utils.models import SmallCNN\n")
        done.append(f"Notebook 2: saved the network SmallCNN in {settings.network_file()}.")
    if notebook > 3 and not any(map(_is_of_cifar10, home.glob(f"*/{runs.BEST}"))):
        names = chain(["shipped"], (f"shipped_{number}" for number in count(2)))
        run = next(home / name for name in names if not (home / name).exists())
        with TemporaryDirectory(prefix=".", dir=home) as folder:
            new = Path(folder) / "run"
            shutil.copytree(runs.SHIPPED, new)
            runs.write_json(new / "history.json", runs.about(new)["history"])  # by which notebook 4 finds it
            new.replace(run)  # as a whole, or not at all
        done.append(f"Notebook 3: copied the shipped run to {run}.")
    return done or ["Nothing is missing."]


def _is_of_cifar10(best: Path) -> bool:
    """Whether notebook 4 can evaluate the run of this checkpoint: it has CIFAR-10's classes."""
    with suppress(CheckpointError):
        return runs.about(best.parent)["settings"]["data"]["source"] in ("CIFAR-10", "SAMPLE")
    return False
