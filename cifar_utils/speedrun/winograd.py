"""Winograd convolution: 3x3 filters with about a fifth of the multiplications, on a CPU.

Multiplying two polynomials convolves their coefficients, and takes the product of every coefficient of the one and
every coefficient of the other: 3 x 4 for a row of a filter and four pixels. There is a cheaper way. Take the values of
both at six points, multiply these (6 products), and find the polynomial of degree 5 with those six values. Rows first,
then columns: 6 x 6 products instead of 12 x 12. With more pixels at once the saving grows, 10 x 10 instead of 24 x 24
for eight, at the price of larger rounding errors.

Evaluating and interpolating polynomials takes multiplications, too, but by the same few constants for all filters:
their number grows with the number of channels, not with the number of pairs of channels, one in and one out. So this
pays off where channels are many.

A layer computes the transpose of that multiplication (one output pixel for eight times eight pixels that a filter
moves over), which takes the transposed steps in reverse order, and as many products.

Source: S. Winograd, "Arithmetic Complexity of Computations", 1980; for networks A. Lavin and S. Gray, "Fast Algorithms
for Convolutional Neural Networks", 2016.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FILTER = 3  # its side
LONGEST = 8  # pixels at once: each more costs nearly half a digit, and saves less and less
MIN_CHANNELS = 64  # input channels: with fewer, transforming them costs more than the saved multiplications
CHUNK_ELEMENTS = 750_000  # of a layer's input or output: so few images at a time that the cache holds their values


def accelerate(model: nn.Module, enabled: bool = True) -> nn.Module:
    """Gives the wide 3x3 convolutions of any network the faster way, on a CPU in float32; elsewhere nothing changes.

    These are the nn.Conv2d layers with at least MIN_CHANNELS inputs, stride 1, padding 1, no groups and no dilation.
    Outputs and gradients change by rounding only. Names and values in the state_dict stay as they are. `torch.compile`,
    autocast and 16-bit inputs get the plain convolution.

    Args:
        model: changed in place.
        enabled: False restores the plain convolutions.

    Returns:
        The model.
    """
    for layer in model.modules():
        if vars(layer).get("_conv_forward") is _conv_forward:
            del layer._conv_forward
        if enabled and isinstance(layer, nn.Conv2d) and _can_be_faster(layer):
            vars(layer)["_conv_forward"] = _conv_forward  # an attribute of the instance hides the method of its class
    return model


def _can_be_faster(layer: nn.Conv2d) -> bool:
    if type(layer)._conv_forward is not nn.Conv2d._conv_forward:  # a subclass that convolves otherwise
        return False
    same = layer.padding in ((1, 1), "same") and layer.padding_mode == "zeros" and layer.kernel_size == (3, 3)
    plain = layer.stride == layer.dilation == (1, 1) and layer.groups == 1
    return same and plain and layer.in_channels >= MIN_CHANNELS


def _conv_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What nn.Conv2d.forward calls; a function of this module, so that copies and pickles of the layer keep it."""
    fits = x.ndim == 4 and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    fits = fits and min(x.shape[2:]) > 1  # a single pixel leaves nothing to save
    if not fits or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return F.conv2d(x, weight, bias, padding=1)
    out = convolution(x, weight)
    return out if bias is None else out + bias[:, None, None]


class Transforms(NamedTuple):
    """The matrices for convolving rows of a certain length: V values for each of T tiles.

    Attributes:
        filters: [V, 3], from the weights of a filter's row to its values.
        inputs: [V, T, length], from pixels to values; pixels outside the row are 0.
        outputs: [V, T, length], its transpose goes from products of values to convolved pixels.
    """

    filters: Tensor
    inputs: Tensor
    outputs: Tensor


@lru_cache(maxsize=64)
def transforms(length: int, dtype: torch.dtype) -> Transforms:
    """For rows of this length, in tiles of as many pixels as give the fewest values; of equals, the shortest."""
    tile = min(range(1, LONGEST + 1), key=lambda tile: math.ceil(length / tile) * (tile + FILTER - 1))
    tiles, values = math.ceil(length / tile), tile + FILTER - 1
    from_pixels, to_pixels = _powers(values, values).inverse().T, _powers(values, tile)
    with torch.inference_mode(False):  # the next caller may want gradients
        inputs, outputs = torch.zeros(2, values, tiles, length + values, dtype=torch.float64)
        for t in range(tiles):
            start = t * tile  # of the tile; the pixels that its filters see start one further to the left
            inputs[:, t, start : start + values] = from_pixels
            outputs[:, t, start : start + tile] = to_pixels
        inputs, outputs = inputs[..., 1 : length + 1], outputs[..., :length]
        return Transforms(*(m.to(dtype).contiguous() for m in (_powers(values, FILTER), inputs, outputs)))


