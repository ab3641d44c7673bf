"""What `train.steps` checks before the first step, each in a sentence."""

import copy
import inspect
import math
import random
import shutil
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from cifar_utils.augment import Step, apply_transform, describe
from cifar_utils.checkpoint import MAX_BYTES, CheckpointError
from cifar_utils.data import Dataset, beyond_0_to_1
from cifar_utils.evaluation.inference import raw_bytes
from cifar_utils.models import has_lazy_layers, uncompiled

_trained: weakref.WeakSet = weakref.WeakSet()  # models that this process has trained


def check_data(train: Dataset, val: Dataset, **numbers) -> None:
    """Raises ValueError: the data sets do not belong together, or a number is out of range."""
    for data, split in ((train, "training"), (val, "validation")):
        if not isinstance(data, Dataset):
            raise ValueError(f"the {split} images are a {type(data).__name__}; a Dataset is needed, see data.split")
        if data.split != split:
            raise ValueError(f"{data} were given for {split}: fit takes train, then val, from data.split")
    if train.classes != val.classes or train.size != val.size:
        raise ValueError("training and validation images differ in their classes or size; take both from one source")
    _check_overlap(train, val)
    for name, value in numbers.items():
        low, high = (0, 2**63 - 1) if name == "seed" else (1, 2**31)
        if value is None and name in ("save_every", "batch_size"):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name} is {value!r}; it must be a whole number from {low} to {high:,}")


def _check_overlap(train: Dataset, val: Dataset) -> None:
    """Raises ValueError: some validation images are training images as well.

    Copies that `data.split` chose at random, as from a folder of photos, are a warning, and so are a few others.
    """
    in_train, in_val = ([(hash(x.tobytes()), int(i)) for x, i in zip(d.images.numpy(), d.index)] for d in (train, val))
    known = {pixels for pixels, _ in in_train}
    copies = sum(pixels in known for pixels, _ in in_val)
    which = f"{copies:,} of {len(val):,} validation images are"
    if set(in_train) & set(in_val) or copies > len(val) / 10 and train.seed is None:
        raise ValueError(f"{which} in training as well; divide the data with data.split, or remove the copies")
    if copies:
        print(f"WARNING: {which} copies of training images and show nothing about new images: remove them.", flush=True)


def check_types(model, optimizer, sampler, autocast, **parts) -> None:
    """Raises ValueError: a part is not what it must be, or a class instead of an object."""
    for name, part in {"model": model, "optimizer": optimizer, "sampler": sampler, **parts}.items():
        if isinstance(part, type):
            raise ValueError(f"{name} is the class {part.__name__}; make one: {part.__name__}(...)")
    check_trainable(model)
    if has_lazy_layers(model):
        raise ValueError("the model has lazy layers, which have no shape yet: call it on a batch of images first")
    if extra := [name for name, t in model.state_dict().items() if not isinstance(t, torch.Tensor)]:
        raise ValueError(f"the model's {extra[0]} is no tensor, and checkpoints hold only tensors: make it a buffer")
    if isinstance(optimizer, torch.optim.LBFGS) or not isinstance(optimizer, torch.optim.Optimizer | None):
        raise ValueError(f"the optimizer is a {type(optimizer).__name__}; one of torch.optim without closure is needed")
    closure = inspect.signature(optimizer.step).parameters.get("closure") if optimizer else None
    if closure and closure.default is closure.empty:
        raise ValueError(f"the step of {type(optimizer).__name__} needs a closure, which the loop does not give")
    protocol = ("epoch", "record", "total_steps", "state_dict", "load_state_dict")
    if sampler is not None and not all(hasattr(sampler, name) for name in protocol):
        raise ValueError(f"the sampler, a {type(sampler).__name__}, lacks one of {', '.join(protocol)}: train.Shuffle")
    if autocast not in (None, torch.bfloat16):
        raise ValueError(f"autocast is {autocast!r}; it must be torch.bfloat16 or None")


def agreed_batch_size(sampler, batch_size: int | None) -> int:
    """The batch_size, in images per step: the sampler's, the one given, or 128. Raises ValueError: the two differ."""
    its = getattr(sampler, "batch_size", None)
    if its is not None and batch_size not in (None, its):
        raise ValueError(f"batch_size is {batch_size}, and the sampler's is {its}; leave it out, or make them equal")
    return batch_size or int(its or 128)


