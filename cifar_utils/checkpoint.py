"""Checkpoints that cannot be half written, silently damaged or made to run code.

A checkpoint is one ordinary safetensors file: named tensors, and in its header JSON text and a SHA-256 sum over all of
it (names, shapes, dtypes, numbers, text), since safetensors itself has none. Any program can read it:
safetensors.torch.load_file(path).

`save` replaces a file as a whole and keeps the one before it as a former generation. `load` refuses what is not exactly
what `save` wrote, with one exception, CheckpointError, and `load_newest` then falls back on the former generation.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_save
from torch import Tensor

FORMAT = "cifar_utils 1"
LARGEST = 2**30  # bytes; a file beyond that is no checkpoint of this workshop and is not read


class CheckpointError(Exception):
    """A checkpoint cannot be written or used; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: named tensors on the CPU, and all else as JSON-like data."""

    tensors: dict[str, Tensor]
    meta: dict


def former(path: Path) -> Path:
    """Where the generation before this file is kept."""
    return path.with_suffix(".former" + path.suffix)


def save(path: Path, tensors: dict[str, Tensor], meta: dict) -> None:
    """Replaces the file, as a whole and durably, or leaves it as it is.

    The new file is written beside the old one, flushed to the disk, read back and compared; only then is the old one
    renamed to `former(path)` and the new one to `path`, and the folder flushed, too. Whenever the process or the
    machine stops, at least one whole generation is there.

    Args:
        path: the file; its folder is made if missing.
        tensors: names to dense tensors.
        meta: what JSON can hold. NaN and infinity are refused.

    Raises:
        CheckpointError: the disk is full, the folder read-only, or the disk returns other bytes than were written.
    """
    whole = encode(tensors, meta)
    new = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(new, "wb") as f:
            f.write(whole)
            f.flush()
            _to_disk(f.fileno())
        if new.read_bytes() != whole:
            raise OSError("the disk does not return what was written")
        if _is_whole(path):  # a damaged file must not push out a whole former generation
            os.replace(path, former(path))
        os.replace(new, path)
        _flush_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} cannot be saved ({error.strerror or error}). Free some space on the disk, or choose a folder that "
            "you can write to; what was saved before is still there."
        ) from None


def load(path: Path) -> Checkpoint:
    """Reads what `save` wrote, and refuses everything else. Nothing in the file is ever executed.

    Raises:
        CheckpointError: missing, unreadable, damaged, from another program, or with numbers that are not finite.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(f"{path} is larger than any checkpoint of this workshop. Choose another file.")
        whole = path.read_bytes()
    except FileNotFoundError:
        message = f"There is no checkpoint {path}. Train first: notebook 03, or 'python -m cifar_utils train'."
        raise CheckpointError(message) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}). Mend that, or train again.") from None
    checkpoint = _decode(whole)
    if checkpoint is None:
        raise CheckpointError(
            f"{path} is cut off, damaged, or no checkpoint of this version of the workshop; nothing of it was used. "
            "Delete it and train again."
        )
    broken = [name for name, t in checkpoint.tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise CheckpointError(f"{path} has NaN or infinite numbers in {broken[0]}. Delete it and train again.")
    return checkpoint


def load_newest(path: Path) -> Checkpoint:
    """The checkpoint, or the generation before it, with a loud word, where the newest one cannot be used.

    Raises:
        CheckpointError: of the newest, when neither can be used.
    """
    try:
        return load(path)
    except CheckpointError as error:
        try:
            checkpoint = load(former(path))
        except CheckpointError:
            raise error from None
        print(f"WARNING: {error}\nGoing on from the save before it, {former(path).name}.", flush=True)
        return checkpoint


def exists(path: Path) -> bool:
    """Whether there is a checkpoint to load, the former generation counted."""
    return path.exists() or former(path).exists()


def check_fit(path: Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compares names, shapes and dtypes with those of a network (or optimiser) before that is touched.

    Raises:
        CheckpointError: naming the first difference.
    """

    def refuse(what: str) -> None:
        raise CheckpointError(f"{path} does not fit this network: {what}. Use the network that it was saved from.")

    for name in sorted(expected.keys() - tensors.keys()):
        refuse(f"{name} is missing")
    for name in sorted(tensors.keys() - expected.keys()):
        refuse(f"{name} is not a part of it")
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape or tensors[name].dtype != tensor.dtype:
            found, wanted = (f"{tuple(t.shape)} {t.dtype}" for t in (tensors[name], tensor))
            refuse(f"{name} is {found} instead of {wanted}")


def encode(tensors: dict[str, Tensor], meta: dict) -> bytes:
    """The bytes of a checkpoint file."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(meta, allow_nan=False)
    header = {"format": FORMAT, "meta": text, "sha256": _checksum(plain, text)}
    return safetensors_save(plain, metadata=header)


def _decode(whole: bytes) -> Checkpoint | None:
    """What `encode` made these bytes from, or None if it did not."""
    try:
        length = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8 : 8 + length])["__metadata__"]
        tensors = safetensors_load(whole)
        if header["format"] != FORMAT or header["sha256"] != _checksum(tensors, header["meta"]):
            return None
        return Checkpoint(tensors, json.loads(header["meta"]))
    except Exception:  # whatever a parser stumbles over in bytes that may be anything
        return None


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256((FORMAT + text).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_whole(path: Path) -> bool:
    with suppress(CheckpointError):
        load(path)
        return True
    return False


def _to_disk(descriptor: int) -> None:
    """fsync; macOS hands that to the drive's cache only, and F_FULLFSYNC to the drive itself."""
    try:
        from fcntl import F_FULLFSYNC, fcntl
    except ImportError:
        os.fsync(descriptor)
    else:
        fcntl(descriptor, F_FULLFSYNC)


def _flush_folder(folder: Path) -> None:
    """Makes the renames durable. Windows has no such call, and needs none."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
