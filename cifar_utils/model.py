"""The convolutional network: a frozen whitening layer, three blocks of two convolutions each, one linear layer.

    images  [N,   3, 32, 32]
    whiten  [N,  24, 31, 31]   2x2 patches, decorrelated; measured on training images, then frozen
    block 1 [N,  64, 15, 15]   convolution, pooling, convolution
    block 2 [N, 128,  7,  7]
    block 3 [N, 128,  3,  3]
    pool    [N,  64]           the largest response anywhere in the image, and in its mirror image
    linear  [N,  10]           logits

A horse in a mirror is a horse, and the network need not learn that: the second half of each layer's filters are the
mirror images of the first half. A mirrored image then gives the mirrored features in swapped channels, layer by
layer, and the same logits in the end.

Short and wide, after K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (airbench) and D. Page,
"How to Train Your ResNet", 2018-19. The mirror symmetry is the smallest case of T. Cohen and M. Welling, "Group
Equivariant Convolutional Networks", 2016.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_utils import winograd

WIDE = 64  # channels that come in: from here on, fewer multiplications are worth what else they take
LOGIT_SCALE = 0.1  # small logits at the start, so that the first loss is that of guessing, ln 10


class Conv3x3(nn.Conv2d):
    """3x3, same size; a wide input is convolved on a CPU in the way that multiplies less, unless in 16-bit numbers."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, kernel_size=3, padding=1, bias=False)

    def filters(self) -> Tensor:
        """[channels_out, channels_in, 3, 3]"""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        filters = self.filters()
        has_digits_to_lose = x.dtype.itemsize >= 4 and not torch.is_autocast_enabled("cpu")
        if x.shape[1] >= WIDE and x.device.type == "cpu" and has_digits_to_lose:
            return winograd.convolution(x, filters)
        return F.conv2d(x, filters, padding=1)


