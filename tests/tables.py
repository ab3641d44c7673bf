"""Predictions made up for tests."""

import numpy as np

from cifar_utils.predictions import Predictions


def certain(labels, predicted, probability=1.0, split="test") -> Predictions:
    """Predictions that give one class this probability and share the rest equally."""
    probabilities = np.full((len(labels), 10), (1 - probability) / 9, np.float32)
    probabilities[np.arange(len(labels)), predicted] = probability
    return Predictions(np.arange(len(labels)), np.array(labels), probabilities, np.array(predicted), split)


def random_predictions(seed: int, count: int = 200, split: str = "test") -> Predictions:
    """About half of them right, index shuffled."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(10), count).astype(np.float32)
    labels = np.where(rng.random(count) < 0.5, probabilities.argmax(1), rng.integers(0, 10, count))
    return Predictions(rng.permutation(count), labels, probabilities, split=split)
