"""Running a network over images, without augmentation; the network is left as it was found."""

import hashlib
import math
import random
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_utils.data import Dataset
from cifar_utils.evaluation.predictions import Predictions, check_dataset
from cifar_utils.models import uncompiled

# Networks' modes and the global random generators belong to one at a time: a widget may predict in another thread
# while a cell trains.
one_at_a_time = threading.RLock()


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer is; the CPU for a model that has none."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the names, shapes, types and values in the model's state_dict."""
    digest = hashlib.sha256()
    for name, value in uncompiled(model).state_dict().items():
        if isinstance(value, Tensor):  # modules may keep other objects as well
            value = value.int_repr() if value.is_quantized else value
            digest.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
            digest.update(raw_bytes(value))
    return digest.hexdigest()


def raw_bytes(tensor: Tensor) -> bytes:
    """The tensor's values, of whatever type: NaN is equal to itself, as bytes."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the duration; afterwards every layer's mode and all random states are as they were.

    Within, random numbers start from a fixed seed, so that a network that draws some (dropout kept on, say) predicts
    the same every time.
    """
    device = device_of(model)
    with one_at_a_time, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        modes = {module: module.training for module in model.modules()}
        python, numpy = random.getstate(), np.random.get_state()
        try:
            random.seed(0)
            np.random.seed(0)
            torch.default_generator.manual_seed(0)  # torch.manual_seed would seed other devices as well
            if device.type == "cuda":
                torch.cuda.default_generators[device.index or 0].manual_seed(0)
            model.eval()
            yield
        finally:
            for module, mode in modes.items():
                if type(module).train is not nn.Module.train:  # it may do more than to set the mode
                    module.train(mode)
            for module, mode in modes.items():
                module.training = mode
            random.setstate(python)
            np.random.set_state(numpy)


@torch.no_grad()
def outputs(model: nn.Module, batches: Iterable[Tensor], classes: int | None = None) -> Tensor:
    """[N, C] float32 logits on the CPU, in evaluation mode; the model is left as found, see `evaluation_mode`.

    Args:
        model: any network, from [n, 3, S, S] to [n, C]; one compiled as a whole is evaluated uncompiled.
        batches: [n, 3, S, S] float32 in 0 to 1, on any device.
        classes: C, the number of classes, where it is known.

    Raises:
        ValueError: the model fails on such images, or what it returns is not [n, C] logits.
        FloatingPointError: an output is infinite or not a number.
    """
    model = checked_model(model)
    device = device_of(model)
    with evaluation_mode(model):
        logits = torch.cat([_checked_logits(model, batch.to(device), classes).float() for batch in batches]).cpu()
    bad = len(logits) - int(logits.isfinite().all(1).sum())
    if bad:
        raise FloatingPointError(
            f"The network's outputs for {bad:,} of {len(logits):,} images are infinite or not numbers (NaN): its "
            "training may have diverged (a lower learning rate helps), or a layer overflows, divides by zero or takes "
            "the logarithm of zero."
        )
    return logits


