"""One progress bar that reads well in a terminal, in JupyterLab and in a log file."""

import shutil
import sys

from tqdm import tqdm


class _Lines:
    """A log file's view of a bar: each redraw is a line of its own instead of overwriting the one before."""

    def __init__(self, file) -> None:
        self.file = file

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            self.file.write(text + "\n")

    def flush(self) -> None:
        self.file.flush()


def bar(total: int, title: str, unit: str, **options) -> tqdm:
    """A tqdm bar for a number of units, `total`, on standard output (JupyterLab paints standard error red).

    In a terminal and in a notebook the bar is redrawn in place; a log file gets one line every 30 seconds.
    It is text, not a widget, so that saved notebooks and their web pages show where it ended.
    """
    columns = shutil.get_terminal_size((110, 24)).columns if sys.stdout.isatty() else 110  # a wrapped line stays behind
    redraws = sys.stdout.isatty() or type(sys.stdout).__module__.startswith("ipykernel")
    file, pause = (sys.stdout, 0.2) if redraws else (_Lines(sys.stdout), 30)
    size = {"mininterval": pause, "miniters": 1, "ncols": min(columns, 110)}
    return tqdm(total=total, desc=title, unit=unit, file=file, **size, **options)
