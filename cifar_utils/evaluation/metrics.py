"""From predictions to every number that is reported: accuracies with their intervals, and the confusion matrix."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from cifar_utils.evaluation.predictions import Predictions

LABEL_ERRORS = Path(__file__).parent / "label_errors.json"
MOST_LISTED = 20  # of more classes, texts and dot plots show the ten best and the ten worst


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """95% confidence interval of a proportion, 0 to 1; NaN without trials.

    Unlike p +- z sqrt(p (1 - p) / n) it stays within 0 and 1 and keeps its promise near them.
    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.

    Args:
        successes, trials: numbers of them, at least 0.
    """
    if trials == 0:
        return float("nan"), float("nan")
    z = 1.959964  # of a normal distribution, 95% lie within so many standard deviations
    fraction, shrink = successes / trials, 1 + z**2 / trials
    center = (fraction + z**2 / (2 * trials)) / shrink
    half = z * np.sqrt(fraction * (1 - fraction) / trials + z**2 / (4 * trials**2)) / shrink
    return float(max(0.0, center - half)), float(min(1.0, center + half))


def proportion(correct: np.ndarray) -> tuple[float, float, float]:
    """Fraction of True and its 95% Wilson interval: (fraction, low, high). correct: [N] bool."""
    return (float(np.mean(correct)), *wilson_interval(int(np.sum(correct)), len(correct)))


def top_k(predictions: Predictions, k: int) -> np.ndarray:
    """[N] bool: whether the true class is among the k most probable ones; of equals, the first classes count first.

    Raises:
        ValueError: k is not a whole number from 1 to the number of classes, or there are no probabilities.
    """
    p, labels = predictions.known_probabilities(), predictions.labels
    if k not in range(1, p.shape[1] + 1):
        raise ValueError(f"k is {k}; it must be a whole number from 1 to {p.shape[1]}")
    true = p[np.arange(len(p)), labels][:, None]
    before = (p > true) | ((p == true) & (np.arange(p.shape[1]) < labels[:, None]))
    return before.sum(1) < k


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """[C, C] int64 counts: rows are true classes, columns predicted ones, also for classes without images."""
    count = len(predictions.classes)
    cells = count * predictions.labels + predictions.predicted
    return np.bincount(cells, minlength=count**2).reshape(count, count)


def normalized(matrix: np.ndarray) -> np.ndarray:
    """[C, C] float64: each row of a confusion matrix divided by its sum; a row of NaN for a class without images."""
    total = matrix.sum(1, keepdims=True)
    return np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)


def per_class(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Recall, precision and F1 of each class with their 95% intervals.

    - recall, a class's accuracy: the fraction of its images that are recognized. Undefined for a class without images.
    - precision: of the images predicted as the class, the fraction that belong to it. Undefined for a class that is
      never predicted.
    - F1, their harmonic mean: 2 TP / (2 TP + FP + FN). Undefined for a class without images that is never predicted.

    Recall and precision have Wilson's interval. F1 = 2 J / (1 + J) grows with J = TP / (TP + FP + FN), a fraction of
    the images that are in the class or predicted as it, so the ends of J's Wilson interval give those of F1's.

    Args:
        matrix: [C, C] counts, rows are true classes.

    Returns:
        Name of the metric -> [C, 3] float64: value, low, high; NaN, never 0, where it is undefined.
    """
    correct, true, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)

    def fractions(trials: np.ndarray) -> np.ndarray:
        value = np.divide(correct, trials, out=np.full(len(correct), np.nan), where=trials > 0)
        return np.column_stack([value, [wilson_interval(int(c), int(n)) for c, n in zip(correct, trials)]])

    jaccard = fractions(true + predicted - correct)
    return {"recall": fractions(true), "precision": fractions(predicted), "F1": 2 * jaccard / (1 + jaccard)}


def best_and_worst(accuracy: np.ndarray) -> np.ndarray:
    """Positions of classes, most accurate first, NaN last; of more than 20 classes the ten best and the ten worst.

    Args:
        accuracy: [C] float, NaN for a class without images (left out where there are more than 20 classes).
    """
    order = np.argsort(-np.nan_to_num(accuracy, nan=-1), kind="stable")
    if len(order) <= MOST_LISTED:
        return order
    order = order[~np.isnan(accuracy[order])]
    ends = MOST_LISTED // 2
    return order if len(order) <= MOST_LISTED else np.concatenate([order[:ends], order[-ends:]])


def which_listed(accuracy: np.ndarray) -> str:
    """What `best_and_worst` chooses of more than 20 classes, as in "the 10 best and the 10 worst of 100 classes".

    Args:
        accuracy: see `best_and_worst`.
    """
    have_images, ends = int((~np.isnan(accuracy)).sum()), MOST_LISTED // 2
    if have_images <= MOST_LISTED:
        return f"the {have_images} of {len(accuracy)} classes that have images"
    return f"the {ends} best and the {ends} worst of {len(accuracy)} classes"


def top_confusions(matrix: np.ndarray, classes: Sequence[str], most: int = 5) -> str:
    """The largest confusions of a [classes, classes] matrix in words, by their fraction of the true class, in percent.

    Their order is that of the fraction's lower limit, so that 1 of 1 image does not come before 90 of 100.

    Args:
        matrix: counts, see `confusion_matrix`.
        classes: names.
        most: number of confusions at most.
    """
    total = matrix.sum(1).tolist()
    pairs = [(t, p) for t, p in np.argwhere(matrix > 0).tolist() if t != p]
    off = [(wilson_interval(int(matrix[t, p]), total[t])[0], t, p) for t, p in pairs]
    largest = sorted(off, key=lambda entry: (-entry[0], entry[1], entry[2]))[:most]
    if not largest:
        return "No image is confused with another class."
    words = (
        f"{classes[t]} is predicted as {classes[p]} {matrix[t, p] / total[t]:.1%} of the time "
        f"({matrix[t, p]:,} of {total[t]:,})"
        for _, t, p in largest
    )
    return "; ".join(words) + "."


def most_confident_errors(predictions: Predictions, most: int = 16) -> np.ndarray:
    """[n] int64: rows of at most `most` wrong predictions, those made with the highest probability first."""
    wrong = np.flatnonzero(~predictions.correct)
    return wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:most]


def least_confident_correct(predictions: Predictions, most: int = 16) -> np.ndarray:
    """[n] int64: rows of at most `most` correct predictions, those made with the lowest probability first."""
    right = np.flatnonzero(predictions.correct)
    return right[np.argsort(predictions.confidence[right], kind="stable")][:most]


@cache
def label_errors() -> frozenset[int]:
    """The 54 test images of CIFAR-10 whose label most of five people rejected: positions in its test set.

    Source: C. Northcutt, A. Athalye, J. Mueller, "Pervasive Label Errors in Test Sets Destabilize Machine Learning
    Benchmarks", NeurIPS 2021; the file names its origin and license. (Lists of test images with near-duplicates among
    the training images, such as ciFAIR's, state no license, so none ships here.)
    """
    return frozenset(json.loads(LABEL_ERRORS.read_text(encoding="utf-8"))["index"])


def without_label_errors(predictions: Predictions) -> Predictions:
    """The rows of test images that are not on the list of known label errors.

    Raises:
        ValueError: not CIFAR-10's test split, or the list holds every row.
    """
    if predictions.split != "test" or predictions.source not in ("CIFAR-10", "SAMPLE"):
        raise ValueError(f"the known label errors are of CIFAR-10's test images; these are {predictions}")
    return predictions.select(~np.isin(predictions.index, list(label_errors())))
