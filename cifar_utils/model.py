"""The convolutional network: a frozen whitening layer, three blocks of two convolutions each, one linear layer.

    images  [N,   3, 32, 32]
    whiten  [N,  24, 31, 31]   2x2 patches, decorrelated; measured on training images, then frozen
    block 1 [N,  64, 15, 15]   convolution, pooling, convolution
    block 2 [N, 128,  7,  7]
    block 3 [N, 128,  3,  3]
    pool    [N, 128]           the largest response anywhere in the image
    linear  [N,  10]           logits

Short and wide, after K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (airbench) and D. Page,
"How to Train Your ResNet", 2018-19.
"""

import torch
from torch import Tensor, nn

LOGIT_SCALE = 0.1  # small logits at the start, so that the first loss is that of guessing, ln 10


def convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    """3x3, same size. Starts as a copy of its input (Dirac) as far as channels go, so that depth costs nothing."""
    layer = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(layer.weight[:channels_in])
    return layer


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm without a scale of its own, since the next layer has one; it forgets old batches quickly."""
    layer = nn.BatchNorm2d(channels, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """[N, channels_in, S, S] -> [N, channels_out, S // 2, S // 2]. Pooling before the norm saves half of its work."""
    return nn.Sequential(
        convolution(channels_in, channels_out),
        nn.MaxPool2d(2),
        norm(channels_out),
        nn.SiLU(inplace=True),
        convolution(channels_out, channels_out),
        norm(channels_out),
        nn.SiLU(inplace=True),
    )


class CNN(nn.Module):
    """The workshop's classifier.

    Args:
        widths: channels of the three blocks.

    Input: [N, 3, 32, 32] float32, normalised. Output: [N, 10] logits.
    """

    def __init__(self, widths: tuple[int, int, int] = (64, 128, 128)) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, kernel_size=2, bias=False)
        self.whiten.weight.requires_grad_(False)
        self.blocks = nn.Sequential(block(24, widths[0]), block(widths[0], widths[1]), block(widths[1], widths[2]))
        self.linear = nn.Linear(widths[2], 10, bias=False)

    def features(self, images: Tensor) -> Tensor:
        """[N, widths[2], 3, 3]: what the last block responds to, and where."""
        x = images.contiguous(memory_format=torch.channels_last)  # the layout in which CPUs and GPUs convolve fastest
        return self.blocks(nn.functional.silu(self.whiten(x)))

    def forward(self, images: Tensor) -> Tensor:
        return LOGIT_SCALE * self.linear(self.features(images).amax((2, 3)))


def initialise_whitening(network: CNN, images: Tensor, eps: float = 5e-4) -> None:
    """Sets the first layer's filters from training images, so that its outputs are uncorrelated and of equal variance.

    The filters are the eigenvectors of the covariance of all 2x2 patches, each divided by the root of its
    eigenvalue, and their negatives, since the activation that follows lets only one sign through.

    Args:
        network: its first layer is changed in place.
        images: [N, 3, H, W] float32, normalised; a few thousand training images are plenty.
        eps: added to the eigenvalues, so that directions that hardly ever occur are not blown up.
    """
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    eigenvalues, eigenvectors = torch.linalg.eigh(torch.cov(patches.T))
    filters = (eigenvectors / (eigenvalues + eps).sqrt()).T.reshape(12, 3, 2, 2)
    with torch.no_grad():
        network.whiten.weight.copy_(torch.cat([filters, -filters]))


def count_parameters(network: nn.Module) -> int:
    """How many numbers training can change."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
