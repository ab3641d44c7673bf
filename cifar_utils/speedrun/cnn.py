"""The fast network: a frozen whitening layer, three blocks of two convolutions each, one linear layer.

    images  [N,   3, 32, 32]
    whiten  [N,  24, 31, 31]   2x2 patches, decorrelated: computed from training images, then frozen
    block 1 [N,  64, 15, 15]   convolution, pooling, convolution
    block 2 [N, 128,  7,  7]
    block 3 [N, 128,  3,  3]
    pool    [N,  64]           the largest response anywhere in the image, and in its mirror image
    head    [N,  10]           logits

Short and wide, after K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (airbench) and D. Page,
"How to Train Your ResNet", 2018-19.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_utils.data import Dataset
from cifar_utils.models import Normalize
from cifar_utils.speedrun.mirror import MirrorConv2d, MirrorNorm2d
from cifar_utils.speedrun.whitening import FILTERS, whitening, whitening_filters
from cifar_utils.speedrun.winograd import accelerate

WIDTHS = 64, 128, 128
LOGIT_SCALE = 0.1  # small logits at the start, so that the first loss is that of guessing: ln 10 for ten classes
WHITENING_PIXELS = 5000 * 32 * 32  # of 5,000 images of CIFAR-10, or of as many larger ones as fit


def block(channels_in: int, channels_out: int, mirror: bool = True) -> nn.Sequential:
    """[N, channels_in, S, S] -> [N, channels_out, T, T], T = (S - 1) // 2. Pooling before the norm saves its work.

    The 3x3 pooling windows overlap: they cover an odd side evenly, and are symmetric in the mirror. Activations are
    not computed in place: `MirrorNorm2d` returns a view, and writing into one costs copies that double the time.
    """

    def convolution(channels_in: int) -> nn.Conv2d:
        if mirror:
            return MirrorConv2d(channels_in, channels_out)
        return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)

    def norm() -> nn.BatchNorm2d:
        """Without a gain of its own, since the next layer has one; it forgets old batches quickly."""
        layer = (MirrorNorm2d if mirror else nn.BatchNorm2d)(channels_out, momentum=0.4)
        layer.weight.requires_grad_(False)
        return layer

    return nn.Sequential(
        convolution(channels_in),
        nn.MaxPool2d(3, stride=2),
        norm(),
        nn.SiLU(),
        convolution(channels_out),
        norm(),
        nn.SiLU(),
    )


class CNN(nn.Module):
    """The fast network, without normalization; `network` makes it ready for training.

    Args:
        classes: how many.
        widths: channels of the three blocks, even numbers if mirror.
        mirror: whether it is built to give mirror images the same logits.

    Input: [N, 3, S, S] float32, normalized; S is 32, or another multiple of 8 from 16 on. Output: [N, classes] logits.
    """

    def __init__(self, classes: int = 10, widths: tuple[int, int, int] = WIDTHS, mirror: bool = True) -> None:
        super().__init__()
        self.mirror = mirror
        self.whiten = whitening()
        sizes = FILTERS, *widths
        self.blocks = nn.Sequential(*(block(a, b, mirror) for a, b in zip(sizes, widths)))
        self.head = nn.Linear(widths[2] // (2 if mirror else 1), classes, bias=False)

    def features(self, images: Tensor) -> Tensor:
        """[N, widths[2], 3, 3]: what the last block responds to, and where."""
        _check_size(*images.shape[2:])
        x = images.contiguous(memory_format=torch.channels_last)  # the layout in which CPUs and GPUs convolve fastest
        return self.blocks(F.silu(self.whiten(x)))

    def logits(self, features: Tensor) -> Tensor:
        """[N, widths[2], T, T] -> [N, classes]: the largest responses, partners added up, weighted by the head."""
        largest = features.flatten(2).max(2).values  # compiled for 16 bits, the gradient of amax is NaN
        if self.mirror:
            largest = largest.unflatten(1, (2, -1)).sum(1)
        return LOGIT_SCALE * self.head(largest)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images))


def network(train: Dataset, seed: int = 0, widths: tuple[int, int, int] = WIDTHS, mirror: bool = True) -> nn.Sequential:
    """The fast network before training: `Normalize` and `CNN`, with seeded weights, whitening and fast convolutions.

    Args:
        train: the training split: its images are measured (5,000 of them, evenly spaced), its classes counted.
        seed: of the weights, 0 to 2**64 - 1. The caller's random generator is left as found.
        widths: number of channels of the three blocks, see `CNN`.
        mirror: see `CNN`.

    Raises:
        ValueError: the images' size is not a multiple of 8, or the widths are odd.
    """
    _check_size(train.size, train.size)
    normalize = Normalize.from_dataset(train)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed those of the GPUs, too
        cnn = CNN(len(train.classes), widths, mirror)
    whiten_(cnn, normalize, train)
    accelerate(cnn)
    return nn.Sequential(normalize, cnn)


@torch.no_grad()
def whiten_(cnn: CNN, normalize: nn.Module, train: Dataset) -> None:
    """Computes the first layer from training images, in place.

    Args:
        cnn: the network.
        normalize: the layer before it.
        train: see `network`.
    """
    count = max(1, WHITENING_PIXELS // train.size**2)
    images = normalize(train.images[:: -(-len(train) // count)])
    cnn.whiten.weight.copy_(whitening_filters(images, cnn.mirror))


def _check_size(height: int, width: int) -> None:
    if any(side < 16 or side % 8 for side in (height, width)):
        raise ValueError(f"the images have {height} x {width} pixels; this network needs multiples of 8 from 16 on")
