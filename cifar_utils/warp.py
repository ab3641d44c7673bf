"""The batch engine under `augment.Policy`: one warp and one color map per image, for a whole batch at once.

The usual pipeline treats one image after the other: flip, then rotate, then distort, then brightness, ... . Here

- flip, affine and perspective are 3x3 matrices in homogeneous coordinates, so their composition is one 3x3 matrix
  per image (a homography), and the image is resampled once instead of three times;
- brightness, contrast and saturation are affine maps of the color vector, so their composition is one as well.

Every operation works element by element or image by image, so that an image's result is the same to the last bit
whatever batch it is in.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

GRAY = (0.2989, 0.5870, 0.1140)  # luma weights of ITU-R BT.601, as rounded by torchvision
CHUNK_ELEMENTS = 800_000  # values warped at a time on a CPU, so that temporaries stay in the cache


@dataclass(frozen=True)
class Parameters:
    """What happens to each of N images.

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


def apply(
    images: Tensor,
    p: Parameters,
    *,
    size: int | tuple[int, int] | None = None,
    interpolation: str = "bilinear",
    fill: int = 0,
    geometric: bool = True,
    color: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Warps and recolors each image by its own parameters.

    Args:
        images: [N, 3, H, W], uint8 or float in 0 to 1.
        p: parameters of the N images.
        size: (height, width) of the results, or one number for both; by default the images' own. Another size costs
            nothing: the warp resamples at its pixels.
        interpolation: "bilinear" or "nearest".
        fill: gray level, 0 to 255, of pixels from outside the image.
        geometric, color: False leaves that part out, which saves its time.
        dtype: of the results, float32 or uint8.

    Returns:
        [N, 3, height, width] float32 in 0 to 1, or uint8, rounded.

    Raises:
        ValueError: the size is not one or two whole numbers above 0.
    """
    height, width = images.shape[-2:]
    size = (size, size) if isinstance(size, int) else size or (height, width)
    if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(f"size is {size!r}; it must be one whole number above 0, or (height, width)")
    geometric = geometric or tuple(size) != (height, width)
    unit = 255 if images.dtype == torch.uint8 else 1
    out = torch.empty(*images.shape[:2], *size, dtype=dtype, device=images.device)
    inverse = homography(p, (height, width)) if geometric else None
    on_cpu = images.device.type == "cpu"
    chunk = max(1, CHUNK_ELEMENTS // (3 * max(size[0] * size[1], height * width))) if on_cpu else len(images) or 1
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        x = images[part].float() / unit
        if geometric:
            x = resample(x - fill / 255 if fill else x, inverse[part], interpolation, size)
            x = x.add_(fill / 255) if fill else x
        if color:
            x = recolor(x, p.brightness[part], p.contrast[part], p.saturation[part])
        x = x.clamp_(0, 1)
        out[part] = x.mul_(255).round_() if dtype == torch.uint8 else x
    return out


def affine_matrix(p: Parameters, size: tuple[int, int]) -> Tensor:
    """[N, 3, 3] map from output to input coordinates of rotation, shear, zoom and shift about the image's center.

    Coordinates are those of `torch.nn.functional.grid_sample` with align_corners=False: -1 and 1 are the outer
    edges of the image, so that pixel i of `size` has its center at (2 i + 1) / size - 1.
    """
    height, width = size
    angle, shear = torch.deg2rad(p.angle), torch.deg2rad(p.shear)
    cos, sin, tan = angle.cos(), angle.sin(), shear.tan()
    # The forward map is zoom * rotation * shear, then the shift; this is its inverse, in pixels.
    a, b = (cos - sin * tan) / p.scale, (sin + cos * tan) / p.scale
    c, d = -sin / p.scale, cos / p.scale
    b, c = b * (height / width), c * (width / height)  # of an image that is not square, -1 to 1 are two lengths
    tx, ty = p.translate[:, 0] * (2 / width), p.translate[:, 1] * (2 / height)
    return _matrix(a, b, -(a * tx + b * ty), c, d, -(c * tx + d * ty), 0.0, 0.0, 1.0)


def perspective_matrix(p: Parameters, size: tuple[int, int]) -> Tensor:
    """[N, 3, 3] map from output to input coordinates of the perspective that moves the corners inwards.

    The map of the unit square onto a quadrilateral has a closed form (P. Heckbert, "Fundamentals of Texture Mapping
    and Image Warping", 1989, section 2.2.3), and a homography is inverted, up to a factor, by its adjugate, so that
    no corner position ends in NaN. The factor is chosen so that the depth (the third coordinate) is 1 at the image's
    center. As in torchvision, corners are whole pixels from 0 to size - 1 while pixel centers lie at i + 0.5.
    """
    height, width = size
    last_x, last_y = 2 - 2 / width, 2 - 2 / height  # from the first corner to the last
    sign_x, sign_y = (1, -1, -1, 1), (1, 1, -1, -1)
    x = [p.corners[:, i, 0] * (2 / width * sign_x[i]) + (-1 if sign_x[i] == 1 else last_x - 1) for i in range(4)]
    y = [p.corners[:, i, 1] * (2 / height * sign_y[i]) + (-1 if sign_y[i] == 1 else last_y - 1) for i in range(4)]
    dx1, dx2, dx3 = x[1] - x[2], x[3] - x[2], x[0] - x[1] + x[2] - x[3]
    dy1, dy2, dy3 = y[1] - y[2], y[3] - y[2], y[0] - y[1] + y[2] - y[3]
    # The unit square's corners go to (x, y): [[a, b, c], [d, e, f], [g, h, i]], Heckbert's times the determinant i.
    g, h, i = dx3 * dy2 - dx2 * dy3, dx1 * dy3 - dx3 * dy1, dx1 * dy2 - dx2 * dy1
    a, b, c = i * (x[1] - x[0]) + g * x[1], i * (x[3] - x[0]) + h * x[3], i * x[0]
    d, e, f = i * (y[1] - y[0]) + g * y[1], i * (y[3] - y[0]) + h * y[3], i * y[0]
    unit_x = e * i - f * h, c * h - b * i, b * f - c * e
    unit_y = f * g - d * i, a * i - c * g, c * d - a * f
    depth = d * h - e * g, b * g - a * h, a * e - b * d
    rows_x, rows_y = (last_x * u - w for u, w in zip(unit_x, depth)), (last_y * v - w for v, w in zip(unit_y, depth))
    center = torch.where(depth[2] == 0, 1.0, depth[2])  # 0: three corners in line, or the horizon just there
    matrix = _matrix(*rows_x, *rows_y, *depth) / center[:, None, None]
    moved = p.corners.flatten(1).any(1)[:, None, None]
    return torch.where(moved, matrix, torch.eye(3, device=matrix.device))  # no rounding where there is no perspective


def homography(p: Parameters, size: tuple[int, int]) -> Tensor:
    """[N, 3, 3] map from output to input coordinates of flip, then affine, then perspective.

    size: (height, width) of the images in pixels.
    """
    flip = torch.where(p.flip, -1.0, 1.0)
    affine, perspective = affine_matrix(p, size), perspective_matrix(p, size)
    # affine @ perspective (the last transform is undone first) as sums: a matrix product rounds by the batch's size.
    terms = [affine[:, :, k, None] * perspective[:, None, k, :] for k in range(3)]
    back = terms[0] + terms[1] + terms[2]
    return torch.cat([back[:, :1] * flip[:, None, None], back[:, 1:]], 1)


def resample(images: Tensor, inverse: Tensor, interpolation: str, size: tuple[int, int]) -> Tensor:
    """[N, C, H, W] float -> [N, C, *size]: each image at the places that its homography names; zeros outside."""
    y, x = (torch.arange(1 - n, n, 2, device=images.device, dtype=images.dtype) / n for n in size)
    m = inverse.to(images.dtype)[..., None, None]  # [N, 3, 3, 1, 1]
    source_x, source_y, depth = (m[:, r, 0] * x + (m[:, r, 1] * y[:, None] + m[:, r, 2]) for r in range(3))
    depth = depth.clamp_(min=1e-6)  # what a deep perspective puts behind the horizon is outside the image
    grid = torch.empty(*depth.shape, 2, device=images.device, dtype=images.dtype)
    grid[..., 0], grid[..., 1] = source_x.div_(depth), source_y.div_(depth)  # torch.stack takes twice the time
    return F.grid_sample(images, grid, mode=interpolation, padding_mode="zeros", align_corners=False)


def recolor(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """[N, 3, H, W] float -> the same shape: brightness b, contrast c and saturation s, [N] each, as one map.

    For a pixel x (red, green, blue), g the GRAY weights and m the mean of g.x over the image: saturation blends with
    the pixel's gray, s x + (1 - s) (g.x) 1; contrast with the image's mean gray, c x + (1 - c) m 1; brightness
    multiplies, b x. The weights sum to 1 (but for 0.0001), so saturation leaves every gray as it is and contrast
    leaves m as it is. Hence the three commute, up to brightness scaling m, and in any order

        x  ->  b c s x  +  b c (1 - s) (g.x) 1  +  b (1 - c) m 1

    torchvision clamps to 0 to 1 after each of the three, `apply` once at the end: the results differ only where an
    intermediate value leaves 0 to 1 (benchmarks/augmentation.py measures how much).
    """
    b, c, s = (factor.to(images.dtype)[:, None, None] for factor in (brightness, contrast, saturation))
    red, green, blue = images.unbind(1)
    gray = (GRAY[0] * red).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])
    mean = gray.mean(2, keepdim=True).mean(1, keepdim=True)  # row by row: one long sum is split up among threads
    offset = gray * (b * c * (1 - s)) + mean * (b * (1 - c))
    return torch.addcmul(offset[:, None], images, (b * c * s)[:, None])


def _matrix(*entries) -> Tensor:
    """[N, 3, 3] from nine [N] tensors or numbers, row by row."""
    like = next(e for e in entries if isinstance(e, Tensor))
    return torch.stack([e if isinstance(e, Tensor) else torch.full_like(like, e) for e in entries], -1).view(-1, 3, 3)
