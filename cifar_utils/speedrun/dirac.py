"""Identity (Dirac) initialization: convolutions that start by copying their input.

A deep stack of random filters scrambles an image before anything is learned. Filters that begin with a 1 at the
center of their own channel and 0 elsewhere pass it on, so that every layer sees the image from the first step.

Source: S. Zagoruyko and N. Komodakis, "DiracNets", 2017; in this form, K. Jordan's airbench, 2024.
"""

import torch
from torch import nn

from cifar_utils.speedrun.mirror import MirrorConv2d


@torch.no_grad()
def identity_(model: nn.Module) -> nn.Module:
    """Changes, in place, every trainable convolution of stride 1 with an odd kernel (grouped ones excepted).

    The first outputs become copies of the inputs, one each; further filters stay as they are. In a `MirrorConv2d`, the
    filters copy the first half of the inputs, and their mirror images the second.

    Args:
        model: a network, or one layer.
    """
    for layer in model.modules():
        if not isinstance(layer, nn.Conv2d) or not layer.weight.requires_grad:
            continue
        if layer.stride == (1, 1) and layer.groups == 1 and all(side % 2 for side in layer.kernel_size):
            copies = layer.in_channels // (2 if isinstance(layer, MirrorConv2d) else 1)
            nn.init.dirac_(layer.weight[:copies])
    return model
