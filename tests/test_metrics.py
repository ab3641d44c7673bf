"""Metrics, against numbers worked out by hand and against scikit-learn, torchmetrics and SciPy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics
from tables import certain, names, random_predictions

from cifar_utils.data import CIFAR10_CLASSES
from cifar_utils.evaluation import metrics
from cifar_utils.evaluation.predictions import Predictions

# By hand


def test_an_asymmetric_matrix():
    """Rows are true classes: two airplanes called birds is not two birds called airplanes."""
    p = certain([0, 0, 0, 1, 2, 2, 2, 2, 2, 2], [0, 2, 2, 1, 2, 2, 2, 2, 2, 1])
    matrix = metrics.confusion_matrix(p)
    assert matrix.shape == (10, 10) and matrix.sum() == 10
    assert matrix[:3, :3].tolist() == [[1, 0, 2], [0, 1, 0], [0, 1, 5]]
    assert metrics.normalized(matrix)[2, :3] == pytest.approx([0, 1 / 6, 5 / 6])
    assert np.isnan(metrics.normalized(matrix)[3:]).all()
    values = {name: metric[:, 0] for name, metric in metrics.per_class(matrix).items()}
    assert values["recall"][:3] == pytest.approx([1 / 3, 1, 5 / 6])
    assert values["precision"][:3] == pytest.approx([1, 1 / 2, 5 / 7])
    assert values["F1"][:3] == pytest.approx([1 / 2, 2 / 3, 10 / 13])
    for metric in metrics.per_class(matrix).values():
        assert np.isnan(metric[3:]).all()  # classes without an image, never named: not 0
    assert p.accuracy == pytest.approx(0.7)


def test_undefined_is_not_zero_and_zero_is_not_undefined():
    matrix = np.zeros((10, 10), int)
    matrix[0, 1] = 4  # four airplanes, all called automobile; no automobile
    recall, precision, f1 = (metric[:2, 0] for metric in metrics.per_class(matrix).values())
    assert recall[0] == 0 and math.isnan(recall[1])
    assert math.isnan(precision[0]) and precision[1] == 0
    assert f1.tolist() == [0, 0]


def test_an_imbalanced_split():
    """Always saying cat: 90% accurate where 90% are cats, and useless for every other class."""
    p = certain([3] * 90 + [5] * 10, [3] * 100)
    assert p.accuracy == pytest.approx(0.9)
    recall = metrics.per_class(metrics.confusion_matrix(p))["recall"][:, 0]
    assert (recall[3], recall[5]) == (1, 0)


def test_one_image():
    assert metrics.confusion_matrix(certain([9], [0]))[9, 0] == 1
    assert metrics.proportion(np.array([True])) == (1, *metrics.wilson_interval(1, 1))


def test_top_k_by_hand_and_ties_by_class_order():
    probabilities = np.array([[0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0, 0, 0]] * 3 + [[0.1] * 10] * 2, np.float32)
    p = Predictions(np.arange(5), np.array([0, 2, 3, 2, 3]), probabilities, classes=names(10))
    assert metrics.top_k(p, 1).tolist() == [True, False, False, False, False]
    assert metrics.top_k(p, 3).tolist() == [True, True, False, True, False]
    assert metrics.top_k(p, 10).all()
    for k in (0, 11, 2.5):
        with pytest.raises(ValueError, match=f"k is {k}; it must be a whole number from 1 to 10"):
            metrics.top_k(p, k)


def test_confusions_in_words():
    matrix = np.diag([8, 0, 50, 6, 0, 2, 100, 100, 100, 0])
    matrix[3, 5] = 4  # cat -> dog 40%
    matrix[5, 3] = 2  # dog -> cat 50%
    matrix[0, 8], matrix[0, 2] = 1, 1  # airplane -> ship and bird 10% each: the lower class first
    expected = [
        "cat is predicted as dog 40.0% of the time (4 of 10)",  # at least 17% (lower 95% limit)
        "dog is predicted as cat 50.0% of the time (2 of 4)",  # at least 15%
        "airplane is predicted as bird 10.0% of the time (1 of 10)",
        "airplane is predicted as ship 10.0% of the time (1 of 10)",
    ]
    assert metrics.top_confusions(matrix, CIFAR10_CLASSES) == "; ".join(expected) + "."
    assert metrics.top_confusions(matrix, CIFAR10_CLASSES, most=1) == expected[0] + "."
    assert metrics.top_confusions(np.diag([5] * 10), CIFAR10_CLASSES) == "No image is confused with another class."


def test_many_of_many_come_before_one_of_one():
    matrix = np.array([[10, 90, 0], [0, 200, 0], [1, 0, 0]])
    text = metrics.top_confusions(matrix, ("cat", "dog", "cow"))
    assert text.startswith("cat is predicted as dog 90.0% of the time (90 of 100); cow is predicted as cat 100.0%")


def test_which_classes_are_listed():
    """As many classes with images as are listed at most: then these are all, not the ends."""
    accuracy = np.full(100, np.nan)
    accuracy[:20] = 0.5
    assert metrics.which_listed(accuracy) == "the 20 of 100 classes that have images"
    accuracy[20] = 0.5
    assert metrics.which_listed(accuracy) == "the 10 best and the 10 worst of 100 classes"


def test_the_most_certain_mistakes_and_the_least_certain_hits():
    probabilities = np.zeros((5, 10), np.float32)
    probabilities[np.arange(5), [0, 0, 0, 1, 1]] = said = [0.9, 0.6, 0.8, 0.7, 0.9]
    probabilities[:, 9] = 1 - np.array(said)
    p = Predictions(np.arange(5), np.array([1, 1, 0, 1, 0]), probabilities, classes=names(10))
    assert metrics.most_confident_errors(p).tolist() == [0, 4, 1]  # of equals, the first
    assert metrics.least_confident_correct(p).tolist() == [3, 2]
    assert metrics.most_confident_errors(p, 1).tolist() == [0]


def test_the_known_label_errors():
    errors = metrics.label_errors()
    assert len(errors) == 54 and min(errors) >= 0 and max(errors) < 10_000
    p = certain([1, 2, 3], [1, 2, 4])
    for source in ("CIFAR-10", "SAMPLE"):
        doubted = replace(p, index=[2405, 7, 8], source=source)  # image 2405 is on the list
        assert 2405 in errors and metrics.without_label_errors(doubted).index.tolist() == [7, 8]
    with pytest.raises(ValueError, match="of CIFAR-10's test images; these are birds: 3 test images"):
        metrics.without_label_errors(replace(p, source="birds"))
    with pytest.raises(ValueError, match="these are CIFAR-10: 1 validation image"):
        metrics.without_label_errors(certain([1], [1], split="validation", source="CIFAR-10"))


# Against others' implementations


@pytest.mark.parametrize("seed,classes", [(0, 10), (1, 10), (2, 10), (3, 3), (4, 100)])
def test_scikit_learn_agrees(seed, classes):
    p = random_predictions(seed, classes=classes)
    y, y_hat, everything = p.labels, p.predicted, list(range(classes))
    matrix = metrics.confusion_matrix(p)
    assert p.accuracy == pytest.approx(sklearn_metrics.accuracy_score(y, y_hat))
    assert (matrix == sklearn_metrics.confusion_matrix(y, y_hat, labels=everything)).all()
    expected = sklearn_metrics.precision_recall_fscore_support(y, y_hat, labels=everything, zero_division=np.nan)
    found = metrics.per_class(matrix)
    for name, values in zip(("precision", "recall", "F1"), expected):
        assert found[name][:, 0] == pytest.approx(values, nan_ok=True)
    exact = p.probabilities.astype(np.float64)
    exact /= exact.sum(1, keepdims=True)
    assert p.loss == pytest.approx(sklearn_metrics.log_loss(y, exact, labels=everything), rel=1e-5)
    for k in range(1, classes):
        assert metrics.top_k(p, k).mean() == sklearn_metrics.top_k_accuracy_score(y, exact, k=k, labels=everything)


@pytest.mark.parametrize("seed", range(3))
def test_torchmetrics_agrees(seed):
    from torchmetrics import functional as tm

    p = random_predictions(seed, 500)
    y, probabilities = torch.from_numpy(p.labels), torch.from_numpy(p.probabilities)
    found = metrics.per_class(metrics.confusion_matrix(p))
    options = {"task": "multiclass", "num_classes": 10, "average": "none"}
    for name, function in (("recall", tm.recall), ("precision", tm.precision), ("F1", tm.f1_score)):
        assert found[name][:, 0] == pytest.approx(function(probabilities, y, **options).numpy(), abs=1e-6)
    micro = {"task": "multiclass", "num_classes": 10, "average": "micro"}
    assert metrics.top_k(p, 3).mean() == pytest.approx(tm.accuracy(probabilities, y, top_k=3, **micro).item())


@pytest.mark.parametrize("hits,n,low,high", [(9400, 10_000, 93.52, 94.45), (940, 1000, 92.4, 95.3)])
def test_intervals_worked_out_elsewhere(hits, n, low, high):
    digits = 2 if n == 10_000 else 1
    assert tuple(round(100 * x, digits) for x in metrics.wilson_interval(hits, n)) == (low, high)


@given(st.integers(1, 20_000), st.data())
def test_scipy_agrees_on_the_interval(n, choose):
    hits = choose.draw(st.integers(0, n) | st.sampled_from([0, n]))
    low, high = metrics.wilson_interval(hits, n)
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0 <= low <= hits / n + 1e-12 and hits / n - 1e-12 <= high <= 1


def test_intervals_at_the_edges():
    assert metrics.wilson_interval(0, 50) == pytest.approx((0, 0.0713), abs=1e-4)
    assert metrics.wilson_interval(50, 50) == pytest.approx((0.9287, 1), abs=1e-4)
    assert all(map(math.isnan, metrics.wilson_interval(0, 0)))
    recall = metrics.per_class(np.diag([1000] + [0] * 9))["recall"]
    assert tuple(recall[0]) == (1, *metrics.wilson_interval(1000, 1000))
    assert np.isnan(recall[1:]).all()


def test_the_interval_of_f1_keeps_its_promise():
    """It holds the true F1 in about 95 of 100 test sets drawn from a known classifier."""
    rng = np.random.default_rng(0)
    cells = np.array([0.07, 0.03, 0.02, 0.88])  # TP, FN, FP, TN of one class
    true, draws = 2 * 0.07 / (2 * 0.07 + 0.05), 2000
    inside = 0
    for tp, fn, fp, tn in rng.multinomial(1000, cells, draws):
        matrix = np.zeros((10, 10), int)
        matrix[0, 0], matrix[0, 1], matrix[1, 0], matrix[1, 1] = tp, fn, fp, tn
        _, low, high = metrics.per_class(matrix)["F1"][0]
        inside += low <= true <= high
    assert 0.93 < inside / draws < 0.97


# What must not matter


@settings(max_examples=30)
@given(st.integers(0, 9), st.permutations(range(40)))
def test_the_order_of_images_does_not_matter(seed, order):
    p = random_predictions(seed, 40)
    q = p.select(np.array(order))
    assert q.accuracy == p.accuracy and q.loss == pytest.approx(p.loss, rel=1e-12)
    assert (metrics.confusion_matrix(q) == metrics.confusion_matrix(p)).all()
    assert metrics.top_k(q, 3).sum() == metrics.top_k(p, 3).sum()


@settings(max_examples=30)
@given(st.integers(0, 9), st.permutations(range(10)))
def test_renaming_the_classes_renames_the_results(seed, renamed):
    p, renamed = random_predictions(seed, 60), np.array(renamed)
    probabilities = np.empty_like(p.probabilities)
    probabilities[:, renamed] = p.probabilities
    q = replace(p, labels=renamed[p.labels], probabilities=probabilities, predicted=None)
    a, b = (metrics.per_class(metrics.confusion_matrix(x)) for x in (p, q))
    for name in a:
        np.testing.assert_array_equal(b[name][renamed], a[name])
    assert q.loss == p.loss and (metrics.top_k(q, 3) == metrics.top_k(p, 3)).all()


@given(st.lists(st.lists(st.integers(0, 50), min_size=10, max_size=10), min_size=10, max_size=10))
def test_values_lie_within_their_intervals(rows):
    for metric in metrics.per_class(np.array(rows)).values():
        value, low, high = metric[~np.isnan(metric[:, 0])].T
        assert (0 <= low).all() and (low <= value + 1e-12).all() and (value <= high + 1e-12).all() and (high <= 1).all()


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_every_class_has_its_row_and_column(classes):
    matrix = metrics.confusion_matrix(certain([0, 1], [0, 0], classes=classes))
    assert matrix.shape == (classes, classes) and matrix.sum() == 2 and matrix.dtype == np.int64
    assert metrics.per_class(matrix)["recall"].shape == (classes, 3)
    first, second = names(classes)[:2]
    assert (
        metrics.top_confusions(matrix, names(classes))
        == f"{second} is predicted as {first} 100.0% of the time (1 of 1)."
    )


def test_the_best_and_the_worst():
    few = np.array([0.5, np.nan, 0.9, 0.5])
    assert metrics.best_and_worst(few).tolist() == [2, 0, 3, 1]  # of equals, the first; without images, last
    assert metrics.best_and_worst(np.arange(20) / 20).tolist() == list(range(19, -1, -1))
    many = np.r_[np.arange(50) / 50, np.nan]
    assert metrics.best_and_worst(many).tolist() == [*range(49, 39, -1), *range(9, -1, -1)]
    mostly_empty = np.where(np.arange(50) < 5, 0.5, np.nan)
    assert metrics.best_and_worst(mostly_empty).tolist() == [0, 1, 2, 3, 4]
