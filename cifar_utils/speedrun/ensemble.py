"""An ensemble: several networks predict, and the mean of their probabilities counts.

    models = [runs.load(f"runs/seed_{seed}", speedrun.network(train)) for seed in range(3)]
    predict(Ensemble(models), test)

Networks that started from different weights err on different images. Where images are few, three small ones, trained
in the time of one, are more often right than that one (benchmarks/RESULTS.md).

Source: L. Hansen and P. Salamon, "Neural Network Ensembles", 1990; B. Lakshminarayanan et al., "Simple and Scalable
Predictive Uncertainty Estimation using Deep Ensembles", 2017.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Several networks as one, for whatever takes a network; train them first, one by one.

    Args:
        models: at least one, of the same classes.

    Input: [N, 3, S, S] float32 in 0 to 1. Output: [N, classes] logarithms of the mean probabilities, which serve as
    logits.

    Raises:
        ValueError: there is no model.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        if not self.models:
            raise ValueError("an ensemble needs at least one model")

    def forward(self, images: Tensor) -> Tensor:
        each = torch.stack([model(images).log_softmax(1) for model in self.models])
        return each.logsumexp(0) - math.log(len(each))
