"""The training loop: SGD on augmented batches, validation after every epoch, the best network kept."""

import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from cifar_utils import checkpoint, plots
from cifar_utils.augment import augment, draw
from cifar_utils.data import CLASSES, Normalisation, Split
from cifar_utils.evaluation import Predictions, confusion_matrix, predict
from cifar_utils.model import CNN, initialise_whitening
from cifar_utils.policy import Policy
from cifar_utils.progress import bar
from cifar_utils.settings import Profile

SHIPPED = Path(__file__).parent / "shipped" / "best.pt"  # stands in where nothing has been trained yet


@dataclass(frozen=True)
class Config:
    """The hyper-parameters, chosen on the validation split.

    Attributes:
        epochs: passes over the training split.
        batch_size: images a step; an incomplete last batch is left out (shuffling gives every image its turn).
        learning_rate: at the peak of the schedule.
        momentum, weight_decay: of SGD with Nesterov momentum; only the weights of layers decay.
        bias_rate: learning rate of the biases (of batch norm and whitening) as a multiple of the weights'.
        label_smoothing: share of the target that is spread over all classes.
        warm_up: share of the steps in which the learning rate rises; it falls to 0 in the others.
        seed: of the network's initial weights, of the order of images and of their augmentation.
    """

    epochs: int = 5
    batch_size: int = 256
    learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bias_rate: float = 8.0
    label_smoothing: float = 0.1
    warm_up: float = 0.2
    seed: int = 0

    @classmethod
    def of(cls, profile: Profile, training: Split, seed: int = 0) -> "Config":
        """The configuration of a profile: more and smaller batches where there is only the sample."""
        if training.is_sample:
            return cls(epochs=profile.sample_epochs, batch_size=profile.sample_batch_size, seed=seed)
        return cls(epochs=profile.epochs, batch_size=profile.batch_size, seed=seed)


def best_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def new_network(training: Split, normalisation: Normalisation, seed: int = 0) -> CNN:
    """The network before training: seeded weights, and the whitening layer measured on 5,000 training images."""
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on as if nothing had happened
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed those of the GPUs, too
        network = CNN()
    initialise_whitening(network, normalisation(training.images[:5000]))
    return network


