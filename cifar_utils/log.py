"""What a training shows while it runs: a progress bar, and a log for TensorBoard in the run's folder.

`state` is the `train.TrainerState` of the training.
"""

from contextlib import suppress
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from cifar_utils import plots, progress
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.evaluation.metrics import confusion_matrix


class EpochBar:
    """The progress bar of a training, in epochs."""

    def __init__(self, state) -> None:
        layout = "{desc} {percentage:3.0f}%|{bar}| epoch {n:.1f} of {total:.0f} [{elapsed}, {remaining} left{postfix}]"
        self._bar = progress.bar(state.total_epochs, "Training", "epoch", initial=state.epochs, bar_format=layout)

    def __enter__(self) -> "EpochBar":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def show(self, state) -> None:
        """Moves on to where the training is, with its losses and accuracies."""
        text = f"loss {state.loss:.3f}, accuracy {state.accuracy:.1%}"
        if state.history:
            row = state.history[-1]
            text += f"; validation {row['validation_loss']:.3f}, {row['validation_accuracy']:.1%}"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(state.epochs - self._bar.n)


def tensorboard(run: Path, state) -> SummaryWriter:
    """The TensorBoard log: a fresh one for a new run, else the old one without what is about to be done again.

    Raises:
        CheckpointError: its folder is a link.
    """
    folder = run / "tensorboard"
    if folder.is_symlink():
        raise CheckpointError(f"{folder} is a link, and what it points to could be another's. Remove the link.")
    for number, old in enumerate(sorted(folder.glob("events.*"))):
        with suppress(PermissionError):  # Windows lets nobody remove or rename what TensorBoard has open
            if state.epoch + state.step == 0:
                old.unlink()
            else:  # TensorBoard reads them by name, a time: what is logged next comes last, whatever the clock says
                old.replace(folder / f"events.out.tfevents.{number:010}")
    return SummaryWriter(str(folder), purge_step=state.epoch + 1)


def log_epoch(board: SummaryWriter, state, predictions, is_best: bool) -> None:
    """Logs a finished epoch: its losses, accuracies and learning rate, and now and then a confusion matrix."""
    row = state.history[-1]
    for name in ("loss", "accuracy"):
        for split in ("training", "validation"):
            board.add_scalar(f"{name}/{split}", row[f"{split}_{name}"], row["epoch"])
    board.add_scalar("learning rate", row["learning_rate"], row["epoch"])
    if row["epoch"] == 1 and state.batch is not None:
        board.add_image("augmented batch", plots.grid(state.batch.cpu()).transpose(2, 0, 1))
    tenth = [10 * epoch // state.total_epochs for epoch in (row["epoch"] - 1, row["epoch"])]
    if is_best and tenth[0] < tenth[1]:  # at most ten figures, for each takes a quarter of a second
        title = f"Validation, epoch {row['epoch']}"
        figure = plots.confusion_matrix(confusion_matrix(predictions), predictions.classes, title)
        board.add_figure("confusion matrix, validation", figure, row["epoch"])
    board.flush()
