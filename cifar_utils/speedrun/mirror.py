"""Mirror symmetry: layers that give a mirrored image the mirrored features, in swapped channels.

A horse in a mirror is a horse, and a network need not spend filters on learning that: here, the second half of a
layer's filters are the mirror images of the first half. So channel c and its partner, C / 2 channels away, swap places
when the image is mirrored. Add up the two partners at the end, and the logits of both images are the same.

Source: the smallest case of T. Cohen and M. Welling, "Group Equivariant Convolutional Networks", 2016.
"""

import torch
from torch import Tensor, nn


class MirrorConv2d(nn.Conv2d):
    """3x3 convolution, same size: half of channels_out are filters of its own, the other half their mirror images.

    A mirrored filter sees mirrored inputs: each input channel is replaced by its partner.

    Args:
        channels_in, channels_out: even numbers; the input's channels must come in pairs as well.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        _check_even(channels_in, channels_out)
        super().__init__(channels_in, channels_out // 2, kernel_size=3, padding=1, bias=False)

    def filters(self) -> Tensor:
        """[channels_out, channels_in, 3, 3]"""
        mirrored = self.weight.roll(self.in_channels // 2, dims=1).flip(3)
        return torch.cat([self.weight, mirrored])

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.filters(), None)  # what nn.Conv2d computes with its own weight


class MirrorNorm2d(nn.BatchNorm2d):
    """Batch norm with one mean, variance, gain and bias for both channels of a pair.

    Args:
        channels: an even number.
        options: of nn.BatchNorm2d.
    """

    def __init__(self, channels: int, **options) -> None:
        _check_even(channels)
        super().__init__(channels // 2, **options)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        # Partners side by side, as one channel of twice the width: no copy where channels come last in memory.
        pairs = x.permute(0, 2, 3, 1).reshape(n, h, 2 * w, c // 2).permute(0, 3, 1, 2)
        return super().forward(pairs).permute(0, 2, 3, 1).reshape(n, h, w, c).permute(0, 3, 1, 2)


def _check_even(*channels: int) -> None:
    for count in channels:
        if count < 2 or count % 2:
            raise ValueError(f"{count} channels cannot be mirror pairs: choose an even number, or mirror=False")
