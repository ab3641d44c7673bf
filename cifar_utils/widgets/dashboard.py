"""The training dashboard: curves, the current augmented batch, a Stop button and a learning rate to turn."""

import asyncio
import math
import time
from pathlib import Path

import traitlets
from IPython.display import display

from cifar_utils import plots, settings, training
from cifar_utils.training import Progress, Steering
from cifar_utils.widgets.base import Widget, page, rgba

PAUSE = 2.0  # seconds between two looks: kernel, server and page take their time from the training's own two cores
BATCH_PAUSE = 6.0  # between two pictures of the batch
TURNS = 10  # of the kernel's event loop between two steps: enough for a message of the page to be heard


class Dashboard(Widget):
    """Trains, and shows it.

        history = await Dashboard(network, training, validation, policy, config, normalisation, run, device).train()

    It trains in the kernel's main thread, as fast as without a dashboard (in a thread of its own it was a fifth slower
    on two cores), and gives way to the kernel after every step. With `await`, ipykernel 7.4 and later passes on what
    the page says while the cell goes on; Run All, nbval and scripts wait for the end all the same.

    Args:
        arguments: those of `training.train`, in its order.
    """

    _esm = page("dashboard")
    pixels = traitlets.Bytes().tag(sync=True)
    ACTIONS = ("stop", "learning_rate")

    def __init__(self, network, split, validation, policy, config, normalisation, run: Path, device="cpu") -> None:
        super().__init__()
        self._arguments = network, split, validation, policy, config, normalisation, run, device
        self._title, self._epochs, self._normalisation = f"Training on {split}", config.epochs, normalisation
        self._steering, self._progress, self._running = Steering(), None, False
        self._trace: list[list[float]] = []  # epochs, seconds, loss, accuracy: of the epoch so far, at each look
        self._sheet = None
        self._look()

    async def train(self) -> list[dict]:
        """Shows itself, trains to the end (or the stop) and returns the history; for a notebook's cell, with await.

        Raises:
            What `training.train` raises.
        """
        handle = None if settings.headless() else display(self, display_id=True)
        next_look = next_batch = 0.0
        self._steering.stop, self._running = False, True
        try:
            for progress in training.training_steps(*self._arguments, steering=self._steering):
                self._progress, now = progress, time.monotonic()
                if now >= next_batch:
                    self._steering.wants_batch, next_batch = True, now + BATCH_PAUSE
                if now >= next_look:
                    next_look = now + PAUSE
                    self._look()
                for _ in range(TURNS):
                    await asyncio.sleep(0)
        except BaseException as error:
            self.error = str(error) or type(error).__name__
            raise
        finally:
            self._running = False
            self._look()
            if handle:
                handle.update(self)  # the picture that is saved in the notebook shows the end
            else:
                display(self)
        return self._progress.history

    # What the page's controls do.

    def stop(self) -> None:
        """Stops after the batch under way and saves; running the cell again goes on."""
        self._steering.stop = True
        self._look()

    def learning_rate(self, scale: float) -> None:
        """Multiplies the schedule's learning rate, 0 to 10 times."""
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 <= scale <= 10:
            raise ValueError(f"the learning rate's factor is {scale!r}; it must be a number from 0 to 10")
        self._steering.learning_rate_scale = float(scale)
        self._look()

    # Showing

    def static_figures(self):
        curves = plots.training_curves(self._progress.history if self._progress else [], self._title)
        return [curves] if self._sheet is None else [curves, plots.picture(self._sheet, "The last augmented batch")]

    def _status(self) -> str:
        if self._running:
            return "stopping after this batch" if self._steering.stop else "training"
        if self._progress is None:
            return "not started"
        return "finished" if self._progress.epochs >= self._epochs else "stopped and saved: run the cell again"

    def _look(self) -> None:
        progress: Progress | None = self._progress
        batch, self._steering.batch = self._steering.batch, None
        if progress and not math.isnan(progress.loss):
            self._trace.append([progress.epochs, progress.seconds, progress.loss, progress.accuracy])
            if len(self._trace) > 400:  # as many points as a chart is wide
                self._trace = self._trace[::2]
        history = progress.history if progress else []
        with self.hold_sync():
            if batch is not None:
                sheet = plots.mosaic(batch, self._normalisation.mean, self._normalisation.std)
                self._sheet = sheet.transpose(1, 2, 0)
                self.pixels = rgba(self._sheet)
            height, width = (0, 0) if self._sheet is None else self._sheet.shape[:2]
            self.view = {
                "title": self._title,
                "status": self._status(),
                "running": self._running,
                "epochs": self._epochs,
                "done": progress.epochs if progress else 0,
                "seconds": progress.seconds if progress else 0,
                "rate": progress.learning_rate if progress else None,
                "scale": self._steering.learning_rate_scale,
                "trace": self._trace,
                "history": history,
                "best": min(history, key=lambda row: row["validation_loss"])["epoch"] if history else None,
                "width": width,
                "height": height,
            }
