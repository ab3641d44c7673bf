"""What the three widgets share: asking and answering, errors in words, and a picture where no widget can be shown."""

import base64
import io
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from matplotlib.figure import Figure
from PIL import Image

from cifar_utils import settings

HERE = Path(__file__).parent
VIEW = "application/vnd.jupyter.widget-view+json"


class Widget(anywidget.AnyWidget):
    """A widget whose page shows `view` and asks for actions by name.

    Attributes:
        view: all that the page shows but pixels; JSON-like.
        error: what went wrong last, in words; empty if nothing.
        answered: the number of the page's question that was answered last.
        ACTIONS: the names of the methods that the page may call.
        BY_ITSELF: those of them that the page calls unasked, so that they must not wipe an error that nobody has read.
    """

    _css = (HERE / "style.css").read_text()
    view = traitlets.Dict().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    answered = traitlets.Int().tag(sync=True)
    ACTIONS: tuple[str, ...] = ()
    BY_ITSELF: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.on_msg(self._on_message)

    def do(self, name: str, *arguments) -> None:
        """Carries out an action; what goes wrong is shown in the widget, in words, and nothing else changes."""
        try:
            if name not in self.ACTIONS:
                raise ValueError(f"there is no action {name!r}")
            getattr(self, name)(*arguments)
        except Exception as error:  # whatever it is: a page must never go silent
            self.error = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        else:
            if name not in self.BY_ITSELF:
                self.error = ""

    def _on_message(self, _, message: dict, buffers) -> None:
        self.do(message["do"], *message["arguments"])
        self.answered = message["number"]  # after the view, and as state like it: other messages may overtake state

    def static_figures(self) -> list[Figure]:
        """The same content as figures with `alt_text`, for where widgets cannot be shown."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **_) -> tuple[dict, dict]:
        """Both forms; whoever shows it takes the richest that it can. Without a person, the figure alone is kept."""
        figures = self.static_figures()
        data = {
            "text/plain": f"{type(self).__name__}: interactive in JupyterLab, a picture elsewhere",
            "image/png": base64.b64encode(_stacked(figures)).decode(),
        }
        if not settings.headless():
            data[VIEW] = {"version_major": 2, "version_minor": 1, "model_id": self.model_id}
        return data, {"image/png": {"alt": " ".join(" ".join(figure.alt_text for figure in figures).split())}}


def _stacked(figures: list[Figure]) -> bytes:
    """One PNG of several figures, one beneath the other."""
    images = []
    for figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
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
    """The JavaScript of a widget: what all share, then its own."""
    return (HERE / "common.js").read_text() + (HERE / f"{name}.js").read_text()


def rgba(pixels: np.ndarray) -> bytes:
    """[H, W, 3] uint8 -> the bytes that a canvas takes."""
    return np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]).tobytes()
