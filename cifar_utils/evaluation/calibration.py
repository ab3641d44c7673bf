"""Calibration: of the images predicted with 80% confidence, are 80% correct? And how to make it so."""

from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
from scipy.optimize import minimize_scalar

from cifar_utils.evaluation.predictions import Predictions


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predictions grouped by the probability of the predicted class.

    Attributes:
        edges: [bins + 1] float64, equally wide from 0 to 1; a value on an edge belongs to the bin below it.
        count: [bins] int64, images.
        confidence: [bins] float64, mean probability of the predicted class; NaN for an empty bin.
        accuracy: [bins] float64, fraction of them that are correct; NaN for an empty bin.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of accuracy and confidence, 0 to 1, each bin weighted by its images. It depends on the bins.

        Chance alone makes it larger than 0, see `chance_error`.

        Source: M. Naeini, G. Cooper, M. Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian
        Binning", AAAI 2015.
        """
        distance = np.nan_to_num(abs(self.accuracy - self.confidence))
        return float((self.count * distance).sum() / self.count.sum())

    @property
    def chance_error(self) -> float:
        """About the expected calibration error that a calibrated network has on so many images, by chance alone.

        In a bin of n images with the confidence p, that is the mean distance of a binomial fraction from p, which is
        near sqrt(2 / pi) times its standard deviation, sqrt(p (1 - p) / n).
        """
        filled = self.count > 0
        p, n = np.minimum(self.confidence[filled], 1), self.count[filled]
        return float(np.sqrt(2 / np.pi) * np.sqrt(p * (1 - p) * n).sum() / n.sum())


class NoTemperature(ValueError):
    """No temperature fits best."""


class Temperature(float):
    """A number that knows what it was fitted for: `model`, see `Predictions`; "" where unknown."""

    model: str

    def __new__(cls, value: float, model: str = "") -> "Temperature":
        temperature = super().__new__(cls, value)
        temperature.model = model
        return temperature


def reliability(predictions: Predictions, bins: int = 15) -> Reliability:
    """Groups predictions into equally wide bins, (k / bins, (k + 1) / bins], 0 in the first.

    Raises:
        ValueError: bins is not a whole number from 1, or the predictions have no probabilities.
    """
    if not isinstance(bins, int) or bins < 1:
        raise ValueError(f"bins is {bins!r}; it must be a whole number from 1")
    edges = np.linspace(0, 1, bins + 1)
    # float32(0.2) is a little above 0.2: edges of the same type keep a value on an edge in the bin below it.
    place = np.searchsorted(edges.astype(np.float32)[1:-1], predictions.confidence, side="left")
    count = np.bincount(place, minlength=bins)

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.bincount(place, weights=values, minlength=bins)
        return np.divide(total, count, out=np.full(bins, np.nan), where=count > 0)

    return Reliability(edges, count, mean(predictions.confidence.astype(np.float64)), mean(predictions.correct))


def with_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """The predictions with all logits divided by the temperature: above 1 less confident, below 1 more.

    The predicted classes stay as they are.

    Raises:
        ValueError: the temperature is not above 0, or it was fitted on another network's predictions.
    """
    check_temperature(temperature, predictions.model)
    p = _softened(predictions.known_probabilities(), float(temperature)).astype(np.float32)
    return replace(predictions, probabilities=p)


def fit_temperature(validation: Predictions) -> Temperature:
    """The temperature, 0.05 to 20, with the lowest loss (negative log-likelihood) on the validation split.

    Source: C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.

    Raises:
        ValueError: predictions of another split: fitted on the test set, its calibration error would mean nothing.
        NoTemperature: all predictions are right; or so few images are at hand that the loss falls up to an end of the
            range.
    """
    if validation.split != "validation":
        raise ValueError(f"the temperature is fitted on the validation split only, not on {validation}")
    if validation.correct.all():
        raise NoTemperature(
            f"no temperature fits best, since all {len(validation):,} validation images are predicted correctly"
        )
    rows, p = np.arange(len(validation)), validation.known_probabilities()

    def loss(log_temperature: float) -> float:
        true = _softened(p, np.exp(log_temperature))[rows, validation.labels]
        return -np.log(np.maximum(true, 1e-300)).mean()

    ends = np.log(0.05), np.log(20)
    fit = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-5})
    if len(validation) < 100 and min(abs(fit.x - end) for end in ends) < 1e-3:  # of many, that is no accident
        raise NoTemperature(f"no temperature fits best, since {len(validation)} validation images are too few")
    return Temperature(np.exp(fit.x), validation.model)


def check_temperature(temperature: float, model: str) -> None:
    """Refuses, by a ValueError, a temperature that is not above 0 or that was fitted on another network's predictions.

    Args:
        temperature: a number, or a `Temperature`, which knows its network.
        model: fingerprint of the network at hand; "" where it is unknown.
    """
    if not isinstance(temperature, Real) or not 0 < temperature < float("inf"):
        raise ValueError(f"the temperature is {temperature!r}; it must be a number above 0")
    if model and getattr(temperature, "model", "") not in ("", model):
        raise ValueError(
            "the temperature was fitted on the predictions of another network, before this one was trained further, or "
            "with another test-time augmentation; fit it on this one's (on the command line: evaluate again)"
        )


def _softened(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / temperature): log p is the logits but for a constant per row, which softmax ignores."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), 1e-45)) / temperature
    powers = np.exp(logs - logs.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
