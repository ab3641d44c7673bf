"""Saving and loading a run's checkpoints: one file each, replaced as a whole, loaded without executing anything."""

import os
import pickle
from pathlib import Path

import torch

FORMAT = 1
KEYS = {"format", "model", "widths", "epoch", "history", "config", "policy", "normalisation", "classes", "data"}


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message names the file, what is wrong and what to do."""


def save(path: Path, content: dict) -> None:
    """Writes a checkpoint beside its target and renames it: whoever interrupts this, the former file stays whole.

    Args:
        path: the file; its folder is made if missing.
        content: tensors, numbers, text, and lists and dicts of these, under the names in KEYS but "format".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as f:
        torch.save({"format": FORMAT, **content}, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)


def load(path: Path) -> dict:
    """Reads what `save` wrote, onto the CPU. Pickled code is refused (`weights_only`).

    Raises:
        CheckpointError: missing, unreadable or not a checkpoint of this workshop.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        message = f"There is no checkpoint {path}. Train first: notebook 03, or 'python -m cifar_utils train'."
        raise CheckpointError(message) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{path} cannot be read ({reason}). Delete it and train again.") from None
    if not isinstance(content, dict) or not KEYS <= set(content):
        raise CheckpointError(f"{path} is not a checkpoint of this workshop. Train again to replace it.")
    if content["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {content['format']}; this version reads {FORMAT}. Train again.")
    return content
