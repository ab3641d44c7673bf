"""What tests of the augmentation share: policies that hypothesis draws, random images, and single parameters."""

from dataclasses import replace

import torch
from hypothesis import strategies as st

from cifar_utils.augment import RANGES, Policy, draw
from cifar_utils.warp import Parameters

WIDE = Policy(  # can do everything, far beyond any preset
    flip_p=0.5,
    degrees=180,
    translate=(0.5, 0.3),
    scale=(0.4, 2.5),
    shear=45,
    distortion_scale=0.4,
    perspective_p=0.7,
    brightness=0.5,
    contrast=1.5,
    saturation=1.0,
)


def numbers(name: str) -> st.SearchStrategy:
    """A legal number of this field of a Policy, its two ends more often than chance would have it."""
    low, high = RANGES[name]
    inner = st.integers(low, high) if name == "fill" else st.floats(low, high)
    return st.sampled_from([low, high]) | inner


def policies() -> st.SearchStrategy[Policy]:
    """Every legal policy."""
    plain = {name: numbers(name) for name in RANGES if name not in ("translate", "scale")}
    pair = {name: st.tuples(numbers(name), numbers(name)) for name in ("translate", "scale")}
    return st.builds(
        Policy,
        **plain,
        translate=pair["translate"],
        scale=pair["scale"].map(lambda s: (min(s), max(s))),
        interpolation=st.sampled_from(["bilinear", "nearest"]),
    )


def noise(count: int, height: int = 32, width: int | None = None, seed: int = 0) -> torch.Tensor:
    """[count, 3, height, width] uint8: images of random pixels, square by default."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width or height), dtype=torch.uint8, generator=generator)


def still(n: int = 1, **changes) -> Parameters:
    """Parameters of n images that change nothing but what is named."""
    nothing = draw(Policy(), 0, 0, torch.arange(n))
    changes = {k: torch.as_tensor(v).to(getattr(nothing, k)).expand_as(getattr(nothing, k)) for k, v in changes.items()}
    return replace(nothing, **changes)
