"""Convolution with filters and their mirror images for half the multiplications, on a CPU.

Let a and b be the two halves of the input's channels, partners that a mirror image swaps, and u and v those of the
output's. For sums and differences of partners, filters are even (their own mirror images) or odd (the negatives of
their mirror images):

    u + v = even(P) * (a + b) + odd(P) * (a - b)        P = weight_a + mirror(weight_b)
    u - v = even(Q) * (a - b) + odd(Q) * (a + b)        Q = weight_a - mirror(weight_b)

A row of an even filter multiplies the pixels left and right of its centre by the same number: their sum needs to be
multiplied only once. A row of an odd filter has 0 in its centre and opposite numbers beside it: one multiplication, of
their difference. Together three multiplications, where a convolution takes six.

What it costs is sums. They pay off where channels are many, for each sum then takes part in many multiplications.
Sums before and after, to save multiplications in between: so do, in another way, A. Lavin and S. Gray, "Fast
Algorithms for Convolutional Neural Networks", 2016.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

AT_ONCE = 750_000  # numbers of the input: few enough for their sums to be in the cache still when they are multiplied
MIDDLE = 1  # of a filter's three rows


def mirror_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """conv2d with the filters `weight` and, after them, their mirror images (see `model.MirrorConv2d`); same size.

    Args:
        x: [N, C, H, W], channels last in memory.
        weight: [D, C, 3, 3].

    Returns:
        [N, 2 D, H, W], channels last in memory; conv2d's numbers, rounded otherwise.
    """
    weight_a, weight_b = weight.chunk(2, dim=1)
    mirrored = weight_b.flip(3)
    taps = torch.stack([_taps((weight_a + mirrored) / 2), _taps((weight_a - mirrored) / 2)])
    return _MirrorConvolution.apply(x.permute(2, 0, 3, 1), taps).permute(1, 3, 0, 2)


def _taps(filters: Tensor) -> Tensor:
    """[D, K, 3, 3] -> [3, 3 K, D]: for each row what multiplies centres, sums and differences beside them."""
    left, centre, right = filters.unbind(3)
    return torch.cat([centre, (left + right) / 2, (left - right) / 2], dim=1).permute(2, 1, 0)


class _MirrorConvolution(torch.autograd.Function):
    """x [H, N, W, 2 K] and taps [2, 3, 3 K, D] -> [H, N, W, 2 D]. Rows come first, so that slices shift up and down."""

    @staticmethod
    def forward(ctx, x: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps)
        out = _like(x, 2 * taps.shape[3])
        for images, results in _few(x, out):
            halves = results.new_empty(2, *results.shape[:3], taps.shape[3])  # u + v and u - v
            for inputs, outputs, filters in zip(_sums(images), halves, taps):
                for row, above, below in _rows(inputs, outputs):
                    below.addmm_(above, filters[row], beta=0 if row == MIDDLE else 1)
            _add_and_subtract(*halves, *results.chunk(2, dim=3))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor) -> tuple[Tensor | None, Tensor]:
        x, taps = ctx.saved_tensors
        d_x = _like(x, x.shape[3])
        d_taps = torch.zeros_like(taps, memory_format=torch.contiguous_format)
        for images, d_results, d_images in _few(x, d_out, d_x):
            d_halves = d_results.new_empty(2, *d_results.shape[:3], taps.shape[3])
            _add_and_subtract(*d_results.chunk(2, dim=3), *d_halves)
            sums = _sums(images)  # once more: faster than to fetch them from memory
            for inputs, d_outputs, filters, d_filters in zip(sums, d_halves, taps, d_taps):
                for row, above, below in _rows(inputs, d_outputs):
                    d_filters[row].addmm_(above.T, below)
                for row, above, below in _rows(inputs, d_outputs):  # the inputs are done with: their place is taken
                    above.addmm_(below, filters[row].T, beta=0 if row == MIDDLE else 1)
            _sums_backward(sums, d_images)
        return d_x, d_taps


def _like(x: Tensor, channels: int) -> Tensor:
    """[H, N, W, channels], uninitialised, in the order N, H, W in memory: channels last."""
    h, n, w, _ = x.shape
    return x.new_empty(n, h, w, channels).transpose(0, 1)


def _few(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """[H, N, W, ...] each -> the same of a few images at a time."""
    h, _, w, channels = tensors[0].shape
    n = max(1, AT_ONCE // (h * w * channels))
    return zip(*(tensor.split(n, dim=1) for tensor in tensors))


def _add_and_subtract(a: Tensor, b: Tensor, out_sum: Tensor, out_difference: Tensor) -> None:
    torch.add(a, b, out=out_sum)
    torch.sub(a, b, out=out_difference)


def _sums(x: Tensor) -> Tensor:
    """[H, n, W, 2 K] -> [2, H, n, W, 3 K]: what even and odd filters multiply, for u + v and for u - v."""
    a, b = x.chunk(2, dim=3)
    sums = x.new_empty(2, *a.shape[:3], 3, a.shape[3])
    _add_and_subtract(a, b, sums[0, ..., 0, :], sums[1, ..., 0, :])
    for i in range(2):
        padded = F.pad(sums[i, ..., 0, :], (0, 0, 1, 1))
        left, right = padded[:, :, :-2], padded[:, :, 2:]
        _add_and_subtract(left, right, sums[i, ..., 1, :], sums[1 - i, ..., 2, :])
    return sums.flatten(4)


def _sums_backward(d_sums: Tensor, d_x: Tensor) -> None:
    """The gradient with respect to `_sums`' result -> that to its argument, written into `d_x`."""
    d_sums = d_sums.unflatten(4, (3, -1))
    for i in range(2):
        centre, beside, difference = d_sums[i, ..., 0, :], d_sums[i, ..., 1, :], d_sums[1 - i, ..., 2, :]
        centre[:, :, :-1].add_(beside[:, :, 1:]).add_(difference[:, :, 1:])
        centre[:, :, 1:].add_(beside[:, :, :-1]).sub_(difference[:, :, :-1])
    _add_and_subtract(d_sums[0, ..., 0, :], d_sums[1, ..., 0, :], *d_x.chunk(2, dim=3))


def _rows(inputs: Tensor, outputs: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """[H, n, W, ...] each -> for each row of a filter, the pixels it looks at and those it adds to, as matrices."""
    everything, all_but_first, all_but_last = slice(None), slice(1, None), slice(None, -1)
    for row, here, there in (
        (MIDDLE, everything, everything),
        (0, all_but_last, all_but_first),
        (2, all_but_first, all_but_last),
    ):
        yield row, inputs[here].flatten(0, 2), outputs[there].flatten(0, 2)
