"""Small data sets cut from the shipped sample, networks of every kind, and a training run that takes a second."""

import hashlib
import signal
from functools import cache
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.transforms import v2

from cifar_utils import checkpoint, data, plots, runs
from cifar_utils.augment import PRESETS
from cifar_utils.data import Dataset
from cifar_utils.models import Normalize, SmallCNN
from cifar_utils.train import steps, warm_up_and_decay

PARTS = ("training", "validation", "test")


@cache
def _sample(split: str) -> Dataset:
    parts = (data.cifar10(train=False, sample=True),) if split == "test" else data.split(data.cifar10(sample=True))
    return next(part for part in parts if part.split == split)


def tiny(count: int = 64, split: str = "training") -> Dataset:
    """So many images of a split of the sample, all classes about equally often."""
    whole = _sample(split)
    return whole.select(torch.linspace(0, len(whole) - 1, count).long())


def seeded(make, seed: int = 0) -> nn.Module:
    """A model with weights from a seed; the caller's random numbers are left as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def narrow(seed: int = 0) -> nn.Sequential:
    """The plain network with few channels, before training."""
    return seeded(lambda: nn.Sequential(Normalize.from_dataset(tiny()), SmallCNN(10, widths=(8, 8, 16))), seed)


class TinyTransformer(nn.Module):
    """A vision transformer with a 3-D position embedding and a learned scale without dimensions."""

    def __init__(self, classes: int = 10, size: int = 32, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, kernel_size=8, stride=8)
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // 8) ** 2, width))
        self.encoder = nn.TransformerEncoderLayer(width, 2, 64, dropout=0.1, batch_first=True)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).mT + self.position
        return self.scale * self.head(self.encoder(tokens).mean(1))


def resnet18(classes: int = 10) -> nn.Module:
    from torchvision.models import resnet18

    return resnet18(num_classes=classes)


def mobilenet(classes: int = 10) -> nn.Module:
    from torchvision.models import mobilenet_v3_small

    return mobilenet_v3_small(num_classes=classes)


def with_dropout(classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, classes))


def with_group_norm(classes: int = 10) -> nn.Module:
    convolution = nn.Conv2d(3, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.ReLU()
    return nn.Sequential(*convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


def without_norm(classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, classes))


def flat(classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))


NETWORKS = {  # every kind that the workshop promises to train; each takes 32-pixel images
    "SmallCNN": lambda: SmallCNN(10, widths=(8, 8, 16)),
    "flat": flat,
    "resnet18": resnet18,
    "mobilenet": mobilenet,
    "transformer": TinyTransformer,
    "dropout": with_dropout,
    "GroupNorm": with_group_norm,
    "no norm": without_norm,
}


def network(name: str, seed: int = 0) -> nn.Sequential:
    """One of NETWORKS behind a Normalize layer, before training."""
    return seeded(lambda: nn.Sequential(Normalize.from_dataset(tiny()), NETWORKS[name]()), seed)


def train_tiny(
    run: Path,
    model: nn.Module | None = None,
    images: int = 64,
    threads: int = 1,
    stop_after: int | None = None,
    figures: bool = False,
    between=lambda state: None,
    **changes,
):
    """Trains a narrow network on a few images in batches of 32; returns the history and the network.

    One thread, because so small a network gains nothing from more, and loses much where others compute as well.
    With `stop_after`, the stop button is pressed after so many steps; `between` is called with every state. Without
    `figures`, TensorBoard gets an empty one: to draw the confusion matrix takes longer than to train.
    """
    options = {"transform": PRESETS["full"], "epochs": 2, "batch_size": 32, "run": run} | changes
    model = model or narrow(options.get("seed", 0))
    before, draw = torch.get_num_threads(), plots.confusion_matrix
    torch.set_num_threads(threads)
    plots.confusion_matrix = draw if figures else lambda *_: Figure(figsize=(1, 1))
    try:
        done = 0
        for number, state in enumerate(steps(model, tiny(images), tiny(32, "validation"), **options)):
            done += number > 0 and state.step > 0  # neither the start nor an epoch's end
            if stop_after and done == stop_after and state.step:
                signal.raise_signal(signal.SIGINT)
                stop_after = None
            between(state)
    finally:
        torch.set_num_threads(before)
        plots.confusion_matrix = draw
    return state.history, model


# Ways of training, to be stopped and resumed anywhere: each makes a model and options for `train_tiny`, the same ones
# every time. Two epochs of 96 images in batches of 32: six steps, or five where an epoch leaves out images.


def plainly() -> dict:
    """What `fit` does by default."""
    return {"model": narrow(), "images": 96}


def with_other_parts() -> dict:
    """Dropout, AdamW, OneCycleLR and RandAugment: parts with states and random numbers of their own."""
    model = network("dropout")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = OneCycleLR(optimizer, 1e-2, total_steps=6)
    parts = {"optimizer": optimizer, "scheduler": scheduler, "loss": nn.CrossEntropyLoss(label_smoothing=0.1)}
    return {"model": model, "images": 96, "transform": [v2.RandAugment(), PRESETS["light"]], **parts}


def fast() -> dict:
    """Every trick of `speedrun` at once."""
    from cifar_utils import speedrun
    from cifar_utils.speedrun.selection import DropEasiest

    train = tiny(96)
    model = speedrun.network(train, widths=(8, 16, 16))
    options = speedrun.recipe(model, train, "class", epochs=2)
    sampler = DropEasiest(96, 32, fraction=0.4)
    scheduler = warm_up_and_decay(options["optimizer"], sampler.total_steps(2), warm_up=0.0)
    return {"model": model, "images": 96, **options, "batch_size": 32, "sampler": sampler, "scheduler": scheduler}


WAYS = {"plainly": plainly, "with other parts": with_other_parts, "fast": fast}
STEPS = {"plainly": 6, "with other parts": 6, "fast": 5}


def without_seconds(history: list[dict]) -> list[dict]:
    """The history without the one column that differs between two equal runs."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def contents(run: Path) -> dict:
    """All that must be equal for two runs to be the same: every tensor and value of both checkpoints, but no times.

    Tensors appear as sums of their bytes, so that == compares bits.
    """
    found = {}
    for name in (runs.BEST, runs.LAST):
        state, tensors = checkpoint.load(run / name), {}
        trainer = state["states"]["trainer"]
        trainer["history"] = without_seconds(trainer["history"])
        del state["run"], trainer["seconds"]
        found[name] = checkpoint.pack(state, tensors), {name: digest(tensor) for name, tensor in tensors.items()}
    return found


def tensors(run: Path) -> list[dict]:
    """The bits of every tensor of both checkpoints: for a control, since the settings of two runs always differ."""
    return [bits for _, bits in contents(run).values()]


def digest(tensor: torch.Tensor) -> str:
    """Shape, type and bits in a few characters."""
    content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return f"{tuple(tensor.shape)} {tensor.dtype} {hashlib.sha256(content).hexdigest()[:16]}"
