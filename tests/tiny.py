"""Small splits cut from the shipped sample, and a training run that takes a second."""

from functools import cache
from pathlib import Path

import torch

from cifar_utils import data, training
from cifar_utils.data import Normalisation, Split
from cifar_utils.model import CNN, initialise_whitening
from cifar_utils.policy import PRESETS, Policy


@cache
def _sample(name: str) -> Split:
    splits = (data.load_test(sample=True),) if name == "test" else data.load_training(sample=True)
    return next(split for split in splits if split.name == name)


def tiny(count: int = 64, name: str = "training") -> Split:
    """So many images of a split of the sample, all classes about equally often."""
    split = _sample(name)
    return split.select(torch.linspace(0, len(split) - 1, count).long())


def narrow(seed: int = 0) -> CNN:
    """The network with few channels, before training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CNN((8, 16, 16))
    initialise_whitening(network, Normalisation.of(tiny())(tiny().images))
    return network


def train_tiny(
    run: Path,
    policy: Policy = PRESETS["full"],
    network: CNN | None = None,
    images: int = 64,
    threads: int = 1,
    save_every: int | None = None,
    allow_changes: bool = False,
    **changes,
) -> tuple[list[dict], CNN]:
    """Trains a narrow network on a few images in batches of 32; returns the history and the network.

    One thread, because so small a network gains nothing from more, and loses much where others compute as well. In
    32-bit numbers unless told otherwise, so that what tests see does not depend on the CPU.
    """
    usual = {"epochs": 2, "batch_size": 32, "learning_rate": 0.05, "skip": 0.0, "bfloat16": False}
    config = training.Config(**(usual | changes))
    network = network or narrow(config.seed)
    split, before = tiny(images), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        history = training.train(
            network,
            split,
            tiny(32, "validation"),
            policy,
            config,
            Normalisation.of(split),
            run,
            save_every=save_every,
            allow_changes=allow_changes,
        )
    finally:
        torch.set_num_threads(before)
    return history, network
