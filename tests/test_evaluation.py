"""Predictions and metrics, against numbers worked out by hand and against scikit-learn and SciPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics
from tiny import narrow, tiny

from cifar_utils import evaluation
from cifar_utils.data import CLASSES, Normalisation
from cifar_utils.evaluation import Predictions


def certain(labels, predicted, probability=1.0) -> Predictions:
    """Predictions that give one class this probability and share the rest equally."""
    probabilities = np.full((len(labels), 10), (1 - probability) / 9, np.float32)
    probabilities[np.arange(len(labels)), predicted] = probability
    return Predictions(np.arange(len(labels)), np.array(labels), probabilities)


def random_predictions(seed: int, count: int = 200) -> Predictions:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(10), count).astype(np.float32)
    labels = np.where(rng.random(count) < 0.5, probabilities.argmax(1), rng.integers(0, 10, count))
    return Predictions(np.arange(count), labels, probabilities)


# By hand


def test_an_asymmetric_matrix():
    """Rows are true classes: two airplanes called birds is not two birds called airplanes."""
    p = certain([0, 0, 0, 1, 2, 2, 2, 2, 2, 2], [0, 2, 2, 1, 2, 2, 2, 2, 2, 1])
    matrix = evaluation.confusion_matrix(p)
    assert matrix.shape == (10, 10) and matrix.sum() == 10
    assert matrix[:3, :3].tolist() == [[1, 0, 2], [0, 1, 0], [0, 1, 5]]
    recall = evaluation.classwise_accuracy(matrix)
    assert recall[:3] == pytest.approx([1 / 3, 1, 5 / 6])
    assert np.isnan(recall[3:]).all()  # classes without an image: not 0
    assert p.accuracy == pytest.approx(0.7)


def test_an_imbalanced_split():
    """Always saying cat: 90 % accurate where 90 % are cats, and useless for every other class."""
    p = certain([3] * 90 + [5] * 10, [3] * 100)
    assert p.accuracy == pytest.approx(0.9)
    recall = evaluation.classwise_accuracy(evaluation.confusion_matrix(p))
    assert (recall[3], recall[5]) == (1, 0)


@pytest.mark.parametrize("true,predicted,accuracy", [(9, 9, 1.0), (9, 0, 0.0)])
def test_one_image(true, predicted, accuracy):
    p = certain([true], [predicted])
    assert p.accuracy == accuracy
    assert evaluation.confusion_matrix(p)[true, predicted] == 1


@pytest.mark.parametrize(
    "probability,loss", [(1.0, 0.0), (0.5, math.log(2)), (0.1, math.log(10)), (0.0, -math.log(1e-12))]
)
def test_the_loss(probability, loss):
    p = certain([4, 7], [4, 7], probability)
    assert p.loss == pytest.approx(loss, rel=1e-6, abs=1e-12)
    assert not str(p.loss).startswith("-")


def test_a_loss_that_is_no_number_stays_one():
    p = certain([4, 7], [4, 7])
    p.probabilities[0] = np.nan
    assert math.isnan(p.loss)


def test_of_equal_probabilities_the_first_class_wins():
    p = Predictions(np.arange(2), np.array([2, 6]), np.full((2, 10), 0.1, np.float32))
    p.probabilities[1] = [0, 0, 0.5, 0, 0, 0, 0.5, 0, 0, 0]
    assert p.predicted.tolist() == [0, 2] and not p.correct.any()


def test_the_report():
    p = certain([0] * 4 + [1] * 2, [0, 0, 0, 8, 1, 1])
    assert evaluation.report(p, "Six images").splitlines() == [
        "Six images",
        f"accuracy 83.33% (95 % interval 43.65% to 96.99%), loss {-math.log(1e-12) / 6:.4f}",
        "",
        "  airplane     75.0%  (30.1% to 95.4%)",
        "  automobile  100.0%  (34.2% to 100.0%)",
        *[f"  {name:<12}n/a" for name in CLASSES[2:]],
        "",
        "airplane is called ship 25.0% of the time.",
    ]
    assert "loss 0.0000" in evaluation.report(certain([3], [3]), "perfect")


def test_confusions_in_words():
    matrix = np.diag([8, 0, 50, 6, 0, 2, 100, 100, 100, 0])
    matrix[3, 5] = 4  # cat -> dog 40 %
    matrix[5, 3] = 2  # dog -> cat 50 %
    matrix[0, 8], matrix[0, 2] = 1, 1  # airplane -> ship and bird 10 % each: the lower class first
    expected = [
        "dog is called cat 50.0% of the time",
        "cat is called dog 40.0% of the time",
        "airplane is called bird 10.0% of the time",
        "airplane is called ship 10.0% of the time",
    ]
    assert evaluation.confusions(matrix) == "; ".join(expected) + "."
    assert evaluation.confusions(matrix, most=1) == expected[0] + "."
    assert evaluation.confusions(np.diag([5] * 10)) == "No image is confused with another class."


# Against others' implementations


@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_agrees(seed):
    p = random_predictions(seed)
    y, y_hat, everything = p.labels, p.predicted, list(range(10))
    matrix = evaluation.confusion_matrix(p)
    assert p.accuracy == pytest.approx(metrics.accuracy_score(y, y_hat))
    assert (matrix == metrics.confusion_matrix(y, y_hat, labels=everything)).all()
    recall = metrics.recall_score(y, y_hat, labels=everything, average=None)
    assert evaluation.classwise_accuracy(matrix) == pytest.approx(recall)
    exact = p.probabilities.astype(np.float64)
    exact /= exact.sum(1, keepdims=True)
    assert p.loss == pytest.approx(metrics.log_loss(y, exact, labels=everything), rel=1e-5)


@pytest.mark.parametrize("hits,n,low,high", [(9400, 10_000, 93.52, 94.45), (940, 1000, 92.4, 95.3)])
def test_intervals_worked_out_elsewhere(hits, n, low, high):
    digits = 2 if n == 10_000 else 1
    assert tuple(round(100 * x, digits) for x in evaluation.wilson_interval(hits, n)) == (low, high)


@given(st.integers(1, 20_000), st.data())
def test_scipy_agrees_on_the_interval(n, choose):
    hits = choose.draw(st.integers(0, n) | st.sampled_from([0, n]))
    low, high = evaluation.wilson_interval(hits, n)
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0 <= low <= hits / n + 1e-12 and hits / n - 1e-12 <= high <= 1


def test_intervals_at_the_edges():
    assert evaluation.wilson_interval(0, 50) == pytest.approx((0, 0.0713), abs=1e-4)
    assert evaluation.wilson_interval(50, 50) == pytest.approx((0.9287, 1), abs=1e-4)
    assert all(map(math.isnan, evaluation.wilson_interval(0, 0)))
    intervals = evaluation.classwise_intervals(np.diag([1000] + [0] * 9))
    assert intervals[0] == evaluation.wilson_interval(1000, 1000)
    assert len(intervals) == 10 and all(map(math.isnan, intervals[9]))


@settings(max_examples=30)
@given(st.integers(0, 9), st.permutations(range(40)))
def test_the_order_of_images_does_not_matter(seed, order):
    p = random_predictions(seed, 40)
    q = Predictions(p.index[order], p.labels[order], p.probabilities[order])
    assert q.accuracy == p.accuracy and q.loss == pytest.approx(p.loss, rel=1e-12)
    assert (evaluation.confusion_matrix(q) == evaluation.confusion_matrix(p)).all()


# From a network


@pytest.fixture
def network():
    """A network whose batch norm has statistics of its own."""
    network = narrow()
    with torch.no_grad():
        network(Normalisation.of(tiny())(tiny().images))
    return network


def predict(network, **options):
    return evaluation.predict(network, tiny(20, "test"), Normalisation.of(tiny()), **options)


def test_predictions_are_those_of_the_network_without_augmentation(network):
    split, p = tiny(20, "test"), predict(network)
    with torch.no_grad():
        expected = network.eval()(Normalisation.of(tiny())(split.images)).softmax(1)
    assert p.probabilities == pytest.approx(expected.numpy(), abs=1e-6)
    assert p.probabilities.dtype == np.float32
    assert p.probabilities.sum(1) == pytest.approx(np.ones(20), abs=1e-6)
    assert (p.index == split.index.numpy()).all() and (p.labels == split.labels.numpy()).all()


@pytest.mark.parametrize("batch_size", [1, 7, 20])
def test_the_batch_size_does_not_matter(network, batch_size):
    np.testing.assert_allclose(
        predict(network, batch_size=batch_size).probabilities, predict(network).probabilities, atol=1e-5
    )


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_predict_leaves_the_network_as_found(network, mode, fails):
    network.train(mode)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    if fails:
        network.linear.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict(network)
    else:
        predict(network)
    assert all(module.training == mode for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert torch.is_grad_enabled()
