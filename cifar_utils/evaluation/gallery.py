"""The images behind each cell of a confusion matrix."""

import numpy as np

from cifar_utils.evaluation.predictions import Predictions

ORDERS = ("most confident first", "least confident first", "as in the data set")


def images_in_cell(predictions: Predictions, true: int, predicted: int, order: str = ORDERS[0]) -> np.ndarray:
    """[n] int64: rows of the predictions in one cell, in an order of ORDERS; of equals, the first.

    Args:
        true, predicted: the cell, as positions in `predictions.classes`.

    Raises:
        ValueError: no such class or order.
    """
    for label in (true, predicted):
        if label not in range(len(predictions.classes)):
            raise ValueError(f"there is no class {label!r}; classes are 0 to {len(predictions.classes) - 1}")
    if order not in ORDERS:
        raise ValueError(f"there is no order {order!r}; one of {', '.join(ORDERS)}")
    rows = np.flatnonzero((predictions.labels == true) & (predictions.predicted == predicted))
    if order == ORDERS[2] or predictions.probabilities is None:
        return rows
    sign = -1 if order == ORDERS[0] else 1
    return rows[np.argsort(sign * predictions.confidence[rows], kind="stable")]


def caption(predictions: Predictions, row: int, names: int = 3) -> str:
    """The most probable classes of one image with their probabilities, in percent.

    Args:
        row: position of the image in the table.
        names: number of classes.
    """
    classes = predictions.classes
    if predictions.probabilities is None:
        return classes[predictions.predicted[row]]
    p = predictions.probabilities[row]
    most_probable = np.argsort(-p, kind="stable")[:names]
    return ", ".join(f"{classes[label]} {p[label]:.0%}" for label in most_probable)
