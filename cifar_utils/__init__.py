"""Helpers of the CIFAR-10 workshop. One subject a file; read them in this order:

data        CIFAR-10 as uint8 tensors; the 90/10 split       (download: how the files get onto the disk)
policy      what augmentation may do to an image
augment     its random parameters, and their application to a batch
model       the convolutional network
optimisers  SGD and Muon, and the learning rate's schedule
selection   which images an epoch trains on
training    the training loop    (configuration: its numbers; progress: the bar; memory, compiling: what saves time)
runs        a run's folder: its lock, its state, resuming (checkpoint: the files)
predictions what a network says of a split, as a table and as a file
evaluation  accuracies with intervals, confusion matrix, recall, precision, F1
calibration reliability and temperature
comparison  two runs on the same images
robustness  accuracy on images changed by fixed amounts
saliency    where the network looks
plots       figures from plain arrays                      (evaluation_plots: those of an evaluation)
report      an evaluation as text and as files
preview     what a policy does to images, to look at       (gallery: the images behind a confusion)
widgets     skins over preview, training and gallery for notebooks
__main__    the whole pipeline without a notebook: python -m cifar_utils
"""

__version__ = "0.1.0"
