"""The part that the three widgets share: messages from the page, errors in words, pixels, and a static image."""

import base64
import io
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cifar_utils import settings
from cifar_utils.checkpoint import CheckpointError

HERE = Path(__file__).parent
VIEW = "application/vnd.jupyter.widget-view+json"
SENTENCES = ValueError, FloatingPointError, CheckpointError  # whose messages are written for the reader
MAX_SIDE = 64  # pixels of one image on a sheet of many: a screen shows no more, and every update is sent to the page


class Widget(anywidget.AnyWidget):
    """A widget whose page shows `view` and calls actions by name.

    Attributes:
        view: everything that the page shows except pixels; JSON-like.
        error: the last error in words; empty if there is none.
        handled: the number of the page's last message that was handled.
        ACTIONS: the names of the methods that the page may call.
        AUTOMATIC: the actions that the page calls without a user's click; they must not clear an unread error.
    """

    _css = (HERE / "style.css").read_text()
    view = traitlets.Dict().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    handled = traitlets.Int().tag(sync=True)
    ACTIONS: tuple[str, ...] = ()
    AUTOMATIC: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.on_msg(self._on_message)

    def do(self, name: str, *arguments) -> None:
        """Runs an action; an error is shown in the widget, in words, and nothing else changes."""
        try:
            if name not in self.ACTIONS:
                raise ValueError(f"there is no action {name!r}")
            getattr(self, name)(*arguments)
        except Exception as error:  # of any kind: a page must never stop responding
            self.error = str(error) if isinstance(error, SENTENCES) else f"{type(error).__name__}: {error}"
        else:
            if name not in self.AUTOMATIC:
                self.error = ""

    def _on_message(self, _, message, buffers) -> None:
        name, arguments, number = (
            message.get(key) if isinstance(message, dict) else None for key in ("do", "arguments", "number")
        )
        with self.hold_sync():  # one message: a page that shows the new view has moved its controls to it as well
            self.do(name, *(arguments if isinstance(arguments, list) else []))
            if isinstance(number, int):
                self.handled = number

    def static_figures(self) -> list[Figure]:
        """The same content as figures with `alt_text`, for places where no widget can be shown."""
        raise NotImplementedError

    def live(self) -> dict:
        """The mimebundle of the widget alone."""
        return {
            "text/plain": f"{type(self).__name__}: interactive in JupyterLab, an image elsewhere",
            VIEW: {"version_major": 2, "version_minor": 1, "model_id": self.model_id},
        }

    def _repr_mimebundle_(self, **_) -> tuple[dict, dict]:
        """The widget and its image; a front end shows the richest form that it supports. Headless: the image only."""
        data, metadata = picture(self.static_figures())
        data |= self.live()
        if settings.headless():
            del data[VIEW]
        return data, metadata


def picture(figures: list[Figure]) -> tuple[dict, dict]:
    """Figures as a mimebundle of one image, with its metadata: the text alternative."""
    texts = (figure.alt_text for figure in figures)  # type: ignore[attr-defined]
    alt = " ".join(" ".join(texts).split())
    return {"image/png": base64.b64encode(_stacked(figures)).decode()}, {"image/png": {"alt": alt}}


def _stacked(figures: list[Figure]) -> bytes:
    """One PNG of several figures, one beneath the other."""
    images = []
    for figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
        images.append(Image.open(buffer).convert("RGB"))
    size = max(image.width for image in images), sum(image.height for image in images)
    sheet, top = Image.new("RGB", size, "white"), 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    png = io.BytesIO()
    sheet.save(png, "PNG")
    return png.getvalue()


def page(name: str) -> str:
    """The JavaScript of a widget: the shared part, then its own."""
    return (HERE / "common.js").read_text() + (HERE / f"{name}.js").read_text()


def rgba(pixels: np.ndarray) -> bytes:
    """[H, W, 3] uint8 -> the bytes of a canvas."""
    return np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]).tobytes()


def shrink(images: Tensor) -> Tensor:
    """[N, 3, H, W] uint8, or float in 0..1, reduced to at most MAX_SIDE pixels; smaller images stay as they are."""
    largest = max(images.shape[2:])
    if largest <= MAX_SIDE:
        return images
    size = [max(1, round(length * MAX_SIDE / largest)) for length in images.shape[2:]]
    x = images.float() if images.is_floating_point() else images.float() / 255
    return F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)


def check_number(value, low: float, high: float, name: str, whole: bool = False) -> None:
    """Refuses a value from the page that is not a number (or whole number) from low to high, with a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
        what = "a whole number" if whole else "a number"
        raise ValueError(f"{name} is {value!r}; it must be {what} from {low} to {high}")
