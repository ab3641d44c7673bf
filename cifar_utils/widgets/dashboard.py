"""The training dashboard: curves, the current augmented batch, Stop, Continue and a learning rate to adjust."""

import asyncio
import html
import inspect
import math
import threading
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import numpy as np
import traitlets
from IPython.display import display
from packaging.version import Version
from torch import nn

from cifar_utils import plots, settings
from cifar_utils.data import Dataset
from cifar_utils.train import TrainerState, steps
from cifar_utils.widgets.base import Widget, check_number, page, picture, rgba, shrink

PAUSE = 2.0  # seconds between two updates: kernel, server and page compete with training for the same cores
BATCH_PAUSE = 6.0  # seconds between two images of the batch
PICTURE_PAUSE = 30.0  # seconds between two images for the saved notebook: each takes a good half second
TURNS = 10  # of the kernel's event loop between two steps: enough to handle a message of the page
CLICKS_ARRIVE = Version("7.4")  # the first ipykernel that handles a page's messages while a cell awaits
ROWS, COLUMNS = 4, 8  # of the batch's images that are shown
MAX_POINTS = 400  # of the training curves: as many as a chart is wide
# Below the widget, for wherever there is none. JupyterLab shows both, and an error where the widget's kernel is gone.
SAVED = """<style>
.jp-OutputArea-child:has(.cifar) + .jp-OutputArea-child:has(.cifar-saved) {{ display: none }}
.jp-OutputArea-child:has(> .jupyter-widgets):not(:has(.cifar)):has(+ * .cifar-saved) {{ display: none }}
</style>
<figure class="cifar-saved"><img src="data:image/png;base64,{png}" alt="{alt}"><figcaption>{text}</figcaption></figure>
"""


