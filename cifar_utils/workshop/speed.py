"""How fast this machine trains, and what that means for each notebook."""

import io
import json
import statistics
import tempfile
import time
from contextlib import closing, redirect_stdout, suppress
from itertools import islice, pairwise
from pathlib import Path

from torch import nn

from cifar_utils import data, settings, train
from cifar_utils.augment import PRESETS
from cifar_utils.models import Normalize, SmallCNN

WARM_UP, TIMED = 5, 15  # training steps


def step_milliseconds() -> float:
    """Median duration of a training step: plain network, full policy, 128 images of the sample, torch's own threads.

    The loop is the notebooks' own. Its run lies in a temporary folder, which is removed.
    """
    images, val = data.split(data.cifar10(sample=True))
    model, ends = nn.Sequential(Normalize.from_dataset(images), SmallCNN(len(images.classes))), []
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):  # no progress bar
        run, full = Path(folder) / "run", PRESETS["full"]
        with closing(train.steps(model, images, val, transform=full, epochs=1, batch_size=128, run=run)) as states:
            for state in islice(states, 1 + WARM_UP + TIMED):  # the first state is the start
                _ = state.loss  # to read it is to wait for a GPU
                ends.append(time.perf_counter())
    if len(ends) < 1 + WARM_UP + TIMED:  # the loop takes Ctrl-C for a request to save and stop
        raise KeyboardInterrupt
    return 1000 * statistics.median(end - start for start, end in list(pairwise(ends))[WARM_UP:])


def table(milliseconds: float) -> str:
    """The minutes that each notebook computes on a machine whose training step takes this many milliseconds.

    A notebook's metadata hold the seconds that it took and the training step of the machine where it was recorded, see
    tools/run_notebooks.py. The table is empty where there is no folder notebooks/ in the project's folder.
    """
    rows = []
    for path in sorted((settings.project_directory() / "notebooks").glob("[0-9]*.ipynb")):
        with suppress(OSError, ValueError, KeyError, TypeError):  # not run yet, or damaged
            recorded = json.loads(path.read_text(encoding="utf-8"))["metadata"]
            step = recorded.get("step_milliseconds")
            minutes = recorded["seconds"] / 60 * (milliseconds / step if step else 1)
            rows.append(f"  {path.stem:<28} {minutes:5.1f}" + "  (on the machine that recorded it)" * (not step))
    return "\n".join(["; minutes of computation per notebook here, with the full data set:", *rows] if rows else [])
