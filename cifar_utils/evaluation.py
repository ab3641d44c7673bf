"""From predictions to every number that is reported: accuracies with their intervals, and the confusion matrix."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from cifar_utils.data import CLASSES
from cifar_utils.predictions import Predictions

LABEL_ERRORS = Path(__file__).parent / "label_errors.json"


def wilson_interval(successes: float, trials: float, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval (95 % by default) of a proportion; NaN without trials.

    Unlike p +- z sqrt(p (1 - p) / n) it stays within 0 and 1 and keeps its promise near them.
    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    if trials == 0:
        return float("nan"), float("nan")
    share, shrink = successes / trials, 1 + z**2 / trials
    centre = (share + z**2 / (2 * trials)) / shrink
    half = z * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / shrink
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def proportion(hits: np.ndarray) -> tuple[float, float, float]:
    """Share of True and its 95 % Wilson interval: (share, low, high). hits: [N] bool."""
    return (float(np.mean(hits)), *wilson_interval(int(np.sum(hits)), len(hits)))


def top_k(predictions: Predictions, k: int) -> np.ndarray:
    """[N] bool: whether the true class is among the k most probable ones; of equals, the first classes count first."""
    p, labels = predictions.known_probabilities(), predictions.labels
    if not 1 <= k <= p.shape[1]:
        raise ValueError(f"k is {k}; it must be from 1 to {p.shape[1]}")
    true = p[np.arange(len(p)), labels][:, None]
    before = (p > true) | ((p == true) & (np.arange(p.shape[1]) < labels[:, None]))
    return before.sum(1) < k


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """[10, 10] int64 by scikit-learn: rows are true classes, columns predicted ones, all ten always."""
    return sklearn_confusion_matrix(predictions.labels, predictions.predicted, labels=np.arange(len(CLASSES)))


def normalised(matrix: np.ndarray) -> np.ndarray:
    """[10, 10] float64: each row of a confusion matrix divided by its sum; a row of NaN for an empty class."""
    total = matrix.sum(1, keepdims=True)
    return np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)


def classwise(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Recall, precision and F1 of each class with their 95 % intervals.

    * recall, a class's accuracy: the share of its images that are recognised. Undefined for a class without images.
    * precision: the share of the images given its name that deserve it. Undefined for a name that is never given.
    * F1, their harmonic mean: 2 TP / (2 TP + FP + FN). Undefined where there are neither images nor names.

    Recall and precision have Wilson's interval. F1 = 2 J / (1 + J) grows with J = TP / (TP + FP + FN), a share of the
    images that are in the class or are said to be, so the ends of J's Wilson interval give those of F1's.

    Args:
        matrix: [10, 10] counts, rows are true classes.

    Returns:
        Name of the metric -> [10, 3] float64: value, low, high; NaN, never 0, where it is undefined.
    """
    hits, true, said = np.diag(matrix), matrix.sum(1), matrix.sum(0)

    def shares(trials: np.ndarray) -> np.ndarray:
        value = np.divide(hits, trials, out=np.full(len(hits), np.nan), where=trials > 0)
        return np.column_stack([value, [wilson_interval(int(h), int(n)) for h, n in zip(hits, trials)]])

    jaccard = shares(true + said - hits)
    return {"recall": shares(true), "precision": shares(said), "F1": 2 * jaccard / (1 + jaccard)}


def confusions(matrix: np.ndarray, most: int = 5) -> str:
    """The largest confusions in words, from the matrix at hand: also the confusion matrix's alt text."""
    share = normalised(matrix)
    off = [(share[t, p], t, p) for t in range(10) for p in range(10) if t != p and matrix[t, p] > 0]
    worst = sorted(off, key=lambda entry: (-entry[0], entry[1], entry[2]))[:most]
    if not worst:
        return "No image is confused with another class."
    return "; ".join(f"{CLASSES[t]} is called {CLASSES[p]} {share:.1%} of the time" for share, t, p in worst) + "."


def most_certain_mistakes(predictions: Predictions, most: int = 16) -> np.ndarray:
    """Rows of the wrong predictions, those made with the highest probability first."""
    wrong = np.flatnonzero(~predictions.correct)
    return wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:most]


def least_certain_hits(predictions: Predictions, most: int = 16) -> np.ndarray:
    """Rows of the right predictions, those made with the lowest probability first."""
    right = np.flatnonzero(predictions.correct)
    return right[np.argsort(predictions.confidence[right], kind="stable")][:most]


@cache
def label_errors() -> frozenset[int]:
    """The 54 test images whose label most of five people rejected: positions in CIFAR-10's test set.

    Source: C. Northcutt, A. Athalye, J. Mueller, "Pervasive Label Errors in Test Sets Destabilize Machine Learning
    Benchmarks", NeurIPS 2021; the file says from where and under which licence. (Lists of test images with
    near-duplicates among the training images, such as ciFAIR's, state no licence, so none ships here.)
    """
    return frozenset(json.loads(LABEL_ERRORS.read_text())["index"])


def without_label_errors(predictions: Predictions) -> Predictions:
    """The rows of test images whose label nobody is known to doubt.

    Raises:
        ValueError: not the test split; the list is of test images.
    """
    if predictions.split != "test":
        raise ValueError(f"the known label errors are of test images; these are of the {predictions.split} split")
    return predictions.select(~np.isin(predictions.index, list(label_errors())))
