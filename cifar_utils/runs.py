"""A training run's folder: who holds it, what it trains, and how it resumes after whatever stopped it.

runs/NAME/run.json             the run's identifier, its settings, and the process that trains now or trained last
runs/NAME/last.safetensors     the newest state of training;  last.previous.safetensors  the one before
runs/NAME/best.safetensors     the state with the lowest validation loss
runs/NAME/history.json         one row per epoch, for people and other programs
runs/NAME/tensorboard/         the log
"""

import getpass
import json
import os
import platform
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from cifar_utils import checkpoint, identity, settings
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.evaluation.inference import checked_model, outputs
from cifar_utils.models import has_lazy_layers, uncompiled

BEST, LAST = "best.safetensors", "last.safetensors"
SHIPPED = Path(__file__).parent / "shipped"  # the run whose network ships: a stand-in where nothing is trained yet


class StopSignal:
    """Turns the stop button (SIGINT) and SIGTERM into a request that the loop heeds after the batch under way.

    A second signal is not held back: it interrupts at once, even a save, which then leaves the backup.
    Signals reach the main thread only; elsewhere this does nothing.
    """

    requested = is_over = False

    def request(self, signal_number: int, frame) -> None:
        """What a signal does: the loop ends after this batch, and the next signal interrupts."""
        if self.is_over:  # restored by a training that began later and ended later: the signal is not for this one
            signal.signal(signal_number, self._handlers[signal_number])
            signal.raise_signal(signal_number)
            return
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self.request:
                signal.signal(number, handler)

    def __enter__(self) -> "StopSignal":
        self._handlers: dict[int, Any] = {}  # what was there before
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self.request)
        return self

    def __exit__(self, *_) -> None:
        self._restore()
        self.is_over = True


