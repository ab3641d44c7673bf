"""16-bit numbers (bfloat16) against 32-bit ones, in the convolutions that training consists of.

    python benchmarks/bfloat16.py            # minutes; leave the machine alone meanwhile
    python benchmarks/bfloat16.py --quick    # does everything run?

Timed are forward and backward passes: of single layers, and of whole networks with the loss, as training computes them
(32-bit layers of many channels in Winograd's way). The two take turns; what counts is their ratio in the same round.

Written to benchmarks/results: bfloat16.json (every round), bfloat16.md and bfloat16.png.
"""

from functools import partial

import torch
from winograd import CPU, LAYERS, NETWORKS, layer, measure, network

from cifar_utils import model
from cifar_utils.device import has_bfloat16


def main() -> None:
    ways = tuple(partial(torch.autocast, "cpu", torch.bfloat16, enabled=bits_16) for bits_16 in (False, True))
    layers = [partial(layer, model.Conv3x3, shape, ways) for shape in LAYERS]
    networks = [partial(network, widths, side, ways) for widths, side in NETWORKS]
    note = f"this CPU is {'' if has_bfloat16(CPU) else 'not '}made for 16-bit numbers; fast: 16 bits, plain: 32"
    measure(__doc__, "bfloat16", {"title": "16-bit numbers", "note": note}, layers, networks)


if __name__ == "__main__":
    main()