class Dashboard(Widget):
    """Trains a network and shows the training. Run it in a notebook's cell, with await:

        history = await Dashboard(model, train, val, transform=policy, epochs=9, run="runs/mine").train()

    It trains in the kernel's main thread and gives way to the kernel's event loop after every step, so Stop and the
    learning rate work while the cell runs. Before ipykernel 7.4, as on Colab, they do not: the status says so, and
    training runs all the same. (Training in a thread of its own was a fifth slower on two cores.) Continue resumes a
    stopped training in the same way, between the cells that you run meanwhile.

    Args:
        model, train, val: see `train.fit`.
        arguments: the other arguments of `train.fit`.

    Attributes:
        history: one row per finished epoch, see `train.fit`; one list for the dashboard's life, kept up to date.

    Raises:
        TypeError: an argument that `train.fit` does not have.
    """

    _esm = page("dashboard")
    pixels = traitlets.Bytes().tag(sync=True)
    ACTIONS = ("stop", "resume", "learning_rate")

    def __init__(self, model: nn.Module, train: Dataset, val: Dataset, **arguments) -> None:
        super().__init__()
        inspect.signature(steps).bind(model, train, val, **arguments)  # a misspelled name is refused here, not later
        self._datasets, self._model, self._arguments = (train, val), model, arguments
        self._title = f"Training on {train}"
        self._state: TrainerState | None = None
        self._scale: float | None = None  # of the learning rate, if it is set before training starts
        self._running = False
        self._loop: asyncio.AbstractEventLoop | None = None  # of the kernel's main thread, in which training runs
        self.history: list[dict] = []
        self._picture = None  # the handle of the saved picture below the widget
        self._trace: list[list[float]] = []  # epochs, seconds, loss, accuracy of the epoch so far, at each update
        self._sheet: np.ndarray | None = None  # [H, W, 3] uint8: the last batch that was shown
        self._show()

    @property
    def run(self) -> Path | None:
        """The run's folder; None before training."""
        return self._state.run if self._state else None

    async def train(self) -> list[dict]:
        """Displays the widget, trains to the end (or until Stop) and returns the history.

        Raises:
            What `train.steps` raises; the widget shows the error, too. ValueError: it trains already.
        """
        if self._running:
            raise ValueError("This dashboard is training already. Wait for its end, or press Stop and save.")
        self._loop = asyncio.get_running_loop()
        if not settings.headless():
            display(self.live(), raw=True)
            data, metadata = self._saved()
            self._picture = display(data, metadata=metadata, raw=True, display_id=True)
        try:
            await self._train()
        finally:
            if settings.headless():
                display(self)
        return self.history

    async def _train(self) -> None:
        next_update = next_batch = next_picture = 0.0
        pictured = 0  # epochs
        self._running, self.error = True, ""
        try:
            with closing(steps(self._model, *self._datasets, **self._arguments)) as training:  # lets go of the run
                for self._state in training:
                    self.history[:] = self._state.history
                    if self._scale is not None:
                        self._state.learning_rate_scale, self._scale = self._scale, None
                    now, is_first = time.monotonic(), self._sheet is None and self._state.batch is not None
                    if now >= next_update or is_first:
                        next_update = now + PAUSE
                        if now >= next_batch or is_first:
                            next_batch = now + BATCH_PAUSE
                            self._take_batch()
                        self._show()
                    if now >= next_picture and len(self.history) > pictured:
                        next_picture, pictured = now + PICTURE_PAUSE, len(self.history)
                        self._save_picture()
                    for _ in range(TURNS):
                        await asyncio.sleep(0)
        except BaseException as error:
            self.error = str(error) or type(error).__name__
            if self._state:
                self._state.stop = False  # what Stop asked for was not done: nothing is said to be saved
            raise
        finally:
            self._running = False
            self._take_batch()
            self._show()
            self._save_picture()

    def _on_message(self, *arguments) -> None:
        """JupyterLab may send a click to another thread, a subshell; where training runs, cells and signals do too."""
        if self._loop and self._loop.is_running() and threading.current_thread() is not threading.main_thread():
            self._loop.call_soon_threadsafe(super()._on_message, *arguments)
        else:
            super()._on_message(*arguments)

    # The actions of the page's controls.

    def stop(self) -> None:
        """Stops after the current batch and saves; Continue resumes, and so does running the cell again."""
        if not self._running or self._state is None:
            raise ValueError("nothing is training")
        self._state.stop = True
        self._show()

    def resume(self) -> None:
        """Resumes the training that was stopped, in this widget."""
        if not self._is_stopped():
            raise ValueError("there is no stopped training to continue")
        self._running, self._state.stop = True, False
        self._show()
        self._task = asyncio.get_running_loop().create_task(self._train())  # the loop itself keeps no task alive
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())  # which the widget shows

    def learning_rate(self, scale: float) -> None:
        """Multiplies the schedule's learning rate by 0 to 10, from the next step on."""
        check_number(scale, 0, 10, "the learning rate's factor")
        if self._running and self._state is not None:
            self._state.learning_rate_scale = float(scale)
        else:
            self._scale = float(scale)
        self._show()

    # Showing

    def _take_batch(self) -> None:
        if self._state and self._state.batch is not None:
            self._sheet = plots.grid(shrink(self._state.batch[: ROWS * COLUMNS].cpu()), COLUMNS, ROWS)

    def static_figures(self):
        curves = plots.training_curves(self.history, self._title)
        return [curves] if self._sheet is None else [curves, plots.one_image(self._sheet, "The last augmented batch")]

    def _saved(self) -> tuple[dict, dict]:
        """A mimebundle of the curves, for a saved notebook that is read where this kernel no longer runs."""
        data, metadata = picture([plots.training_curves(self.history, self._title)])
        alt = html.escape(metadata["image/png"]["alt"])
        text = html.escape(self._caption())
        return data | {"text/html": SAVED.format(png=data["image/png"], alt=alt, text=text)}, metadata

    def _caption(self) -> str:
        state = self._state
        if self._is_complete():
            return "Training is finished."
        place = f"Epoch {state.epochs:.1f} of {state.total_epochs}" if state else "Before the first epoch"
        if not self._running and (not self._is_stopped() if state else self.error):
            return f"{place}: training was ended by an error ({self.error})."
        if not self._running and state:
            return f"{place}: training has ended here, and running the cell again resumes."
        # Where JupyterLab finds no kernel at all, it does not say so: it keeps the place of the live widget for ever.
        return (
            f"{place}: unless the live dashboard appears in a moment, training no longer runs here, and running the "
            "cell again resumes."
        )

    def _save_picture(self) -> None:
        if self._picture:
            data, metadata = self._saved()
            self._picture.update(data, metadata=metadata, raw=True)

    def _is_complete(self) -> bool:
        return self._state is not None and self._state.epoch >= self._state.total_epochs

    def _is_stopped(self) -> bool:
        return bool(self._state and self._state.stop) and not self._running and not self._is_complete()

    def _status(self) -> str:
        state = self._state
        if self._running:
            if Version(version("ipykernel")) < CLICKS_ARRIVE:
                return "training; in this kernel, the controls work between two cells: to stop, interrupt the kernel"
            return "stopping after this batch" if state and state.stop else "training"
        if state is None:
            return "ended by an error" if self.error else "not started"
        if self._is_complete():
            return "finished"
        resume = "press Continue, or run the cell again, to resume"
        return f"stopped and saved: {resume}" if self._is_stopped() else "ended by an error"

    def _show(self) -> None:
        state = self._state
        if state and math.isfinite(state.loss):
            if self._trace and self._trace[-1][0] > state.epochs:
                self._trace = []  # another run, or the same one from an earlier save
            if not self._trace:  # resumed by another dashboard: the epochs before are known from the history
                names = ("epoch", "seconds", "training_loss", "training_accuracy")
                self._trace = [[row[name] for name in names] for row in state.history]
            self._trace.append([state.epochs, state.seconds, state.loss, state.accuracy])
            if len(self._trace) > MAX_POINTS:
                self._trace = self._trace[::2]
        history = [_finite(row) for row in self.history]
        losses = {row["epoch"]: row["validation_loss"] for row in history if row["validation_loss"] is not None}
        height, width = (0, 0) if self._sheet is None else self._sheet.shape[:2]
        with self.hold_sync():  # one message: the numbers and the image belong together
            if self._sheet is not None:
                self.pixels = rgba(self._sheet)
            self.view = {
                "title": self._title,
                "status": self._status(),
                "running": self._running,
                "stopped": self._is_stopped(),
                "complete": self._is_complete(),
                "epochs": state.total_epochs if state else None,
                "done": state.epochs if state else 0,
                "seconds": state.seconds if state else 0,
                "rate": state.learning_rate if state and math.isfinite(state.learning_rate) else None,
                "scale": self._scale if self._scale is not None else state.learning_rate_scale if state else 1.0,
                "trace": self._trace,
                "history": history,
                "best": min(losses, key=losses.get) if losses else None,
                "width": width,
                "height": height,
            }


def _finite(row: dict) -> dict:
    """The row with None for NaN and infinity, which JSON does not have."""
    return {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in row.items()}
