"""What a network predicts for one photo, from a file or from memory."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from cifar_utils import files
from cifar_utils.evaluation.calibration import check_temperature
from cifar_utils.evaluation.inference import checked_model, fingerprint, outputs
from cifar_utils.evaluation.predictions import checked_classes


def classify(
    model: nn.Module,
    photo: str | Path | Image.Image | Tensor,
    classes: Sequence[str],
    *,
    size: int | None = None,
    temperature: float = 1.0,
) -> dict[str, float]:
    """What a network predicts for one photo; the network is left as found.

    Args:
        model: see `outputs`.
        photo: a file, a PIL image or a [3, H, W] uint8 tensor. It is turned upright, cut to its central square and
            resized, see `files.read_image` and `files.square`.
        classes: names, in the order of the model's outputs.
        size: side in pixels of the images that the model was trained on; by default what `fit`, `load` or its
            `Normalize` layer noted, or 32.
        temperature: above 0; the logits are divided by it, see `calibration.fit_temperature`. 1 changes nothing.

    Returns:
        class -> probability, most probable class first; the probabilities sum to 1.

    Raises:
        DataError: the file is missing or not an image.
        ValueError: the model has another number of classes, or the temperature is not above 0.
        FloatingPointError: see `outputs`.
    """
    model, classes = checked_model(model), checked_classes(classes)
    if size is None:
        size = next((s for layer in model.modules() if (s := getattr(layer, "trained_size", None))), 32)
    if size not in range(16, 257):
        raise ValueError(f"size is {size!r}; it must be a whole number of pixels from 16 to 256")
    image = files.square(_pixels(photo), size)
    logits = outputs(model, [image[None].float() / 255], len(classes))[0]
    check_temperature(temperature, fingerprint(model))
    p = (logits.double() / temperature).softmax(0).tolist()
    return {classes[c]: p[c] for c in sorted(range(len(classes)), key=lambda c: -p[c])}


def _pixels(photo: str | Path | Image.Image | Tensor) -> Tensor:
    """[3, H, W] uint8: turned as its EXIF data say, alpha over white."""
    if isinstance(photo, Tensor):
        if photo.dtype != torch.uint8 or photo.ndim != 3 or photo.shape[0] != 3:
            raise ValueError(f"the photo is {list(photo.shape)} of {photo.dtype}; a tensor must be [3, H, W] of uint8")
        return photo.cpu()
    if isinstance(photo, (str, Path)):
        return files.read_image(photo)
    if not isinstance(photo, Image.Image):
        raise ValueError(f"a photo is a path, a PIL image or a tensor, not a {type(photo).__name__}")
    if photo.mode[0] in "IF":
        raise ValueError("the photo has 16 or more bits per pixel and channel; give its file instead")
    return files.rgb_pixels(ImageOps.exif_transpose(photo))