def predict(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int | None = None,
    tta: bool | float = False,
) -> Predictions:
    """Runs a network over a data set, without augmentation; the network is left as found.

    Args:
        model: see `outputs`. It is handed float32 images in 0 to 1.
        dataset: what to predict.
        batch_size: images at a time, see `checked_batch_size`. The predictions do not depend on it but for rounding.
        tta: test-time augmentation: average the logits over the image (half of the weight) and the image shifted by one
            pixel to the upper left and to the lower right, each together with its mirror image (as in K. Jordan's
            airbench, 2024). A network that is built to predict the same for mirror images is spared these. A fraction
            does so for that fraction of the images, those with the lowest confidence: these profit most (Hiverge's
            CIFAR-10 speed run, 2025).

    Raises:
        ValueError, FloatingPointError: see `outputs`; or the data set is not a Dataset, or tta not from 0 to 1.
    """
    model = checked_model(model)
    check_dataset(dataset)
    batch_size = checked_batch_size(batch_size, dataset)
    if not isinstance(tta, (bool, int, float)) or not 0 <= tta <= 1:
        raise ValueError(f"tta is {tta!r}; it must be True, False, or a fraction of the images from 0 to 1")
    device = device_of(model)

    def logits(images: Tensor, turn=lambda x: x) -> Tensor:
        batches = images.split(min(batch_size, len(images)))
        return outputs(model, (turn(x.to(device).float() / 255) for x in batches), len(dataset.classes))

    def shifted(x: Tensor, by: int) -> Tensor:
        size = x.shape[-1]
        return F.pad(x, (1, 1, 1, 1), mode="reflect")[..., 1 - by : 1 - by + size, 1 - by : 1 - by + size]

    def averaged(images: Tensor, found: Tensor) -> Tensor:
        # Noise, since mirror-symmetric images would make any network look symmetric.
        few = torch.rand(8, *images.shape[1:], generator=torch.Generator().manual_seed(0)).to(device)
        one, other = (outputs(model, [x]) for x in (few, few.flip(3)))
        is_symmetric = (one - other).abs().max() <= 1e-3 * one.std()
        views = [found] + [logits(images, lambda x, by=by: shifted(x, by)) for by in (-1, 1)]
        if not is_symmetric:
            mirrored = [logits(images, lambda x, by=by: shifted(x, by).flip(3)) for by in (0, -1, 1)]
            views = [(a + b) / 2 for a, b in zip(views, mirrored)]
        return views[0] / 2 + views[1] / 4 + views[2] / 4

    found = logits(dataset.images)
    if tta:
        unsure = found.softmax(1).amax(1).argsort(stable=True)[: math.ceil(tta * len(found))]
        found[unsure] = averaged(dataset.images[unsure], found[unsure])
    if (found >= 0).all() and torch.allclose(found.sum(1), torch.ones(len(found)), atol=1e-4):
        warnings.warn("the model's outputs are probabilities; leave out the softmax at its end", stacklevel=2)
    # A temperature that was fitted to the mean of several views does not suit a single one.
    return as_predictions(model, dataset, found, f", tta={float(tta):g}" if tta else "")


def as_predictions(model: nn.Module, dataset: Dataset, logits: Tensor, how: str = "") -> Predictions:
    """The table of a network's logits [N, classes] for the images of a data set; `how`: see `Predictions.model`."""
    columns = dataset.index.numpy(), dataset.labels.numpy(), logits.softmax(1).numpy()
    return Predictions(
        *columns, classes=dataset.classes, split=dataset.split, source=dataset.source, model=fingerprint(model) + how
    )


def checked_model(model: nn.Module) -> nn.Module:
    """The network, without the wrapper of `torch.compile`: compiling for evaluation takes longer than it saves.

    Raises:
        ValueError: it is not an nn.Module.
    """
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}; make one" if isinstance(model, type) else f"a {type(model).__name__}"
        raise ValueError(f"the model is {what}; a torch.nn.Module is needed")
    return uncompiled(model)


def checked_batch_size(batch_size: int | None, dataset: Dataset) -> int:
    """The `batch_size`; for None 500 images, or as many as have the pixels of 500 images of 32 x 32.

    Raises:
        ValueError: it is not a whole number from 1.
    """
    if batch_size is None:
        return max(1, min(500, 500 * 32**2 // dataset.size**2))
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; it must be a whole number from 1")
    return batch_size


def _channels_last(model: nn.Module, batch: Tensor) -> Tensor:
    """The outputs for images in the layout in which convolutions are fastest, unless the model fails on it.

    A model may, if it calls `view` on features, where `reshape` or `flatten` copy.
    """
    try:
        return model(batch.contiguous(memory_format=torch.channels_last))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return model(batch)


def _checked_logits(model: nn.Module, batch: Tensor, classes: int | None) -> Tensor:
    try:
        logits = _channels_last(model, batch)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # each network has its own
        raise ValueError(f"the model fails on images of the shape {list(batch.shape)}: {error}") from error
    needed = f"logits [{len(batch)}, {classes or 'number of classes'}]"
    if not isinstance(logits, Tensor):
        raise ValueError(f"the model returns a {type(logits).__name__}; a tensor of {needed} is needed")
    if logits.ndim != 2 or len(logits) != len(batch) or logits.shape[1] != (classes or logits.shape[1]):
        rows = "one row per image, one column per class"
        other = "" if logits.ndim != 2 or len(logits) != len(batch) else ". Are these the classes it was trained on?"
        raise ValueError(f"the model returns the shape {list(logits.shape)}; {needed} are needed: {rows}{other}")
    if not logits.is_floating_point():
        raise ValueError(f"the model returns numbers of the type {logits.dtype}; floating-point {needed} are needed")
    return logits
