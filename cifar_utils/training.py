"""The training loop: gradient steps on augmented batches, validation after every epoch, the best network kept."""

import json
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from cifar_utils import __version__, checkpoint, evaluation_plots, plots, runs
from cifar_utils.augment import augment, draw
from cifar_utils.compiling import compiled
from cifar_utils.configuration import PLAIN_SGD, Config  # noqa: F401, also for whoever says training.PLAIN_SGD
from cifar_utils.data import CLASSES, Normalisation, Split
from cifar_utils.device import best_device, has_bfloat16  # noqa: F401, also for whoever says training.best_device
from cifar_utils.evaluation import confusion_matrix
from cifar_utils.memory import keep_freed_memory
from cifar_utils.model import CNN, initialise_whitening
from cifar_utils.optimisers import learning_rate_factor, optimiser
from cifar_utils.policy import Policy
from cifar_utils.predictions import Predictions, predict
from cifar_utils.progress import bar
from cifar_utils.selection import LastMet, batches, steps_before

SHIPPED = Path(__file__).parent / "shipped" / "best.safetensors"  # stands in where nothing has been trained yet


@dataclass
class Steering:
    """How to steer a training between two steps of `training_steps`.

    Attributes:
        stop: set it, and training saves and ends.
        learning_rate_scale: the schedule's learning rate is multiplied by it; saved with the run, so that it goes on
            in the same way.
        wants_batch: set it, and the next augmented batch is put into `batch`.
        batch: [n, 3, S, S] float32, normalised, on the CPU; S is that of `side_at`.
    """

    stop: bool = False
    learning_rate_scale: float = 1.0
    wants_batch: bool = False
    batch: Tensor | None = None


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes:
        epochs: finished, the part of the one under way included.
        seconds: of training so far.
        loss, accuracy: of the training images, each as it was last met, augmented; NaN before the first step.
        learning_rate: of the last step.
        history: a row a finished epoch, see `train`.
    """

    epochs: float
    seconds: float
    loss: float
    accuracy: float
    learning_rate: float
    history: list[dict]


def new_network(training: Split, normalisation: Normalisation, seed: int = 0, **options) -> CNN:
    """The network before training: seeded weights, and the whitening layer measured on 5,000 training images.

    Args:
        training: whose images are measured.
        normalisation: of the training split.
        seed: of the weights.
        options: of `model.CNN`, its widths for example.
    """
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on as if nothing had happened
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed those of the GPUs, too
        network = CNN(**options)
    initialise_whitening(network, normalisation(training.images[:5000]))
    return network


def side_at(step: int, steps: int, config: Config) -> int:
    """The side of the training images in pixels: small pictures first, which cost less and teach the coarse things."""
    return next((side for side, until in config.small_sides if step < until * steps), 32)


def train(*arguments, **options) -> list[dict]:
    """Trains to the end, or until it is stopped: all of `training_steps`, whose arguments it takes.

    Returns:
        The history, a row an epoch: epoch (from 1), learning_rate, training_loss and training_accuracy (each training
        image as it was last met, augmented), validation_loss, validation_accuracy, seconds (of training so far).
    """
    return deque(training_steps(*arguments, **options), maxlen=1)[0].history  # of all pauses, the last


def training_steps(
    network: CNN,
    training: Split,
    validation: Split,
    policy: Policy,
    config: Config,
    normalisation: Normalisation,
    run: Path,
    device: torch.device | str = "cpu",
    save_every: int | None = None,
    allow_changes: bool = False,
    steering: Steering | None = None,
) -> Iterator[Progress]:
    """Trains the network in place, or goes on with the training that the run's folder holds.

    `last` is saved at every epoch's end, `best` before it whenever the validation loss is lower than ever before;
    see `runs` for the folder. However training ends, calling this again goes on from the last save, and the finished
    run is bit for bit the one that was never interrupted (same machine, torch version and number of threads).
    After the last epoch it trains nothing and says so.

    It is a generator, which pauses after every step: a notebook can look at the training then, and steer it. Whoever
    does not want to calls `train`. The stop button (or SIGTERM) ends the batch under way, saves, and ends.

    Args:
        network: see `new_network`.
        training, validation: only the first is augmented; no gradient ever comes from the second.
        policy: of the augmentation.
        config: hyper-parameters.
        normalisation: of the training split.
        run: the run's folder, made if missing.
        device: where to train, see `best_device`.
        save_every: save `last` after this many steps, too.
        allow_changes: go on although the configuration, the policy or the data are not those of the saved run.
        steering: what may be changed between two steps.

    Yields:
        Where training stands: at the start, after every step, and after every epoch's validation and saves.

    Raises:
        FloatingPointError: the loss is no longer a finite number; what was saved before stays.
        CheckpointError: the folder is in use, full, read-only, or holds another or a damaged run.
    """
    device = torch.device(device)
    if device.type == "cpu":
        keep_freed_memory()
    steering = steering or Steering()
    network.to(device)
    images, labels, index = training.images.to(device), training.labels.to(device), training.index.to(device)
    mean, std = normalisation.tensors(device)
    n = len(training)
    all_steps = steps_before(config.epochs, n, config)
    memory = torch.empty(config.batch_size * images[0].numel(), device=device)  # of a batch, used again every step
    last_met = LastMet(n).to(device)
    trained = runs.Trained(network, optimiser(network, config), last_met)
    groups = trained.optimiser.param_groups
    peaks = [group["lr"] for group in groups]
    forward = compiled(network, device) if config.compile else network
    bfloat16 = torch.autocast(device.type, torch.bfloat16, enabled=config.bfloat16 and has_bfloat16(device))
    setting = _setting(network, training, validation, policy, config, normalisation)

    def save(name: str) -> None:
        runs.save(run / name, trained, state, setting, device)

    with runs.owned(run), runs.StopSignal() as stop:
        state = runs.resume(run, trained, setting, device, allow_changes)
        if state.epoch + state.step:
            steering.learning_rate_scale = state.learning_rate_scale
        yield _progress(state, config, trained)
        if state.epoch >= config.epochs:
            print(f"{run} is complete: {state.epoch} epochs, nothing left to train. Its history is returned.")
            return
        if state.epoch + state.step:
            print(f"Going on with {run} after epoch {state.epoch}, step {state.step}.")
        runs.check_space(run, trained.tensors())
        save(runs.LAST)  # fails now rather than after an epoch
        start = time.perf_counter() - state.seconds
        layout = "{desc} {percentage:3.0f}%|{bar}| epoch {n:.1f} of {total:.0f} [{elapsed}, {remaining} left{postfix}]"
        progress = bar(config.epochs, "Training", "epoch", initial=_epochs(state, n, config), bar_format=layout)
        with _board(run, state) as board, progress:
            while state.epoch < config.epochs:
                network.train()
                done, end = (steps_before(epoch, n, config) for epoch in (state.epoch, state.epoch + 1))
                of_epoch = batches(n, config, state.epoch, last_met.losses_before)[state.step :]
                for batch in [batch.to(device) for batch in of_epoch]:  # all now: to copy to a GPU is to wait for it
                    parameters = draw(policy, config.seed, state.epoch, index[batch])
                    side = side_at(done + state.step, all_steps, config)
                    out = memory[: len(batch) * 3 * side**2].view(-1, 3, side, side)
                    x = augment(images[batch], parameters, policy, mean, std, out)
                    if state.epoch + state.step == 0:
                        board.add_image("augmented batch", plots.mosaic(x.cpu(), normalisation.mean, normalisation.std))
                    factor = learning_rate_factor(done + state.step, all_steps, config.warm_up)
                    state.learning_rate_scale = steering.learning_rate_scale
                    for group, peak in zip(groups, peaks):
                        group["lr"] = peak * factor * state.learning_rate_scale
                    with bfloat16:
                        logits = forward(x)
                    logits = logits.float()
                    loss = F.cross_entropy(logits, labels[batch], label_smoothing=config.label_smoothing)
                    trained.optimiser.zero_grad()
                    loss.backward()
                    trained.optimiser.step()
                    state.step += 1
                    last_met.record(batch, logits, labels[batch])
                    seconds = time.perf_counter() - start
                    save_now = save_every and state.step % save_every == 0
                    look = device.type == "cpu" or seconds - state.seconds > 1 or done + state.step == end
                    if not (look or save_now or stop.requested):
                        continue  # to read a number from a GPU is to wait for it: at most once a second
                    state.seconds = seconds
                    _check_finite(loss.item(), state, groups[0]["lr"], run)
                    now = _progress(state, config, trained)
                    progress.set_postfix_str(_summary(now), refresh=False)
                    progress.update(now.epochs - progress.n)
                    if steering.wants_batch:
                        steering.batch, steering.wants_batch = x.to("cpu", copy=True), False
                    yield now
                    state.learning_rate_scale = steering.learning_rate_scale  # if turned just now, saved as well
                    if steering.stop:
                        stop.request()
                    if stop.requested or save_now:
                        save(runs.LAST)
                    if stop.requested:
                        progress.close()
                        print(f"Stopped in epoch {state.epoch + 1} and saved in {run}. Run this again to go on.")
                        return
                training_loss, training_accuracy = last_met.means()
                predictions = predict(network, validation, normalisation)
                is_best = predictions.loss < state.best_loss  # the earliest of equals stays
                factor = learning_rate_factor(end - 1, all_steps, config.warm_up)
                row = {
                    "epoch": state.epoch + 1,
                    "learning_rate": peaks[0] * factor * state.learning_rate_scale,
                    "training_loss": training_loss,
                    "training_accuracy": training_accuracy,
                    "validation_loss": predictions.loss,
                    "validation_accuracy": predictions.accuracy,
                    "seconds": time.perf_counter() - start,
                }
                history, scale = [*state.history, row], state.learning_rate_scale
                state = runs.State(state.epoch + 1, seconds=row["seconds"], history=history, learning_rate_scale=scale)
                last_met.end_epoch()
                if is_best:  # before last: if anything stops us in between, this epoch is done once more, alike
                    save(runs.BEST)
                save(runs.LAST)
                (run / "history.json").write_text(json.dumps(state.history, indent=1) + "\n")
                _log(board, row, predictions, is_best)
                progress.set_postfix_str(_summary(_progress(state, config, trained)), refresh=False)
                yield _progress(state, config, trained)


def restore(path: Path) -> tuple[CNN, Normalisation, dict]:
    """A trained network from its checkpoint, the normalisation that it expects, and what the checkpoint says of it.

    Returns:
        The network on the CPU, the normalisation, and a dict with `setting` (configuration, policy, data, ...),
        `state` (epoch, history, ...) and `circumstances` (torch's version, ...).

    Raises:
        CheckpointError: see `checkpoint.load`, or the tensors do not fit the network.
    """
    saved, _ = runs.read(path)
    setting = saved.meta["setting"]
    network = CNN(tuple(setting["widths"]), setting.get("mirror", False))
    if str(network) != setting["network"]:  # some layers have no tensors that would tell
        raise checkpoint.CheckpointError(
            f"{path} holds a network that is built otherwise than `model.CNN` is now. Train again, or use the version "
            f"of the workshop that it names, {setting['version']}."
        )
    tensors = {name.removeprefix("model."): t for name, t in saved.tensors.items() if name.startswith("model.")}
    checkpoint.check_fit(path, tensors, network.state_dict())
    network.load_state_dict(tensors)
    return network, Normalisation(*map(tuple, setting["normalisation"])), saved.meta


def _setting(network, training, validation, policy, config, normalisation) -> dict:
    """What a run must have in common with the one that it goes on with, as JSON-like data."""
    setting = {
        "network": str(network),
        "widths": network.widths,
        "mirror": network.mirror,
        "config": asdict(config),
        "policy": asdict(policy),
        "normalisation": [normalisation.mean, normalisation.std],
        "classes": CLASSES,
        "data": {
            "title": str(training),
            "is_sample": training.is_sample,
            "training": runs.fingerprint(training.images, training.labels),
            "validation": runs.fingerprint(validation.images, validation.labels),
        },
        "version": __version__,
    }
    return json.loads(json.dumps(setting))  # tuples become lists, as they will when read back


def _check_finite(loss: float, state: runs.State, learning_rate: float, run: Path) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"The loss is {loss} in epoch {state.epoch + 1}, step {state.step}, at a learning rate of "
            f"{learning_rate:.3g}: training cannot go on. Lower Config.learning_rate and train in a new "
            f"folder; {run} keeps the checkpoints from before."
        )


def _progress(state: runs.State, config: Config, trained: runs.Trained) -> Progress:
    loss, accuracy = trained.last_met.means()
    epochs = _epochs(state, len(trained.last_met.losses), config)
    return Progress(epochs, state.seconds, loss, accuracy, trained.optimiser.param_groups[0]["lr"], state.history)


def _epochs(state: runs.State, n: int, config: Config) -> float:
    start, end = (steps_before(epoch, n, config) for epoch in (state.epoch, state.epoch + 1))
    return state.epoch + state.step / (end - start)


def _summary(now: Progress) -> str:
    """What the progress bar says beside the time: of the training images, and of the last epoch's validation."""
    text = f"loss {now.loss:.3f}, accuracy {now.accuracy:.1%}"
    if now.history:
        row = now.history[-1]
        text += f"; validation {row['validation_loss']:.3f}, {row['validation_accuracy']:.1%}"
    return text


def _board(run: Path, state: runs.State) -> SummaryWriter:
    """The TensorBoard log: a fresh one for a new run, else the old one without what is about to be done again."""
    folder = run / "tensorboard"
    if state.epoch + state.step == 0:
        for old in folder.glob("events.*"):
            old.unlink()
    return SummaryWriter(str(folder), purge_step=state.epoch + 1)


def _log(board: SummaryWriter, row: dict, predictions: Predictions, is_best: bool) -> None:
    for name in ("loss", "accuracy"):
        board.add_scalar(f"{name}/training", row[f"training_{name}"], row["epoch"])
        board.add_scalar(f"{name}/validation", row[f"validation_{name}"], row["epoch"])
    board.add_scalar("learning rate", row["learning_rate"], row["epoch"])
    if is_best:
        figure = evaluation_plots.confusion_matrix(
            confusion_matrix(predictions), CLASSES, f"Validation, epoch {row['epoch']}"
        )
        board.add_figure("confusion matrix, validation", figure, row["epoch"])
    board.flush()
