"""A transform, loss, optimizer, scheduler, sampler or model in words: what tells it from another of its kind.

The words are the same in every process and at every step of training, so they leave out what training changes.
"""

import argparse
import functools
import hashlib
import inspect
import types
from collections import deque
from dataclasses import is_dataclass
from enum import Enum
from pathlib import PurePath

import numpy as np
import torch
from torch import nn
from torch.distributions import Distribution
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.hooks import RemovableHandle

from cifar_utils import behavior
from cifar_utils.augment import describe, is_torchvision
from cifar_utils.models import Normalize, uncompiled

# What training and loading change.
_IN_SCHEDULERS = ("optimizer", "last_epoch", "best", "num_bad_epochs", "cooldown_counter", "T_cur", "T_i")
_IN_MODELS = ("training", "trained_size")
_IN_OPTIMIZERS = ("defaults", "state", "param_groups", "step")  # which their groups tell; and a scheduler's wrapper
_HIDDEN = ("_schedulers", "_milestones", "_schedule_phases", "_anneal_func_type", "_scale_fn_custom")  # in schedulers
_NAMESPACES = (types.SimpleNamespace, argparse.Namespace)
_VALUES = (
    int, float, complex, str, bytes, tuple, range, slice, type(None), PurePath, np.generic, torch.dtype, Enum,
    Distribution, functools.partial, *_NAMESPACES,
)  # fmt: skip
_COLLECTIONS = (list, deque, dict, set, frozenset, np.ndarray, torch.Tensor)


def words_of(part, depth: int = 8, arrays: bool = True) -> str:
    """A part in words: its type and the values that it was made with; the same in every process and at every step.

    Args:
        part: a transform, loss, optimizer, scheduler, model, or what they were made with.
        depth: number of levels of parts within parts that are described by their values.
        arrays: whether arrays and None are settings; False for a model, which may keep what it computed last.
    """

    def words(inner, deeper: int = 0) -> str:
        return words_of(inner, depth - deeper, arrays)

    if isinstance(part, _NAMESPACES):
        return words(vars(part))
    if isinstance(part, dict):  # a key may be a function
        items = [(k if isinstance(k, str) else words(k), words(v)) for k, v in part.items()]
        return f"{{{', '.join(f'{k}: {v}' for k, v in sorted(items))}}}"
    if isinstance(part, (list, tuple, deque)):
        return f"[{', '.join(map(words, part))}]"
    if isinstance(part, Distribution):  # the repr of some leaves out the numbers
        constraints = getattr(type(part), "arg_constraints", {})  # of a class of one's own, perhaps a property
        names = [name for name in vars(part) if name[0] != "_"]
        names += constraints if isinstance(constraints, dict) else ()
        return f"{type(part).__name__}{words({name: getattr(part, name) for name in names})}"
    if isinstance(part, Enum):
        return words([f"{type(part).__name__}.{part.name}", part.value, *behavior.edited_methods(type(part))])
    if isinstance(part, functools.partial):
        return words([part.func, part.args, part.keywords])
    if isinstance(part, (set, frozenset)):
        return f"{{{', '.join(sorted(map(words, part)))}}}"  # their own order differs between processes
    if inspect.ismethod(part) and depth:
        return words_of([part.__func__, part.__self__], min(depth - 1, 3), arrays)
    if inspect.isfunction(part) and depth:
        code, values = _code_and_values(part)
        # Two functions may call each other, hence the limit.
        return f"{describe(part)} {short_hash(f'{code} {words_of(values, min(depth - 1, 3), arrays)}')}"
    if isinstance(part, PurePath):
        return repr(part.as_posix())
    if isinstance(part, (torch.Tensor, np.ndarray)):
        if isinstance(part, torch.Tensor):  # NumPy has no bfloat16
            part = (part.float() if part.dtype == torch.bfloat16 else part).detach().cpu().numpy()
        if part.size <= 100 or part.dtype.kind not in "biufc":
            return f"{part.tolist()}"
        return f"{part.shape} {hashlib.sha256(np.ascontiguousarray(part).data).hexdigest()[:8]}"
    if not depth or _describes_itself(part):
        return describe(part)
    values = [f"{name}={words(value, 1)}" for name, value in sorted(_values(part, arrays).items())]
    return f"{type(part).__name__}({', '.join(values)})"


