"""Calibration: numbers worked out by hand, torchmetrics, and what must not matter."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import certain, names, random_images, random_predictions, small_network

from cifar_utils.evaluation.calibration import (
    NoTemperature,
    Temperature,
    fit_temperature,
    reliability,
    with_temperature,
)
from cifar_utils.evaluation.inference import predict
from cifar_utils.evaluation.predictions import Predictions


def mixed() -> Predictions:
    """Half at probability 1.0, nine of ten right; half at 0.94, all right."""
    a, b = certain([0] * 9 + [1], [0] * 10, 1.0), certain([0] * 10, [0] * 10, 0.94)
    join = np.concatenate
    columns = join([a.labels, b.labels]), join([a.probabilities, b.probabilities])
    return Predictions(np.arange(20), *columns, classes=names(10))


@pytest.mark.parametrize("bins,error", [(15, 0.02), (10, 0.02), (20, 0.08), (50, 0.08), (1, 0.02)])
def test_the_error_depends_on_the_bins(bins, error):
    """In one bin the two halves make up for each other, in two they do not."""
    assert reliability(mixed(), bins).expected_calibration_error == pytest.approx(error, abs=1e-6)


def test_a_probability_of_one_has_a_bin_and_edges_belong_below():
    bins = reliability(certain([0] * 4, [0] * 4, 1.0), 10)
    assert bins.count.tolist() == [0] * 9 + [4] and bins.accuracy[9] == 1
    assert np.isnan(bins.accuracy[:9]).all() and np.isnan(bins.confidence[:9]).all()
    for k in range(2, 11):
        assert reliability(certain([0], [0], k / 10), 10).count.argmax() == k - 1
    assert bins.edges == pytest.approx(np.linspace(0, 1, 11))


def test_one_image():
    bins = reliability(certain([3], [5], 0.75), 4)
    assert bins.count.tolist() == [0, 0, 1, 0] and bins.accuracy[2] == 0 and bins.confidence[2] == 0.75
    assert bins.expected_calibration_error == 0.75


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bins", [5, 15])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_torchmetrics_agrees(seed, bins, classes):
    from torchmetrics.functional.classification import multiclass_calibration_error

    p = random_predictions(seed, 400, classes=classes)
    table = torch.from_numpy(p.probabilities), torch.from_numpy(p.labels)
    expected = multiclass_calibration_error(*table, classes, bins)
    assert reliability(p, bins).expected_calibration_error == pytest.approx(expected.item(), abs=1e-6)


def test_bad_numbers_are_refused():
    for bins in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"bins is {bins}; it must be a whole number from 1"):
            reliability(mixed(), bins)
    for temperature in (0, -1, math.nan, math.inf, "1", None):
        with pytest.raises(ValueError, match="must be a number above 0"):
            with_temperature(mixed(), temperature)
    with pytest.raises(ValueError, match="classes only"):
        reliability(Predictions(np.arange(2), np.array([0, 1]), predicted=[0, 1], classes=names(10)))


# Temperature


def from_logits(logits: np.ndarray, labels: np.ndarray, split: str = "validation") -> Predictions:
    p = torch.from_numpy(logits).softmax(1).numpy()
    return Predictions(np.arange(len(labels)), labels, p, classes=names(10), split=split)


def overconfident(factor: float, count: int = 20_000) -> Predictions:
    """Labels drawn from softmax(logits), predictions that claim softmax(factor * logits)."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (count, 10)).astype(np.float32)
    p = from_logits(logits, np.zeros(count, int)).probabilities.astype(float)
    labels = (p.cumsum(1) / p.sum(1, keepdims=True) > rng.random((count, 1))).argmax(1)
    return from_logits(factor * logits, labels)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_overconfidence(factor):
    p = overconfident(factor)
    temperature = fit_temperature(p)
    assert temperature == pytest.approx(factor, rel=0.03)
    after = with_temperature(p, temperature)
    assert after.loss <= p.loss + 1e-9 and reliability(after).expected_calibration_error < 0.015
    for nudge in (0.99, 1.01):
        assert with_temperature(p, temperature * nudge).loss >= after.loss


def test_the_temperature_is_never_fitted_on_test():
    for split in ("test", "training"):
        with pytest.raises(ValueError, match=f"on the validation split only, not on 200 {split} images"):
            fit_temperature(random_predictions(0, split=split))


