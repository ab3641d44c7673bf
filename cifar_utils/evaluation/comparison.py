"""Two networks on the same images: is one better, by how much, and on which images. And a mean over several seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, stdtrit  # importing scipy.stats would take most of a second

from cifar_utils.evaluation.predictions import Predictions


@dataclass(frozen=True, eq=False)
class Comparison:
    """A paired comparison: only images on which exactly one of the two is correct tell them apart.

    Attributes:
        images: how many both have predicted.
        only_first, only_second: positions, in the images' source, of those that only this one predicts correctly.
        difference: accuracy of the second minus that of the first, -1 to 1.
        interval: its 95% interval.
        p_value: of McNemar's exact test: how likely so uneven a count is where both are equally good.
        identical: whether the two tables hold the same predictions, probabilities included.
    """

    images: int
    only_first: np.ndarray
    only_second: np.ndarray
    difference: float
    interval: tuple[float, float]
    p_value: float
    identical: bool

    @property
    def p_in_words(self) -> str:
        """As in "p = 0.0321"."""
        return "p < 1e-300" if self.p_value < 1e-300 else f"p = {self.p_value:.3g}"

    def __str__(self) -> str:
        if self.identical:
            return f"{self.images:,} images: identical predictions (is it twice the same network?)"
        low, high = self.interval
        return (
            f"{self.images:,} images: only the first is correct on {len(self.only_first):,}, only the second on "
            f"{len(self.only_second):,}; second minus first {100 * self.difference:+.2f} points (95% interval "
            f"{100 * low:+.2f} to {100 * high:+.2f}), McNemar's exact {self.p_in_words}"
        )


def compare(first: Predictions, second: Predictions) -> Comparison:
    """Compares two networks' predictions image by image; the order of the rows may differ.

    The test is McNemar's in its exact, binomial form (Q. McNemar, Psychometrika 1947). The interval is that of
    A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched proportions", Statistics in
    Medicine 2005: half an image added to each of the four cells, then Wald's. Near p = 0.05 the two may disagree.

    Raises:
        ValueError: the two are not of the same images, or disagree on the classes or on a true class.
    """
    for given in (first, second):
        if not isinstance(given, Predictions):
            raise ValueError(f"two tables of Predictions can be compared, not a {type(given).__name__}")
    if first.classes != second.classes:
        raise ValueError("the classes of the two tables differ, in name or order: they are not of the same data set")
    a, b = (p.select(np.argsort(p.index)) for p in (first, second))
    sources = {"CIFAR-10" if p.source == "SAMPLE" else p.source for p in (a, b)} - {""}  # the sample is a part of it
    if a.split != b.split or len(sources) > 1 or not np.array_equal(a.index, b.index):
        raise ValueError(f"only predictions of the same images can be compared, not {first} and {second}, which differ")
    if not np.array_equal(a.labels, b.labels):
        raise ValueError("the two tables disagree on the true classes: they are not of the same data set")
    only_first, only_second = (a.index[x & ~y] for x, y in ((a.correct, b.correct), (b.correct, a.correct)))
    n, discordant = len(a), len(only_first) + len(only_second)
    fewer = min(len(only_first), len(only_second))
    p_value = min(1.0, float(2 * bdtr(fewer, discordant, 0.5)))  # of both tails, which are alike
    same = np.array_equal(a.predicted, b.predicted) and np.array_equal(a.probabilities, b.probabilities)
    return Comparison(
        n,
        only_first,
        only_second,
        (len(only_second) - len(only_first)) / n,
        difference_interval(len(only_first), len(only_second), n),
        p_value,
        same,
    )


def difference_interval(only_first: int, only_second: int, images: int) -> tuple[float, float]:
    """95% interval of the difference of two paired accuracies, second minus first, -1 to 1; see `compare`.

    Args:
        only_first, only_second: number of images that only this one predicts correctly.
        images: number of all images.
    """
    x, y, n = only_first + 0.5, only_second + 0.5, images + 2
    center, half = (y - x) / n, 1.959964 * np.sqrt(x + y - (y - x) ** 2 / n) / n
    return max(-1.0, float(center - half)), min(1.0, float(center + half))


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of a figure over several seeds, and half the width of Student's 95% interval of it.

    Both are in the unit of the values. The half width is infinite for a single value.
    """
    if len(values) < 2:
        return float(values[0]), math.inf
    half = stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(half)