def _powers(values: int, coefficients: int) -> Tensor:
    """[values, coefficients] float64: a polynomial's values from its coefficients; the last one is that at infinity.

    Infinity is a point like any other: there, the highest coefficient is the value. Seen from a point beside their
    line, the points lie in directions at equal angles, which keeps rounding errors about as small as they can be.
    """
    points = (math.pi * (torch.arange(1, values, dtype=torch.float64) / values - 0.5)).tan()
    infinity = torch.zeros(1, coefficients, dtype=torch.float64)
    infinity[0, -1] = 1
    return torch.cat([points[:, None] ** torch.arange(coefficients), infinity])


def convolution(x: Tensor, weight: Tensor) -> Tensor:
    """conv2d with padding=1, equal to it but for rounding.

    Args:
        x: [N, C, H, W], on the CPU; channels last in memory, or it is copied.
        weight: [D, C, 3, 3].

    Returns:
        [N, D, H, W], channels last in memory.
    """
    down, across = (transforms(length, x.dtype) for length in x.shape[2:])
    values = torch.einsum("pi,qj,dcij->qpcd", down.filters, across.filters, weight).flatten(0, 1)
    pixels = x.permute(0, 2, 3, 1).contiguous()
    return _Convolution.apply(pixels, values, down, across).permute(0, 3, 1, 2)


class _Convolution(torch.autograd.Function):
    """x [N, H, W, C] and the filters' values [Q P, C, D] -> [N, H, W, D]; P values down, Q across."""

    @staticmethod
    def forward(ctx, x: Tensor, filters: Tensor, down: Transforms, across: Transforms) -> Tensor:
        ctx.save_for_backward(x, filters)
        ctx.transforms = down, across
        out = x.new_empty(*x.shape[:3], filters.shape[2])
        size = _chunk_size(x, filters)
        for images, results in zip(x.split(size), out.split(size)):
            products = _values(images, down.inputs, across.inputs) @ filters
            _values_backward(products, down.outputs, across.outputs, out=results)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor) -> tuple[Tensor | None, ...]:
        (x, filters), (down, across) = ctx.saved_tensors, ctx.transforms
        d_x, d_filters = torch.empty_like(x), torch.zeros_like(filters)
        size = _chunk_size(x, filters)
        for images, d_results, d_images in zip(x.split(size), d_out.split(size), d_x.split(size)):
            d_products = _values(d_results, down.outputs, across.outputs)
            values = _values(images, down.inputs, across.inputs)  # again: faster than fetching them from memory
            d_filters.baddbmm_(values.mT, d_products)
            d_values = torch.bmm(d_products, filters.mT, out=values)
            _values_backward(d_values, down.inputs, across.inputs, out=d_images)
        return d_x, d_filters, None, None


def _chunk_size(x: Tensor, filters: Tensor) -> int:
    """How many images at a time."""
    return max(1, CHUNK_ELEMENTS // (x.shape[1] * x.shape[2] * max(filters.shape[1:])))


def _values(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """[n, H, W, C] pixels -> [Q P, S n T, C], their values; down is [P, S, H], across [Q, T, W]: S x T tiles."""
    (n, h, _, c), (p, s, _), (q, t, _) = x.shape, down.shape, across.shape
    x = across.flatten(0, 1) @ x
    x = x.view(n, h, q, t, c).permute(2, 1, 0, 3, 4).reshape(q, h, n * t * c)
    return (down.flatten(0, 1) @ x).view(q * p, s * n * t, c)


def _values_backward(values: Tensor, down: Tensor, across: Tensor, out: Tensor) -> None:
    """The transpose of `_values`: [Q P, S n T, C] -> [n, H, W, C], written into `out`."""
    (n, h, _, c), (p, s, _), (q, t, _) = out.shape, down.shape, across.shape
    x = down.flatten(0, 1).T @ values.view(q, p * s, n * t * c)
    x = x.view(q, h, n, t, c).permute(2, 1, 0, 3, 4).reshape(n, h, q * t, c)
    torch.matmul(across.flatten(0, 1).T, x, out=out)
