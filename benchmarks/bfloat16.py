"""16-bit precision (bfloat16) against 32-bit, in the convolutions that training consists of.

    python benchmarks/bfloat16.py            # minutes; leave the machine alone meanwhile
    python benchmarks/bfloat16.py --quick    # does everything run?

Timed are forward and backward passes: of single layers, and of whole networks with the loss, as training computes them
(32-bit layers of many channels by Winograd convolution). The two take turns; what counts is their ratio in the same
round.

Written to benchmarks/results: bfloat16.json (every round), bfloat16.md and bfloat16.png.
"""

from functools import partial

import torch
from torch import Tensor, nn
from winograd import CPU, LAYERS, NETWORKS, fast, layer, measure, network

from cifar_utils.speedrun.bfloat16 import has_bfloat16


def bits_16(module: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return fast(module, x)


def main() -> None:
    layers = [partial(layer, nn.Conv2d, shape, (fast, bits_16)) for shape in LAYERS]
    networks = [partial(network, widths, size, (fast, bits_16)) for widths, size in NETWORKS]
    note = f"this CPU is {'' if has_bfloat16(CPU) else 'not '}made for 16-bit products; fast: 16 bits, plain: 32"
    measure(__doc__, "bfloat16", {"title": "16-bit precision", "note": note}, layers, networks)


if __name__ == "__main__":
    main()