def check_trainable(model: nn.Module) -> None:
    """Raises ValueError: this is no nn.Module, nothing in it is trainable, or layers hide in a plain list or dict."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model is a {type(model).__name__}; an nn.Module is needed")
    known = {id(p) for p in model.parameters()}
    for module in list(model.modules()):
        for name, value in vars(module).items():
            hidden = _parameters_within(value) if isinstance(value, (list, tuple, dict)) else []
            if any(p.requires_grad and id(p) not in known for p in hidden):
                where = f"{type(module).__name__}.{name}, a plain {type(value).__name__}"
                cure = "use an nn.ModuleList, ModuleDict or ParameterList for each list, tuple or dict"
                raise ValueError(f"the layers in {where}, would not be trained; {cure}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("the model has no trainable parameter; is all of it frozen?")


def _parameters_within(value, depth: int = 4) -> list[nn.Parameter]:
    """Those of modules in plain lists, tuples and dicts, also of one another, which PyTorch does not look into."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [p for part in value for p in _parameters_within(part, depth - 1)] if depth else []
    return list(value.parameters()) if isinstance(value, nn.Module) else [value] * isinstance(value, nn.Parameter)


def check_parts(model, optimizer, scheduler, scheduler_per: str, epochs: int, total_steps: int) -> None:
    """Checks the parts of a training of so many `epochs` or `total_steps` in all.

    Raises:
        ValueError: the optimizer is not the model's, or the scheduler not the optimizer's, or of another length.
    """
    names = {p: name for name, p in model.named_parameters()}
    given = [p for group in optimizer.param_groups for p in group["params"]]
    if any(p not in names for p in given):
        raise ValueError("the optimizer has parameters of another model; make it from this model's parameters()")
    times = Counter(map(id, given))
    missing = [name for p, name in names.items() if p.requires_grad and not times[id(p)]]
    if missing or max(times.values()) > 1:
        twice = next((names[p] for p in given if times[id(p)] > 1), "")
        problem = f"{missing[0]} (and {len(missing) - 1} more) would not be trained" if missing else f"{twice} is twice"
        raise ValueError(
            f"every trainable parameter must be in the optimizer once, and {problem}; "
            "to freeze one on purpose, set its requires_grad to False"
        )
    if not all(math.isfinite(group["lr"]) and group["lr"] >= 0 for group in optimizer.param_groups):
        raise ValueError("a learning rate of the optimizer is negative, infinite or NaN")
    if scheduler_per not in ("step", "epoch"):
        raise ValueError(f"scheduler_per is {scheduler_per!r}; it must be 'step' or 'epoch'")
    if not isinstance(scheduler, schedulers.LRScheduler) or scheduler.optimizer is not optimizer:
        raise ValueError("the scheduler must be an LRScheduler of this optimizer; give fit the optimizer as well")
    if isinstance(scheduler, schedulers.ReduceLROnPlateau) and scheduler.mode == "max":
        raise ValueError('ReduceLROnPlateau is given the validation loss, and lower is better: mode="min"')
    last, wanted = scheduler, total_steps if scheduler_per == "step" else epochs
    if isinstance(scheduler, schedulers.SequentialLR) and scheduler._milestones:
        if 0 < scheduler._milestones[-1] < wanted:
            last, wanted = scheduler._schedulers[-1], wanted - scheduler._milestones[-1]
    for name in ("total_steps", "T_max", "_total_steps"):
        length = getattr(last, name, wanted)
        if length != wanted:
            raise ValueError(
                f"the scheduler's {name.strip('_')} is {length}, and it will step {wanted:,} times (scheduler_per="
                f"{scheduler_per!r}, {epochs} epochs of {total_steps // epochs:,} steps); make the two equal"
            )
    for function in getattr(last, "lr_lambdas", []):
        try:
            function(wanted)
        except Exception as error:
            hint = ' If it counts epochs, add scheduler_per="epoch".' if scheduler_per == "step" else ""
            problem = f"the scheduler counts {scheduler_per}s from 0 to {wanted:,}, and its function fails at that"
            raise ValueError(f"{problem}: {first_line(error).rstrip('.')}.{hint}") from None
    if scheduler_per == "step" and epochs > 1:
        _warn_if_it_counts_epochs(last, total_steps // epochs)


def _warn_if_it_counts_epochs(scheduler: schedulers.LRScheduler, steps: int) -> None:
    """Warns of a learning rate that falls as if the steps of an epoch were epochs, as most tutorials have it."""
    factor = 1.0  # after the first epoch, of so many steps
    if isinstance(scheduler, schedulers.StepLR):
        factor = scheduler.gamma ** (steps // scheduler.step_size)
    elif isinstance(scheduler, schedulers.MultiStepLR):
        factor = scheduler.gamma ** sum(milestone <= steps for milestone in scheduler.milestones.elements())
    elif isinstance(scheduler, schedulers.ExponentialLR):
        factor = scheduler.gamma**steps
    elif isinstance(scheduler, schedulers.PolynomialLR):
        factor = max(0.0, 1 - steps / scheduler.total_iters) ** scheduler.power
    elif isinstance(scheduler, schedulers.LambdaLR):
        factor = min((f(steps) / f(0) for f in scheduler.lr_lambdas if f(0) > 0), default=1.0)
    if factor <= 0.1 and scheduler.last_epoch <= 0:
        print(
            f"WARNING: {type(scheduler).__name__} steps after every batch, so in the first epoch the learning rate is "
            f'multiplied by {factor:.2g}. If it counts epochs, add scheduler_per="epoch".',
            flush=True,
        )


def move(model: nn.Module, device: torch.device | str) -> torch.device:
    """Moves the model to the device. Raises ValueError: there is none."""
    try:
        model.to(torch.device(device))
        return torch.device(device)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used: {first_line(error)}") from None


def _smallest_batch(sampler, train: Dataset) -> int:
    """Its number of images, in the first epoch.

    Raises:
        ValueError: a batch is not of positions [b], int64, or the batches are others when the epoch is resumed.
    """
    found, last = [], len(train) - 1
    for _ in range(2):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)  # within `train.seeded`
        found.append(list(sampler.epoch(0)))
    batches, again = found
    legal = [isinstance(b, torch.Tensor) and b.dtype == torch.int64 and b.ndim == 1 and len(b) > 0 for b in batches]
    if not legal or not all(legal) or not all(0 <= b.min() <= b.max() <= last for b in batches):
        raise ValueError(f"the sampler must have batches, int64 tensors [b] of positions from 0 to {last}")
    if len(again) != len(batches) or not all(map(torch.equal, batches, again)):
        raise ValueError(
            "the sampler's epoch(0) gives other batches when it is called again, so no run could be resumed: compute "
            "them from the seed and the epoch, and change what they depend on in record()"
        )
    if len(batches) != sampler.total_steps(1):
        said = f"total_steps(1) is {sampler.total_steps(1)}, and its first epoch has {len(batches)} batches"
        raise ValueError(f"the sampler's {said}; make the two agree, since schedules end after total_steps")
    return min(map(len, batches))


def check_model(model: nn.Module, train: Dataset, transform, loss, device: torch.device, autocast, sampler):
    """Tries a copy of the model on up to three images, as in training and alone; the model itself is left as it is.

    Args:
        model, train, transform, loss, device, autocast, sampler: see `train.steps`.

    Returns:
        The loss, on the device, and the layout in memory in which the model is given its images: channels last, which
        convolutions compute fastest, unless it fails on that (as `view` may, where `reshape` or `flatten` does not).

    Raises:
        ValueError: the model, the transform or the loss fails, the sampler's batches are none, or the outputs are not
            finite [N, classes] logits.
    """
    # Not as many images as classes: labels [N] would broadcast with logits [N, N], and a wrong loss pass unnoticed.
    count = min(2 if len(train.classes) == 3 else 3, _smallest_batch(sampler, train))
    loss = loss.to(device) if isinstance(loss, nn.Module) else loss
    if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
        raise ValueError(f"the loss {type(loss).__name__} has trainable parameters, and only the model's are trained")
    original = uncompiled(model)
    try:
        model = copy.deepcopy(original)
    except Exception as error:
        raise ValueError(f"the model cannot be copied ({error}); fit tries a copy before the first step") from None
    names = {name for name, _ in model.named_parameters()}
    plain, augmented, targets = _try_transform(train, transform, count, device)
    _try_evaluation(model, plain, train)
    precision = torch.autocast(device.type, autocast, enabled=autocast is not None)
    with precision, called_layers() as called:
        logits = _logits(model, augmented, train)
    _note_statistics(original, model)
    # A hook or function that the model holds was not copied: it calls the original's layers.
    hidden = unknown(called, model, original)
    if hidden := [layer for layer in hidden if any(p.requires_grad for p in layer.parameters())]:
        raise ValueError(
            f"the model uses a {type(hidden[0]).__name__} that PyTorch does not find in it, so it would not be "
            "trained: make each layer in __init__, and let every class that holds layers be an nn.Module; call "
            "requires_grad_(False) of a layer that is not to be trained"
        )
    if made := [name for name, p in model.named_parameters() if p.requires_grad and name not in names]:
        raise ValueError(
            f"the model makes {made[0]} when it is first called, too late for the optimizer: make it in __init__, or "
            "call the model on a batch of images first"
        )
    _try_loss(model, loss, logits, targets)
    try:
        with precision:
            outputs = model(augmented.contiguous(memory_format=torch.channels_last))
        outputs.sum().backward()
        return loss, torch.channels_last
    except Exception:  # each model has its own
        return loss, torch.contiguous_format


def _try_transform(train: Dataset, transform, count: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """So many images as they are, the same augmented, and their labels after that; a ValueError where these do not fit
    the model."""
    # Copies: a transform may change its batch in place.
    images, labels, index = (x[:count].to(device, copy=True) for x in (train.images, train.labels, train.index))
    plain, _ = apply_transform(None, images, labels, Step(0, 0, index, 0.0))
    augmented, targets = apply_transform(transform, images, labels, Step(0, 0, index, 0.0))
    if beyond := beyond_0_to_1(augmented):
        raise ValueError(
            f"the transform returns images from {beyond} instead of 0 to 1; to normalize, put a Normalize layer in "
            "front of the model; otherwise clamp them to 0 to 1"
        )
    last, _ = apply_transform(transform, images.clone(), labels.clone(), Step(0, 0, index, 0.999))
    if last.shape[-2:] != (train.size, train.size):
        sizes = f"{last.shape[-2]} x {last.shape[-1]} pixels, and validation images have {train.size} x {train.size}"
        print(
            f"WARNING: the transform returns images of {sizes}: accuracy often suffers where they differ.", flush=True
        )
    if not (targets.is_floating_point() if targets.ndim == 2 else targets.dtype == torch.int64):
        raise ValueError(f"the transform returns labels of {targets.dtype}, not int64 [N] or float [N, classes]")
    if targets.ndim == 2 and targets.shape[1] != len(train.classes):
        raise ValueError(f"the transform mixes {targets.shape[1]} classes (num_classes?), not {len(train.classes)}")
    return plain, augmented, targets


def _try_evaluation(model: nn.Module, images: torch.Tensor, train: Dataset) -> None:
    """Evaluates the model, and puts it into training mode; a ValueError where evaluation fails or changes the model."""
    model.train()
    before = {name: hash(raw_bytes(t)) for name, t in model.state_dict().items()}
    model.eval()
    with torch.no_grad():
        logits = _logits(model, images, train)
        alone = _logits(model, images[:1], train)
    model.train()
    after = {name: hash(raw_bytes(t)) for name, t in model.state_dict().items()}
    if changed := [name for name in before if after.get(name) != before[name]]:
        raise ValueError(
            f"the model's {changed[0]} changes when the model is evaluated, so no run could be resumed, and validation "
            "images may take part in training: change it only if self.training, or let train() restore to the last "
            "bit what eval() changes"
        )
    if (logits[0] - alone[0]).abs().max() > 0.01 * logits.abs().max():
        print(
            "WARNING: what the model predicts for an image depends on the others in the batch, or on chance: a softmax "
            "over the batch, batch norm without running statistics, or dropout in evaluation mode?",
            flush=True,
        )
    sums = logits.float().sum(1)
    if (logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        print(
            "WARNING: the model's outputs are probabilities (rows sum to 1). Cross-entropy takes logits: leave out "
            "the softmax at its end, or it will hardly learn.",
            flush=True,
        )


def _note_statistics(model: nn.Module, trained: nn.Module) -> None:
    """Notes in each layer which of its buffers have changed in a copy that was called in training mode.

    They are no settings (see words.py), and the layer's code does not always tell: a function may be given them.
    """
    for layer, copied in zip(model.modules(), trained.modules()):
        pairs = ((name, buffer, copied._buffers.get(name)) for name, buffer in layer._buffers.items())
        changed = {name for name, a, b in pairs if a is not None and (b is None or not torch.equal(a, b.to(a.device)))}
        if changed:
            vars(layer)["_statistics"] = vars(layer).get("_statistics", set()) | changed


def _try_loss(model: nn.Module, loss, logits: torch.Tensor, targets: torch.Tensor) -> None:
    """Computes the gradients; a ValueError where the loss fails, or where no gradient leads to the parameters."""
    if not logits.requires_grad:
        raise ValueError("no gradient leads from the model's outputs to its parameters: does it use no_grad or detach?")
    try:
        value = _copy_of(loss)(logits.float(), targets)
        if value.ndim or not value.isfinite():
            found = f"the shape {list(value.shape)}" if value.ndim else value.item()
            raise ValueError(f"it must be one finite number per batch, not {found}")
        value.backward()
    except Exception as error:
        where = f"the loss {describe(loss)} fails on logits {list(logits.shape)}"
        raise ValueError(f"{where}: {first_line(error)}") from None
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if unused:
        print(f"WARNING: {unused[0]} gets no gradient: the model never uses it ({len(unused)} such parameters).")


def _copy_of(loss):
    """A copy to try, since a loss may count its calls; one that cannot be copied is tried itself."""
    with suppress(Exception):  # each module has its own
        return copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss
    return loss


@contextmanager
def called_layers() -> Iterator[list[nn.Module]]:
    """Collects every layer that is called meanwhile, of whatever model, where gradients are recorded."""
    called: list[nn.Module] = []

    def note(layer: nn.Module, _) -> None:
        if torch.is_grad_enabled():
            called.append(layer)

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*when there are global hooks")  # a compiled layer calls it twice
            yield called
    finally:
        handle.remove()


def unknown(called: list[nn.Module], *models: nn.Module) -> list[nn.Module]:
    """Those layers with parameters that PyTorch finds in none of the models: in a list, a tuple, a dict, a class that
    is no nn.Module, or made in forward."""
    known = {layer for model in models for layer in model.modules()}
    return [layer for layer in called if layer not in known and any(True for _ in layer.parameters())]


def _logits(model: nn.Module, images: torch.Tensor, train: Dataset) -> torch.Tensor:
    what = f"images {list(images.shape)} (float32, 0 to 1)"
    try:
        logits = model(images)
    except Exception as error:
        mode = "training" if model.training else "eval"
        raise ValueError(f"the model fails on {what} in {mode} mode: {first_line(error)}") from error
    wanted = [len(images), len(train.classes)]
    found = list(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
    if found != wanted:
        raise ValueError(f"the model must turn {what} into logits {wanted}, one per class, and it gives {found}")
    if not logits.isfinite().all():
        raise ValueError(f"the model's outputs for {what} are infinite or not numbers (NaN)")
    return logits


def check_start(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler, run: Path, resumed: bool) -> None:
    """Before a new run's first step: is there room for its checkpoints, and have its parts trained before?

    Raises:
        ValueError: the scheduler has made steps, so it would set the learning rates of a training that is over.
        CheckpointError: a checkpoint will be too large, or the disk has less room than last, best, their backups and
            one being written will need.
    """
    counting = [scheduler, *getattr(scheduler, "_schedulers", [])]  # a ChainedScheduler does not count itself
    steps = max(getattr(one, "last_epoch", 0) for one in counting)
    if steps > 0 and not resumed:
        raise ValueError(f"the scheduler has made {steps} steps: make a new one for a new run")
    copies = 3 if "betas" in optimizer.defaults else 2  # Adam keeps two numbers per weight, momentum one
    size = copies * sum(t.numel() * t.element_size() for t in model.state_dict().values()) + 2**20
    if size > MAX_BYTES and not resumed:
        raise CheckpointError(
            f"{run}: a checkpoint would take {size / 2**30:.1f} GiB once the optimizer has made a step, and more than "
            f"{MAX_BYTES / 2**30:g} cannot be saved. Train a smaller model."
        )
    needed = 5 * size
    free = shutil.disk_usage(run).free
    if free < needed and not resumed:
        raise CheckpointError(
            f"{run} has {free / 1e6:.0f} MB free, and the run needs {needed / 1e6:.0f} MB. Make room."
        )
    has_stepped = any(state.get("step", 1) > 0 for state in optimizer.state.values())  # Adagrad begins with a step 0
    if (uncompiled(model) in _trained or has_stepped) and not resumed:
        which = "weights that have been" if uncompiled(model) in _trained else "an optimizer that has"
        print(
            f"WARNING: this new run starts from {which} trained before. For a fair comparison make a new model and a "
            "new optimizer for every run.",
            flush=True,
        )
    _trained.add(uncompiled(model))
    if not resumed:
        print(f"Training in {run.absolute().parent.name}/{run.name}", flush=True)


def first_line(error: Exception) -> str:
    """Of an error's text or, where it has none, the error's name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
