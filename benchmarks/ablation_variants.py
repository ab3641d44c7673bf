"""The fast recipe, and the same with one trick left out or changed, as options of `python -m cifar_utils train`.

    python -m cifar_utils train --model benchmarks/ablation_variants.py:network \\
        --recipe benchmarks/ablation_variants.py:with_sgd

ablation.py trains all of them by a sweep.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from cifar_utils import speedrun
from cifar_utils.data import Dataset
from cifar_utils.speedrun import CNN, recipes
from cifar_utils.speedrun.cnn import whiten_
from cifar_utils.speedrun.muon import muon
from cifar_utils.speedrun.winograd import accelerate
from cifar_utils.train import warm_up_and_decay

# Of five epochs: with the easiest half dropped, these are as many steps as three epochs with all images. Flips and
# shifts were a part of the recipe: this table is why they no longer are.
FAST = replace(speedrun.RECIPES["fast"], policy="flip_and_shift", epochs=5)


def network(classes: int) -> nn.Module:
    return CNN(classes)


def network_without_mirror(classes: int) -> nn.Module:
    return CNN(classes, mirror=False)


def fast(model: nn.Module, train: Dataset, *, seed: int, epochs: int | None, **changes) -> dict:
    """The recipe without the computed first layer; changes are fields of `speedrun.Recipe`."""
    accelerate(model)
    return speedrun.recipe(model, train, replace(FAST, **changes), seed=seed, epochs=epochs)


def everything(model: nn.Module, train: Dataset, **options) -> dict:
    """The whole recipe, for a new network."""
    normalize, cnn = model
    whiten_(cnn, normalize, train)
    return fast(model, train, **options)


def with_trained_first_layer(model: nn.Module, train: Dataset, **options) -> dict:
    model[1].whiten.weight.requires_grad_(True)
    return fast(model, train, **options)


def with_sgd(model: nn.Module, train: Dataset, **options) -> dict:
    """SGD in the same groups of parameters, with learning rates of its own."""
    found = everything(model, train, **options)
    head = model[1].head.weight
    trainable = [p for p in model.parameters() if p.requires_grad and p is not head]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1]},
        {"params": [head], "lr": 0.8},
        {"params": [p for p in trainable if p.ndim == 1], "lr": 1.6, "weight_decay": 0.0},  # biases
    ]
    optimizer = torch.optim.SGD(groups, lr=0.2, momentum=0.9, weight_decay=5e-4, nesterov=True)
    scheduler = warm_up_and_decay(optimizer, found["sampler"].total_steps(found["epochs"]))
    return found | {"optimizer": optimizer, "scheduler": scheduler}


def with_slow_biases(model: nn.Module, train: Dataset, **options) -> dict:
    """Biases learn at the filters' rate."""
    found = everything(model, train, **options)
    optimizer = muon(model, FAST.lr, size=train.size, head_lr_scale=8.0, bias_lr_scale=1.0)
    scheduler = warm_up_and_decay(optimizer, found["sampler"].total_steps(found["epochs"]), warm_up=0.0)
    return found | {"optimizer": optimizer, "scheduler": scheduler}


def without_resizing(model: nn.Module, train: Dataset, **options) -> dict:
    return everything(model, train, sizes=(), **options)


def without_selection(model: nn.Module, train: Dataset, *, epochs: int | None, **options) -> dict:
    """No example is dropped, in fewer epochs: as many steps."""
    epochs = epochs or FAST.epochs
    fewer = max(1, round(epochs * (1 - FAST.drop_easiest) + FAST.drop_easiest))
    return everything(model, train, drop_easiest=0.0, epochs=fewer, **options)


def without_augmentation(model: nn.Module, train: Dataset, **options) -> dict:
    return everything(model, train, policy="none", **options)


def with_32_bits(model: nn.Module, train: Dataset, **options) -> dict:
    return everything(model, train, **options) | {"autocast": None}


def with_32_bits_without_winograd(model: nn.Module, train: Dataset, **options) -> dict:
    found = with_32_bits(model, train, **options)
    accelerate(model, enabled=False)
    return found


def without_kept_memory(model: nn.Module, train: Dataset, **options) -> dict:
    """Freed memory is handed back, if no training of this process has kept it before."""
    tune, recipes.tune_malloc = recipes.tune_malloc, lambda: None
    try:
        return everything(model, train, **options)
    finally:
        recipes.tune_malloc = tune


@dataclass(frozen=True)
class Variant:
    """What differs.

    Attributes:
        recipe: of this file.
        network: of this file.
        saves_time_only: it changes a CPU's time, and of the result nothing but rounding.
    """

    recipe: Callable = everything
    network: Callable = network
    saves_time_only: bool = False


VARIANTS = {
    "everything": Variant(),
    "no mirror symmetry": Variant(network=network_without_mirror),
    "SGD instead of Muon": Variant(with_sgd),
    "first layer trained, not computed": Variant(with_trained_first_layer),
    "biases learn as slowly as filters": Variant(with_slow_biases),
    "no progressive resizing": Variant(without_resizing),
    "no example dropped, as many steps": Variant(without_selection),
    "no flips and shifts": Variant(without_augmentation),
    "float32": Variant(with_32_bits),
    "float32, no Winograd": Variant(with_32_bits_without_winograd, saves_time_only=True),
    "freed memory handed back": Variant(without_kept_memory, saves_time_only=True),
}
