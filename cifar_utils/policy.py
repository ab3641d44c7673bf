"""The augmentation policy: what may happen to a training image.

Parameter names, meanings and distributions are those of torchvision.transforms.v2's RandomHorizontalFlip,
RandomAffine, RandomPerspective and ColorJitter; `Policy.to_torchvision` gives those transforms.
"""

import json
import sys
from dataclasses import asdict, dataclass, fields, replace


@dataclass(frozen=True, repr=False)
class Policy:
    """What may happen to an image. The default changes nothing.

    Attributes:
        flip_p: probability of a horizontal flip, 0 to 1.
        degrees: rotation, drawn from [-degrees, degrees], 0 to 180.
        translate: largest shift (x, y) as a fraction of the image's side, each 0 to 1. Shifts are whole pixels.
        scale: smallest and largest zoom factor, each above 0 and at most 4.
        shear: shear along x in degrees, drawn from [-shear, shear], 0 to 60.
        distortion_scale: perspective; corners move inwards by up to this fraction of half the side, 0 to 1.
        perspective_p: probability of the perspective, 0 to 1.
        brightness, contrast, saturation: the factor is drawn from [max(0, 1 - x), 1 + x], x from 0 to 2.
        fill: grey level of the pixels that come from outside the image, 0 to 255.
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
            # One type and one zero a field, so that equal policies have equal JSON: 10 and 10.0 are the same rotation.
            numbers = tuple((int if name == "fill" else float)(x) + 0 for x in numbers)  # -0.0 + 0 is 0.0
            object.__setattr__(self, name, numbers if pair else numbers[0])
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"Policy.scale is {self.scale!r}; the first number must not exceed the second")
        if self.interpolation not in ("bilinear", "nearest"):
            raise ValueError(f"Policy.interpolation is {self.interpolation!r}; it must be 'bilinear' or 'nearest'")

    def __repr__(self) -> str:
        changed = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default)
        return f"Policy({', '.join(changed)})"

    @property
    def warps(self) -> bool:
        """Whether pixels can move."""
        return (
            self.flip_p > 0
            or self.degrees > 0
            or max(self.translate) > 0
            or self.scale != (1.0, 1.0)
            or self.shear > 0
            or (self.distortion_scale > 0 and self.perspective_p > 0)
        )

    @property
    def recolours(self) -> bool:
        """Whether colours can change."""
        return max(self.brightness, self.contrast, self.saturation) > 0

    def scaled(self, strength: float) -> "Policy":
        """The same policy with every range `strength` times as wide (0: none of them), cut off at the legal ranges.

        Probabilities, fill and interpolation stay: flipping more than half of the images is not a stronger flip.
        """
        if not (_is_number(strength) and strength >= 0):
            raise ValueError(f"strength is {strength!r}; it must be a number of at least 0")
        if strength == 1:
            return self  # 1 + (scale - 1) would round

        def grow(name: str) -> float:
            return min(round(getattr(self, name) * strength, 9), RANGES[name][1])  # 0.6, not 0.6000000000000001

        plain = ("degrees", "shear", "distortion_scale", "brightness", "contrast", "saturation")
        low, high = RANGES["scale"]
        return replace(
            self,
            translate=tuple(min(round(t * strength, 9), 1.0) for t in self.translate),
            scale=tuple(min(max(round(1 + (s - 1) * strength, 9), low), high) for s in self.scale),
            **{name: grow(name) for name in plain},
        )

    def to_json(self) -> str:
        """The policy as JSON text, every field by name."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Policy":
        """The policy that `to_json` wrote.

        Raises:
            ValueError: not JSON, an unknown field, or a value out of range.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not a policy: a JSON object is expected")
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"not a policy: unknown field {', '.join(sorted(unknown))}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def to_torchvision(self):
        """The equivalent torchvision.transforms.v2.Compose, for PIL images or uint8 tensors, one image at a time.

        It draws from the same distributions, with torch's global generator instead of (seed, epoch, index), and it
        resamples once a transform instead of once in all.
        """
        from torchvision.transforms import v2

        def ready(value):
            return v2.InterpolationMode(value) if isinstance(value, str) else value

        steps = [getattr(v2, name)(**{k: ready(v) for k, v in options.items()}) for name, options in self._steps()]
        return v2.Compose(steps)

    def to_code(self) -> str:
        """Python source that makes the Compose of `to_torchvision`, to copy into a project of one's own."""

        def ready(value) -> str:
            return f"v2.InterpolationMode.{value.upper()}" if isinstance(value, str) else repr(value)

        steps = [
            f"    v2.{name}({', '.join(f'{k}={ready(v)}' for k, v in options.items())}),\n"
            for name, options in self._steps()
        ]
        return f"from torchvision.transforms import v2\n\ntransform = v2.Compose([\n{''.join(steps)}])\n"

    def _steps(self) -> list[tuple[str, dict]]:
        """Names and options of torchvision's transforms."""
        borders = {"interpolation": self.interpolation, "fill": self.fill}
        steps = []
        if self.flip_p > 0:
            steps.append(("RandomHorizontalFlip", {"p": self.flip_p}))
        if self.degrees > 0 or max(self.translate) > 0 or self.scale != (1.0, 1.0) or self.shear > 0:
            options = {"degrees": self.degrees, "translate": self.translate, "scale": self.scale}
            steps.append(("RandomAffine", options | {"shear": self.shear or None} | borders))
        if self.distortion_scale > 0 and self.perspective_p > 0:
            options = {"distortion_scale": self.distortion_scale, "p": self.perspective_p}
            steps.append(("RandomPerspective", options | borders))
        if self.recolours:
            options = {name: getattr(self, name) for name in ("brightness", "contrast", "saturation")}
            steps.append(("ColorJitter", options))
        return steps or [("Identity", {})]


RANGES = {  # the legal range of every number in a Policy, ends included
    "flip_p": (0, 1),
    "degrees": (0, 180),
    "translate": (0, 1),
    "scale": (0.05, 4),
    "shear": (0, 60),
    "distortion_scale": (0, 1),
    "perspective_p": (0, 1),
    "brightness": (0, 2),
    "contrast": (0, 2),
    "saturation": (0, 2),
    "fill": (0, 255),
}


def _is_number(x) -> bool:
    """Neither NaN nor infinite nor an int beyond every float."""
    return isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) <= sys.float_info.max


FULL = Policy(
    flip_p=0.5,
    degrees=10,
    translate=(0.1, 0.1),
    scale=(0.9, 1.1),
    distortion_scale=0.2,
    perspective_p=0.5,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
)
PRESETS = {
    "none": Policy(),
    "flip_and_shift": Policy(flip_p=0.5, translate=(0.0625, 0.0625)),  # two pixels of 32
    "light": FULL.scaled(0.5),
    "full": FULL,
    "strong": FULL.scaled(2),
}
