"""The training loop: `fit` runs it to the end, `steps` pauses after every step to look, steer or stop.

    history = fit(model, train, val, transform=PRESETS["full"], epochs=9, run="runs/mine")

Every epoch: gradient steps on augmented batches, then the loss of the validation images; the best model is kept.
"""

import hashlib
import math
import random
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from cifar_utils import checks, identity, log, runs, settings
from cifar_utils.augment import Step, apply_transform
from cifar_utils.data import Dataset
from cifar_utils.evaluation.inference import one_at_a_time, predict
from cifar_utils.models import uncompiled


def fit(model: nn.Module, train: Dataset, val: Dataset, **options) -> list[dict]:
    """Trains to the end, or until it is stopped. Arguments and errors: see `steps`.

    Returns:
        The history, one row per epoch: epoch (from 1), learning_rate, training_loss and training_accuracy (means over
        the epoch, on augmented images), validation_loss, validation_accuracy, seconds (of training so far),
        learning_rate_scale (at the epoch's end; other than 1 where the rate was changed by hand). Losses are
        cross-entropies, whatever `loss` trains with, so that the two can be compared.
    """
    return deque(steps(model, train, val, **options), maxlen=1)[0].history  # of all states, the last


def steps(
    model: nn.Module,
    train: Dataset,
    val: Dataset,
    *,
    transform=None,
    loss=None,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler=None,
    scheduler_per: str = "step",
    sampler=None,
    epochs: int = 10,
    batch_size: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
    run: str | Path | None = None,
    save_every: int | None = None,
) -> Generator["TrainerState", None, None]:
    """Trains the model in place, or resumes the training that the run's folder holds.

    `last` is saved at the end of every epoch and on a stop (Ctrl-C, SIGTERM, `state.stop = True`), `best` before it
    whenever the validation loss is lower than ever before; see `runs`. However training ends, the same call resumes
    from the last save, and the finished run is bit for bit the same as an uninterrupted one (on a CPU: same machine,
    torch version and number of threads; on a GPU, the last bits of sums may differ). Afterwards the model holds the
    last weights: `runs.load` loads the best.

    Args:
        model: any module from images [N, 3, S, S] float32 in 0 to 1 to logits [N, classes].
        train, val: only the first is augmented; no gradient ever comes from the second.
        transform: the augmentation: a Policy, torchvision transforms, functions, a list; see `apply_transform`.
        loss: a function of (logits, labels); by default cross-entropy.
        optimizer: of all trainable parameters of the model; by default `sgd`.
        scheduler: any LRScheduler of that optimizer, whose length (T_max, total_steps), where it has one, must be the
            training's; by default `warm_up_and_decay`.
        scheduler_per: "step" or "epoch": how often the scheduler steps (ReduceLROnPlateau: always per epoch).
        sampler: which images make up an epoch's batches; by default `Shuffle`.
        epochs: passes over the training images.
        batch_size: images per step, at most; by default the sampler's, or 128.
        seed: of the order of images (a sampler given has its own), of their augmentation, and of everything random in
            the model, such as dropout. The initial weights are the caller's, by `torch.manual_seed` before the model is
            made, and do not tell runs apart: to train again with others, give another seed or run.
        device: where to train; by default `best_device`.
        autocast: torch.bfloat16 for a forward pass with 16-bit products; weights, loss and evaluation stay float32.
        run: the run's folder, made if missing, see `settings.in_project`; by default one in `settings.runs_directory`,
            named by the settings.
        save_every: save `last` after this many steps, too.

    Yields:
        The state of training: at the start, after every step, and after every epoch's validation and saves.

    Raises:
        ValueError: something does not fit together, and nothing has been trained or saved; or a transform fails later,
            or a learning rate or its scale is below 0, and what was saved before stays.
        FloatingPointError: the loss is no longer a finite number; what was saved before stays.
        CheckpointError: the folder is in use, full, read-only, or holds another or a damaged run.
    """
    checks.check_data(train, val, epochs=epochs, batch_size=batch_size, seed=seed, save_every=save_every)
    checks.check_types(model, optimizer, sampler, autocast, transform=transform, loss=loss, scheduler=scheduler)
    device = checks.move(model, best_device() if device is None else device)
    loss = nn.CrossEntropyLoss() if loss is None else loss
    batch_size = checks.agreed_batch_size(sampler, batch_size)
    sampler = Shuffle(len(train), batch_size, seed) if sampler is None else sampler
    total_steps = sampler.total_steps(epochs)
    optimizer = sgd(model) if optimizer is None else optimizer
    scheduler = scheduler or warm_up_and_decay(optimizer, epochs if scheduler_per == "epoch" else total_steps)
    checks.check_parts(model, optimizer, scheduler, scheduler_per, epochs, total_steps)
    with seeded(seed, "check"):
        loss, layout = checks.check_model(model, train, transform, loss, device, autocast, sampler)
    state = TrainerState(epochs)
    parts = {"model": model, "trainer": state, "optimizer": optimizer, "scheduler": scheduler, "sampler": sampler}
    numbers = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "scheduler_per": scheduler_per}
    described = identity.describe_run(train, val, transform, loss, parts, numbers | {"autocast": str(autocast)})
    parts |= {"loss": loss} if isinstance(loss, nn.Module) else {}
    state.run = run = settings.in_project(run or identity.folder_for(described))
    uncompiled(model).trained_size = train.size  # type: ignore[assignment]  # for `evaluation.classify`
    about = {"settings": described, "environment": runs.environment(device)}
    images, labels, index = (x.to(device) for x in (train.images, train.labels, train.index))
    with runs.run_lock(run, about) as save, runs.StopSignal() as stop:
        resumed = runs.resume(run, parts, about)
        checks.check_start(model, optimizer, scheduler, run, resumed)
        yield state if resumed else state.note_rate(optimizer)
        if state.epoch >= epochs:
            print(f"{run} is complete: {state.epoch} epochs. To train anew, give another seed or another folder.")
            return
        if not resumed:
            save(parts, runs.LAST)  # fails now rather than after an epoch
        with log.tensorboard(run, state) as board, log.EpochBar(state) as progress:
            while state.epoch < epochs and not state.stop:
                batches = _begin_epoch(model, sampler, state.epoch, seed)
                state.steps_per_epoch = len(batches)
                for batch in [b.to(device) for b in batches[state.step :]]:  # all now: each copy to a GPU waits for it
                    start = time.perf_counter()
                    done = (sampler.total_steps(state.epoch) + state.step) / total_steps
                    with seeded(seed, state.epoch, state.step):
                        if not uncompiled(model).training:  # the caller has evaluated it
                            model.train()
                        where = Step(seed, state.epoch, index[batch], done)
                        x, y = apply_transform(transform, images[batch], labels[batch], where)
                        with torch.autocast(device.type, autocast, enabled=autocast is not None):
                            logits = model(x.contiguous(memory_format=layout)).float()
                        value = loss(logits, y)
                        optimizer.zero_grad()
                        value.backward()
                        _optimizer_step(optimizer, state.learning_rate_scale)
                        sampler.record(batch, logits.detach(), labels[batch])
                    state.record(x, logits.detach(), y, optimizer)
                    _scheduler_step(scheduler, scheduler_per, "step")
                    read = device.type == "cpu" or state.step % 50 == 0 or state.step == len(batches)
                    save_now = save_every and state.step % save_every == 0
                    if read or save_now or stop.requested:  # on a GPU, to read a value is to wait for it
                        _check_finite(value.item(), state)
                        progress.show(state)
                    state.seconds += time.perf_counter() - start  # the time in which the caller holds it does not count
                    yield state
                    state.stop = state.stop or stop.requested
                    if state.stop:
                        break
                    if save_now:
                        save(parts, runs.LAST)
                else:
                    start = time.perf_counter()
                    with seeded(seed, state.epoch, "validation"):
                        predictions = predict(model, val)
                    is_best = predictions.loss < state.best_loss  # the earliest of equals stays
                    state.end_epoch(predictions, state.seconds + time.perf_counter() - start)
                    _scheduler_step(scheduler, scheduler_per, "epoch", predictions.loss)
                    # Best before last: if anything stops us in between, this epoch is done once more, alike.
                    save(parts, *([runs.BEST] if is_best else []), runs.LAST)
                    runs.write_json(run / "history.json", state.history)
                    log.log_epoch(board, state, predictions, is_best)
                    progress.show(state)
                    state.stop = state.stop or stop.requested
                    yield state
        if state.epoch < epochs:
            save(parts, runs.LAST)  # with what the caller has changed as well
            print(f"Stopped in epoch {state.epoch + 1} and saved in {run}. The same call resumes.")