@contextmanager
def run_lock(run: Path, about: dict) -> Iterator[Callable]:
    """Holds the run's folder for this process, and yields the function that saves there: save(parts, *file_names).

    The lock is the operating system's, so it ends with its process. A new run gets an identifier, which run.json and
    every checkpoint carry: files of another run in its place, or a folder replaced while training writes, are refused.

    Args:
        run: the folder, made if missing.
        about: `settings` and `environment`, saved in run.json and in every checkpoint.

    Raises:
        CheckpointError: another process holds the folder, or it cannot be written to.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        if foreign := _foreign(run):
            raise CheckpointError(f"{run} holds {foreign}, and no run. Name a new folder for the run.")
        lock = FileLock(run / ".lock", timeout=0.5)  # the doctor takes each lock for a moment, see `workshop.locks`
        lock.acquire()
    except Timeout:
        owner = _read_json(run / "run.json").get("owner", "a process that has not given its name")
        advice = "Stop that training (another notebook's kernel?)"
        if f"process {os.getpid()}," in owner:
            advice = "That is this process: stop that training (Stop in its dashboard, or close() of its steps),"
        raise CheckpointError(f"{run} is in use: {owner} trains there. {advice} or name another run.") from None
    except (OSError, NotImplementedError) as error:  # a file system without locks
        reason = getattr(error, "strerror", None) or error
        message = f"{run} cannot be written to ({reason}). Choose another folder for the run."
        raise CheckpointError(message) from None
    try:
        for left_over in run.glob(".*.tmp"):  # of a process that was killed
            with suppress(OSError):
                left_over.unlink()
        # A run that is there keeps its identifier and its settings: `resume` compares them.
        is_there = checkpoint.exists(run / LAST) or checkpoint.exists(run / BEST)
        its = _read_json(run / "run.json") if is_there else about
        if is_there and not isinstance(its.get("id"), str):  # a new one would part the folder from its checkpoints
            raise CheckpointError(
                f"{run}/run.json, which ties the checkpoints to this folder, is missing or damaged. Put it back from a "
                "copy, or train in another folder."
            )
        identifier = its.get("id") or uuid.uuid4().hex
        owner = f"{_user()} on {socket.gethostname()}, process {os.getpid()}, since {time.ctime()}"
        write_json(run / "run.json", its | {"id": identifier, "owner": owner})
        yield lambda parts, *names: _save(run, identifier, parts, about, names)
    finally:
        lock.release()


def _foreign(run: Path) -> str:
    """The name of a file that no run has written, if the folder has never held a run; else ""."""
    is_run = isinstance(_read_json(run / "run.json").get("id"), str)
    if is_run or checkpoint.exists(run / LAST) or checkpoint.exists(run / BEST):
        return ""
    names = sorted(path.name for path in run.iterdir() if path.name[0] != ".")
    return next((name for name in names if name != "log.txt"), "")  # which a sweep writes first


def _save(run: Path, identifier: str, parts: dict, about: dict, names: tuple[str, ...]) -> None:
    """Saves the state of all parts: name -> whatever takes part in training and has a `state_dict`."""
    if _read_json(run / "run.json").get("id") != identifier:
        raise CheckpointError(f"{run} was deleted or replaced while this training wrote there. Train in a new folder.")
    states = {name: part.state_dict() for name, part in parts.items()}
    states["model"] = uncompiled(parts["model"]).state_dict()
    logits = outputs(parts["model"], [_probe(about["settings"])])
    for name in names:
        checkpoint.save(run / name, {"run": identifier, **about, "states": states, "logits": logits})


def resume(run: Path, parts: dict, about: dict) -> bool:
    """Puts the parts into the state that the run's folder holds; False where it holds none.

    Raises:
        CheckpointError: neither the checkpoint nor its backup can be used, or the settings differ: it names how.
    """
    path = run / LAST
    if not checkpoint.exists(path):
        if checkpoint.exists(run / BEST):
            raise CheckpointError(f"{run} holds {BEST} of a run whose {LAST} is missing. Name another folder.")
        (run / "history.json").unlink(missing_ok=True)  # of a run here whose checkpoints were deleted
        return False
    saved = _read(path)
    if saved["states"]["trainer"]["epoch"] and not checkpoint.exists(run / BEST):
        raise CheckpointError(f"{run} has lost its {BEST}. Load its last model, or train in another folder.")
    then, now = saved["settings"], about["settings"]
    if saved["environment"].get("torch") != about["environment"]["torch"]:
        then = then | {"layers": now["layers"]}  # another version of torch may describe the same layers otherwise
    if changed := identity.changes(then, now):
        more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise CheckpointError(
            f"{run} holds a run with other settings: {'; '.join(changed[:3])}{more}. Name another folder for "
            "this one, or none: it then gets a folder of its own."
        )
    _load_model(path, saved, parts["model"])
    for name, part in parts.items():
        if name != "model":
            try:
                part.load_state_dict(saved["states"][name])
            except Exception as error:  # each part has its own
                message = f"{path} does not fit this {name}: {error}. Use what it was saved from."
                raise CheckpointError(message) from None
    trainer = parts["trainer"]
    write_json(run / "history.json", trainer.history)  # that may have been missed after the last save
    if trainer.epoch + trainer.step:
        print(f"Resuming {run} from epoch {trainer.epoch + 1}, step {trainer.step}.", flush=True)
    other = identity.differences(saved["environment"], about["environment"])
    if other:
        print(f"WARNING: the last digits will differ from an uninterrupted run: {'; '.join(other)}.", flush=True)
    return True


def load(run: str | Path, model: nn.Module, which: str = "best") -> nn.Module:
    """Loads a run's weights into a model and sets it to eval mode.

    Args:
        run: the run's folder, see `settings.in_project`.
        model: built like the one that was trained; changed in place.
        which: "best" (the lowest validation loss) or "last".

    Returns:
        The model.

    Raises:
        CheckpointError: no such checkpoint, a damaged one, one of another run, or the model is built otherwise.
        ValueError: the model is no nn.Module.
    """
    path, inner = _path(run, which), checked_model(model)
    saved = _read(path)
    _load_model(path, saved, model)
    inner.trained_size = saved["settings"]["data"]["size"]  # for `evaluation.classify`
    return model.eval()


def about(run: str | Path, which: str = "best") -> dict:
    """What a checkpoint says of itself: `run` (its identifier), `settings` (data, model, ...), `environment`, `epoch`
    and `history`.

    Raises:
        CheckpointError: see `load`.
    """
    saved = _read(_path(run, which))
    trainer = saved["states"]["trainer"]
    return {name: saved[name] for name in ("run", "settings", "environment")} | {
        "epoch": trainer["epoch"], "history": trainer["history"],
    }  # fmt: skip


def environment(device: torch.device) -> dict:
    """What the last bits of a result depend on besides the settings."""
    found = {"torch": str(torch.__version__), "threads": torch.get_num_threads(), "device": device.type}
    return found | {"machine": platform.machine()}


def write_json(path: Path, value) -> None:
    """Writes a JSON file as a whole, see `checkpoint.write`."""
    checkpoint.write(path, (json.dumps(value, indent=1) + "\n").encode())


def _path(run: str | Path, which: str) -> Path:
    if which not in ("best", "last"):
        raise ValueError(f"which is {which!r}; a run has a 'best' and a 'last' checkpoint")
    return settings.in_project(run) / {"best": BEST, "last": LAST}[which]


def _read(path: Path) -> dict:
    saved = checkpoint.load_newest(path)
    try:
        if saved["settings"]["data"]["size"] not in range(16, 257) or not isinstance(saved["environment"], dict):
            raise TypeError
        trainer, model = saved["states"]["trainer"], saved["states"]["model"]
        if not isinstance(trainer["history"], list) or trainer["epoch"] != len(trainer["history"]):
            raise TypeError
        if not all(isinstance(t, torch.Tensor) for t in [saved["logits"], *model.values()]):
            raise TypeError
        identifier = saved["run"]
    except (KeyError, TypeError, AttributeError):
        message = f"{path} is whole, but not a checkpoint of a training run. Delete it and train again."
        raise CheckpointError(message) from None
    expected = _read_json(path.parent / "run.json").get("id")
    if not expected:
        raise CheckpointError(f"{path.parent}/run.json is missing or damaged. Copy the whole folder of the run.")
    if identifier != expected:
        raise CheckpointError(f"{path} belongs to another run than its folder. Put it back where it came from.")
    return saved


def _load_model(path: Path, saved: dict, model: nn.Module) -> None:
    """Loads the weights, all or none, and checks that the model then computes what the saved one did."""
    model = uncompiled(model)
    state, expected = saved["states"]["model"], model.state_dict()

    def refuse(what: str) -> None:
        raise CheckpointError(f"{path} does not fit this model: {what}. Build the model that it was saved from.")

    if has_lazy_layers(model):
        refuse("it has lazy layers, which have no shape yet (call it on a batch of images first)")
    for name in sorted(expected.keys() - state.keys()):
        refuse(f"the model's {name} is not in the file")
    for name in sorted(state.keys() - expected.keys()):
        refuse(f"{name} is not a part of it")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape or state[name].dtype != tensor.dtype:
            then, now = (f"{list(t.shape)} {t.dtype}".replace("torch.", "") for t in (state[name], tensor))
            refuse(f"{name} is {then} in the file and {now} in the model")
    for name, _ in model.named_parameters():
        if not state[name].isfinite().all():
            raise CheckpointError(f"{path} has NaN or infinite weights in {name}. Delete it and train again.")
    before = {name: tensor.clone() for name, tensor in expected.items()}
    model.load_state_dict(state)
    try:
        difference = (outputs(model, [_probe(saved["settings"])]) - saved["logits"]).abs().max()
        same = difference <= 0.004 * saved["logits"].abs().max()
    except (TypeError, ValueError, RuntimeError, FloatingPointError):  # it fails on them, or has other classes
        same = False
    # Other machines and precisions round otherwise; another activation or pooling changes far more than that.
    if not same:
        model.load_state_dict(before)
        refuse("its tensors have the same names and shapes, but it computes something else (an activation or pooling?)")


def _probe(settings: dict) -> torch.Tensor:
    """[2, 3, S, S] float32: two made-up images on which a loaded model must compute what the saved one did."""
    size = settings["data"]["size"]
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def _read_json(path: Path) -> dict:
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_text() if path.is_file() else "{}")  # to read a pipe would be to wait
        return found if isinstance(found, dict) else {}
    return {}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "an unnamed user"
