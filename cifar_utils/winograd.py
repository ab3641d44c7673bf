"""3x3 convolution with about a fifth of the multiplications, on a CPU.

To multiply two polynomials is to convolve their coefficients, and takes the product of every coefficient of the one
and every coefficient of the other: 3 x 4 for a row of a filter and four pixels. There is another way. Take the values
of both at six points, multiply these (6 products), and find the polynomial of degree 5 with those six values. Rows
first, then columns: 6 x 6 products instead of 12 x 12. With more pixels at once it is fewer still, 10 x 10 instead of
24 x 24 for eight, at the price of larger rounding errors.

To find values and polynomials takes multiplications, too, but by the same few numbers for all filters: their number
grows with that of the channels, not with that of pairs of channels, one in and one out. So this pays off where
channels are many.

A layer wants the transpose of that multiplication (one pixel out for eight times eight pixels that a filter moves
over), which takes the transposed steps in reverse order, and as many products.

Source: S. Winograd, "Arithmetic Complexity of Computations", 1980; for networks A. Lavin and S. Gray, "Fast Algorithms
for Convolutional Neural Networks", 2016.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FILTER = 3  # its side
LONGEST = 8  # pixels at once: each more costs nearly half a digit, and saves less and less
AT_ONCE = 750_000  # numbers of a layer's input or output: so few images at a time that the cache holds their values


class Transforms(NamedTuple):
    """What convolving rows of a certain length takes: V values for each of T tiles.

    Attributes:
        filters: [V, 3], from the numbers of a filter's row to its values.
        inputs: [V, T, length], from pixels to values; what is outside the row is 0.
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

    Infinity is a point like others: there, the highest coefficient is the value. Seen from a point beside their line,
    the points lie in directions at equal angles, which keeps rounding errors about as small as they can be.
    """
    points = (math.pi * (torch.arange(1, values, dtype=torch.float64) / values - 0.5)).tan()
    infinity = torch.zeros(1, coefficients, dtype=torch.float64)
    infinity[0, -1] = 1
    return torch.cat([points[:, None] ** torch.arange(coefficients), infinity])


def convolution(x: Tensor, weight: Tensor) -> Tensor:
    """conv2d with padding=1; its numbers but for rounding.

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
        few = _few(x, filters)
        for images, results in zip(x.split(few), out.split(few)):
            products = _values(images, down.inputs, across.inputs) @ filters
            _values_backward(products, down.outputs, across.outputs, out=results)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor) -> tuple[Tensor | None, ...]:
        (x, filters), (down, across) = ctx.saved_tensors, ctx.transforms
        d_x, d_filters = torch.empty_like(x), torch.zeros_like(filters)
        few = _few(x, filters)
        for images, d_results, d_images in zip(x.split(few), d_out.split(few), d_x.split(few)):
            d_products = _values(d_results, down.outputs, across.outputs)
            values = _values(images, down.inputs, across.inputs)  # once more: faster than to fetch them from memory
            d_filters.baddbmm_(values.mT, d_products)
            d_values = torch.bmm(d_products, filters.mT, out=values)
            _values_backward(d_values, down.inputs, across.inputs, out=d_images)
        return d_x, d_filters, None, None


def _few(x: Tensor, filters: Tensor) -> int:
    """How many images at a time."""
    return max(1, AT_ONCE // (x.shape[1] * x.shape[2] * max(filters.shape[1:])))


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
