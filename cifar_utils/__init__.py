"""Helpers of the CIFAR-10 workshop. The center, one subject per file; read it in this order:

data        images, labels, classes in memory; the split        (download: onto the disk; files: reading them)
augment     what may happen to a training image                 (warp: the batch engine under it)
models      a plain convolutional network, and Normalize
train       the training loop                                   (checks: what it refuses; log: what it shows meanwhile)
runs        a run's folder: lock, save, load, resume            (checkpoint: the files; identity: what tells runs apart,
                                                             in words, with the behavior of a notebook's code)
overview    all runs as a table
plots       figures of data and training                        (progress: the bar; settings: where things lie)
cli         everything without a notebook: python -m cifar_utils (__main__ starts it)
takehome    a policy for projects of your own                   (network_file: a network of your own)

Wings: `evaluation` (what a network's predictions are worth), `speedrun` (a fast network and its tricks, each a part
that plugs into the center), `scale` (sweeps, and training by several processes), `widgets` (for notebooks), `exercises`
(that check themselves), `workshop` (for those who run one). The most used names can be imported from here.
"""

import importlib

__version__ = "0.2.0"

_HOMES = {
    "data": "Dataset", "augment": "Policy PRESETS", "models": "Normalize SmallCNN", "train": "fit steps",
    "runs": "load", "evaluation": "Predictions predict classify compare report class_activation_map",
}  # fmt: skip


def __getattr__(name: str):
    """Imports a name's module when the name is first used, since importing torch takes seconds."""
    for home, names in _HOMES.items():
        if name in names.split():
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
