"""Widgets for the notebooks: thin skins over plain functions, which do the work and are tested without a browser.

explorer    what an augmentation policy does, and whether to train with it    (over preview.py and policy.py)
dashboard   training, watched and steered while it goes on                     (over training.py)
confusions  the images behind each cell of a confusion matrix                  (over gallery.py and evaluation.py)

Each is a Python class here (its methods are what its buttons do) and a page of JavaScript beside it, made of plain HTML
controls, so that keyboards and screen readers work as everywhere. Nothing is fetched from elsewhere.
"""

from cifar_utils.widgets.confusions import ConfusionExplorer
from cifar_utils.widgets.dashboard import Dashboard
from cifar_utils.widgets.explorer import Explorer

__all__ = ["ConfusionExplorer", "Dashboard", "Explorer"]