class TrainerState:
    """The state of training, and how to steer it between two steps.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the epoch under way.
        total_epochs: planned.
        seconds: of steps and validation so far; interruptions, and what the caller does in between, are left out.
        history: one row per finished epoch, see `fit`.
        learning_rate: of the last step, of the first parameter group.
        learning_rate_scale: set it to multiply the schedule's learning rates; saved with the run.
        stop: set it, and training saves and ends; set when a signal ended it.
        batch: [n, 3, T, T] float32 in 0 to 1, the augmented images of the last step; None before the first.
        run: the run's folder.
        steps_per_epoch: of the epoch under way.
    """

    run: Path

    def __init__(self, total_epochs: int) -> None:
        self.epoch, self.step, self.total_epochs, self.seconds = 0, 0, total_epochs, 0.0
        self.history: list[dict] = []
        self.learning_rate, self.learning_rate_scale, self.stop = math.nan, 1.0, False
        self.batch: Tensor | None = None
        self.steps_per_epoch = 1
        self._sums = torch.zeros(3)  # of the epoch so far: cross-entropy, correct predictions, images

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the epoch's augmented images so far; NaN before the first step."""
        total, _, count = self._sums.tolist()
        return total / count if count else math.nan

    @property
    def accuracy(self) -> float:
        """Fraction of the epoch's augmented images predicted correctly so far; NaN before the first step."""
        _, correct, count = self._sums.tolist()
        return correct / count if count else math.nan

    @property
    def epochs(self) -> float:
        """Finished epochs, with the finished part of the one under way."""
        return self.epoch + self.step / self.steps_per_epoch

    @property
    def best_loss(self) -> float:
        """The lowest validation loss so far; infinity before the first epoch."""
        return min((row["validation_loss"] for row in self.history), default=math.inf)

    def note_rate(self, optimizer: torch.optim.Optimizer) -> "TrainerState":
        """Notes the learning rate of the last step or, before it, of the first."""
        self.learning_rate = float(optimizer.param_groups[0]["lr"]) * float(self.learning_rate_scale)
        return self

    def record(self, images: Tensor, logits: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """One step is done."""
        self.batch = images
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        total = F.cross_entropy(logits, labels, reduction="sum")
        count = torch.full_like(total, len(images))  # torch.tensor would be a copy, for which a GPU's queue waits
        sums = torch.stack([total, (logits.argmax(1) == classes).sum(), count])
        if self.step == 0:
            self._sums = torch.zeros_like(sums)
        self._sums = self._sums.to(sums.device) + sums
        self.step += 1
        self.note_rate(optimizer)

    def end_epoch(self, predictions, seconds: float) -> None:
        """One epoch and its validation are done."""
        row = {"epoch": self.epoch + 1, "learning_rate": self.learning_rate}
        row |= {"training_loss": self.loss, "training_accuracy": self.accuracy}
        row |= {"validation_loss": predictions.loss, "validation_accuracy": predictions.accuracy, "seconds": seconds}
        row |= {"learning_rate_scale": _checked_scale(self.learning_rate_scale)}
        self.history = [*self.history, row]
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, seconds

    def state_dict(self) -> dict:
        names = ("epoch", "step", "seconds", "history", "learning_rate")
        sums = {"sums": self._sums.tolist(), "steps_per_epoch": self.steps_per_epoch}
        state = {name: getattr(self, name) for name in names} | sums
        return state | {"learning_rate_scale": _checked_scale(self.learning_rate_scale)}

    def load_state_dict(self, state: dict) -> None:
        """Raises ValueError: a value is none that `state_dict` ever has."""
        counts = (state["epoch"], state["step"], state["steps_per_epoch"])
        numbers = (state["seconds"], state["learning_rate"], state["learning_rate_scale"], *state["sums"])
        legal = [type(n) is int and n >= 0 for n in counts] + [type(x) is float and x >= 0 for x in numbers]
        if not all(legal) or len(legal) != 9:
            raise ValueError("its counts must be whole numbers of at least 0")
        rows = [row for row in state["history"] if isinstance(row, dict) and type(row["validation_loss"]) is float]
        if not len(rows) == len(state["history"]) == state["epoch"]:
            raise ValueError("its history must have one row per epoch")
        self.epoch, self.step, self.steps_per_epoch = counts
        self.seconds, self.learning_rate, self.learning_rate_scale, *sums = numbers
        self.history, self._sums = state["history"], torch.tensor(sums)


class Shuffle:
    """Every training image once per epoch, in a new order: a pure function of the seed and the epoch.

    Batches differ in size by one image at most, so that none is half empty and no image is left out.

    Args:
        n: training images.
        batch_size: images per step, at most.
        seed: same seed, same order.
    """

    def __init__(self, n: int, batch_size: int, seed: int = 0) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed

    def epoch(self, epoch: int) -> list[Tensor]:
        """The batches of an epoch (from 0): [b] int64 positions each; the same ones when it is called again."""
        return self.batches(self.order(epoch))

    def total_steps(self, epochs: int) -> int:
        """The number of steps in the first `epochs` epochs."""
        return epochs * math.ceil(self.n / self.batch_size)

    def record(self, positions: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Called after each step, under its seed, with the batch's positions [b], logits [b, classes], labels [b]."""

    def state_dict(self) -> dict:
        """What `epoch` depends on besides the arguments."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """The way back."""

    def order(self, epoch: int) -> Tensor:
        """[n] int64: all positions, shuffled."""
        key = (self.seed * 1_000_003 + epoch) % 2**63
        return torch.randperm(self.n, generator=torch.Generator().manual_seed(key))

    def batches(self, positions: Tensor) -> list[Tensor]:
        """Positions [n], divided into batches [b]."""
        return list(positions.tensor_split(math.ceil(len(positions) / self.batch_size)))


def sgd(model: nn.Module, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 5e-4) -> torch.optim.SGD:
    """SGD with Nesterov momentum over all trainable parameters; only matrices and filters decay, as usual.

    Args:
        model: its frozen parameters are left out.
        lr: learning rate, above 0.
        momentum: 0 to below 1.
        weight_decay: from 0; each step takes lr * weight_decay of every weight.

    Raises:
        ValueError: momentum is not from 0 to below 1, or the model is no nn.Module or has nothing to train.
    """
    checks.check_trainable(model)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum!r}; it must be a number from 0 to below 1")
    trainable = [p for p in model.parameters() if p.requires_grad]
    decays, others = [p for p in trainable if p.ndim > 1], [p for p in trainable if p.ndim <= 1]
    groups = [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD([g for g in groups if g["params"]], lr=lr, momentum=momentum, nesterov=momentum > 0)


def warm_up_and_decay(optimizer: torch.optim.Optimizer, total_steps: int, warm_up: float = 0.2) -> LambdaLR:
    """The learning rate rises from near 0 during the first `warm_up` of the steps, then falls to 0, both linearly.

    Args:
        optimizer: its learning rates are those of the peak.
        total_steps: number of steps of the whole training.
        warm_up: fraction of them, 0 to 1.

    Raises:
        ValueError: warm_up is not a fraction from 0 to 1.
    """
    if not 0 <= warm_up <= 1:
        raise ValueError(f"warm_up is {warm_up!r}; it must be a fraction from 0 to 1")
    rise = max(1.0, warm_up * total_steps)

    def factor(step: int) -> float:
        return max(0.0, min((step + 1) / rise, (total_steps - step) / max(1.0, total_steps - rise), 1.0))

    scheduler = LambdaLR(optimizer, factor)
    scheduler._total_steps = total_steps  # type: ignore[attr-defined]  # for `checks.check_parts`
    return scheduler


def best_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(kind)


@contextmanager
def seeded(*key) -> Iterator[None]:
    """Seeds the global generators of torch, NumPy and Python from a key; afterwards the caller's are back.

    Of GPUs, only that of the current CUDA device is brought back.
    """
    number = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with one_at_a_time, torch.random.fork_rng(devices):
        numpy_state, python_state = np.random.get_state(), random.getstate()
        try:
            torch.manual_seed(number)
            np.random.seed(number % 2**32)
            random.seed(number)
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def _begin_epoch(model: nn.Module, sampler, epoch: int, seed: int) -> list[Tensor]:
    """Puts the model into training mode, while no widget predicts with it, and returns the sampler's batches.

    A sampler that draws from the global generators draws the same every time.
    """
    with seeded(seed, epoch, "order"):
        model.train()
        return list(sampler.epoch(epoch))


def _checked_scale(scale) -> float:
    if not (isinstance(scale, Real) and 0 <= float(scale) < math.inf):
        raise ValueError(f"learning_rate_scale is {scale!r}; it must be a number of at least 0")
    return float(scale)


def _optimizer_step(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """One step at the scheduler's learning rates times `scale`; many schedulers compute the next from the last."""
    scale = _checked_scale(scale)
    rates = [group["lr"] for group in optimizer.param_groups]
    if min(rates) < 0:
        raise ValueError('the scheduler sets a learning rate below 0; if it counts epochs, add scheduler_per="epoch"')
    for group in optimizer.param_groups if scale != 1 else []:
        group["lr"] = group["lr"] * scale
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate


def _scheduler_step(scheduler, scheduler_per: str, now: str, validation_loss: float | None = None) -> None:
    """Steps the scheduler if it is to step now, at the end of a "step" or an "epoch"."""
    if isinstance(scheduler, ReduceLROnPlateau):
        if now == "epoch":
            scheduler.step(validation_loss)
    elif scheduler_per == now:
        scheduler.step()


def _check_finite(loss: float, state: TrainerState) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"The loss is {loss} in epoch {state.epoch + 1}, step {state.step}, at a learning rate of "
            f"{state.learning_rate:.3g}: training cannot continue. Usual causes are too high a learning rate, and a "
            f"division by zero or a logarithm of it in the model or the loss. {state.run} keeps the checkpoints from "
            "before; train in a new folder."
        )
