"""The augmentation explorer: a control for every field of a policy, and at once its effect on images."""

import textwrap
from dataclasses import replace
from typing import Any

import traitlets
from torch import nn

from cifar_utils import network_file, plots, runs, settings, takehome
from cifar_utils.augment import PRESETS, RANGES, Policy
from cifar_utils.data import CIFAR10_CLASSES, Dataset
from cifar_utils.widgets import preview
from cifar_utils.widgets.base import MAX_SIDE, Widget, check_number, page, rgba

FIELDS = {  # title, unit and step of each control; the limits are those of augment.RANGES
    "flip_p": ("Flip", "probability", 0.05),
    "degrees": ("Rotation, up to", "degrees", 1),
    "translate.0": ("Horizontal shift, up to", "fraction of the width", 0.01),
    "translate.1": ("Vertical shift, up to", "fraction of the height", 0.01),
    "scale.0": ("Zoom, from", "factor", 0.05),
    "scale.1": ("Zoom, to", "factor", 0.05),
    "shear": ("Shear, up to", "degrees", 1),
    "distortion_scale": ("Perspective, up to", "fraction of half the side", 0.02),
    "perspective_p": ("Perspective", "probability", 0.05),
    "brightness": ("Brightness, up to", "1 plus or minus", 0.05),
    "contrast": ("Contrast, up to", "1 plus or minus", 0.05),
    "saturation": ("Saturation, up to", "1 plus or minus", 0.05),
    "fill": ("Fill outside the image", "gray level", 1),
}
MEASURING = "Measuring the accuracy of the trained network under this policy ..."
NO_NETWORK = "No network was given that knows these classes, so accuracy under augmentation is not measured."


