"""Data augmentation: what may happen to a training image, each image's random parameters, and how other transforms
join in.

A `Policy` has the parameter names, meanings and distributions of torchvision.transforms.v2's RandomHorizontalFlip,
RandomAffine, RandomPerspective and ColorJitter. Its random parameters are a pure function of (seed, epoch, image):
batch size, order, the number of processes and the point of a restart change nothing.
"""

import inspect
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from cifar_utils import warp
from cifar_utils.data import beyond_0_to_1

RANGES = {  # the legal range of every number in a Policy, ends included
    "flip_p": (0, 1), "degrees": (0, 180), "translate": (0, 1), "scale": (0.05, 4), "shear": (0, 60),
    "distortion_scale": (0, 1), "perspective_p": (0, 1), "brightness": (0, 2), "contrast": (0, 2),
    "saturation": (0, 2), "fill": (0, 255),
}  # fmt: skip


def _is_number(x) -> bool:
    """Of Python or NumPy; neither NaN nor infinite nor an int beyond every float."""
    x = x.item() if getattr(x, "ndim", None) == 0 else x
    return isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) <= sys.float_info.max


@dataclass(frozen=True, repr=False)
class Policy:
    """What may happen to an image. The default changes nothing.

    Attributes:
        flip_p: probability of a horizontal flip, 0 to 1.
        degrees: rotation, drawn from [-degrees, degrees], 0 to 180.
        translate: largest shift (x, y) as a fraction of the image's side, each 0 to 1. Shifts are whole pixels.
        scale: smallest and largest zoom factor, each from 0.05 to 4.
        shear: shear along x in degrees, drawn from [-shear, shear], 0 to 60.
        distortion_scale: perspective; corners move inwards by up to this fraction of half the side, 0 to 1.
        perspective_p: probability of the perspective, 0 to 1.
        brightness, contrast, saturation: the factor is drawn from [max(0, 1 - x), 1 + x], x from 0 to 2.
        fill: gray level of the pixels that come from outside the image, 0 to 255.
        interpolation: "bilinear" or "nearest".

    Raises:
        ValueError: a field is out of its range; the message names the field, the value and the range.
    """

    flip_p: float = 0.0
    degrees: float = 0.0
    translate: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    distortion_scale: float = 0.0
    perspective_p: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    fill: int = 0
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            pair = name in ("translate", "scale")
            numbers = tuple(value) if pair and isinstance(value, (tuple, list)) else (value,)
            legal = (_is_number(x) and low <= x <= high and (name != "fill" or x == int(x)) for x in numbers)
            if len(numbers) != (2 if pair else 1) or not all(legal):
                what = "two numbers" if pair else "a whole number" if name == "fill" else "a number"
                raise ValueError(f"Policy.{name} is {value!r}; it must be {what} from {low:g} to {high:g}")
            # One type and one zero per field, so that equal policies have equal JSON: 10 and 10.0 are one rotation.
            numbers = tuple((int if name == "fill" else float)(x) + 0 for x in numbers)  # -0.0 + 0 is 0.0
            object.__setattr__(self, name, numbers if pair else numbers[0])
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"Policy.scale is {self.scale!r}; the first number must not exceed the second")
        if self.interpolation not in ("bilinear", "nearest"):
            raise ValueError(f"Policy.interpolation is {self.interpolation!r}; it must be 'bilinear' or 'nearest'")

    def __repr__(self) -> str:
        changed = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default)
        return f"Policy({', '.join(changed)})"

    def __call__(self, images: Tensor, index: Tensor | None = None, epoch: int = 0, seed: int = 0, size=None) -> Tensor:
        """Augments a batch; each image's result depends on (seed, epoch, its index) alone, to the last bit.

        Args:
            images: [N, 3, H, W], uint8 or float in 0 to 1.
            index: [N] int64, each image's position in the data set; by default 0 to N - 1.
            epoch: from 0.
            seed: 0 to 2**64 - 1.
            size: of the result, a number or (height, width); by default the images' own.

        Returns:
            [N, 3, height, width] float32 in 0 to 1.
        """
        images = checked_batch(images)
        index = torch.arange(len(images)) if index is None else torch.as_tensor(index)
        if len(index) != len(images):
            raise ValueError(f"{len(images)} images and {len(index)} positions were given; each image needs its own")
        if index.dtype != torch.int64 or not all(isinstance(n, int) and 0 <= n < 2**64 for n in (epoch, seed)):
            found = f"{index.dtype}, epoch {epoch!r} and seed {seed!r}"
            raise ValueError(f"index must be torch.int64, epoch and seed whole numbers of at least 0, not {found}")
        height, width = images.shape[-2:]
        p = draw(self, seed, epoch, index.to(images.device), (height, width))
        return self.apply(images, p, size)

    def at_step(self, images: Tensor, step: "Step", size=None) -> Tensor:
        """What `apply_transform` calls: `__call__` with the index, epoch and seed of a training step."""
        return self(images, step.index, step.epoch, step.seed, size)

    def apply(self, images: Tensor, p: warp.Parameters, size=None, dtype: torch.dtype = torch.float32) -> Tensor:
        """`warp.apply` with parameters that were drawn from this policy; leaves out what it cannot do."""
        return warp.apply(
            images, p, size=size, interpolation=self.interpolation, fill=self.fill,
            geometric=self.is_geometric, color=self.changes_color, dtype=dtype,
        )  # fmt: skip

    @property
    def is_geometric(self) -> bool:
        """Whether pixels can move."""
        return any(name not in ("ColorJitter", "Identity") for name, _ in self.torchvision_steps())

    @property
    def changes_color(self) -> bool:
        """Whether colors can change."""
        return max(self.brightness, self.contrast, self.saturation) > 0

    def scaled(self, strength: float) -> "Policy":
        """The same policy with every range `strength` times as wide (0: none of them), cut off at the legal ranges.

        Probabilities, fill and interpolation stay: flipping more than half of the images is not a stronger flip.

        Raises:
            ValueError: the strength is not a number of at least 0.
        """
        if not (_is_number(strength) and strength >= 0):
            raise ValueError(f"strength is {strength!r}; it must be a number of at least 0")
        if strength == 1:
            return self  # 1 + (scale - 1) would round

        names = ("degrees", "shear", "distortion_scale", "brightness", "contrast", "saturation")
        # Rounded: 0.6, not 0.6000000000000001.
        grown: dict[str, Any] = {n: min(round(getattr(self, n) * strength, 9), RANGES[n][1]) for n in names}
        grown["translate"] = tuple(min(round(t * strength, 9), 1.0) for t in self.translate)
        low, high = RANGES["scale"]
        grown["scale"] = tuple(min(max(round(1 + (s - 1) * strength, 9), low), high) for s in self.scale)
        return replace(self, **grown)

    def to_json(self) -> str:
        """The policy as JSON text, every field by name."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Policy":
        """The policy that `to_json` wrote. Raises ValueError: not JSON, an unknown or repeated field, a wrong value."""
        try:
            pairs = json.loads(text, object_pairs_hook=tuple)
            if not isinstance(pairs, tuple):
                raise ValueError("not a policy: a JSON object is expected")
            names = [name for name, _ in pairs]
            unknown = sorted(set(names) - {f.name for f in fields(cls)})
            if unknown or len(set(names)) < len(names):
                fields_are = f"; the fields are {', '.join(f.name for f in fields(cls))}"
                problem = f"unknown field {', '.join(unknown)}{fields_are}" if unknown else "a field appears twice"
                raise ValueError(f"not a policy: {problem}")
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in pairs}
            return cls(**values)
        except RecursionError:
            raise ValueError("not a policy: the JSON is nested too deeply") from None

    def to_torchvision(self):
        """The equivalent torchvision transforms as a v2.Compose, for PIL images or uint8 tensors, one image at a time.

        They draw from the same distributions, with torch's global generator instead of (seed, epoch, index), and
        resample once per transform instead of once in all.
        """
        from torchvision.transforms import v2  # here: it takes a second and 160 MB, and a Policy needs none of it

        def ready(value):
            return v2.InterpolationMode(value) if isinstance(value, str) else value

        steps = self.torchvision_steps()
        return v2.Compose([getattr(v2, name)(**{k: ready(v) for k, v in args.items()}) for name, args in steps])

    def torchvision_steps(self) -> list[tuple[str, dict]]:
        """Names and options of torchvision's transforms."""
        borders = {"interpolation": self.interpolation, "fill": self.fill}
        steps: list[tuple[str, dict]] = []
        if self.flip_p > 0:
            steps.append(("RandomHorizontalFlip", {"p": self.flip_p}))
        if self.degrees > 0 or max(self.translate) > 0 or self.scale != (1.0, 1.0) or self.shear > 0:
            options = {"degrees": self.degrees, "translate": self.translate, "scale": self.scale}
            steps.append(("RandomAffine", options | {"shear": self.shear or None} | borders))
        if self.distortion_scale > 0 and self.perspective_p > 0:
            options = {"distortion_scale": self.distortion_scale, "p": self.perspective_p}
            steps.append(("RandomPerspective", options | borders))
        if self.changes_color:
            options = {name: getattr(self, name) for name in ("brightness", "contrast", "saturation")}
            steps.append(("ColorJitter", options))
        return steps or [("Identity", {})]


