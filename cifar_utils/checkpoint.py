"""Checkpoint files that cannot be half written, silently damaged or made to run code.

A checkpoint is one ordinary safetensors file: named tensors, and in its header JSON text and a SHA-256 sum over all of
it (names, shapes, dtypes, values, text), since safetensors itself has none. Any program can read its tensors:
safetensors.torch.load_file(path).

`save` replaces a file as a whole and keeps the one before it as a backup, NAME.previous.safetensors. `load` raises
CheckpointError for every file that is not exactly what `save` wrote; `load_newest` then falls back on the backup.
"""

import hashlib
import json
import os
import secrets
import stat
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_save
from torch import Tensor

FORMAT = "cifar_utils 2"
MAX_BYTES = 4 * 2**30


class CheckpointError(Exception):
    """A checkpoint cannot be written or used; the message names the file, what is wrong and what to do."""


def previous(path: Path) -> Path:
    """Where the backup of this file is kept."""
    return path.with_suffix(".previous" + path.suffix)


def write(path: Path, content: bytes, backup: bool = False) -> None:
    """Replaces a file, as a whole and durably, or leaves it as it is; never writes through a link.

    The new file is written beside the old one under a name of its own, flushed to the disk, read back and compared;
    only then is the old one renamed to `previous(path)` (with `backup`) and the new one to `path`, and the folder
    flushed, too. Whenever the process or the machine stops, at least one whole file is there.

    Raises:
        CheckpointError: the disk is full, the folder read-only, or the disk returns other bytes than were written.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(new, "xb") as f:  # x: it must not exist, not even as a link
            f.write(content)
            f.flush()
            _to_disk(f.fileno())
        if new.read_bytes() != content:
            raise OSError("the disk does not return what was written")
        if backup:
            _replace(path, previous(path))
        _replace(new, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be saved ({error.strerror or error}). Free some space on the disk, or choose a folder that "
            "you can write to; what was saved before is still there."
        ) from None
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


def save(path: Path, state: dict) -> None:
    """Writes a nested state: tensors, and all else as JSON; see `pack` for what it may hold.

    Raises:
        CheckpointError: see `write`; or the state holds something that cannot be saved, or more than 4 GiB.
    """
    write(path, encode(path, state), backup=_is_whole(path))  # a damaged file must not push out a whole backup


def load(path: Path) -> dict:
    """Reads what `save` wrote, and refuses everything else. Nothing in the file is ever executed.

    Raises:
        CheckpointError: missing, unreadable, damaged, or from another program.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_BYTES:
            what = "larger than any checkpoint" if stat.S_ISREG(about.st_mode) else "no ordinary file"
            raise CheckpointError(f"{path} is {what} of this workshop. Choose another file.")
        with path.open("rb") as f:
            state = None
            if f.read(9).endswith(b"{"):  # the header's length and first byte: other large files are not read at all
                f.seek(0)
                state = _decode(f.read())
    except FileNotFoundError:
        advice = "Train first: notebook 03, or 'python -m cifar_utils train'. All runs: 'python -m cifar_utils runs'"
        raise CheckpointError(f"There is no checkpoint {path}. {advice}.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}). Fix that, or train again.") from None
    if state is None:
        raise CheckpointError(
            f"{path} is cut off, damaged, or no checkpoint of this version of the workshop; nothing of it was used. "
            "Train again in another folder."
        )
    return state


def load_newest(path: Path) -> dict:
    """The checkpoint, or its backup, with a warning, where the newest cannot be used.

    Raises:
        CheckpointError: when neither can be used: of the newest, unless that is missing.
    """
    try:
        return load(path)
    except CheckpointError as error:
        is_missing = not os.path.exists(path)
        try:
            state = load(previous(path))
        except CheckpointError as backups:
            raise (backups if is_missing and os.path.exists(previous(path)) else error) from None
        reason = f"{path} is missing" if is_missing else str(error).rpartition(". ")[0]  # without what to do
        print(f"WARNING: {reason}. Using the save before it, {previous(path).name}.", flush=True)
        return state


def exists(path: Path) -> bool:
    """Whether there is a checkpoint to load, its backup counted."""
    return path.exists() or previous(path).exists()


def pack(value, tensors: dict[str, Tensor], name: str = "state"):
    """A nested value as JSON-like data; its tensors go into `tensors`, under their path as name.

    It may hold dicts, lists, tuples, Counters, tensors, arrays, numbers, text, booleans and None: all that the state
    of PyTorch's optimizers, schedulers and modules consists of. Raises TypeError, naming the place of anything else.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (Tensor, np.ndarray)):
        while name in tensors:  # {"a": {"b": ...}, "a.b": ...}
            name += "'"
        tensors[name] = torch.as_tensor(value).detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        kind = "Counter" if isinstance(value, Counter) else "dict"
        return {kind: [[pack(k, tensors, name), pack(v, tensors, f"{name}.{k}")] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        packed = [pack(v, tensors, f"{name}.{i}") for i, v in enumerate(value)]
        return packed if isinstance(value, list) else {"tuple": packed}
    raise TypeError(f"{name} is a {type(value).__name__}, which a checkpoint cannot hold")


def unpack(value, tensors: dict[str, Tensor]):
    """What `pack` packed; arrays come back as tensors."""
    if isinstance(value, list):
        return [unpack(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple(unpack(v, tensors) for v in content)
    pairs = {unpack(k, tensors): unpack(v, tensors) for k, v in content}
    return Counter(pairs) if kind == "Counter" else pairs


def encode(path: Path, state: dict) -> bytes:
    """The bytes of a checkpoint file. Raises CheckpointError: the state cannot be saved, or takes more than 4 GiB."""
    tensors: dict[str, Tensor] = {}
    try:
        text = json.dumps(pack(state, tensors), allow_nan=False)
        content = safetensors_save(tensors, {"format": FORMAT, "state": text, "sha256": _checksum(tensors, text)})
    except Exception as error:  # safetensors has exceptions of its own for dtypes that it does not know
        raise CheckpointError(f"{path} cannot be saved: {error}.") from None
    if len(content) > MAX_BYTES:
        raise CheckpointError(f"{path} cannot be saved: it would take {len(content) / 2**30:.1f} GiB, more than 4.")
    return content


def _decode(content: bytes) -> dict | None:
    """What `encode` made these bytes from, or None if it did not."""
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])["__metadata__"]
        tensors = safetensors_load(content)  # refuses shapes that do not fit the file's size
        if header["format"] != FORMAT or header["sha256"] != _checksum(tensors, header["state"]):
            return None
        state = unpack(json.loads(header["state"]), tensors)
        return state if isinstance(state, dict) else None
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


def _replace(old: Path, new: Path, tries: int = 10 if os.name == "nt" else 1) -> None:
    """os.replace. Windows replaces no file that another program reads at that moment, hence the tries."""
    for _ in range(tries - 1):
        with suppress(PermissionError):
            return os.replace(old, new)
        time.sleep(0.1)
    os.replace(old, new)


def _to_disk(descriptor: int) -> None:
    """fsync; macOS hands that to the drive's cache only, and F_FULLFSYNC to the drive itself."""
    with suppress(ImportError, OSError):  # another system, or a network drive
        from fcntl import F_FULLFSYNC, fcntl  # type: ignore[attr-defined]

        fcntl(descriptor, F_FULLFSYNC)
        return
    os.fsync(descriptor)


def _flush_folder(folder: Path) -> None:
    """Makes the renames durable, where the system can: Windows cannot, nor can some network folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
