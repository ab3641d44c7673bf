"""The images behind a cell of the confusion matrix."""

import numpy as np
import pytest
from tables import certain, names, random_predictions

from cifar_utils.evaluation import gallery, metrics
from cifar_utils.evaluation.predictions import Predictions


@pytest.mark.parametrize("classes", [2, 10, 37])
def test_every_image_is_behind_exactly_one_cell(classes):
    p = random_predictions(0, classes=classes)
    matrix = metrics.confusion_matrix(p)
    rows = [gallery.images_in_cell(p, t, q) for t in range(classes) for q in range(classes)]
    assert [len(r) for r in rows] == matrix.flatten().tolist()
    assert sorted(np.concatenate(rows)) == list(range(len(p)))


def test_orders():
    probabilities = np.zeros((4, 10), np.float32)
    probabilities[:, 5], probabilities[:, 0] = first, rest = np.array([[0.6, 0.9, 0.9, 0.7], [0.4, 0.1, 0.1, 0.3]])
    p = Predictions(np.array([40, 30, 20, 10]), np.full(4, 3), probabilities, classes=names(10))
    most, least, plain = gallery.ORDERS
    assert gallery.images_in_cell(p, 3, 5, most).tolist() == [1, 2, 3, 0]  # of equals, the first
    assert gallery.images_in_cell(p, 3, 5, least).tolist() == [0, 3, 1, 2]
    assert gallery.images_in_cell(p, 3, 5, plain).tolist() == [0, 1, 2, 3]
    assert gallery.images_in_cell(p, 5, 3).tolist() == [] and rest.sum() + first.sum() == pytest.approx(4)


def test_captions():
    p = certain([3], [5], 0.91)
    assert gallery.caption(p, 0) == "dog 91%, airplane 1%, automobile 1%"
    assert gallery.caption(p, 0, 1) == "dog 91%"
    assert gallery.caption(Predictions(np.array([7]), np.array([3]), predicted=[5], classes=names(10)), 0) == "dog"


@pytest.mark.parametrize("arguments", [(10, 0), (0, -1), ("cat", 0), (None, 0), (0, 0, "by color")])
def test_what_does_not_exist_is_refused(arguments):
    with pytest.raises(ValueError, match="there is no (class|order)"):
        gallery.images_in_cell(random_predictions(0), *arguments)
