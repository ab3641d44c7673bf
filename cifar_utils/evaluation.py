"""From a network and a split to predictions, and from predictions to every number that is reported."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from torch import Tensor, nn

from cifar_utils.data import CLASSES, Normalisation, Split


@dataclass(frozen=True)
class Predictions:
    """What a network says of a split, computed once; every metric is a function of it.

    Attributes:
        index: [N] int64, each image's position in CIFAR-10's own training or test set.
        labels: [N] int64, true classes.
        probabilities: [N, 10] float32, rows sum to 1.
    """

    index: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """[N] int64: the class with the highest probability, the first of equals."""
        return self.probabilities.argmax(1)

    @property
    def correct(self) -> np.ndarray:
        """[N] bool."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """Share of images whose predicted class is the true one (top-1), 0 to 1."""
        return float(self.correct.mean())

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats: that of guessing is ln 10 = 2.303."""
        true = self.probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        return float(0.0 - np.log(np.maximum(true, 1e-12)).mean())  # not -mean: a loss of -0.0 reads odd


@torch.no_grad()
def predict(network: nn.Module, split: Split, normalisation: Normalisation, batch_size: int = 500) -> Predictions:
    """Runs the network over a split, without augmentation, in evaluation mode, and leaves its mode as found."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    try:
        logits: list[Tensor] = [
            network(normalisation(images.to(device))).float().cpu() for images in split.images.split(batch_size)
        ]
    finally:
        network.train(was_training)
    return Predictions(split.index.numpy(), split.labels.numpy(), torch.cat(logits).softmax(1).numpy())


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """[10, 10] int64 by scikit-learn: rows are true classes, columns predicted ones, all ten always."""
    return sklearn_confusion_matrix(predictions.labels, predictions.predicted, labels=np.arange(len(CLASSES)))


def classwise_accuracy(matrix: np.ndarray) -> np.ndarray:
    """[10] float64, 0 to 1: the share of each class's images that are recognised (recall); NaN for an empty class."""
    total = matrix.sum(1)
    return np.divide(np.diag(matrix), total, out=np.full(len(matrix), np.nan), where=total > 0)


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval (95 % by default) of a proportion.

    Unlike p +- z sqrt(p (1 - p) / n) it stays within 0 and 1 and keeps its promise near them.
    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    if trials == 0:
        return float("nan"), float("nan")
    share, shrink = successes / trials, 1 + z**2 / trials
    centre = (share + z**2 / (2 * trials)) / shrink
    half = z * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / shrink
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def classwise_intervals(matrix: np.ndarray) -> list[tuple[float, float]]:
    """The 95 % Wilson interval of each class's accuracy, NaN for an empty class."""
    return [wilson_interval(int(matrix[label, label]), int(matrix[label].sum())) for label in range(len(matrix))]


def confusions(matrix: np.ndarray, most: int = 5) -> str:
    """The largest confusions in words, from the matrix at hand: also the confusion matrix's alt text."""
    total = matrix.sum(1)
    off = [(matrix[t, p] / total[t], t, p) for t in range(10) for p in range(10) if t != p and matrix[t, p] > 0]
    worst = sorted(off, key=lambda entry: (-entry[0], entry[1], entry[2]))[:most]
    if not worst:
        return "No image is confused with another class."
    return "; ".join(f"{CLASSES[t]} is called {CLASSES[p]} {share:.1%} of the time" for share, t, p in worst) + "."


def report(predictions: Predictions, title: str) -> str:
    """Accuracy with its interval, class by class, and the largest confusions, as text."""
    matrix = confusion_matrix(predictions)
    hits, n = int(predictions.correct.sum()), len(predictions.labels)
    low, high = wilson_interval(hits, n)
    lines = [title, f"accuracy {hits / n:.2%} (95 % interval {low:.2%} to {high:.2%}), loss {predictions.loss:.4f}", ""]
    for name, share, (low, high) in zip(CLASSES, classwise_accuracy(matrix), classwise_intervals(matrix)):
        value = "n/a" if np.isnan(share) else f"{share:6.1%}  ({low:.1%} to {high:.1%})"
        lines.append(f"  {name:<12}{value}")
    return "\n".join([*lines, "", confusions(matrix)])
