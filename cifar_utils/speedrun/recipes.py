"""All tricks together, as keyword arguments for `fit`.

    model = speedrun.network(train)
    fit(model, train, val, **speedrun.recipe(model, train), run="runs/fast")

Every number was chosen on validation images, except those of *wide*, see there.
"""

from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import nn

from cifar_utils.augment import PRESETS
from cifar_utils.data import Dataset
from cifar_utils.models import uncompiled
from cifar_utils.speedrun.bfloat16 import has_bfloat16
from cifar_utils.speedrun.cnn import CNN
from cifar_utils.speedrun.malloc import tune_malloc
from cifar_utils.speedrun.muon import muon
from cifar_utils.speedrun.resizing import SIZES, ProgressiveResizing, scaled
from cifar_utils.speedrun.selection import DropEasiest
from cifar_utils.train import best_device, warm_up_and_decay

FEW_IMAGES = 10_000  # fewer are trained on in smaller batches and more epochs
SMALL_FOR_LONGER = ((0.5, 0.3), (0.75, 0.8))  # see `resizing`


@dataclass(frozen=True)
class Recipe:
    """How a network is trained fast.

    Attributes:
        policy: of the augmentation, one of PRESETS.
        epochs: passes over the training images; those after the first drop the easiest ones.
        batch_size: images per step, at most.
        lr: learning rate of the filters in the first step, from where it falls to 0.
        drop_easiest: fraction of the images, see `selection`.
        label_smoothing: fraction of the target that is spread over all classes.
        sizes: of the images, see `resizing`.
        network: options of `speedrun.network` that belong to it.

    Raises:
        ValueError: there is no such policy, or the batch size or an option of the network is not a legal one.
    """

    policy: str = "full"
    epochs: int = 9
    batch_size: int = 500
    lr: float = 0.18
    drop_easiest: float = 0.5
    label_smoothing: float = 0.0
    sizes: tuple[tuple[float, float], ...] = SIZES
    network: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.policy not in PRESETS:
            raise ValueError(f"Recipe.policy is {self.policy!r}; it must be one of {', '.join(PRESETS)}")
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"Recipe.batch_size is {self.batch_size!r}; it must be a whole number of at least 1")
        if unknown := self.network.keys() - {"widths", "mirror"}:
            raise ValueError(f"Recipe.network has {', '.join(sorted(unknown))}; it may have widths and mirror")


RECIPES = {
    "class": Recipe(),
    "fast": Recipe("none", epochs=6),  # each image is used three or four times: too seldom for augmentation to gain
    "short": Recipe(epochs=7, sizes=SMALL_FOR_LONGER),
    # Without whitening and mirror symmetry a network takes more epochs. Small images pay for them.
    "own": Recipe(epochs=30, label_smoothing=0.1, sizes=SMALL_FOR_LONGER),
    # Few images: dropping the easy ones gained nothing on validation images.
    "sample": Recipe(epochs=24, batch_size=250, drop_easiest=0.0, label_smoothing=0.1),
    # Three minutes for few images: a wider network, and most steps at the full size. Both paid more than epochs did.
    "few": Recipe(
        epochs=33, batch_size=250, drop_easiest=0.0, label_smoothing=0.1, sizes=((0.75, 0.4),),
        network={"widths": (96, 192, 256)},
    ),
    # A long training has the time for every image in every epoch at its full size, and memorizes them unless told not
    # to be too sure; and without mirror symmetry, all filters are the network's own. These numbers are those of Muon's
    # published run, which has no validation images; only the epochs are ours, chosen by their time.
    "wide": Recipe(
        "flip_and_shift", epochs=12, batch_size=2000, lr=0.24, drop_easiest=0.0, label_smoothing=0.2, sizes=(),
        network={"widths": (64, 256, 256), "mirror": False},
    ),
}  # fmt: skip


def recipe(
    model: nn.Module,
    train: Dataset,
    name: str | Recipe | None = None,
    *,
    epochs: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> dict:
    """Keyword arguments for `fit`: transform, loss, optimizer, scheduler, sampler, epochs, batch_size, autocast, seed.

    A network of your own gets gentler learning rates than `CNN` (see `muon`), and progressive resizing only if it
    takes smaller images. On a CPU, `tune_malloc` is called.

    Args:
        model: any network; for `speedrun.network`, see also `RECIPES[name].network`.
        train: the training images.
        name: one of RECIPES, or a recipe of your own; by default "class", "own" for another network than `CNN`, or
            "sample" for fewer than 10,000 images.
        epochs: number of epochs; by default the recipe's.
        seed: of the order of images and of their augmentation.
        device: where you will train; by default `best_device`.

    Raises:
        ValueError: there is no such recipe, or see `muon`.
    """
    is_fast_network = any(isinstance(module, CNN) for module in model.modules())
    name = name or ("sample" if len(train) < FEW_IMAGES else "class" if is_fast_network else "own")
    chosen = name if isinstance(name, Recipe) else RECIPES.get(name)
    if chosen is None:
        raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    device = torch.device(device or best_device())
    epochs = chosen.epochs if epochs is None else epochs
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs is {epochs!r}; it must be a whole number of at least 1")
    if device.type == "cpu":
        tune_malloc()
    rates = {"head_lr_scale": 8.0, "bias_lr_scale": 100.0} if is_fast_network else {}
    optimizer = muon(model, chosen.lr, size=train.size, **rates)
    sampler = DropEasiest(len(train), chosen.batch_size, seed, chosen.drop_easiest)
    policy = PRESETS[chosen.policy]
    smaller = {scaled(train.size, fraction) for fraction, _ in chosen.sizes}
    can_resize = all(_takes(model, size) for size in smaller)
    if not can_resize:
        print(f"This network takes images of {train.size} pixels only: no progressive resizing.", flush=True)
    return {
        "transform": ProgressiveResizing(policy, chosen.sizes) if chosen.sizes and can_resize else policy,
        "loss": nn.CrossEntropyLoss(label_smoothing=chosen.label_smoothing),
        "optimizer": optimizer,
        "scheduler": warm_up_and_decay(optimizer, sampler.total_steps(epochs), warm_up=0.0),
        "sampler": sampler,
        "epochs": epochs,
        "batch_size": chosen.batch_size,
        "autocast": torch.bfloat16 if has_bfloat16(device) else None,
        "seed": seed,
    }


@torch.no_grad()
def _takes(model: nn.Module, size: int) -> bool:
    """Whether the model takes images of this size; tried on a copy."""
    copy = deepcopy(uncompiled(model)).eval()
    try:
        copy(torch.zeros(2, 3, size, size, device=next(copy.parameters()).device))
    except Exception:  # each network has its own
        return False
    return True
