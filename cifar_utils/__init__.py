"""Helpers of the CIFAR-10 workshop. One subject a file; read them in this order:

data        CIFAR-10 as uint8 tensors; the 90/10 split       (download: how the files get onto the disk)
policy      what augmentation may do to an image
augment     its random parameters, and their application to a batch
model       the convolutional network
training    the training loop and its configuration       (progress: the bar)
runs        a run's folder: its lock, its state, resuming (checkpoint: the files)
evaluation  predictions, confusion matrix, class-wise accuracy
plots       figures from plain arrays
__main__    the whole pipeline without a notebook: python -m cifar_utils
"""

__version__ = "0.1.0"