FULL = Policy(
    flip_p=0.5, degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1), distortion_scale=0.2, perspective_p=0.5,
    brightness=0.2, contrast=0.2, saturation=0.2,
)  # fmt: skip
PRESETS = {
    "none": Policy(),
    "flip_and_shift": Policy(flip_p=0.5, translate=(0.0625, 0.0625)),  # two pixels of 32
    "light": FULL.scaled(0.5),
    "full": FULL,
    "strong": FULL.scaled(2),
}


# Random parameters


def draw(policy: Policy, seed: int, epoch: int, index: Tensor, size: int | tuple[int, int] = 32) -> warp.Parameters:
    """Draws each image's parameters as a pure function of (seed, epoch, index).

    Mirror images take turns: at a probability of one half, an image is seen in both ways in every two epochs, where by
    pure chance it would be seen twice in the same way as often as not (alternating flip, K. Jordan's airbench, 2024).

    Args:
        policy: what may happen.
        seed: 0 to 2**64 - 1.
        epoch: from 0.
        index: [N] int64, each image's position in the data set.
        size: (height, width) of the images in pixels, or one number for both.
    """
    height, width = (size, size) if isinstance(size, int) else size
    u = _uniform(seed, epoch, index, 18)
    turn = u[:, 0]
    if epoch % 2:  # what the epoch before did not have; as likely to be below any number as its own is
        turn = 1 - 2.0**-24 - _uniform(seed, epoch - 1, index, 1)[:, 0]

    def between(column: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * column

    def factor(column: Tensor, x: float) -> Tensor:
        return between(column, max(0.0, 1 - x), 1 + x)

    shifts = [between(u[:, 2 + i], -t * n, t * n) for i, (t, n) in enumerate(zip(policy.translate, (width, height)))]
    deepest = (int(policy.distortion_scale * (n // 2)) for n in (width, height))
    corners = torch.stack([(u[:, 7 + i : 15 : 2] * (pixels + 1)).floor() for i, pixels in enumerate(deepest)], -1)
    return warp.Parameters(
        flip=turn < policy.flip_p,
        angle=between(u[:, 1], -policy.degrees, policy.degrees),
        translate=torch.stack(shifts, 1).round(),
        scale=between(u[:, 4], *policy.scale),
        shear=between(u[:, 5], -policy.shear, policy.shear),
        corners=corners * (u[:, 6] < policy.perspective_p)[:, None, None],
        brightness=factor(u[:, 15], policy.brightness),
        contrast=factor(u[:, 16], policy.contrast),
        saturation=factor(u[:, 17], policy.saturation),
    )


def _philox(seed: int, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> list[Tensor]:
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


def _uniform(seed: int, epoch: int, index: Tensor, count: int) -> Tensor:
    """[N, count] float32 random numbers in [0, 1), a pure function of (seed, epoch, index); index is [N] int64."""
    block = torch.arange(math.ceil(count / 4), device=index.device)
    zero = torch.zeros_like(block)
    words = _philox(seed, (index[:, None], zero + epoch, block, zero))
    return (torch.stack(words, -1).flatten(1)[:, :count] >> 8).float() * 2.0**-24  # the upper 24 bits: exact


# Other transforms


@dataclass(frozen=True, eq=False)
class Step:
    """What a transform may depend on besides the images.

    Attributes:
        seed: of the training.
        epoch: from 0.
        index: [N] int64, the images' positions in the data set.
        progress: fraction of all training steps that are done, 0 to 1.
    """

    seed: int
    epoch: int
    index: Tensor
    progress: float


def apply_transform(transform, images: Tensor, labels: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """Applies whatever is given as `fit(transform=...)` to one training batch.

    Args:
        transform: None, or one of these, or a list of them:
            a Policy, or any object with `at_step(images, step) -> images`;
            a torchvision transform, which is applied image by image (with random numbers of its own for each), as are
            functions within a v2.Compose; but MixUp and CutMix take the batch and its labels;
            any other callable, which takes the batch: images -> images, or (images, labels) -> (images, labels).
        images: [N, 3, S, S] uint8.
        labels: [N] int64.
        step: see there.

    Returns:
        Images [N, 3, T, T] float32 in 0 to 1, and labels: [N] int64, or [N, classes] float from MixUp and CutMix.

    Raises:
        ValueError: a transform cannot take these images, or returns something other than a batch of as many.
    """
    count = len(images)
    for part in flatten(transform):
        try:
            if hasattr(part, "at_step"):
                images = part.at_step(images, step)
            elif _mixes(part):
                images, labels = part(to_float(images), labels)
            elif takes_labels(part):
                images, labels = part(images, labels)
            elif is_torchvision(part):
                found = [part(image) for image in images]
                mixed = {getattr(x, "dtype", None) for x in found} == {torch.uint8, torch.float32}
                images = torch.stack([*map(to_float, found)] if mixed else found)
            else:
                images = part(images)
        except Exception as error:  # a transform of the participant's own may raise anything
            hint = "; with two arguments, it is given images and labels" if takes_labels(part) else ""
            if type(part).__name__.endswith(("ToTensor", "ToPILImage")):
                hint = "; leave it out, images are tensors already"
            where = f"the transform {describe(part)} fails on a batch {_said(images)}"
            raise ValueError(f"{where}: {error}{hint}") from error
        if not _is_batch(images) or len(images) != count:
            wanted = f"[{count}, 3, S, S] of uint8 or float"
            raise ValueError(f"the transform {describe(part)} returns {_said(images)} instead of {wanted}")
        if not isinstance(labels, Tensor) or labels.ndim not in (1, 2) or len(labels) != count:
            raise ValueError(f"the transform {describe(part)} returns {_said(labels)} instead of {count} labels")
    return to_float(images), labels


def to_float(images: Tensor) -> Tensor:
    """[N, 3, H, W] uint8, or float in 0 to 1 -> the same shape, float32 in 0 to 1."""
    return images / 255 if images.dtype == torch.uint8 else images.float()


def flatten(transform) -> list:
    """A transform or a (nested) list, Compose or Sequential of them as one list; a ValueError names what is none."""
    if transform is None:
        return []
    if isinstance(transform, (list, tuple)) or type(transform) is torch.nn.Sequential or _is_divisible(transform):
        return [part for item in getattr(transform, "transforms", transform) for part in flatten(item)]
    if not (callable(transform) or hasattr(transform, "at_step")):
        hint = f"; PRESETS[{transform!r}] is the policy" if isinstance(transform, str) and transform in PRESETS else ""
        raise ValueError(f"transform is {transform!r}, which is no Policy, torchvision transform or function{hint}")
    return [transform]


def _is_divisible(transform) -> bool:
    """Whether it is a Compose whose parts can be applied one after the other to the whole batch, with the same result.

    A function among them cannot: Compose hands it single images. Nor can ToPILImage.
    """
    if type(transform).__name__ != "Compose" or not is_torchvision(transform):
        return False
    parts = transform.transforms
    if any(type(part).__name__ == "ToPILImage" for part in parts):
        return False
    of_batches = [p for p in parts if _mixes(p) or hasattr(p, "at_step") and not is_torchvision(p)]
    is_divisible = all(is_torchvision(part) or part in of_batches for part in parts)
    if of_batches and not is_divisible:
        what = f"{describe(of_batches[0])} takes a batch, and a Compose with a function hands its parts single images"
        raise ValueError(f"{what}: put the parts into a list instead")
    return is_divisible


def describe(transform) -> str:
    """A transform in words, the same in every process: a repr without addresses, or a function's name."""
    if isinstance(transform, (list, tuple)):
        return f"[{', '.join(map(describe, transform))}]"
    if inspect.isroutine(transform):
        return transform.__qualname__
    text = " ".join(repr(transform).split())
    return type(transform).__name__ if " at 0x" in text else text


def _mixes(part) -> bool:
    """Whether it is MixUp or CutMix, or a choice of these."""
    if not is_torchvision(part):
        return False
    from torchvision.transforms import v2

    inner = getattr(part, "transforms", None)
    if isinstance(inner, (list, tuple, torch.nn.ModuleList)):
        return any(map(_mixes, inner))
    return isinstance(part, (v2.MixUp, v2.CutMix))


def is_torchvision(part) -> bool:
    """Whether it is one of torchvision's transforms, or derived from one."""
    return any(c.__module__.startswith("torchvision.transforms") for c in type(part).__mro__)


def takes_labels(part: Callable) -> bool:
    """Whether it has two arguments without a default, as a function of the participant's own may."""
    try:
        parameters = inspect.signature(part.forward if isinstance(part, torch.nn.Module) else part).parameters.values()
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False
    return sum(p.kind <= p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in parameters) == 2


def checked_batch(images: Tensor) -> Tensor:
    """The images, if they are [N, 3, H, W] of uint8, or of floats from 0 to 1; else a ValueError."""
    if not _is_batch(images):
        raise ValueError(f"augmentation takes [N, 3, H, W] of uint8, or of floats from 0 to 1, not {_said(images)}")
    if images.is_floating_point() and images.device.type == "cpu" and images.numel():
        if beyond := beyond_0_to_1(images):
            raise ValueError(f"augmentation takes float images from 0 to 1, and these go from {beyond}")
    return images


def _is_batch(images) -> bool:
    color = isinstance(images, Tensor) and images.ndim == 4 and images.shape[1] == 3
    return color and (images.dtype == torch.uint8 or images.is_floating_point())


def _said(images) -> str:
    return f"{list(images.shape)} of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
