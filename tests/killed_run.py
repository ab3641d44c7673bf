"""A tiny run for processes that get killed: every write, fsync and rename of a save is a numbered boundary."""

import os
import signal
from pathlib import Path

import torch
from tiny import train_tiny

from cifar_utils import checkpoint

STEPS = {"epochs": 2, "images": 127, "skip": 0.2}  # two epochs of three steps; the second leaves out 25 images


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

    def open(self, path, mode):
        file, reached = self.real["open"](path, mode), self.reached
        write = file.write

        def in_two_halves(content):
            reached("before write")
            write(content[: len(content) // 2])
            file.flush()
            reached("half written")
            write(content[len(content) // 2 :])
            reached("after write")

        class Slow:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            write = staticmethod(in_two_halves)
            flush, fileno = file.flush, file.fileno

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


def naive_save(path: Path, tensors, meta) -> None:
    """What `torch.save(x, path)` does to an existing file. The negative control: it must fail the tests."""
    whole = checkpoint.encode(tensors, meta)
    path.parent.mkdir(parents=True, exist_ok=True)
    with checkpoint.open(path, "wb") as f:
        f.write(whole)


def run(folder: Path, kill_at: int = 0, log: Path | None = None, naive: bool = False) -> None:
    """The run, in this process, killed with SIGKILL at the so-manieth boundary; 0 only counts them in the log."""
    torch.set_num_threads(1)
    torch.manual_seed(0)  # torch seeds each process differently; a resumed run gets the saved generator all the same
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
        checkpoint.save = naive_save
    with Boundaries(reached):
        train_tiny(folder, **STEPS)
