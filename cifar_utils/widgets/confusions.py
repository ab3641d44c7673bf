"""The confusion explorer: a cell of the matrix, and the test images behind it."""

import numpy as np
import traitlets
from matplotlib import colormaps
from matplotlib.colors import to_hex

from cifar_utils import evaluation, evaluation_plots, gallery, plots
from cifar_utils.comparison import compare
from cifar_utils.data import CLASSES, Split
from cifar_utils.predictions import Predictions
from cifar_utils.widgets.base import Widget, page, rgba

SHOWN = 24  # images at a time


class ConfusionExplorer(Widget):
    """Shows the images of a cell of the confusion matrix, for one run or for two side by side.

    Args:
        runs: name -> predictions, all of the same images.
        split: these images, in any order.

    Raises:
        ValueError: the predictions are not of the same images, or the split lacks some.
    """

    _esm = page("confusions")
    pixels = traitlets.Bytes().tag(sync=True)
    ACTIONS = ("choose", "order", "run", "other", "more")

    def __init__(self, runs: dict[str, Predictions], split: Split) -> None:
        super().__init__()
        first = next(iter(runs.values()))
        for predictions in runs.values():
            compare(first, predictions)  # refuses what is not of the same images
        places = {index: place for place, index in enumerate(split.index.tolist())}
        if not set(first.index.tolist()) <= places.keys():
            raise ValueError(f"the predictions are not of {split}")
        # One order for all, so that a row means the same image in every run.
        self._runs = {name: p.select(np.argsort(p.index)) for name, p in runs.items()}
        self._images = split.images[[places[i] for i in sorted(first.index.tolist())]]
        self._title = str(split)
        self._run, self._other, self._order, self._start = next(iter(runs)), "", gallery.ORDERS[0], 0
        matrix = evaluation.confusion_matrix(first)
        worst = np.where(np.eye(len(CLASSES), dtype=bool), -1, matrix).argmax()
        self._cell = divmod(int(worst), len(CLASSES))
        self._show()

    # What the page's controls do.

    def choose(self, true: int, predicted: int) -> None:
        """Looks behind a cell."""
        gallery.behind(self._runs[self._run], true, predicted)  # refuses what there is not
        self._cell, self._start = (true, predicted), 0
        self._show()

    def order(self, order: str) -> None:
        """One of gallery.ORDERS."""
        gallery.behind(self._runs[self._run], 0, 0, order)
        self._order, self._start = order, 0
        self._show()

    def run(self, name: str) -> None:
        """Shows this run's matrix."""
        self._run, self._start = self._known(name), 0
        self._show()

    def other(self, name: str) -> None:
        """Says what another run says of the same images; "" says it no longer."""
        self._other = name and self._known(name)
        self._show()

    def more(self, pages: int) -> None:
        """Turns pages."""
        self._start = min(max(0, self._start + pages * SHOWN), max(0, (len(self.rows()) - 1) // SHOWN * SHOWN))
        self._show()

    # Showing

    def rows(self) -> np.ndarray:
        """Rows of all images in the cell."""
        return gallery.behind(self._runs[self._run], *self._cell, self._order)

    def _known(self, name: str) -> str:
        if name not in self._runs:
            raise ValueError(f"there is no run {name!r}; there are {', '.join(self._runs)}")
        return name

    def _heading(self) -> str:
        true, predicted = (CLASSES[label] for label in self._cell)
        what = f"{true} recognised" if true == predicted else f"{true} called {predicted}"
        return f"{what}: {len(self.rows()):,} of {self._title}"

    def static_figures(self):
        matrix = evaluation.confusion_matrix(self._runs[self._run])
        title = f"{self._run}: {self._title}"
        figures = [evaluation_plots.confusion_matrix(matrix, CLASSES, title, evaluation.confusions(matrix))]
        rows = self.rows()[:8]
        if len(rows):
            captions = [gallery.caption(self._runs[self._run], row).replace(", ", "\n") for row in rows]
            figures.append(plots.image_grid(self._images[rows], captions, self._heading(), columns=8))
        return figures

    def _show(self) -> None:
        predictions = self._runs[self._run]
        matrix = evaluation.confusion_matrix(predictions)
        others = None if not self._other else evaluation.confusion_matrix(self._runs[self._other])
        rows = self.rows()
        shown = rows[self._start : self._start + SHOWN]
        found = [
            {
                "index": int(predictions.index[row]),
                "said": gallery.caption(predictions, row),
                "other": gallery.caption(self._runs[self._other], row, 1) if self._other else "",
                "true": CLASSES[predictions.labels[row]],
            }
            for row in shown
        ]
        with self.hold_sync():  # one message: the pictures and what is said of them belong together
            pixels = self._images[shown].permute(0, 2, 3, 1).numpy().reshape(-1, 32, 3)
            self.pixels = rgba(pixels)
            self.view = {
                "classes": list(CLASSES),
                "matrix": matrix.tolist(),
                "shares": np.nan_to_num(evaluation.normalised(matrix)).tolist(),
                "changes": None if others is None else (others - matrix).tolist(),
                "colours": _colours(matrix),
                "cell": list(self._cell),
                "heading": self._heading(),
                "summary": evaluation.confusions(matrix),
                "comparison": str(compare(predictions, self._runs[self._other])) if self._other else "",
                "runs": list(self._runs),
                "run": self._run,
                "other": self._other,
                "orders": list(gallery.ORDERS),
                "order": self._order,
                "found": found,
                "first": self._start,
                "count": len(rows),
                "page": SHOWN,
            }


def _colours(matrix: np.ndarray) -> list[list[list[str]]]:
    """Ground and ink of each cell, as in evaluation_plots.confusion_matrix."""
    share = np.nan_to_num(evaluation.normalised(matrix))
    return [[[to_hex(colormaps["cividis"](s)), evaluation_plots.ink(s)] for s in row] for row in share.tolist()]
