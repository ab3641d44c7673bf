"""The confusion explorer: the confusion matrix, and the images behind each of its cells."""

import numpy as np
import traitlets
from matplotlib import colormaps
from matplotlib.colors import to_hex

from cifar_utils import plots
from cifar_utils.data import Dataset
from cifar_utils.evaluation import gallery, metrics
from cifar_utils.evaluation.comparison import compare
from cifar_utils.evaluation.predictions import Predictions
from cifar_utils.widgets.base import Widget, check_number, page, rgba

PAGE = 24  # images at a time
MAX_CLASSES = 100  # 10,000 cells: more are slow in a browser, and cannot be read


class ConfusionExplorer(Widget):
    """Shows the images of a cell of the confusion matrix, for one run or for two side by side.

    Args:
        runs: name -> predictions, all of the same images.
        dataset: these images, in any order.

    Raises:
        ValueError: there are no runs, the predictions are not of the same images or not of the dataset's (another
            split, source, classes or true classes), or there are more than 100 classes.
    """

    _esm = page("confusions")
    pixels = traitlets.Bytes().tag(sync=True)
    table = traitlets.Dict().tag(sync=True)  # the matrix: sent when another run is chosen, not with every cell
    ACTIONS = ("choose", "order", "run", "other", "more")

    def __init__(self, runs: dict[str, Predictions], dataset: Dataset) -> None:
        super().__init__()
        if not (isinstance(runs, dict) and runs and all(isinstance(p, Predictions) for p in runs.values())):
            raise ValueError('the explorer needs one run at least: a dict like {"my run": predict(model, test)}')
        if len(dataset.classes) > MAX_CLASSES:
            raise ValueError(f"the explorer shows up to {MAX_CLASSES} classes, and these are {len(dataset.classes)}")
        for name, predictions in runs.items():
            _check_fit(name, predictions, dataset)
        first_name, first = next(iter(runs.items()))
        for predictions in runs.values():
            compare(first, predictions)  # refuses predictions of other images
        # One order for all, so that a row is the same image in every run.
        self._runs = {str(name): p.select(np.argsort(p.index)) for name, p in runs.items()}
        self._matrices = {name: metrics.confusion_matrix(p) for name, p in self._runs.items()}
        positions = {index: position for position, index in enumerate(dataset.index.tolist())}
        predicted = dataset.select([positions[i] for i in sorted(first.index.tolist())])
        self._images, self._title = predicted.images, str(predicted)
        self._classes, self._size = dataset.classes, dataset.size
        self._run, self._other, self._order, self._start = str(first_name), "", gallery.ORDERS[0], 0
        matrix = self._matrices[self._run]
        largest = np.where(np.eye(len(matrix), dtype=bool), -1, matrix).argmax()
        self._cell = divmod(int(largest), len(matrix))
        self._show()

    # The actions of the page's controls.

    def choose(self, true: int, predicted: int) -> None:
        """Shows the images of a cell."""
        for label in (true, predicted):
            check_number(label, 0, len(self._classes) - 1, "the class", whole=True)
        self._cell, self._start = (true, predicted), 0
        self._show()

    def order(self, order: str) -> None:
        """Takes one of gallery.ORDERS."""
        gallery.images_in_cell(self._runs[self._run], 0, 0, order)  # refuses an unknown order
        self._order, self._start = order, 0
        self._show()

    def run(self, name: str) -> None:
        """Shows this run's matrix."""
        self._run, self._start = self._known(name), 0
        self._show()

    def other(self, name: str) -> None:
        """Compares with the predictions of another run; "" ends the comparison."""
        self._other = name and self._known(name)
        self._show()

    def more(self, pages: int) -> None:
        """Turns pages, forward or back; stays within the cell."""
        check_number(pages, -(10**6), 10**6, "the number of pages", whole=True)
        self._start = min(max(0, self._start + pages * PAGE), max(0, (len(self.rows()) - 1) // PAGE * PAGE))
        self._show()

    # Showing

    def rows(self) -> np.ndarray:
        """Rows of all images in the cell."""
        return gallery.images_in_cell(self._runs[self._run], *self._cell, self._order)

    def _known(self, name: str) -> str:
        if name not in self._runs:
            raise ValueError(f"there is no run {name!r}; the runs are {', '.join(self._runs)}")
        return name

    def _heading(self) -> str:
        true, predicted = (self._classes[label] for label in self._cell)
        content = f"{true} predicted correctly" if true == predicted else f"{true} predicted as {predicted}"
        return f"{content}: {len(self.rows()):,} of {self._title}"

    def static_figures(self):
        matrix = self._matrices[self._run]
        title, summary = f"{self._run}: {self._title}", metrics.top_confusions(matrix, self._classes)
        figures = [plots.confusion_matrix(matrix, self._classes, title, summary)]
        rows = self.rows()[:8]
        if len(rows):
            captions = [gallery.caption(self._runs[self._run], row).replace(", ", "\n") for row in rows]
            figures.append(plots.image_grid(self._images[rows], captions, self._heading(), columns=8))
        return figures

    def _show(self) -> None:
        predictions = self._runs[self._run]
        other = self._runs[self._other] if self._other else None
        rows = self.rows()
        shown = rows[self._start : self._start + PAGE]
        found = [
            {
                "index": int(predictions.index[row]),
                "caption": gallery.caption(predictions, row),
                "other": gallery.caption(other, row, 1) if other else "",
                "true": self._classes[predictions.labels[row]],
            }
            for row in shown
        ]
        with self.hold_sync():  # one message: the images and their captions belong together
            self.table = self._table()
            self.pixels = rgba(plots.to_pixels(self._images[shown]).reshape(-1, self._size, 3))
            self.view = {
                "cell": list(self._cell),
                "heading": self._heading(),
                "summary": metrics.top_confusions(self._matrices[self._run], self._classes),
                "comparison": str(compare(predictions, other)) if other else "",
                "runs": list(self._runs),
                "run": self._run,
                "other": self._other,
                "orders": list(gallery.ORDERS),
                "order": self._order,
                "size": self._size,
                "found": found,
                "first": self._start,
                "count": len(rows),
                "page": PAGE,
            }

    def _table(self) -> dict:
        matrix = self._matrices[self._run]
        fractions = np.nan_to_num(metrics.normalized(matrix)).round(4)
        shades = [(i / 100) ** plots.CONFUSION_GAMMA for i in range(101)]
        return {
            "classes": list(self._classes),
            "matrix": matrix.tolist(),
            "fractions": fractions.tolist(),
            "changes": (self._matrices[self._other] - matrix).tolist() if self._other else None,
            # Background and text of each hundredth.
            "colors": [[to_hex(colormaps["cividis"](shade)), plots.ink(shade)] for shade in shades],
        }


def _check_fit(name: str, predictions: Predictions, dataset: Dataset) -> None:
    """Refuses predictions of other images than the dataset's, in one sentence."""
    if tuple(predictions.classes) != tuple(dataset.classes):
        raise ValueError(f"the predictions {name!r} and the images have different classes")
    if predictions.split != dataset.split:
        raise ValueError(f"the predictions {name!r} are of {predictions.split} images, the images are {dataset}")
    if predictions.source and predictions.source != dataset.source:
        raise ValueError(f"the predictions {name!r} are of {predictions.source}, the images of {dataset.source}")
    labels = dict(zip(dataset.index.tolist(), dataset.labels.tolist()))
    if any(labels.get(i) != label for i, label in zip(predictions.index.tolist(), predictions.labels.tolist())):
        raise ValueError(f"the predictions {name!r} are not of {dataset}: an image is missing or its class differs")
