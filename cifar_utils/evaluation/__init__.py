"""Honest evaluation of any network on any images, from one table of predictions.

predictions  what a network predicts for a dataset, as a table and as a file
inference    running a network: `outputs`, `predict`       (photo: `classify`, for one photo)
metrics      accuracies with intervals, confusion matrix, recall, precision, F1
calibration  reliability and temperature                   (comparison: two networks on the same images)
robustness   accuracy on corrupted images                  (saliency: which image regions support a class)
reports      an evaluation as text and as files            (plots: its figures; gallery: the images in a cell)
"""

from importlib import import_module

_EXPORTS = {
    "Predictions": "predictions",
    "predict": "inference",
    "classify": "photo",
    "compare": "comparison",
    "report": "reports",
    "class_activation_map": "saliency",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    # Training needs inference and metrics only: the rest, and what it imports, waits until it is used.
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
