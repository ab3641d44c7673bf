"""bfloat16: 16-bit products where the device has instructions for them."""

import torch


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether bfloat16 makes this device faster: whether it has the instructions, rather than emulating them.

    `fit(..., autocast=torch.bfloat16)` then runs the forward pass in 16 bits; weights and loss stay float32.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()  # there is no public way to ask yet
