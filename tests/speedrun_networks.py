"""Networks of all kinds, with and without norms, for the tests of `speedrun`."""

import torch
from tiny import seeded, tiny
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small, resnet18

from cifar_utils import data
from cifar_utils.data import Dataset
from cifar_utils.models import Normalize, SmallCNN
from cifar_utils.speedrun.cnn import network


def synthetic(count: int = 48, size: int = 64, classes: int = 3) -> tuple[Dataset, Dataset]:
    """Training and validation images of any size, each class of another color."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2 * count) % classes
    noise = torch.randint(0, 100, (2 * count, 3, size, size), generator=generator)
    images = (noise + 150 * (torch.arange(3)[:, None, None] == labels[:, None, None, None] % 3)).to(torch.uint8)
    whole = Dataset(images, labels, tuple(f"class {i}" for i in range(classes)))
    return data.split(whole, 0.5)


def narrow(seed: int = 0, mirror: bool = True) -> nn.Sequential:
    """The fast network with few channels."""
    return network(tiny(), seed, widths=(8, 16, 16), mirror=mirror)


class SmallTransformer(nn.Module):
    """A vision transformer with a 3-D position embedding and a 0-D learned scale."""

    def __init__(self, classes: int = 10, size: int = 32, dim: int = 32, patch: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, dim))
        self.scale = nn.Parameter(torch.tensor(1.0))
        layer = nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT + self.position
        return self.head(self.scale * self.encoder(tokens).mean(1))


def plain(norm=None, classes: int = 10) -> nn.Sequential:
    """Two convolutions and a linear layer, with any norm or none."""
    layers = []
    for a, b in ((3, 16), (16, 32)):
        layers += [nn.Conv2d(a, b, 3, padding=1), *([norm(b)] if norm else []), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))


NETWORKS = {
    "SmallCNN": lambda: SmallCNN(widths=(8, 16, 16)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)),
    "perceptron": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)
    ),
    "resnet18": lambda: resnet18(num_classes=10),
    "mobilenet_v3_small": lambda: mobilenet_v3_small(num_classes=10),
    "SmallTransformer": SmallTransformer,
    "GroupNorm": lambda: plain(lambda channels: nn.GroupNorm(4, channels)),
    "without norm": plain,
    "dropout": lambda: nn.Sequential(nn.Dropout2d(0.2), plain(nn.BatchNorm2d), nn.Dropout(0.1)),
}  # fmt: skip


def make(name: str, seed: int = 0) -> nn.Sequential:
    """One of NETWORKS, behind a Normalize layer."""
    return seeded(lambda: nn.Sequential(Normalize(), NETWORKS[name]()), seed)
