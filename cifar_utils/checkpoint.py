"""Saving and loading a run's checkpoints: one file each, replaced as a whole, loaded without executing anything."""

import io
import os
import zipfile
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
    whole = io.BytesIO()  # a full disk is then an OSError of `write`, which says so; torch's own message does not
    torch.save({"format": FORMAT, **content}, whole)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(whole.getbuffer())
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict:
    """Reads what `save` wrote, onto the CPU. Checksums are checked, pickled code is refused (`weights_only`).

    Raises:
        CheckpointError: missing, unreadable, damaged or not a checkpoint of this workshop.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # a checkpoint is a zip file, whose checksums torch does not look at
            if archive.testzip():
                raise zipfile.BadZipFile
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        message = f"There is no checkpoint {path}. Train first: notebook 03, or 'python -m cifar_utils train'."
        raise CheckpointError(message) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}. Mend that or train again.") from None
    except Exception:  # whatever the parsers of zip and pickle stumble over
        message = f"{path} is cut off, damaged or no checkpoint; nothing of it was run. Delete it and train again."
        raise CheckpointError(message) from None
    if not isinstance(content, dict) or not KEYS <= set(content):
        raise CheckpointError(f"{path} is not a checkpoint of this workshop. Train again to replace it.")
    if content["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {content['format']}; this version reads {FORMAT}. Train again.")
    return content
