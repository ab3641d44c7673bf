"""Where the network looks: which places of an image speak for a class."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_utils.model import CNN


def class_activation_map(network: CNN, images: Tensor, classes: Tensor, block: int = 2) -> Tensor:
    """What each place contributes to a class's logit, as seen by one of the three blocks (HiResCAM).

    The activations after the block, times the logit's gradient with respect to them, summed over channels. After the
    last block the 3x3 contributions add up to the logit exactly; earlier blocks see finer, and approximately.

    Source: R. Draelos and L. Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations", 2020.

    Args:
        network: its parameters, their gradients and its mode are left as found.
        images: [N, 3, 32, 32] float32, normalised, on the network's device.
        classes: [N] int64, the class to explain for each image: the predicted one, or another ("why not cat?").
        block: 1 (15x15 places), 2 (7x7) or 3 (3x3).

    Returns:
        [N, S, S] float32: positive where a place speaks for the class, negative where against it.
    """
    if block not in (1, 2, 3):
        raise ValueError(f"block is {block!r}; the network has blocks 1, 2 and 3")
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.enable_grad():
            x = images.contiguous(memory_format=torch.channels_last)
            x = network.blocks[:block](F.silu(network.whiten(x))).detach().requires_grad_()
            logits = network.logits(network.blocks[block:](x.clone()))
            gradient = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), x)[0]
    finally:
        for module, mode in modes.items():
            module.training = mode
    return (gradient * x.detach()).sum(1)


def enlarged(maps: Tensor, size: int = 32) -> Tensor:
    """[N, S, S] -> [N, size, size], smoothly, for display over the image."""
    return F.interpolate(maps[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]
