"""A training run's folder: who owns it, where the run stands, and how it goes on after whatever stopped it.

runs/NAME/last.safetensors    the newest state of training; last.former.safetensors is the one before
runs/NAME/best.safetensors    the state with the lowest validation loss
runs/NAME/history.json        a row an epoch, for people and other programs
runs/NAME/tensorboard/        the log
runs/NAME/owner.json          the process that trains now, or trained last
"""

import getpass
import hashlib
import json
import os
import platform
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from cifar_utils import checkpoint
from cifar_utils.checkpoint import CheckpointError

LAST, BEST = "last.safetensors", "best.safetensors"


@dataclass
class State:
    """Where training stands.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the epoch under way.
        seconds: of training so far, interruptions left out.
        history: a row a finished epoch.
        learning_rate_scale: what somebody steering the training has set, see `training.Steering`.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    learning_rate_scale: float = 1.0

    @property
    def best_loss(self) -> float:
        """The lowest validation loss so far; infinity before the first epoch."""
        return min((row["validation_loss"] for row in self.history), default=float("inf"))


class StopSignal:
    """Turns the stop button (SIGINT) and SIGTERM into a request that the loop heeds after the batch under way.

    A second signal is not held back: it interrupts at once, even a save, which then leaves the former generation.
    Signals reach the main thread only; elsewhere this does nothing, and `request` can be called by whoever wants.
    """

    def __init__(self) -> None:
        self.requested = 0

    def request(self, signal_number: int = signal.SIGINT, frame=None) -> None:
        """Asks for a stop after the batch under way."""
        self.requested = signal_number
        self._restore()

    def _restore(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def __enter__(self) -> "StopSignal":
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self.request)
        return self

    def __exit__(self, *_) -> None:
        self._restore()


@contextmanager
def owned(run: Path) -> Iterator[None]:
    """Holds the run's folder for this process. The lock is the operating system's, so it ends with its process.

    Raises:
        CheckpointError: another process holds it, or the folder cannot be written to.
    """
    owner = run / "owner.json"
    try:
        run.mkdir(parents=True, exist_ok=True)
        with FileLock(run / ".lock", timeout=0):
            me = {"user": _user(), "host": socket.gethostname(), "process": os.getpid(), "since": time.ctime()}
            owner.write_text(json.dumps(me) + "\n")
            yield
    except Timeout:
        try:
            who = "{user} on {host}, process {process}, since {since}".format(**json.loads(owner.read_text()))
        except (OSError, ValueError, KeyError):
            who = "a process that has not given its name"
        raise CheckpointError(
            f"{run} is in use: {who} trains there. Stop that training (another notebook's kernel?) or name another run."
        ) from None
    except OSError as error:
        message = f"{run} cannot be written to ({error.strerror or error}). Choose another folder for the run."
        raise CheckpointError(message) from None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "an unnamed user"


def check_space(run: Path, tensors: dict[str, Tensor]) -> None:
    """Before the first epoch: is there room for last and best, two generations each, and one being written?

    Raises:
        CheckpointError: there is not.
    """
    needed = 5 * sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) + 2**20
    free = shutil.disk_usage(run).free
    if free < needed:
        raise CheckpointError(
            f"{run} has {free / 1e6:.0f} MB free, and the run needs {needed / 1e6:.0f} MB. Make room."
        )


@dataclass(frozen=True)
class Trained:
    """What training changes: all that a run saves as tensors.

    Attributes:
        network: its weights and its batch norms' statistics.
        optimiser: its momentum.
        last_met: how images were answered, see `selection.LastMet`.

    Torch's generator is saved as well, for dropout and such. The order of images and their augmentation need none:
    they are functions of seed, epoch, index and losses.
    """

    network: nn.Module
    optimiser: torch.optim.SGD
    last_met: nn.Module

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name: `model.`, `momentum.`, `last_met.` and its name there, and `generator`."""
        momentum = {name: self.optimiser.state[p].get("momentum_buffer") for name, p in self._weights().items()}
        return {
            **_named("model", self.network.state_dict()),
            **_named("momentum", {name: tensor for name, tensor in momentum.items() if tensor is not None}),
            **_named("last_met", self.last_met.state_dict()),
            "generator": torch.get_rng_state(),
        }

    def load(self, path: Path, tensors: dict[str, Tensor]) -> None:
        """The way back: puts the tensors of `path` where they were, all or, on an error, none.

        Raises:
            CheckpointError: names, shapes or dtypes differ.
        """
        expected = _named("model", self.network.state_dict()) | _named("last_met", self.last_met.state_dict())
        has_momentum = any(name.startswith("momentum.") for name in tensors)  # before the first step there is none
        weights = self._weights() if has_momentum else {}
        expected |= _named("momentum", weights) | {"generator": torch.get_rng_state()}
        checkpoint.check_fit(path, tensors, expected)
        for part, module in (("model", self.network), ("last_met", self.last_met)):
            module.load_state_dict({name: tensors[f"{part}.{name}"] for name in module.state_dict()})
        for name, p in weights.items():
            self.optimiser.state[p]["momentum_buffer"] = tensors[f"momentum.{name}"].to(p.device, copy=True)
        torch.set_rng_state(tensors["generator"])

    def _weights(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}


