"""The images behind a cell of the confusion matrix."""

import numpy as np
import pytest
from tables import certain, random_predictions

from cifar_utils import evaluation, gallery
from cifar_utils.predictions import Predictions


def test_every_image_is_behind_exactly_one_cell():
    p = random_predictions(0)
    matrix = evaluation.confusion_matrix(p)
    rows = [gallery.behind(p, t, q) for t in range(10) for q in range(10)]
    assert [len(r) for r in rows] == matrix.flatten().tolist()
    assert sorted(np.concatenate(rows)) == list(range(len(p)))


def test_orders():
    probabilities = np.zeros((4, 10), np.float32)
    probabilities[:, 5], probabilities[:, 0] = said, rest = np.array([[0.6, 0.9, 0.9, 0.7], [0.4, 0.1, 0.1, 0.3]])
    p = Predictions(np.array([40, 30, 20, 10]), np.full(4, 3), probabilities)
    most, least, plain = gallery.ORDERS
    assert gallery.behind(p, 3, 5, most).tolist() == [1, 2, 3, 0]  # of equals, the first
    assert gallery.behind(p, 3, 5, least).tolist() == [0, 3, 1, 2]
    assert gallery.behind(p, 3, 5, plain).tolist() == [0, 1, 2, 3]
    assert gallery.behind(p, 5, 3).tolist() == [] and rest.sum() + said.sum() == pytest.approx(4)


def test_captions():
    p = certain([3], [5], 0.91)
    assert gallery.caption(p, 0) == "dog 91%, airplane 1%, automobile 1%"
    assert gallery.caption(p, 0, 1) == "dog 91%"
    assert gallery.caption(Predictions(np.array([7]), np.array([3]), predicted=[5]), 0) == "dog"


@pytest.mark.parametrize("arguments", [(10, 0), (0, -1), ("cat", 0), (None, 0), (0, 0, "by colour")])
def test_what_does_not_exist_is_refused(arguments):
    with pytest.raises(ValueError, match="there is no (class|order)"):
        gallery.behind(random_predictions(0), *arguments)