def test_the_temperature_of_another_network_is_refused():
    temperature = fit_temperature(random_predictions(0, split="validation", model="a"))
    assert isinstance(temperature, Temperature) and temperature.model == "a"
    assert f"{temperature:.2f}" == f"{float(temperature):.2f}" and json.loads(json.dumps(temperature)) == temperature
    assert pickle.loads(pickle.dumps(temperature)).model == "a" == Temperature(1.5, "a").model
    with pytest.raises(ValueError, match="predictions of another network"):
        with_temperature(random_predictions(1, model="b"), temperature)
    for same_or_unknown in ("a", ""):
        assert with_temperature(random_predictions(1, model=same_or_unknown), temperature).model == same_or_unknown
    model, images = small_network(), random_images(40)
    of_six_views = Temperature(1.5, predict(model, random_images(20, split="validation"), tta=True).model)
    with pytest.raises(ValueError, match="with another test-time augmentation"):
        with_temperature(predict(model, images), of_six_views)
    with_temperature(predict(model, images, tta=True), of_six_views)
    with_temperature(random_predictions(1, model="b"), float(temperature))  # a plain number has no network
    with_temperature(random_predictions(1, model="b"), fit_temperature(random_predictions(0, split="validation")))


def test_where_all_are_right_no_temperature_is_best():
    """The loss falls as far as the temperature goes, so any number would only be where the search ended."""
    with pytest.raises(NoTemperature, match="no temperature fits best, since all 2 validation images are predicted"):
        fit_temperature(certain([1, 2], [1, 2], 0.9, "validation"))


@pytest.mark.parametrize("confident", ["all are wrong", "the wrong one is more confident"])
def test_where_the_loss_only_falls_with_the_temperature_none_is_best(confident):
    """Two validation images of a folder: the number would only be where the search ended, and classify would use it."""
    few = certain([1, 2], [3, 4], 0.9, "validation")
    if confident != "all are wrong":
        labels, p = np.array([0, 0]), np.array([[0.6, 0.4], [0.2, 0.8]], np.float32)
        few = Predictions(np.arange(2), labels, p, classes=("cat", "dog"), split="validation")
    with pytest.raises(NoTemperature, match="no temperature fits best, since 2 validation images are too few"):
        fit_temperature(few)


def test_of_many_images_the_end_of_the_range_is_the_temperature():
    """All predictions are wrong: the less confident, the better."""
    assert 19 < fit_temperature(certain([1, 2] * 50, [3, 4] * 50, 0.9, "validation")) <= 20 + 1e-9


def test_a_probability_a_little_above_1_has_a_chance_error():
    p = np.zeros((1, 10), np.float32)
    p[0, 1] = 1.0005  # as a table in 16 bits may have it
    assert reliability(Predictions(np.arange(1), np.array([1]), p, classes=names(10))).chance_error == 0


@pytest.mark.parametrize("count,factor", [(24, 1.0), (200, 3.0), (1000, 0.3)])
def test_a_calibrated_network_has_about_this_error_by_chance(count, factor):
    """Labels drawn from the predicted probabilities themselves, many times."""
    rng = np.random.default_rng(0)
    logits = factor * rng.normal(0, 2, (count, 10)).astype(np.float32)
    p = from_logits(logits, np.zeros(count, int)).probabilities.astype(float)
    found, chance = [], 0.0
    for _ in range(200):
        labels = (p.cumsum(1) / p.sum(1, keepdims=True) > rng.random((count, 1))).argmax(1)
        bins = reliability(from_logits(logits, labels))
        found.append(bins.expected_calibration_error)
        chance = bins.chance_error  # the same each time: it depends on the confidences only
    assert np.mean(found) == pytest.approx(chance, rel=0.15)


@settings(max_examples=30)
@given(st.integers(0, 99), st.floats(0.05, 20))
def test_a_temperature_changes_no_class_and_keeps_the_sums(seed, temperature):
    p = random_predictions(seed, 30)
    q = with_temperature(p, temperature)
    assert (q.predicted == p.predicted).all() and q.probabilities.sum(1) == pytest.approx(np.ones(30), abs=1e-5)
    change = q.probabilities.max(1) - p.probabilities.max(1)
    assert (change <= 1e-6).all() if temperature >= 1 else (change >= -1e-6).all()
    assert abs(temperature - 1) < 0.1 or np.abs(change).max() > 1e-3
    back = with_temperature(q, 1 / temperature)
    if temperature > 0.5:  # below, small probabilities vanish
        assert back.probabilities == pytest.approx(p.probabilities, abs=1e-3)


def test_dividing_logits_is_what_it_does():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(0, 3, (50, 10)).astype(np.float32), rng.integers(0, 10, 50)
    expected = from_logits(logits / 1.7, labels).probabilities
    assert with_temperature(from_logits(logits, labels), 1.7).probabilities == pytest.approx(expected, abs=1e-6)