class MirrorConv2d(Conv3x3):
    """3x3, same size: half as many filters as channels_out, and their mirror images.

    A mirror image sees its inputs in the mirror as well: each channel in place of its partner, C / 2 channels away.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out // 2)

    def filters(self) -> Tensor:
        mirrored = self.weight.roll(self.in_channels // 2, dims=1).flip(3)
        return torch.cat([self.weight, mirrored])


class MirrorNorm2d(nn.BatchNorm2d):
    """Batch norm with one mean, variance and bias for a channel and its mirror partner together."""

    def __init__(self, channels: int, **options) -> None:
        super().__init__(channels // 2, **options)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        # Partners side by side, as one channel of twice the width: no copy where channels come last in memory.
        pairs = x.permute(0, 2, 3, 1).reshape(n, h, 2 * w, c // 2).permute(0, 3, 1, 2)
        return super().forward(pairs).permute(0, 2, 3, 1).reshape(n, h, w, c).permute(0, 3, 1, 2)


def convolution(channels_in: int, channels_out: int, mirror: bool = True) -> nn.Conv2d:
    """3x3, same size. Starts as a copy of its input (Dirac) as far as channels go, so that depth costs nothing."""
    if mirror:
        layer, copies = MirrorConv2d(channels_in, channels_out), channels_in // 2
    else:
        layer, copies = Conv3x3(channels_in, channels_out), channels_in
    with torch.no_grad():
        nn.init.dirac_(layer.weight[:copies])
    return layer


def norm(channels: int, mirror: bool = True) -> nn.BatchNorm2d:
    """Batch norm without a scale of its own, since the next layer has one; it forgets old batches quickly."""
    layer = (MirrorNorm2d if mirror else nn.BatchNorm2d)(channels, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer


def block(channels_in: int, channels_out: int, mirror: bool = True) -> nn.Sequential:
    """[N, channels_in, S, S] -> [N, channels_out, T, T], T = (S - 1) // 2. Pooling before the norm saves its work.

    Windows of three by three that overlap: they cover an odd side evenly, and look the same in the mirror. Activations
    are not computed in place: `MirrorNorm2d` returns a view, and writing into one costs copies that double the time.
    """
    return nn.Sequential(
        convolution(channels_in, channels_out, mirror),
        nn.MaxPool2d(3, stride=2),
        norm(channels_out, mirror),
        nn.SiLU(),
        convolution(channels_out, channels_out, mirror),
        norm(channels_out, mirror),
        nn.SiLU(),
    )


class CNN(nn.Module):
    """The workshop's classifier.

    Args:
        widths: channels of the three blocks, even numbers.
        mirror: whether it is built to give mirror images the same logits.

    Input: [N, 3, S, S] float32, normalised; S is 32, or another multiple of 8 from 16 on. Output: [N, 10] logits.
    """

    def __init__(self, widths: tuple[int, int, int] = (64, 128, 128), mirror: bool = True) -> None:
        super().__init__()
        self.widths, self.mirror = widths, mirror
        self.whiten = nn.Conv2d(3, 24, kernel_size=2, bias=False)
        self.whiten.weight.requires_grad_(False)
        sizes = 24, *widths
        self.blocks = nn.Sequential(*(block(a, b, mirror) for a, b in zip(sizes, widths)))
        self.linear = nn.Linear(widths[2] // (2 if mirror else 1), 10, bias=False)

    def features(self, images: Tensor) -> Tensor:
        """[N, widths[2], 3, 3]: what the last block responds to, and where."""
        x = images.contiguous(memory_format=torch.channels_last)  # the layout in which CPUs and GPUs convolve fastest
        return self.blocks(F.silu(self.whiten(x)))

    def logits(self, features: Tensor) -> Tensor:
        """[N, widths[2], S, S] -> [N, 10]: the largest responses, partners added up, weighed by the linear layer."""
        largest = features.amax((2, 3))
        if self.mirror:
            largest = largest.unflatten(1, (2, -1)).sum(1)
        return LOGIT_SCALE * self.linear(largest)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images))


def initialise_whitening(network: CNN, images: Tensor, eps: float = 5e-4) -> None:
    """Sets the first layer's filters from training images, so that its outputs are uncorrelated and of equal variance.

    Filters are the eigenvectors of the patches' covariance, divided by the root of their eigenvalue: twelve, and their
    negatives, since the activation that follows lets only one sign through.

    With mirror symmetry, half of them must be mirror images of the others. A 2x2 patch, seen with its mirror image, is
    a sum of the two (symmetric) and a difference (antisymmetric), which are uncorrelated: six filters of each. The
    twelve are then the sums of a symmetric and an antisymmetric one, and the differences, which are the mirror images.

    Args:
        network: its first layer is changed in place.
        images: [N, 3, H, W] float32, normalised; a few thousand training images are plenty.
        eps: added to the eigenvalues, so that directions that hardly ever occur are not blown up.
    """
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 2, 2)
    if network.mirror:
        left, right = patches.unbind(3)  # [patches, 3, 2] each
        symmetric, antisymmetric = (_whitening(x, eps) for x in ((left + right) / 2**0.5, (left - right) / 2**0.5))
        filters = torch.stack([symmetric + antisymmetric, symmetric - antisymmetric], 3) / 2  # [6, 3, 2, 2]
        filters = torch.cat([filters, -filters])
        filters = torch.cat([filters, filters.flip(3)])
    else:
        filters = _whitening(patches, eps)
        filters = torch.cat([filters, -filters])
    with torch.no_grad():
        network.whiten.weight.copy_(filters)


def _whitening(patches: Tensor, eps: float) -> Tensor:
    """[n, ...] -> as many filters [m, ...] as a patch has numbers; their outputs: uncorrelated, of variance 1."""
    columns = patches.flatten(1).T.double()  # sums of millions: in single precision, some CPUs get them wrong by 1e-3
    eigenvalues, eigenvectors = torch.linalg.eigh(torch.cov(columns))
    return (eigenvectors / (eigenvalues + eps).sqrt()).T.unflatten(1, patches.shape[1:])


def count_parameters(network: nn.Module) -> int:
    """How many numbers training can change."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
