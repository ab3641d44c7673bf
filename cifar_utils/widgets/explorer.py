"""The augmentation explorer: a control for every field of a policy, and at once what it does to images."""

import textwrap
from dataclasses import replace

import traitlets
from torch import nn

from cifar_utils import plots, preview, settings, training
from cifar_utils.data import CLASSES, Normalisation, Split
from cifar_utils.policy import PRESETS, RANGES, Policy
from cifar_utils.widgets.base import Widget, page, rgba

FIELDS = {  # title, unit and step of each control; the ends are those of policy.RANGES
    "flip_p": ("Flip", "probability", 0.05),
    "degrees": ("Rotation, up to", "degrees", 1),
    "translate.0": ("Shift sideways, up to", "share of the width", 0.01),
    "translate.1": ("Shift up and down, up to", "share of the height", 0.01),
    "scale.0": ("Zoom, from", "factor", 0.05),
    "scale.1": ("Zoom, to", "factor", 0.05),
    "shear": ("Shear, up to", "degrees", 1),
    "distortion_scale": ("Perspective, up to", "share of half the side", 0.02),
    "perspective_p": ("Perspective", "probability", 0.05),
    "brightness": ("Brightness, up to", "1 plus or minus", 0.05),
    "contrast": ("Contrast, up to", "1 plus or minus", 0.05),
    "saturation": ("Saturation, up to", "1 plus or minus", 0.05),
    "fill": ("Fill from outside", "grey level", 1),
}