def optimiser(network: nn.Module, config: Config) -> torch.optim.SGD:
    """SGD with Nesterov momentum. Weights of layers decay; biases do not, and learn faster."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return torch.optim.SGD(
        [
            {"params": [p for p in parameters if p.ndim > 1], "lr": config.learning_rate},
            {
                "params": [p for p in parameters if p.ndim == 1],
                "lr": config.learning_rate * config.bias_rate,
                "weight_decay": 0.0,
            },
        ],
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=True,
    )


def learning_rate_factor(step: int, steps: int, warm_up: float) -> float:
    """The schedule, a triangle: from near 0 up to 1 in the first `warm_up` of the steps, then down to 0."""
    rise = max(1.0, warm_up * steps)
    return min((step + 1) / rise, (steps - step) / max(1.0, steps - rise), 1.0)


def train(
    network: CNN,
    training: Split,
    validation: Split,
    policy: Policy,
    config: Config,
    normalisation: Normalisation,
    run: Path,
    device: torch.device | str = "cpu",
) -> list[dict]:
    """Trains the network in place and keeps its two checkpoints in the run's folder.

    `run/last.pt` is saved after every epoch, `run/best.pt` whenever the validation loss is lower than ever before.
    `run/tensorboard` gets the scalars of every epoch, an augmented batch and the best epoch's confusion matrix,
    `run/history.json` the returned history. A run of the same name before is replaced once the first epoch is done.

    The stop button (KeyboardInterrupt) ends the training; the epochs done so far are returned and their
    checkpoints stay.

    Args:
        network: see `new_network`.
        training, validation: only the first is augmented; no gradient ever comes from the second.
        policy: of the augmentation.
        config: hyper-parameters.
        normalisation: of the training split.
        run: the run's folder, made if missing.
        device: where to train, see `best_device`.

    Returns:
        A row an epoch: epoch (from 1), learning_rate, training_loss and training_accuracy (on augmented images, as
        they were met), validation_loss and validation_accuracy, seconds (since the start).

    Raises:
        FloatingPointError: the loss is no longer a finite number.
    """
    device = torch.device(device)
    network.to(device)
    images, labels = training.images.to(device), training.labels.to(device)
    mean, std = normalisation.tensors(device)
    steps = max(1, len(training) // config.batch_size)
    sgd = optimiser(network, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        sgd, lambda step: learning_rate_factor(step, steps * config.epochs, config.warm_up)
    )
    start, history, best_loss, running, latest = time.perf_counter(), [], float("inf"), "", ""
    layout = "{desc} {percentage:3.0f}%|{bar}| epoch {n:.1f} of {total:.0f} [{elapsed}, {remaining} left{postfix}]"
    progress = bar(steps * config.epochs, "Training", "epoch", unit_scale=1 / steps, bar_format=layout)
    with _board(run) as board, progress:
        try:
            for epoch in range(config.epochs):
                network.train()
                loss_sum, hits = 0.0, 0
                for step, batch in enumerate(batches(len(training), config, epoch)):
                    batch = batch.to(device)
                    parameters = draw(policy, config.seed, epoch, training.index.to(device)[batch])
                    x = augment(images[batch], parameters, policy, mean, std)
                    if epoch == 0 and step == 0:
                        board.add_image("augmented batch", plots.mosaic(x.cpu(), normalisation.mean, normalisation.std))
                    logits = network(x).float()
                    loss = F.cross_entropy(logits, labels[batch], label_smoothing=config.label_smoothing)
                    sgd.zero_grad()
                    loss.backward()
                    sgd.step()
                    schedule.step()
                    loss_sum += F.cross_entropy(logits.detach(), labels[batch]).item()  # without smoothing: comparable
                    hits += (logits.argmax(1) == labels[batch]).sum().item()
                    running = f"loss {loss_sum / (step + 1):.3f}, accuracy {hits / (step + 1) / len(batch):.1%}"
                    progress.set_postfix_str(running + latest, refresh=False)
                    progress.update()
                predictions = predict(network, validation, normalisation)
                row = {
                    "epoch": epoch + 1,
                    "learning_rate": schedule.get_last_lr()[0],
                    "training_loss": loss_sum / steps,
                    "training_accuracy": hits / (steps * min(config.batch_size, len(training))),
                    "validation_loss": predictions.loss,
                    "validation_accuracy": predictions.accuracy,
                    "seconds": time.perf_counter() - start,
                }
                if not torch.isfinite(torch.tensor([loss_sum, predictions.loss])).all():
                    raise FloatingPointError(
                        f"The loss is not a finite number any more in epoch {epoch + 1}. Lower the learning rate, "
                        f"which is {config.learning_rate:g} at its peak. {epoch} epochs before are kept in {run}."
                    )
                _log(board, row, predictions, is_best=predictions.loss < best_loss)
                rows = [*history, row]  # an epoch counts once it is saved, whenever the stop button is pressed
                content = _content(network, rows, policy, config, normalisation, training)
                checkpoint.save(run / "last.pt", content)
                if predictions.loss < best_loss:
                    best_loss = predictions.loss
                    checkpoint.save(run / "best.pt", content)
                (run / "history.json").write_text(json.dumps(rows, indent=1) + "\n")
                history = rows
                latest = f"; validation {predictions.loss:.3f}, {predictions.accuracy:.1%}"
            progress.set_postfix_str(running + latest, refresh=False)  # closing the bar draws it
        except KeyboardInterrupt:
            progress.close()
            print(f"Stopped. {len(history)} of {config.epochs} epochs are done and kept in {run}.")
    return history


def batches(n: int, config: Config, epoch: int) -> list[Tensor]:
    """The positions of each batch of an epoch, shuffled: a pure function of the seed and the epoch."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed((config.seed * 1_000_003 + epoch) % 2**63))
    return [b for b in order.split(config.batch_size) if len(b) == min(config.batch_size, n)]


def restore(path: Path) -> tuple[CNN, Normalisation, dict]:
    """The trained network, the normalisation that it expects, and all else that the checkpoint says.

    Raises:
        CheckpointError: see `checkpoint.load`, or the tensors do not fit the network.
    """
    content = checkpoint.load(path)
    try:
        network = CNN(tuple(content["widths"]))
        network.load_state_dict(content["model"])
        return network, Normalisation(*map(tuple, content["normalisation"])), content
    except (RuntimeError, AttributeError, TypeError, IndexError):
        raise checkpoint.CheckpointError(f"{path} holds another network than model.CNN. Train again.") from None


def _content(network, history, policy, config, normalisation, training) -> dict:
    """What a checkpoint holds: all that is needed to use the network, and to know where it came from."""
    return {
        "model": {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()},
        "widths": [block[0].out_channels for block in network.blocks],
        "epoch": len(history),
        "history": history,
        "config": asdict(config),
        "policy": policy.to_json(),
        "normalisation": [list(normalisation.mean), list(normalisation.std)],
        "classes": list(CLASSES),
        "data": {"title": str(training), "is_sample": training.is_sample},
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }


def _board(run: Path) -> SummaryWriter:
    """A fresh TensorBoard log: the events of a former run of this name would be drawn over this one's."""
    folder = run / "tensorboard"
    for old in folder.glob("events.*"):
        old.unlink()
    return SummaryWriter(str(folder))


def _log(board: SummaryWriter, row: dict, predictions: Predictions, is_best: bool) -> None:
    for name in ("loss", "accuracy"):
        board.add_scalar(f"{name}/training", row[f"training_{name}"], row["epoch"])
        board.add_scalar(f"{name}/validation", row[f"validation_{name}"], row["epoch"])
    board.add_scalar("learning rate", row["learning_rate"], row["epoch"])
    if is_best:
        figure = plots.confusion_matrix(confusion_matrix(predictions), CLASSES, f"Validation, epoch {row['epoch']}")
        board.add_figure("confusion matrix, validation", figure, row["epoch"])
    board.flush()