class Explorer(Widget):
    """Shows the effect of a policy; see FIELDS for its controls.

    Args:
        train: training images to show.
        validation: images on which a trained network measures whether labels survive.
        policy: to start from.
        network: the trained network. By default the shipped one, where it fits: CIFAR-10's classes at 32 x 32 pixels.
        rows, columns: number of originals, and of random draws of each.

    Raises:
        ValueError: the two datasets are not a training and a validation split of the same classes and size.
    """

    _esm = page("explorer")
    pixels = traitlets.Bytes().tag(sync=True)
    ACTIONS = (
        "set", "preset", "strength", "draw_again", "seed", "classes", "other_images", "sweep", "undo", "reset",
        "load", "save", "judge",
    )  # fmt: skip
    AUTOMATIC = ("judge",)

    def __init__(
        self,
        train: Dataset,
        validation: Dataset,
        policy: Policy = PRESETS["full"],
        network: nn.Module | None = None,
        rows: int = 5,
        columns: int = 8,
    ) -> None:
        super().__init__()
        if (train.split, validation.split) != ("training", "validation"):
            raise ValueError(
                f"the explorer takes training images and validation images, in this order, not {train.split} and "
                f"{validation.split} images: a policy that was chosen on test images makes their accuracy useless"
            )
        if (train.classes, train.size) != (validation.classes, validation.size):
            raise ValueError("the training and the validation images differ in their classes or in their size")
        check_number(rows, 1, 100, "rows", whole=True)
        check_number(columns, 1, 100, "columns", whole=True)
        self._train, self._network = train, network
        # Fewer large images, so that a small machine needs a second at most; 50 still give a useful interval.
        count = min(len(validation), 200, max(50, 200 * 64**2 // validation.size**2))
        self._judged_on = validation.select([i * len(validation) // count for i in range(count)])
        self._plain: tuple[float, float, float] | None = None  # accuracy without augmentation, once it is measured
        self._rows, self._columns = rows, columns
        present = set(train.labels.tolist())
        self._classes = [name for label, name in enumerate(train.classes) if label in present]
        self._state: dict = {
            "policy": policy, "base": policy, "strength": 1.0, "seed": 0, "start": 0, "classes": self._classes,
            "swept": "",
        }  # fmt: skip
        self._initial = self._state
        self._previous: list[dict] = []
        self._note, self._warning = "", (False, "")
        self._judged: tuple | None = None  # the policy and seed that the warning is about
        self._show()
        self.do("judge")  # a network that does not fit is an error in the widget: the images can be seen all the same

    @property
    def policy(self) -> Policy:
        """The policy that the controls show."""
        return self._state["policy"]

    # The actions of the page's controls. Values arrive as JSON.

    def set(self, field: str, value: float | str) -> None:
        """Changes one field; the two parts of a pair are called translate.0, translate.1 and so on."""
        if field not in FIELDS and field != "interpolation":
            raise ValueError(f"a policy has no field {field!r}; its fields are {', '.join(FIELDS)} and interpolation")
        name, _, part = field.partition(".")
        changed: dict[str, Any] = {name: value}
        if part:
            pair = list(getattr(self.policy, name))
            pair[int(part)] = value
            changed[name] = tuple(pair)
        policy = replace(self.policy, **changed)
        never = field == "distortion_scale" and value and not policy.perspective_p
        note = "The probability of the perspective is 0: raise it as well, or images stay as they are." if never else ""
        self._change(note, policy=policy, base=policy, strength=1.0)

    def preset(self, name: str) -> None:
        """Takes a policy of PRESETS."""
        if name not in PRESETS:
            raise ValueError(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}")
        self._change(policy=PRESETS[name], base=PRESETS[name], strength=1.0)

    def strength(self, value: float) -> None:
        """Makes every range of the policy that was set last `value` times as wide, 0 to 4."""
        check_number(value, 0, 4, "the strength")
        self._change(policy=self._state["base"].scaled(value), strength=float(value))

    def draw_again(self) -> None:
        """Draws with the next seed."""
        self.seed((self._state["seed"] + 1) % 2**32)

    def seed(self, value: int) -> None:
        """Draws with this seed."""
        check_number(value, 0, 2**32 - 1, "the seed", whole=True)
        self._change(seed=value)

    def classes(self, names: list[str]) -> None:
        """Shows images of these classes only."""
        preview.choose(self._train, tuple(names), 1)  # refuses unknown classes
        self._change(classes=[name for name in self._classes if name in names], start=0)

    def other_images(self) -> None:
        """Shows the next images."""
        self._change(start=self._state["start"] + self._rows)

    def sweep(self, field: str) -> None:
        """Shows one transform from end to end instead of random draws; "" returns to random draws."""
        if field and field not in preview.SWEEPS:
            raise ValueError(f"{field!r} cannot be swept; choose one of {', '.join(preview.SWEEPS)}")
        self._change(swept=field)

    def undo(self) -> None:
        """Takes the last change back."""
        if not self._previous:
            raise ValueError("there is nothing to undo")
        self._state = self._previous.pop()
        self._notify("")

    def reset(self) -> None:
        """Returns to the initial state; can be undone."""
        self._change(**self._initial)

    def load(self) -> None:
        """Takes the policy that was saved last."""
        path = settings.policy_file()
        if not path.exists():
            raise ValueError(f"no policy has been saved in {path.parent.name}/{path.name} yet")
        try:
            policy = Policy.from_json(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path.parent.name}/{path.name}: {error}") from None
        note = f"Loaded from {path.parent.name}/{path.name}."
        self._change(note, policy=policy, base=policy, strength=1.0)

    def save(self) -> None:
        """Saves the policy in the file from which notebook 3 reads it."""
        path = network_file.save_policy(self.policy)
        self._notify(f"Saved to {path.parent.name}/{path.name}. Notebook 3 trains with this policy.")

    def judge(self) -> None:
        """Measures accuracy under augmentation. It takes longer than a draw: the page calls it when controls rest."""
        if self._network is None:
            self._network = _shipped_network(self._train)
        if self._network is None:
            self._warning = False, NO_NETWORK
            self._show()
        elif self._judged != (self.policy, self._state["seed"]):  # each page that shows the widget asks
            self._judged, self._warning = (self.policy, self._state["seed"]), (False, "")  # where it fails: no verdict
            arguments = self._network, self._judged_on
            try:
                self._plain = self._plain or preview.accuracy_under_augmentation(*arguments, Policy())
                augmented = preview.accuracy_under_augmentation(*arguments, *self._judged)
                self._warning = preview.warning(augmented, self._plain, len(self._train.classes))
            finally:
                self._show()

    # Showing

    def images(self) -> Dataset:
        """The originals that are shown."""
        return preview.choose(self._train, tuple(self._state["classes"]), self._rows, self._state["start"])

    def shown(self):
        """[rows, columns, S, S, 3] uint8: the augmented images beside the originals."""
        if self._state["swept"]:
            return preview.sweep(self.images(), self.policy, self._state["swept"], self._columns)
        return preview.draws(self.images(), self.policy, self._state["seed"], self._columns)

    def static_figures(self):
        images = self.images()
        names = [images.classes[label] for label in images.labels]
        title = "\n".join(textwrap.wrap(f"{self.policy} ({self._train})", 110))
        content = self._content(self._values(images)) if self._state["swept"] else ""
        return [plots.augmentation_preview(images.images, self.shown(), names, title, content)]

    def _values(self, images: Dataset) -> list[str]:
        """The value of each column, with its unit; none of random draws."""
        swept = self._state["swept"]
        return preview.sweep_values(images, self.policy, swept, self._columns) if swept else []

    def _content(self, values: list[str]) -> str:
        """What the columns beside the originals show, in words."""
        swept = self._state["swept"]
        return f"{swept} from end to end ({', '.join(values)})" if swept else f"{self._columns} random draws"

    def _change(self, note: str = "", **changes) -> None:
        state = self._state | changes
        previous, self._state = self._state, state
        if state != previous:
            self._previous = [*self._previous[-99:], previous]
        self._notify(note)

    def _notify(self, note: str) -> None:
        self._note = note
        self._show()

    def _show(self) -> None:
        images = self.images()
        sheet = preview.contact_sheet(images.images, self.shown())
        names = [images.classes[label] for label in images.labels]
        state, swept = self._state, self._state["swept"]
        lines = textwrap.wrap(repr(self.policy), 88, subsequent_indent="    ", break_on_hyphens=False)
        values = self._values(images)
        content = self._content(values)
        is_judged = self._network is None or self._judged == (self.policy, state["seed"])
        destroys, warning = self._warning if is_judged else (False, MEASURING)
        with self.hold_sync():  # one message: the image and its description belong together
            self.pixels = rgba(sheet)
            self.view = {
                "width": sheet.shape[1],
                "height": sheet.shape[0],
                "names": names,
                "columns": [min(images.size, MAX_SIDE) + gap for gap in (4, *[2] * (self._columns - 1), 4)],
                "captions": ["original", *values],
                "alt": f"{len(images)} rows ({', '.join(names)}): the original on the left, then {content}.",
                "fields": [[key, *texts, *_limits(key), _value(self.policy, key)] for key, texts in FIELDS.items()],
                "interpolation": self.policy.interpolation,
                "presets": list(PRESETS),
                "preset": next((name for name, policy in PRESETS.items() if policy == self.policy), ""),
                "strength": state["strength"],
                "seed": state["seed"],
                "classes": [[name, name in state["classes"]] for name in self._classes],
                "sweeps": list(preview.SWEEPS),
                "swept": swept,
                "policy": "\n".join(lines),
                "code": takehome.to_code(self.policy),
                "can_undo": bool(self._previous),
                "note": self._note,
                "destroys": destroys,
                "warning": warning,
                "judged": is_judged,
                "title": str(self._train),
            }


def _shipped_network(train: Dataset) -> nn.Module | None:
    """The network that ships with the workshop, or None where the images are not of its classes and size."""
    if (train.classes, train.size) != (CIFAR10_CLASSES, 32):
        return None
    from cifar_utils.speedrun import network  # here only: widgets are about any network

    return runs.load(runs.SHIPPED, network(train))


def _limits(key: str) -> tuple[float, float]:
    return RANGES[key.partition(".")[0]]


def _value(policy: Policy, key: str) -> float:
    name, _, part = key.partition(".")
    value = getattr(policy, name)
    return value[int(part)] if part else value
