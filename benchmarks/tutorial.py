"""What a user would do without the workshop: a tutorial's pipeline, and a paper's network by its recipe.

Each is a generator that trains without end and yields its network after every step.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10
from torchvision.transforms import v2

from cifar_utils import settings
from cifar_utils.augment import FULL
from cifar_utils.models import Normalize

TO_TENSOR = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]


def train(network: nn.Module, transform, batch_size: int, optimizer, device: torch.device) -> Iterator[nn.Module]:
    images = CIFAR10(settings.data_directory(), train=True, transform=transform)
    loader = DataLoader(images, batch_size, shuffle=True, num_workers=2, persistent_workers=True)
    network.to(device)
    while True:
        for x, labels in loader:
            network.train()
            loss = F.cross_entropy(network(x.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield network


def tutorial(seed: int, device: torch.device) -> Iterator[nn.Module]:
    """Three convolutions with pooling, one linear layer, SGD with momentum, batches of 64, the full policy.

    Image by image, by two DataLoader workers with torchvision's transforms on PIL images, as most tutorials have it.
    """
    torch.manual_seed(seed)
    layers, channels = [], 3
    for width in (32, 64, 128):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    network = nn.Sequential(Normalize(), *layers, nn.Flatten(), nn.Linear(128 * 4 * 4, 10))
    transform = v2.Compose([FULL.to_torchvision(), *TO_TENSOR])
    return train(network, transform, 64, torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9), device)


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut that has no parameters."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.stride = channels_out // channels_in
        self.layers = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, self.stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(x)
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(out + F.pad(shortcut, (0, 0, 0, 0, 0, out.shape[1] - x.shape[1])))


def resnet_20(seed: int, device: torch.device) -> Iterator[nn.Module]:
    """ResNet-20 for CIFAR-10 with its paper's recipe: SGD, batches of 128, learning rate 0.1, crops and flips.

    (Its first step down of the learning rate comes after 32,000 steps, hours away on a CPU.)
    Source: K. He et al., "Deep Residual Learning for Image Recognition", 2016, section 4.2.
    """
    torch.manual_seed(seed)
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    network = nn.Sequential(
        Normalize(), nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        *[Residual(a, b) for a, b in zip(widths, widths[1:])],
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    transform = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *TO_TENSOR])
    sgd = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    return train(network, transform, 128, sgd, device)
