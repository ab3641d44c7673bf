"""A tiny run for processes that get killed: every write, fsync and rename of a save is a numbered boundary."""

import os
import signal
from functools import cache
from pathlib import Path

import tiny
import torch

from cifar_utils import checkpoint
from cifar_utils.data import Dataset


class Boundaries:
    """Calls `reached` before and after all that a save does on the disk, and in the middle of its write."""

    def __init__(self, reached):
        self.reached = reached
        self.real = {"open": open, "replace": os.replace, "to_disk": checkpoint._to_disk, "fsync": os.fsync}

    def around(self, name):
        def wrapper(*args):
            self.reached(f"before {name}")
            result = self.real[name](*args)
            self.reached(f"after {name}")
            return result

        return wrapper

    def open(self, file, mode):
        opened, reached = self.real["open"](file, mode), self.reached
        write = opened.write

        def in_two_halves(content):
            reached("before write")
            write(content[: len(content) // 2])
            opened.flush()
            reached("half written")
            write(content[len(content) // 2 :])
            reached("after write")

        class Slow:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                opened.close()

            write = staticmethod(in_two_halves)
            flush, fileno = opened.flush, opened.fileno

        return Slow()

    def __enter__(self):
        checkpoint.open = self.open
        checkpoint._to_disk = self.around("to_disk")
        checkpoint.os.replace = self.around("replace")
        checkpoint.os.fsync = self.around("fsync")
        return self

    def __exit__(self, *_):
        del checkpoint.open
        checkpoint._to_disk = self.real["to_disk"]
        os.replace, os.fsync = self.real["replace"], self.real["fsync"]


def naive_write(path: Path, content: bytes, backup: bool = False) -> None:
    """What `torch.save(x, path)` does to an existing file. The negative control: it must fail the tests."""
    with checkpoint.open(path, "wb") as f:
        f.write(content)


@cache
def images() -> dict[str, dict]:
    """What `run` trains on, for other processes: to read the sample anew takes longer than to train on this."""
    parts = [tiny.tiny(96), tiny.tiny(32, "validation")]
    return {part.split: vars(part) | {name: getattr(part, name).numpy() for name in ARRAYS} for part in parts}


ARRAYS = ("images", "labels", "index")


def run(
    images: dict[str, dict],
    folder: Path,
    way: str = "plainly",
    kill_at: int = 0,
    log: Path | None = None,
    naive: bool = False,
) -> None:
    """The run, in this process, killed with SIGKILL at the boundary of this number; 0 only counts them in the log."""
    tiny._sample = {
        split: Dataset(**part | {name: torch.from_numpy(part[name]) for name in ARRAYS})
        for split, part in images.items()
    }.__getitem__
    count = 0

    def reached(name):
        nonlocal count
        count += 1
        if log:
            with open(log, "a") as f:
                f.write(name + "\n")
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    if naive:
        checkpoint.write = naive_write
    with Boundaries(reached):
        tiny.train_tiny(folder, **tiny.WAYS[way]())
