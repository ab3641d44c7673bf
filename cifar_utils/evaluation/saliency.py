"""Class activation maps: which image regions support a class?"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_utils.data import beyond_0_to_1
from cifar_utils.evaluation.inference import checked_model, device_of, evaluation_mode


def class_activation_map(model: nn.Module, images: Tensor, classes: Sequence[int], layer: nn.Module) -> Tensor:
    """What each place contributes to a class's logit, as seen by one layer (HiResCAM).

    The layer's output, times the logit's gradient with respect to it, summed over channels. Where only average pooling
    and a linear layer follow, the places add up to the logit exactly, but for the bias. Early layers see finer, and
    approximately. Of a layer that is used several times, its last use counts.

    Source: R. Draelos and L. Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations", 2020.

    Args:
        model: any network; it is left as found, the gradients of its parameters included.
        images: [N, 3, S, S], uint8 or float in 0 to 1.
        classes: [N] positions of the class to explain for each image: the predicted one, or another ("why not cat?").
        layer: a layer of the model with a 4-D output [N, channels, h, w], for example `model[1].blocks[1]`.

    Returns:
        [N, h, w] float32 on the CPU: positive where a place supports the class, negative where it speaks against it.

    Raises:
        ValueError: images, classes or layer are not as above, or the logits do not depend on the layer.
    """
    model = checked_model(model)
    if not isinstance(layer, nn.Module) or all(layer is not module for module in model.modules()):
        raise ValueError(f"this {type(layer).__name__} is not a layer of the model; give one like model[1].blocks[1]")
    x = _checked_images(images).to(device_of(model))
    seen = []  # the layer's outputs, cut off from what comes before it

    def cut(module, inputs, output):
        if not isinstance(output, Tensor) or output.ndim != 4:
            what = f"the shape {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ValueError(
                f"the layer returns {what}; a class activation map needs [images, channels, height, width], as a "
                "convolution returns it (in a transformer: the one that makes the patches)"
            )
        seen.append(output.detach().clone().requires_grad_())
        return seen[-1].clone()  # what follows may change its input in place

    # Neither `no_grad` nor `inference_mode` around this call may keep the gradient from being computed.
    with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(model):
        handle = layer.register_forward_hook(cut)
        try:
            logits = model(x.clone())
        finally:
            handle.remove()
        if not seen:
            raise ValueError("the model does not use this layer when it predicts")
        labels = _checked_labels(classes, logits).to(logits.device)
        total = logits.gather(1, labels[:, None]).sum()
        (gradient,) = torch.autograd.grad(total, seen[-1], allow_unused=True) if total.requires_grad else (None,)
    if gradient is None:
        raise ValueError("the model's logits do not depend on this layer's output, or not by way of a gradient")
    return (gradient * seen[-1].detach()).sum(1).float().cpu()


def enlarge(maps: Tensor, size: int | tuple[int, int] = 32) -> Tensor:
    """[N, h, w] -> [N, height, width], smoothly, for display over the image. size: (height, width), or one for both."""
    height, width = (size, size) if isinstance(size, int) else size
    return F.interpolate(maps[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]


def _checked_images(images: Tensor) -> Tensor:
    """As [N, 3, H, W] float32 in 0 to 1."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        given = f"the shape {list(images.shape)}" if hasattr(images, "shape") else f"a {type(images).__name__}"
        raise ValueError(f"images have {given}; a tensor [N, 3, height, width] is needed")
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise ValueError(f"images have the type {images.dtype}; uint8, or float in 0 to 1, is needed")
    if beyond := beyond_0_to_1(images):
        raise ValueError(f"images go from {beyond} instead of 0 to 1: give them before normalization")
    return images.float()


def _checked_labels(classes: Sequence[int], logits: Tensor) -> Tensor:
    """As [N] int64."""
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model returns {given}; logits [N, classes] are needed")
    try:
        labels = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError):
        labels = torch.empty(0)
    whole = not labels.is_floating_point() and not labels.is_complex() and labels.dtype != torch.bool
    if not whole or labels.shape != logits.shape[:1] or not ((labels >= 0) & (labels < logits.shape[1])).all():
        count, highest = len(logits), logits.shape[1] - 1
        raise ValueError(f"classes must be {count} whole numbers from 0 to {highest}, one per image")
    return labels.long()