def _named(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}.{name}": tensor for name, tensor in tensors.items()}


def fingerprint(images: Tensor, labels: Tensor) -> str:
    """SHA-256 of a split's pixels and labels: equal for equal data in equal order."""
    digest = hashlib.sha256(images.contiguous().numpy().data)
    digest.update(labels.contiguous().numpy().data)
    return digest.hexdigest()


def circumstances(device: torch.device) -> dict:
    """What the last bits of a result depend on besides the configuration."""
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "machine": platform.machine(),
    }


def differences(then: dict, now: dict) -> list[str]:
    """What differs between two nested dicts, in words, as in `config.learning_rate was 0.2 and is 0.1`."""
    found = []
    for name in sorted(then.keys() | now.keys()):
        a, b = then.get(name), now.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += [f"{name}.{text}" for text in differences(a, b)]
        elif a != b:
            found.append(f"{name} was {a} and is {b}")
    return found


def read(path: Path) -> tuple[checkpoint.Checkpoint, State]:
    """A run's checkpoint, or its former generation, and where training stood.

    Raises:
        CheckpointError: see `checkpoint.load_newest`, or the file is whole but not of a run.
    """
    saved = checkpoint.load_newest(path)
    try:
        known = State.__dataclass_fields__  # older runs have more, and go without the last: it came later
        state = State(**{name: value for name, value in saved.meta["state"].items() if name in known})
        needed = {"config", "policy", "widths", "normalisation", "data"}
        expected = known.keys() - {"learning_rate_scale"}
        if not expected <= set(saved.meta["state"]) or not needed <= set(saved.meta["setting"]):
            raise KeyError
        saved.meta["circumstances"]["torch"]
    except (AttributeError, KeyError, TypeError):
        message = f"{path} is whole, but not a checkpoint of a training run. Delete it and train again."
        raise CheckpointError(message) from None
    return saved, state


def resume(run: Path, trained: Trained, setting: dict, device: torch.device, allow_changes: bool) -> State:
    """The state in which the run's folder left training, its tensors loaded; a fresh one where there is none.

    Args:
        run: the folder.
        trained: gets the saved tensors.
        setting: configuration, policy, data and so on, as JSON-like data: must equal what was saved.
        device: of the training that goes on.
        allow_changes: go on although the setting differs.

    Raises:
        CheckpointError: neither generation can be used, or the setting differs: the message names how.
    """
    path = run / LAST
    if not checkpoint.exists(path):
        return State()
    saved, state = read(path)
    changed = differences(saved.meta["setting"], setting)
    if changed and not allow_changes:
        raise CheckpointError(
            f"{run} holds a run with another setting: {'; '.join(changed)}. Name another run, delete that folder to "
            "start over, or pass allow_changes=True to go on with the new setting."
        )
    tensors = saved.tensors
    if setting["data"] != saved.meta["setting"]["data"]:  # how other images were answered says nothing
        tensors |= _named("last_met", trained.last_met.state_dict())
    trained.load(path, tensors)
    other = differences(saved.meta["circumstances"], circumstances(device))
    if other:
        print(f"WARNING: the last digits will differ from an uninterrupted run: {'; '.join(other)}.", flush=True)
    return state


def save(path: Path, trained: Trained, state: State, setting: dict, device: torch.device) -> None:
    """Saves all that `resume` and `training.restore` need. Raises CheckpointError like `checkpoint.save`."""
    meta = {"setting": setting, "state": asdict(state), "circumstances": circumstances(device)}
    checkpoint.save(path, trained.tensors(), meta)