def _describes_itself(part) -> bool:
    """Whether its repr tells all that it was made with; that of a notebook's class does not tell its code."""
    if isinstance(part, nn.Module) or type(part).__repr__ is object.__repr__:  # some of torchvision's tell a half
        return False
    if isinstance(part, type):
        return True
    if behavior.is_edited(type(part)):
        return False
    if not hasattr(part, "__dict__"):
        return True
    inner = [x for value in vars(part).values() for x in (value if isinstance(value, (list, tuple)) else [value])]
    return not (" at 0x" in repr(part) or any(map(is_part, inner)))


def is_part(x) -> bool:
    """Whether it can be a transform, or another function that a part was made with."""
    return callable(x) or hasattr(x, "at_step")


def _values(part, arrays: bool) -> dict:
    """Name -> what an object was made with. What training changes is left out: parameters, a sampler's arrays, and what
    the methods of a notebook's class assign when they are called.

    Args:
        arrays: False for a model, which may keep what it computed last.
    """
    changing: tuple[str, ...] = _IN_SCHEDULERS if isinstance(part, LRScheduler) else _IN_MODELS
    changing += _IN_OPTIMIZERS if isinstance(part, Optimizer) else ()
    own = [kind for kind in type(part).__mro__ if behavior.is_edited(kind)]
    members = {name: member for kind in reversed(own) for name, member in vars(kind).items()}
    attributes = {name: member for name, member in members.items() if _is_value(member)}  # those of the class
    slots = [getattr(kind, "__slots__", ()) for kind in type(part).__mro__]
    names = [name for found in slots for name in ([found] if isinstance(found, str) else found)]
    attributes |= {name: getattr(part, name) for name in names if hasattr(part, name)}
    attributes |= getattr(part, "__dict__", {})
    methods = behavior.edited_methods(type(part))
    made = behavior.assigned(methods, behavior.called(methods, {"__init__"}))
    later = {method.__name__ for method in methods} - {"__init__"}
    assigned_later = behavior.assigned(methods, later)
    # A function of the notebook may call any method of a dataclass.
    running = later if is_dataclass(part) and not callable(part) else behavior.called(methods)
    changes = {*changing, *behavior.assigned(methods, running)}
    found = {k: v for k, v in attributes.items() if k[0] != "_" or k in _HIDDEN or k in made}
    if isinstance(part, nn.Module):
        # The weights of the classes, in a loss; a library's other buffers may change with every batch.
        buffers = part._buffers if own and arrays else {k: part._buffers.get(k) for k in ("weight", "pos_weight")}
        found |= {k: v for k, v in buffers.items() if v is not None}
    if isinstance(part, Normalize):
        found["constants"] = part.extra_repr()
    passing: tuple = ()
    if not arrays:
        # As None until the first batch, then a tensor; and a hook's handle, whose number depends on other hooks.
        passing = (torch.Tensor, np.ndarray, list, dict, type(None), RemovableHandle)
    elif hasattr(part, "state_dict") and not isinstance(part, nn.Module):
        passing = (torch.Tensor, np.ndarray)
    # A sampler of one's own may be made with the positions of its images, which no other method then assigns.
    kept = made - assigned_later if arrays else ()
    found = {
        k: v for k, v in found.items() if not isinstance(v, Optimizer)
        if k not in changes and (k in kept or _are_settings(v) or not isinstance(v, passing))
    }  # fmt: skip
    if isinstance(part, nn.Module):
        found |= {k: v for k, v in part._modules.items() if v is not None}
        found |= _constants(part, assigned_later) if own and not arrays else {}
    return found | ({"methods": methods} if methods else {})


def _are_settings(x) -> bool:
    """Whether it is a list or dict, also a nested one, of numbers, texts, or transforms such as those of a v2.Compose.

    One of None alone may be a cache, which is filled later.
    """
    values = list(x.values()) if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else []
    values = [v for v in values if v is not None]
    return bool(values) and all(isinstance(v, (int, float, str)) or is_part(v) or _are_settings(v) for v in values)


