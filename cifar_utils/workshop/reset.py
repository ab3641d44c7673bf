"""A clean start for the next group: runs and changed notebooks are put aside. Nothing is ever deleted.

A notebook is compared with its pristine copy: the one in .pristine/, which participants' copies have, or else the one
that was committed.
"""

import json
import os
import shutil
import time
from pathlib import Path

from cifar_utils import checkpoint, settings
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.workshop import copies
from cifar_utils.workshop.copies import NOTEBOOKS
from cifar_utils.workshop.locks import held


def reset() -> list[str]:
    """Puts runs (policy.json included) and changed notebooks aside, and restores the notebooks. Other files stay.

    Wherever it is interrupted, everything is still there, and the same call completes it: changed notebooks are copied
    first, the folder of runs is renamed in one step, and each notebook is then replaced as a whole.

    Returns:
        What was done and how to undo it, one line each.

    Raises:
        ValueError: a training holds a run, or the folder of runs, a notebook or its folder is a link.
        OSError: the folder of runs cannot be renamed, as where it is a disk of its own. Nothing was changed.
        CheckpointError: a notebook cannot be written; the message says where the runs are now.
    """
    runs, project, now = settings.runs_directory(), _project(), time.strftime("%Y-%m-%d-%H%M%S")
    pristine = copies.pristine(project) if project else {}
    changed = {path: content for path, content in pristine.items() if _differs(path, content)}
    for path in (runs, *{path.parent for path in changed}, *changed):
        if path.is_symlink():
            raise ValueError(f"{path} is a link: reset what it points to instead. Nothing was changed")
    # The locks are released at once, since Windows renames no folder with an open file: a training that begins in
    # between finds its folder moved, and stops with a sentence.
    if used := held(runs):
        raise ValueError(f"{used[0]} is in use: stop that training first. Nothing was changed")

    done, existing = [], [path for path in changed if path.exists()]
    aside = project / f"{NOTEBOOKS}-before-reset-{now}" if existing else None
    if aside:
        aside.mkdir()  # never into the folder of another reset
    for path in existing:
        copy = aside / path.relative_to(project / NOTEBOOKS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    if runs.is_dir() and any(runs.iterdir()):
        old = runs.with_name(f"{runs.name}-before-reset-{now}")
        try:
            os.rename(runs, old)
        except OSError as error:
            if aside:
                shutil.rmtree(aside)  # the copies that were just made
            reason = f"{runs} cannot be renamed ({error.strerror}; is it a disk of its own, or open elsewhere?)"
            raise OSError(f"{reason}: move what it holds by hand. Nothing was changed") from None
        done.append(f"Moved {runs} to {old}. To get it back, rename it to {runs.name}.")
    for path, content in changed.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            checkpoint.write(path, content)
        except CheckpointError as error:
            raise CheckpointError(f"{error} {' '.join(done)}".rstrip()) from None
    if aside:
        names = ", ".join(path.name for path in existing)
        done.append(f"Moved your {names} to {aside}. To get them back, copy them into {project / NOTEBOOKS}.")
    if changed:
        names = ", ".join(path.name for path in changed)
        done.append(f"Restored {names}. In JupyterLab, close the notebooks that are open, and open them again.")
    if not pristine:
        done.append("Notebooks were left as they are: no pristine copies were found to compare them with.")
    return done or ["There is nothing to reset: no runs and no changed notebooks."]


def _project() -> Path | None:
    """The folder of the project, or of participants' copies, in which the current folder lies; None outside of one."""
    found = settings.project_directory()
    return found if (found / "cifar_utils" / "__init__.py").is_file() and (found / NOTEBOOKS).exists() else None


def _differs(path: Path, content: bytes) -> bool:
    """Whether the notebook differs or is missing. Line ends, which git changes on Windows, do not count."""
    try:
        return json.loads(path.read_bytes()) != json.loads(content)
    except (OSError, ValueError):
        return True
