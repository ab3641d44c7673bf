"""Widgets for the notebooks: thin skins over plain functions, which are tested without a browser.

explorer    the effect of an augmentation policy, and whether labels survive it   (over preview.py and augment.py)
dashboard   training curves, the current batch, a Stop button, a learning rate    (over train.py)
confusions  the images behind each cell of a confusion matrix                     (over evaluation/)

Each widget is a Python class here (its methods are the actions of its buttons) and a page of JavaScript beside it. The
pages use plain HTML controls, so keyboards and screen readers work, and load nothing from other hosts.
"""

from cifar_utils.widgets.confusions import ConfusionExplorer
from cifar_utils.widgets.dashboard import Dashboard
from cifar_utils.widgets.explorer import Explorer

__all__ = ["ConfusionExplorer", "Dashboard", "Explorer"]
