"""What the tests of all figures share: the texts that are drawn, and whether they can be read."""

from contextlib import contextmanager

from matplotlib.figure import Figure
from matplotlib.text import Text


@contextmanager
def drawn_texts(monkeypatch):
    """The texts that are really drawn: matplotlib also keeps labels of ticks out of sight."""
    texts, draw = [], Text.draw
    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", lambda self, *args, **kwargs: (texts.append(self), draw(self, *args, **kwargs))[1])
        yield texts


def check_texts(picture: Figure, monkeypatch, fewest: int) -> None:
    """No text is cut off or covers another, and there are at least so many."""
    with drawn_texts(monkeypatch) as texts:
        picture.draw_without_rendering()
    texts = [text for text in dict.fromkeys(texts) if text.get_visible() and text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(texts) >= fewest
    whole = picture.bbox.padded(1)
    for text, box in zip(texts, boxes):
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1, text
    for i, (text, box) in enumerate(zip(texts, boxes)):
        for other, other_box in zip(texts[:i], boxes):
            if not (text.get_rotation() % 90 or other.get_rotation() % 90):  # boxes of slanted labels prove nothing
                assert not box.padded(-1).overlaps(other_box.padded(-1)), (text, other)
