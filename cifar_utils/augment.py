"""Data augmentation of a whole batch at once: one geometric warp and one colour map an image.

The usual pipeline treats one image after the other: flip, then rotate, then distort, then brightness, ... . Here

* flip, affine and perspective are 3x3 matrices in homogeneous coordinates, so their composition is one 3x3 matrix
  an image (a homography), and the image is resampled once instead of three times;
* brightness, contrast and saturation are affine maps of the colour vector, so their composition, together with the
  normalisation that follows, is one 3x4 matrix an image.

Read it top down: `draw` (what happens to which image), the matrices, `augment` (make it happen).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_utils.policy import Policy

GREY = (0.2989, 0.5870, 0.1140)  # luma weights of ITU-R BT.601, as rounded by torchvision
CHUNK = 256  # images warped at a time on a CPU: their temporaries (12 KiB an image each) stay in the cache


@dataclass(frozen=True)
class Parameters:
    """What happens to each of N images: the numbers behind one homography and one colour matrix each.

    Attributes:
        flip: [N] bool.
        angle: [N] degrees, clockwise on the screen.
        translate: [N, 2] pixels (x, y), whole numbers.
        scale: [N] zoom factor.
        shear: [N] degrees.
        corners: [N, 4, 2] pixels (x, y) by which the top left, top right, bottom right and bottom left corner
            move inwards, whole numbers; 0 where there is no perspective.
        brightness, contrast, saturation: [N] factors.
    """

    flip: Tensor
    angle: Tensor
    translate: Tensor
    scale: Tensor
    shear: Tensor
    corners: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor


def philox(seed: int, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> list[Tensor]:
    """Philox-4x32-10, the counter-based generator behind torch's CUDA and JAX's random numbers.

    A counter-based generator has no state: random numbers are a hash of a key (here the seed) and a counter (here
    image, epoch and block), so any image's numbers can be computed at any time, in any order, on any device.

    Source: J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Args:
        seed: 0 to 2**64 - 1.
        counter: four int64 tensors of values below 2**32, of shapes that broadcast.

    Returns:
        Four int64 tensors of the broadcast shape with values from 0 to 2**32 - 1.
    """
    low_bits = 0xFFFFFFFF
    c0, c1, c2, c3 = counter
    k0, k1 = seed & low_bits, seed >> 32
    for _ in range(10):
        # int64 products wrap around, which leaves the 64 bits of the unsigned product as they are.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = ((p1 >> 32) & low_bits) ^ c1 ^ k0, ((p0 >> 32) & low_bits) ^ c3 ^ k1
        c1, c3 = p1 & low_bits, p0 & low_bits
        k0, k1 = (k0 + 0x9E3779B9) & low_bits, (k1 + 0xBB67AE85) & low_bits
    return [c0, c1, c2, c3]


def uniform(seed: int, epoch: int, index: Tensor, count: int) -> Tensor:
    """[N, count] float32 random numbers in [0, 1), a pure function of (seed, epoch, index); index is [N] int64."""
    block = torch.arange(math.ceil(count / 4), device=index.device)
    zero = torch.zeros_like(block)
    words = philox(seed, (index[:, None], zero + epoch, block, zero))
    return (torch.stack(words, -1).flatten(1)[:, :count] >> 8).float() * 2.0**-24  # the upper 24 bits: exact


def draw(policy: Policy, seed: int, epoch: int, index: Tensor, size: int = 32) -> Parameters:
    """Draws each image's parameters as a pure function of (seed, epoch, index).

    Batch size, order, the number of processes and the point of a restart change nothing: image 7 of epoch 3 is
    augmented the same way always (on another device: up to float32 rounding).

    Mirror images take turns: at a probability of one half, an image is met in both ways in every two epochs, where by
    pure chance it would be met twice in the same way as often as not (alternating flip, of K. Jordan's airbench, 2024).

    Args:
        policy: what may happen.
        seed: 0 to 2**64 - 1.
        epoch: from 0.
        index: [N] int64, each image's position in the data set.
        size: side of the square images in pixels.
    """
    u = uniform(seed, epoch, index, 18)
    turn = u[:, 0]
    if epoch % 2:  # what the epoch before had not; as likely to be below any number as its own is
        turn = 1 - 2.0**-24 - uniform(seed, epoch - 1, index, 1)[:, 0]

    def between(column: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * column

    def factor(column: Tensor, x: float) -> Tensor:
        return between(column, max(0.0, 1 - x), 1 + x)

    shift = torch.stack([between(u[:, 2 + i], -t * size, t * size) for i, t in enumerate(policy.translate)], 1)
    deepest = int(policy.distortion_scale * (size // 2))
    corners = (u[:, 7:15] * (deepest + 1)).floor().view(-1, 4, 2)
    return Parameters(
        flip=turn < policy.flip_p,
        angle=between(u[:, 1], -policy.degrees, policy.degrees),
        translate=shift.round(),
        scale=between(u[:, 4], *policy.scale),
        shear=between(u[:, 5], -policy.shear, policy.shear),
        corners=corners * (u[:, 6] < policy.perspective_p)[:, None, None],
        brightness=factor(u[:, 15], policy.brightness),
        contrast=factor(u[:, 16], policy.contrast),
        saturation=factor(u[:, 17], policy.saturation),
    )


def _matrix(*entries) -> Tensor:
    """[N, 3, 3] from nine [N] tensors or numbers, row by row."""
    like = next(e for e in entries if isinstance(e, Tensor))
    return torch.stack([e if isinstance(e, Tensor) else torch.full_like(like, e) for e in entries], -1).view(-1, 3, 3)


def affine_matrix(p: Parameters, size: int = 32) -> Tensor:
    """[N, 3, 3] map from output to input coordinates of rotation, shear, zoom and shift about the image's centre.

    Coordinates are those of `torch.nn.functional.grid_sample` with align_corners=False: -1 and 1 are the outer
    edges of the image, so that pixel i of `size` has its centre at (2 i + 1) / size - 1.
    """
    angle, shear = torch.deg2rad(p.angle), torch.deg2rad(p.shear)
    cos, sin, tan = angle.cos(), angle.sin(), shear.tan()
    # The forward map is zoom * rotation * shear, then the shift; this is its inverse.
    a, b = (cos - sin * tan) / p.scale, (sin + cos * tan) / p.scale
    c, d = -sin / p.scale, cos / p.scale
    tx, ty = p.translate[:, 0] * (2 / size), p.translate[:, 1] * (2 / size)
    return _matrix(a, b, -(a * tx + b * ty), c, d, -(c * tx + d * ty), 0.0, 0.0, 1.0)


def perspective_matrix(p: Parameters, size: int = 32) -> Tensor:
    """[N, 3, 3] map from output to input coordinates of the perspective that moves the corners inwards.

    The map of the unit square onto a quadrilateral has a closed form (P. Heckbert, "Fundamentals of Texture Mapping
    and Image Warping", 1989, section 2.2.3), and a homography is inverted, up to a factor, by its adjugate, so that
    no corner position ends in NaN. The factor is chosen so that the depth (the third coordinate) is 1 at the image's
    centre. As in torchvision, corners are whole pixels from 0 to size - 1 while pixel centres lie at i + 0.5.
    """
    last = 2 - 2 / size  # from corner 0 to corner size - 1
    sign_x, sign_y = (1, -1, -1, 1), (1, 1, -1, -1)
    x = [p.corners[:, i, 0] * (2 / size * sign_x[i]) + (-1 if sign_x[i] == 1 else last - 1) for i in range(4)]
    y = [p.corners[:, i, 1] * (2 / size * sign_y[i]) + (-1 if sign_y[i] == 1 else last - 1) for i in range(4)]
    dx1, dx2, dx3 = x[1] - x[2], x[3] - x[2], x[0] - x[1] + x[2] - x[3]
    dy1, dy2, dy3 = y[1] - y[2], y[3] - y[2], y[0] - y[1] + y[2] - y[3]
    # The unit square's corners go to (x, y): [[a, b, c], [d, e, f], [g, h, i]], Heckbert's times the determinant i.
    g, h, i = dx3 * dy2 - dx2 * dy3, dx1 * dy3 - dx3 * dy1, dx1 * dy2 - dx2 * dy1
    a, b, c = i * (x[1] - x[0]) + g * x[1], i * (x[3] - x[0]) + h * x[3], i * x[0]
    d, e, f = i * (y[1] - y[0]) + g * y[1], i * (y[3] - y[0]) + h * y[3], i * y[0]
    unit_x = e * i - f * h, c * h - b * i, b * f - c * e
    unit_y = f * g - d * i, a * i - c * g, c * d - a * f
    depth = d * h - e * g, b * g - a * h, a * e - b * d
    rows = *(last * u - w for u, w in zip(unit_x, depth)), *(last * v - w for v, w in zip(unit_y, depth)), *depth
    centre = torch.where(depth[2] == 0, 1.0, depth[2])  # 0: three corners in line, or the horizon just there
    matrix = _matrix(*rows) / centre[:, None, None]
    moved = p.corners.flatten(1).any(1)[:, None, None]
    return torch.where(moved, matrix, torch.eye(3, device=matrix.device))  # no rounding where there is no perspective


def homography(p: Parameters, size: int = 32) -> Tensor:
    """[N, 3, 3] map from output to input coordinates of flip, then affine, then perspective."""
    flip = torch.where(p.flip, -1.0, 1.0)
    back = affine_matrix(p, size) @ perspective_matrix(p, size)  # undo the last transform first
    return torch.cat([back[:, :1] * flip[:, None, None], back[:, 1:]], 1)


@lru_cache(maxsize=4)
def pixel_centres(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[3, S * S] homogeneous coordinates (x, y, 1) of the pixels, row by row, in `grid_sample`'s convention."""
    with torch.inference_mode(False):  # the next caller may want gradients
        centre = torch.arange(1 - size, size, 2, device=device, dtype=dtype) / size
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        return torch.stack([x.flatten(), y.flatten(), torch.ones_like(x.flatten())])


def warp(images: Tensor, inverse: Tensor, interpolation: str = "bilinear", size: int | None = None) -> Tensor:
    """Resamples each image at the places its homography says, zeros where these lie outside.

    Args:
        images: [N, C, S, S] float.
        inverse: [N, 3, 3] map from output to input coordinates, in `grid_sample`'s convention (align_corners=False).
        interpolation: "bilinear" or "nearest".
        size: side T of the results in pixels; as the images' own if None.

    Returns:
        [N, C, T, T] float.
    """
    n, size = len(images), size or images.shape[-1]
    pixels = pixel_centres(size, images.dtype, images.device)
    source = (inverse.to(images.dtype).reshape(n * 3, 3) @ pixels).view(n, 3, size, size)
    # What a deep perspective puts behind the horizon (a depth of 0 or less) is outside the image.
    depth = source[:, 2:].clamp_min_(1e-6)
    grid = source[:, :2].div_(depth).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode=interpolation, padding_mode="zeros", align_corners=False)


def colour_matrix(p: Parameters) -> tuple[Tensor, Tensor]:
    """The colour map of brightness b, contrast c and saturation s as x -> matrix x + grey_gain m.

    For a pixel x (red, green, blue), g the GREY weights and m the mean of g.x over the image:
    saturation blends with the pixel's grey, s x + (1 - s) (g.x) 1; contrast with the image's mean grey,
    c x + (1 - c) m 1; brightness multiplies, b x. The weights sum to 1 (but for 0.0001), so saturation leaves every
    grey as it is and contrast leaves m as it is. Hence the three commute, up to brightness scaling m, and in any order

        x  ->  b c (s I + (1 - s) 1 g^T) x  +  b (1 - c) m 1

    torchvision clamps to [0, 1] after each of the three, here once at the end: the results differ only where an
    intermediate value leaves [0, 1] (benchmarks/augmentation.py measures how much).

    Returns:
        matrix [N, 3, 3] and grey_gain [N].
    """
    s, bc = p.saturation, p.brightness * p.contrast
    blend = [bc * (1 - s) * weight for weight in GREY]
    rows = [blend[column] + bc * s if row == column else blend[column] for row in range(3) for column in range(3)]
    return _matrix(*rows), p.brightness * (1 - p.contrast)


def augment(
    images: Tensor, p: Parameters, policy: Policy, mean: Tensor, std: Tensor, out: Tensor | None = None
) -> Tensor:
    """Applies the parameters that `draw` drew from the policy: warp, colours, normalisation.

    Smaller (or larger) pictures cost no pass of their own: where `out` has another side, the warp that resamples the
    images anyway does so at its pixels.

    Args:
        images: [N, 3, S, S] uint8.
        p: parameters of the N images.
        policy: the policy that they were drawn from; what it cannot do is skipped.
        mean, std: [3] float32, of training images in 0 to 1.
        out: [N, 3, T, T] float32 to write into; a batch's memory, used again, saves a tenth of the time. By default
            T is S.

    Returns:
        [N, 3, T, T] float32: (augmented image in 0 to 1 - mean) / std.
    """
    gain, black, white = 1 / (255 * std), -mean / std, (1 - mean) / std
    out = torch.empty(images.shape, device=images.device) if out is None else out
    size, warps = out.shape[-1], policy.warps or out.shape[-1] != images.shape[-1]
    inverse = homography(p, images.shape[-1]) if warps else None
    if policy.recolours:
        colours, grey_gain = colour_matrix(p)
        colours, grey_gain = colours * gain[:, None], grey_gain[:, None] * gain
    chunk = CHUNK if images.device.type == "cpu" else max(1, len(images))
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        x = images[part].float()
        if warps:
            x = warp(x - policy.fill if policy.fill else x, inverse[part], policy.interpolation, size)
            x = x.add_(policy.fill) if policy.fill else x
        if policy.recolours:
            x = x.flatten(2)
            mean_grey = sum(weight * channel for weight, channel in zip(GREY, x.mean(2).unbind(1)))
            offset = grey_gain[part] * mean_grey[:, None] + black
            # Three passes in place, faster than baddbmm and clamp: these first write the offset to every pixel, and
            # are not vectorised where the bounds are tensors.
            y = torch.bmm(colours[part], x, out=out[part].flatten(2)).add_(offset[..., None])
            torch.minimum(torch.maximum(y, black[:, None], out=y), white[:, None], out=y)  # clamp to [0, 1]
        else:
            torch.addcmul(black[:, None, None], x, gain[:, None, None], out=out[part])
    return out
