"""Paired comparison: published numbers, SciPy, simulation, and what must not matter."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import certain, names, random_predictions

from cifar_utils.evaluation.comparison import compare, difference_interval
from cifar_utils.evaluation.predictions import Predictions


def pair(both: int, only_first: int, only_second: int, neither: int):
    labels = [0] * (both + only_first + only_second + neither)
    first = [0] * (both + only_first) + [1] * (only_second + neither)
    second = [0] * both + [1] * only_first + [0] * only_second + [1] * neither
    return certain(labels, first), certain(labels, second)


@pytest.mark.parametrize(
    "first,second,p_value",
    [(100, 130, 0.056), (40, 65, 0.019), (0, 0, 1.0), (5, 5, 1.0), (1, 0, 1.0), (0, 10, 2 / 1024)],
)
def test_mcnemar_by_hand(first, second, p_value):
    result = compare(*pair(700, first, second, 70))
    assert result.p_value == pytest.approx(p_value, abs=5e-4)
    n = 770 + first + second
    assert result.images == n and result.difference == pytest.approx((second - first) / n)
    assert (len(result.only_first), len(result.only_second)) == (first, second)
    low, high = result.interval
    assert low <= result.difference <= high


def test_the_interval_by_hand():
    """Half an image in each cell: 43 images; (9.5 - 5.5) / 43 = 0.0930 +- 1.96 sqrt(15 - 16 / 43) / 43."""
    assert difference_interval(5, 9, 41) == pytest.approx((-0.0813, 0.2674), abs=1e-4)


def test_equal_runs():
    p = random_predictions(0)
    result = compare(p, p)
    assert (result.p_value, result.difference) == (1, 0) and len(result.only_first) == len(result.only_second) == 0
    assert result.interval[0] == pytest.approx(-result.interval[1])
    assert str(result) == "200 images: identical predictions (is it twice the same network?)"
    shuffled = p.select(np.random.default_rng(0).permutation(len(p)))
    assert compare(p, shuffled).identical


def test_equally_good_is_not_identical():
    p = certain([0, 0, 1], [0, 1, 2])
    for other in (certain([0, 0, 1], [0, 1, 3]), certain([0, 0, 1], [0, 1, 2], 0.9), replace(p, probabilities=None)):
        result = compare(p, other)
        assert not result.identical and result.difference == 0 and "McNemar" in str(result)


def test_one_image():
    result = compare(*pair(0, 0, 1, 0))
    assert (result.difference, result.p_value) == (1, 1) and result.interval[1] == 1


def test_which_images_changed_whatever_their_order():
    labels = np.array([0, 1, 2, 3])
    first = Predictions(np.array([10, 20, 30, 40]), labels, predicted=[0, 1, 9, 9], classes=names(10))
    second = Predictions(np.array([40, 30, 20, 10]), labels[::-1], predicted=[3, 9, 1, 9], classes=names(10))
    result = compare(first, second)
    assert result.only_first.tolist() == [10] and result.only_second.tolist() == [40]
    assert "only the first is correct on 1, only the second on 1; second minus first +0.00 points" in str(result)


def test_images_of_two_folders_are_not_the_same_images():
    first, second = (replace(random_predictions(0, 20), source=source) for source in ("photos", "drawings"))
    with pytest.raises(ValueError, match="only predictions of the same images"):
        compare(first, second)
    compare(first, replace(second, source=""))  # a table from elsewhere says nothing of its source
    compare(replace(first, source="SAMPLE"), replace(second, source="CIFAR-10"))


def test_what_cannot_be_compared():
    p = random_predictions(0, 20)
    for other in (random_predictions(0, 19), random_predictions(0, 20, "validation")):
        with pytest.raises(ValueError, match="only predictions of the same images"):
            compare(p, other)
    with pytest.raises(ValueError, match="disagree on the true classes"):
        compare(p, replace(p, labels=(p.labels + 1) % 10))
    with pytest.raises(ValueError, match="classes of the two tables differ"):
        compare(p, replace(p, classes=names(10)[::-1]))
    with pytest.raises(ValueError, match="not a ndarray"):
        compare(p, p.probabilities)


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(0, 99))
def test_exchanging_the_two_turns_the_sign(a, b):
    first, second = random_predictions(a, 50), random_predictions(b, 50)
    second = replace(second, index=first.index, labels=first.labels)
    x, y = compare(first, second), compare(second, first)
    assert x.difference == -y.difference and x.p_value == pytest.approx(y.p_value)
    assert x.interval == pytest.approx((-y.interval[1], -y.interval[0]))
    assert x.only_first.tolist() == y.only_second.tolist()


def test_the_interval_keeps_its_promise():
    """It holds the true difference in about 95 of 100 pairs of test results, also where few images tell apart."""
    rng = np.random.default_rng(0)
    for first, second, n in ((0.03, 0.05, 1000), (0.01, 0.02, 200), (0.1, 0.1, 10_000)):
        draws = rng.multinomial(n, [first, second, 1 - first - second], 2000)
        intervals = [difference_interval(a, b, n) for a, b, _ in draws]
        inside = np.mean([low <= second - first <= high for low, high in intervals])
        assert 0.93 < inside < 0.985, (first, second, n)
