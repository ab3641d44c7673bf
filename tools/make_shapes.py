"""Draw the small data set that ships in cifar_utils/shapes: circles, squares, stars and triangles, as JPEG files.

    python tools/make_shapes.py

Each image is a pure function of its split, class and number, so that drawing again gives the same images. Training
images are upright, validation and test images rotated by any angle: without augmentation, a network has not seen that.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

OUT = Path(__file__).resolve().parent.parent / "cifar_utils" / "shapes"
CLASSES = ("circle", "square", "star", "triangle")
PER_CLASS = {"train": 50, "val": 20, "test": 40}
SIZE = 48  # of the images, in pixels
DETAIL = 4  # drawn so many times as large, then reduced: smooth edges


def main() -> None:
    for split, count in PER_CLASS.items():
        for name in CLASSES:
            folder = OUT / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                draw(split, name, number).save(folder / f"{number:03}.jpg", quality=85, optimize=True)


def draw(split: str, name: str, number: int) -> Image.Image:
    """One image, SIZE x SIZE pixels, RGB."""
    # NumPy freezes RandomState's stream for good (NEP 19): the same images on every machine.
    random = np.random.RandomState([sorted(PER_CLASS).index(split), CLASSES.index(name), number])
    first, second, color = _colors(random)
    image = _background(random, first, second)
    pen = ImageDraw.Draw(image)
    for _ in range(random.randint(1, 4)):  # scribbles behind the shape, and sometimes one across it
        _scribble(random, pen)
    points = _outline(random, name, rotated=split != "train")
    if random.rand() < 0.5:
        pen.polygon(points, fill=color)
    else:
        pen.line([*points, *points[:2]], fill=color, width=int(random.uniform(1.5, 2.5) * DETAIL), joint="curve")
    if random.rand() < 0.3:
        _scribble(random, pen)
    small = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS), dtype=np.float64)
    grain = random.normal(0, random.uniform(2, 8), small.shape)
    return Image.fromarray((small + grain).round().clip(0, 255).astype(np.uint8))


def _colors(random) -> list[tuple[int, ...]]:
    """Two light colors for the background, and one for the shape that is darker and differs from both."""
    while True:
        first, second, color = random.randint(140, 256, 3), random.randint(140, 256, 3), random.randint(0, 150, 3)
        if min(np.linalg.norm(color - other) for other in (first, second)) > 70:
            return [tuple(values.tolist()) for values in (first, second, color)]


def _background(random, first, second) -> Image.Image:
    """From one color to the other, at a random angle, with soft spots."""
    side = SIZE * DETAIL
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:side, 0:side] / (side - 1) - 0.5
    share = 0.5 + (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)
    pixels = np.array(first) + share[..., None] * (np.array(second) - np.array(first))
    spots = Image.fromarray(random.randint(0, 256, (5, 5)).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    pixels += random.uniform(0, 0.25) * (np.asarray(spots, dtype=np.float64)[..., None] - 128)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _scribble(random, pen: ImageDraw.ImageDraw) -> None:
    """A short straight line of any color."""
    side = SIZE * DETAIL
    start, angle = random.uniform(0, side, 2), random.uniform(0, 2 * np.pi)
    end = start + random.uniform(0.15, 0.5) * side * np.array([np.cos(angle), np.sin(angle)])
    color = tuple(random.randint(0, 256, 3).tolist())
    pen.line([*start.tolist(), *end.tolist()], fill=color, width=int(random.uniform(0.8, 2) * DETAIL))


def _outline(random, name: str, rotated: bool) -> list[tuple[float, float]]:
    """The corners of a shape, of any size and place, somewhat squashed, drawn with an unsteady hand."""
    corners = {"circle": 40, "square": 4, "star": 10, "triangle": 3}[name]
    radius = np.where(np.arange(corners) % 2, 0.45, 1.0) if name == "star" else np.ones(corners)
    angles = 2 * np.pi * np.arange(corners) / corners
    points = radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    points += random.normal(0, 0.015 if name == "circle" else 0.05, points.shape)
    skew, squash = random.uniform(0, 2 * np.pi), random.uniform(0.85, 1)
    turn = random.uniform(0, 2 * np.pi) if rotated else random.uniform(-0.15, 0.15)
    upright = np.pi / 4 if name == "square" else -np.pi / 2  # a tip at the top, or a side
    points = _rotate(points, upright + turn - skew) * (squash, 1)  # narrower along one direction
    points = _rotate(points, skew)
    size = random.uniform(0.18, 0.42)
    center = random.uniform(size + 0.02, 1 - size - 0.02, 2)
    return [tuple(point) for point in ((center + size * points) * SIZE * DETAIL).tolist()]


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


if __name__ == "__main__":
    main()