class Explorer(Widget):
    """Shows what a policy does; see FIELDS for its controls.

    Args:
        split: training images to look at.
        validation: images on which a trained network says whether labels survive.
        normalisation: of that network.
        policy: to start from.
        network: the trained network; by default the one that ships.
        rows, columns: originals, and draws of each.
    """

    _esm = page("explorer")
    pixels = traitlets.Bytes().tag(sync=True)
    ACTIONS = (
        "set", "preset", "strength", "draw_again", "seed", "classes", "other_images", "sweep", "undo", "reset",
        "load", "save", "judge",
    )  # fmt: skip
    BY_ITSELF = ("judge",)

    def __init__(
        self,
        split: Split,
        validation: Split,
        normalisation: Normalisation | None = None,
        policy: Policy = PRESETS["full"],
        network: nn.Module | None = None,
        rows: int = 5,
        columns: int = 8,
    ) -> None:
        super().__init__()
        if network is None:
            network, normalisation, _ = training.restore(training.SHIPPED)
        self._split, self._network, self._normalisation = split, network, normalisation
        self._judged_on = validation.select(_spread(len(validation), 200))
        self._plain = preview.survival(network, self._judged_on, Policy(), normalisation)
        self._rows, self._columns = rows, columns
        self._at_first = self._state = {
            "policy": policy, "base": policy, "strength": 1.0, "seed": 0, "start": 0, "classes": list(CLASSES),
            "swept": "",
        }  # fmt: skip
        self._before: list[dict] = []
        self._note, self._verdict = "", (False, "")
        self.judge()

    @property
    def policy(self) -> Policy:
        """The policy as the controls stand."""
        return self._state["policy"]

    # What the page's controls do. Values come as JSON has them.

    def set(self, field: str, value: float | str) -> None:
        """Changes one field; a pair's parts are called translate.0 and so on."""
        name, _, part = field.partition(".")
        old = getattr(self.policy, name)
        if part:
            value = (value, old[1]) if part == "0" else (old[0], value)
        policy = replace(self.policy, **{name: value})
        self._change(policy=policy, base=policy, strength=1.0)

    def preset(self, name: str) -> None:
        """Takes a policy of PRESETS."""
        if name not in PRESETS:
            raise ValueError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
        self._change(policy=PRESETS[name], base=PRESETS[name], strength=1.0)

    def strength(self, value: float) -> None:
        """Makes every range of the policy that was set last `value` times as wide, 0 to 4."""
        if not (isinstance(value, (int, float)) and 0 <= value <= 4):
            raise ValueError(f"the strength is {value!r}; it must be a number from 0 to 4")
        self._change(policy=self._state["base"].scaled(value), strength=float(value))

    def draw_again(self) -> None:
        """The next seed."""
        self.seed(self._state["seed"] + 1)

    def seed(self, value: int) -> None:
        """Draws with this seed."""
        if not (isinstance(value, int) and 0 <= value < 2**32):
            raise ValueError(f"the seed is {value!r}; it must be a whole number from 0 to {2**32 - 1}")
        self._change(seed=value)

    def classes(self, names: list[str]) -> None:
        """Looks at these classes only."""
        preview.choose(self._split, tuple(names), 1)  # refuses what there is not
        self._change(classes=[name for name in CLASSES if name in names], start=0)

    def other_images(self) -> None:
        """Looks at the next images."""
        self._change(start=self._state["start"] + self._rows)

    def sweep(self, field: str) -> None:
        """Shows one transform from end to end instead of random draws; "" goes back to these."""
        if field and field not in preview.SWEEPS:
            raise ValueError(f"{field!r} cannot be swept; one of {', '.join(preview.SWEEPS)} can")
        self._change(swept=field)

    def undo(self) -> None:
        """Takes the last change back."""
        if not self._before:
            raise ValueError("there is nothing to undo")
        self._state = self._before.pop()
        self._show()

    def reset(self) -> None:
        """Everything as at first; can be undone."""
        self._change(**self._at_first)

    def load(self) -> None:
        """Takes the policy that was saved last."""
        path = settings.policy_file()
        if not path.exists():
            raise ValueError(f"no policy has been saved in {path.parent.name}/{path.name} yet")
        try:
            policy = Policy.from_json(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path.parent.name}/{path.name}: {error}") from None
        self._change(policy=policy, base=policy, strength=1.0)
        self._say(f"Loaded from {path.parent.name}/{path.name}.")

    def save(self) -> None:
        """Saves the policy where notebook 3 looks for it."""
        path = settings.policy_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.policy.to_json())
        self._say(f"Saved to {path.parent.name}/{path.name}: notebook 3 will train with it.")

    def judge(self) -> None:
        """Asks the trained network whether labels survive. It takes a tenth of a second: the page waits for a rest."""
        kept = preview.survival(self._network, self._judged_on, self.policy, self._normalisation, self._state["seed"])
        self._verdict = preview.verdict(kept, self._plain)
        self._show()

    # Showing

    def images(self) -> Split:
        """The originals on show."""
        return preview.choose(self._split, tuple(self._state["classes"]), self._rows, self._state["start"])

    def shown(self):
        """[rows, columns, 32, 32, 3] uint8: what is beside them."""
        if self._state["swept"]:
            return preview.sweep(self.images(), self.policy, self._state["swept"], self._columns)
        return preview.draws(self.images(), self.policy, self._state["seed"], self._columns)

    def static_figures(self):
        names = [CLASSES[label] for label in self.images().labels]
        title = "\n".join(textwrap.wrap(f"{self.policy} ({self._split})", 110))
        return [plots.augmentation_preview(self.images().images, self.shown(), names, title)]

    def _change(self, **changes) -> None:
        state = self._state | changes
        before, self._state = self._state, state
        if state != before:
            self._before = [*self._before[-99:], before]
        self._note = ""
        self._show()

    def _say(self, note: str) -> None:
        self._note = note
        self._show()

    def _show(self) -> None:
        images = self.images()
        sheet = preview.contact_sheet(images.images, self.shown())
        names = ", ".join(CLASSES[label] for label in images.labels)
        state, swept = self._state, self._state["swept"]
        what = f"{swept} from end to end" if swept else f"{self._columns} random draws"
        with self.hold_sync():  # one message: the picture and what is said of it belong together
            self.pixels = rgba(sheet)
            self.view = {
                "width": sheet.shape[1],
                "height": sheet.shape[0],
                "alt": f"{self._rows} rows ({names}): the original on the left, then {what}.",
                "fields": [[key, *texts, *_limits(key), _value(self.policy, key)] for key, texts in FIELDS.items()],
                "interpolation": self.policy.interpolation,
                "presets": list(PRESETS),
                "preset": next((name for name, policy in PRESETS.items() if policy == self.policy), ""),
                "strength": state["strength"],
                "seed": state["seed"],
                "classes": [[name, name in state["classes"]] for name in CLASSES],
                "sweeps": list(preview.SWEEPS),
                "swept": swept,
                "policy": repr(self.policy),
                "code": self.policy.to_code(),
                "can_undo": bool(self._before),
                "note": self._note,
                "destroys": self._verdict[0],
                "verdict": self._verdict[1],
                "title": str(self._split),
            }


def _limits(key: str) -> tuple[float, float]:
    return RANGES[key.partition(".")[0]]


def _value(policy: Policy, key: str) -> float:
    name, _, part = key.partition(".")
    value = getattr(policy, name)
    return value[int(part)] if part else value


def _spread(length: int, count: int) -> list[int]:
    return [i * length // count for i in range(min(count, length))]