def _constants(model: nn.Module, changed: set[str]) -> dict:
    """The buffers of a class of the notebook that hold a few numbers, such as a mean, and that its methods leave alone.

    Those of a library's layer change, and so does running_mean, which a function may be given.
    """
    if {kind for kind in type(model).__mro__ if not behavior.is_edited(kind)} - {nn.Module, nn.Sequential, object}:
        return {}
    changed = changed | vars(model).get("_statistics", set())  # see checks.py
    return {
        name: buffer for name, buffer in model._buffers.items()
        if buffer is not None and buffer.numel() <= 100 and name not in changed and "running" not in name
    }  # fmt: skip


def _code_and_values(function) -> tuple[str, list]:
    """A function's code, and what it uses from outside: these tell it from one of the same name."""
    # What it changes itself, such as a count or a list of losses, is no setting.
    changed = behavior.written(function.__code__)
    used = {k: x for k, x in behavior.outside(function).items() if k.partition(".")[0] not in changed}
    used = {k: x for k, x in used.items() if x is not function}
    values = {k: x for k, x in used.items() if _is_value(x) and not ("*" in changed and isinstance(x, _COLLECTIONS))}
    # A network's weights are no setting, since it may be trained meanwhile; those of the classes in a loss are one.
    modules = {k: uncompiled(x) for k, x in used.items() if isinstance(x, nn.Module)}
    values |= {k: words_of(x, 3, arrays=_keeps_no_state(x)) for k, x in modules.items()}
    # A transform of another library: its repr, since calls may change its attributes.
    foreign = {k: x for k, x in used.items() if callable(x) and k not in values and not behavior.is_edited(type(x))}
    values |= {k: describe(x) for k, x in foreign.items() if not (isinstance(x, type) or inspect.isroutine(x))}
    own = {k: _class_parts(x) if isinstance(x, type) else x for k, x in used.items() if _is_own_code(x)}
    # A library's code changes with its version, and Python's instructions with Python's.
    is_a_librarys = (function.__module__ or "").partition(".")[0] in behavior.LIBRARIES
    code = "" if is_a_librarys else behavior.instructions(function.__code__, function.__doc__)
    if not {function.__name__, function.__code__.co_name, "*"} & changed:  # as by function.calls += 1
        values |= {f".{k}": x for k, x in vars(function).items() if k[0] != "_" and _is_value(x)}
    return code, [function.__defaults__ or (), function.__kwdefaults__ or {}, values, own]


def _keeps_no_state(module: nn.Module) -> bool:
    """A loss or transform whose attributes are settings: no network, nor a metric of a library, which counts."""
    kind = type(module)
    is_known = kind.__module__.startswith(("torch.nn.", "torchvision.")) or behavior.is_edited(kind)
    return is_known and next(module.parameters(), None) is None


def _class_parts(kind: type) -> list:
    """What a class of a notebook is made of, its instances apart: methods, and attributes of its own."""
    return [behavior.edited_methods(kind), {k: v for k, v in vars(kind).items() if k[:2] != "__" and _is_value(v)}]


def _is_own_code(x) -> bool:
    """Whether it is a function or class of a notebook, or of a file beside it."""
    return (inspect.isfunction(x) or isinstance(x, type)) and behavior.is_edited(x)


def _is_value(x) -> bool:
    """Whether what a function uses from outside is a setting: values, arrays, transforms; no data set, no optimizer."""
    if isinstance(x, type) or inspect.isroutine(x):
        return False
    if isinstance(x, torch.Tensor):
        return not x.requires_grad
    if is_torchvision(x):
        return True
    if isinstance(x, nn.Module):
        return False
    is_own = behavior.is_edited(type(x)) and (callable(x) or is_dataclass(x))
    return isinstance(x, (*_VALUES, *_COLLECTIONS)) or hasattr(x, "at_step") or is_own


def short_hash(text: str) -> str:
    """The first eight hexadecimal digits of the text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
