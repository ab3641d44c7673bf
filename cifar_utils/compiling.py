"""The network translated into faster code before training, where something can translate it: for GPUs, above all."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def compiled(network: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network, compiled by torch.compile; or, where no compiler is there, the network itself, and that is said.

    It has the network's own weights, which train as always. Compiling takes up to a minute for each size of picture,
    when it first occurs. It is meant for GPUs, where it saves launches and memory traffic; a CPU is busy with
    convolutions most of the time, which are no faster compiled.

    Args:
        network: already on the device.
        device: of the network.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except Exception as error:  # what is raised where no compiler is there differs from system to system
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        print(f"Nothing can compile the network here ({reason}): it trains as it is.", flush=True)
        return network
    return torch.compile(network, dynamic=False)
