"""16-bit numbers (bfloat16) against 32-bit ones, in the convolutions that training consists of.

    python benchmarks/bfloat16.py            # minutes; leave the machine alone meanwhile
    python benchmarks/bfloat16.py --quick    # does everything run?

Timed are forward and backward passes: of single layers, and of whole networks with the loss, as training computes them
(32-bit layers of many channels in Winograd's way). The two take turns; what counts is their ratio in the same round.

Written to benchmarks/results: bfloat16.json (every round), bfloat16.md and bfloat16.png.
"""

from collections.abc import Callable
from functools import partial

import torch
from common import command_line, machine, save
from torch import Tensor
from torch.nn import functional as F
from winograd import CPU, LAYERS, NETWORKS, compare, markdown, plot

from cifar_utils import model
from cifar_utils.device import has_bfloat16
from cifar_utils.memory import keep_freed_memory


def passes(part: Callable[[Tensor], Tensor], x: Tensor, bits_16: bool) -> None:
    """Forward and backward through a layer or a network."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bits_16):
        out = part(x).float()
    out.backward(torch.ones_like(out))


def layer(channels_in: int, channels_out: int, side: int, batch: int, rounds: int) -> dict:
    x = torch.randn(batch, channels_in, side, side).to(memory_format=torch.channels_last).requires_grad_()
    name = f"{channels_in} to {channels_out} channels, {side}x{side}"
    both = [partial(passes, model.Conv3x3(channels_in, channels_out), x, bits_16) for bits_16 in (False, True)]
    return compare(name, *both, rounds)


def network(widths: tuple[int, int, int], side: int, batch: int, rounds: int) -> dict:
    name = f"network {'/'.join(map(str, widths))}, {side}x{side}"
    cnn, labels, x = model.CNN(widths), torch.zeros(batch, dtype=torch.long), torch.randn(batch, 3, side, side)

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(cnn(x).float(), labels)

    return compare(name, *(partial(passes, loss, x, bits_16) for bits_16 in (False, True)), rounds)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="how often the turn of each comes (default: 9)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 8 images")
    args = parser.parse_args()
    rounds, batch = (2, 8) if args.quick else (max(2, args.rounds), 500)
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as training does
    rows = [layer(*shape, batch, rounds) for shape in LAYERS] + [network(*n, batch, rounds) for n in NETWORKS]
    note = f"this CPU is {'' if has_bfloat16(CPU) else 'not '}made for 16-bit numbers; fast: 16 bits, plain: 32"
    facts = {"title": "16-bit numbers", "machine": machine(args.threads), "batch": batch, "rounds": rounds}
    results = facts | {"note": note, "rows": rows}
    save(args.output, "bfloat16", results, markdown(results), plot)


if __name__ == "__main__":
    main()
