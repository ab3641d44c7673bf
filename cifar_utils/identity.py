"""What makes a run that run: everything its result depends on, in words that are the same in every process.

Two runs with the same words share a folder, and the second finds or resumes the first; see `folder_for`.
"""

import ast
import dis
import functools
import hashlib
import inspect
import json
import re
import sys
import sysconfig
import tokenize
import types
import weakref
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from cifar_utils import settings
from cifar_utils.augment import PRESETS, Policy, describe, flatten
from cifar_utils.data import Dataset
from cifar_utils.models import Normalize, uncompiled

# What training and loading change.
_IN_GROUPS = ("lr", "momentum", "betas")
_IN_SCHEDULERS = ("optimizer", "last_epoch", "best", "num_bad_epochs", "cooldown_counter", "T_cur", "T_i")
_IN_MODELS = ("training", "image_size")
_HIDDEN = ("_schedulers", "_milestones", "_schedule_phases", "_anneal_func_type", "_scale_fn_custom")  # in schedulers
_LIBRARIES = ("cifar_utils", "torch", "torchvision")  # their functions are told apart by name
_EDITED = ("__main__", "network_file")  # modules of a notebook's code: its own, and that of `network_file.load`
_COLLECTIONS = (list, dict, set, frozenset, np.ndarray, torch.Tensor)
_CALLED = (  # of a part, at each step or when it resumes
    "__call__", "forward", "transform", "make_params", "at_step", "epoch", "record", "step", "get_lr",
    "load_state_dict",
)  # fmt: skip
_CHANGE = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "remove", "discard", "clear"}
# Optimizer -> for each of its groups, what _IN_GROUPS names, as it was before training.
_at_first: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_HASHED = {  # settings whose values tell a person nothing
    "tensors": "the model's tensors have other names or shapes",
    "layers": "the model is built otherwise (an activation, pooling, dropout or its forward?)",
    "frozen": "other parameters of the model are frozen",
    "code": "code is another",
}


def describe_run(train: Dataset, val: Dataset, transform, loss, parts: dict, numbers: dict) -> dict:
    """What two runs must have in common to be the same run, as JSON-like data; the same in every process."""
    model, optimizer, transforms = uncompiled(parts["model"]), parts["optimizer"], flatten(transform)
    shapes = [f"{name} {list(t.shape)} {t.dtype}" for name, t in model.state_dict().items()]
    name_of = {p: name for name, p in model.named_parameters()}
    at_first = _at_first.setdefault(optimizer, [])
    for group in optimizer.param_groups[len(at_first) :]:
        # Schedulers note the first rate themselves, all but ReduceLROnPlateau.
        at_first.append({"initial_lr" if k == "lr" else k: _plain(group[k]) for k in _IN_GROUPS if k in group})
    groups = [
        first
        | {k: _plain(v) for k, v in group.items() if k not in (*_IN_GROUPS, "params") and v}
        | {"parameters": _short_hash(" ".join(name_of[p] for p in group["params"]))}
        for first, group in zip(at_first, optimizer.param_groups)
    ]
    methods = [method for kind in type(optimizer).__mro__ if _is_edited(kind) for method in _methods(kind)]
    names = [type(layer).__name__ for layer in (model if isinstance(model, nn.Sequential) else [model])]
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    return {
        "model": names[-1] if len(names) < 4 else type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tensors": hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:16],
        "layers": _short_hash(words_of(model, 20, arrays=False)),
        **({"frozen": _short_hash(" ".join(frozen))} if frozen else {}),
        "shards": getattr(parts["model"], "shards", 1),  # that batch norm sees one by one, see scale.parallel
        "augmentation": label(transform),
        "transform": words_of(transforms[0] if len(transforms) == 1 else transforms),
        "loss": words_of(loss),
        "optimizer": {
            "name": type(optimizer).__name__, "defaults": _plain(optimizer.defaults), "groups": groups,
            **({"code": _short_hash(words_of(methods))} if methods else {}),
        },
        "scheduler": words_of(parts["scheduler"]),
        "sampler": words_of(parts["sampler"]),
        **numbers,
        "data": {
            "title": str(train), "source": train.source, "size": train.size, "classes": list(train.classes),
            "seed": train.seed, "training": train.fingerprint(), "validation": val.fingerprint(),
            "validation_images": len(val),
        },
    }  # fmt: skip


def folder_for(about: dict) -> Path:
    """A folder for a run that was given none: the same settings get the same folder, others another.

    As in `SmallCNN_full_SGD-0.1_5-epochs_3f2a91`: the model, its augmentation, the optimizer with its learning rate,
    the epochs, a seed other than 0, and six digits that tell apart what these words do not.
    """
    text, short = json.dumps(about, sort_keys=True), in_words(about)
    words = [short["model"], short["augmentation"], short["optimizer"], f"{about['epochs']} epochs"]
    words += [f"seed {about['seed']}"] if about["seed"] else []
    words = [re.sub(r"[^\w.=]+", "-", word)[:40].strip("-.") for word in words]
    return settings.runs_directory() / "_".join([*words, hashlib.sha256(text.encode()).hexdigest()[:6]])


def in_words(about: dict) -> dict[str, str]:
    """The settings that runs mostly differ in, each in a few words."""
    optimizer = about["optimizer"]
    return {
        "model": about["model"],
        "augmentation": about["augmentation"],
        "optimizer": f"{optimizer['name']} {optimizer['defaults'].get('lr', '')}".strip(),
        "loss": about["loss"].partition("(")[0],
        "schedule": about["scheduler"].partition("(")[0],
        "batch size": str(about["batch_size"]),
        "seed": str(about["seed"]),
        "images": about["data"]["title"],
    }


def differences(then: dict, now: dict) -> list[str]:
    """What differs between two nested dicts, in words, as in `seed was 0 and is 1`."""
    found = []
    for name in sorted(then.keys() | now.keys()):
        a, b = then.get(name), now.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += [f"{name}.{text}" for text in differences(a, b)]
        elif a != b:
            found.append(_HASHED.get(name) or f"{name} was {a} and is {b}")
    return found


def global_names(code: types.CodeType) -> set[str]:
    """The names of the globals that code reads, that of functions and classes within included; without __name__ etc.

    A name that is local in one function may be global in another: Python knows which.
    """
    instructions = list(dis.get_instructions(code))
    stored = {x.argval for x in instructions if x.opname == "STORE_NAME"}  # by the body of a class
    found = {x.argval for x in instructions if x.opname in ("LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")}
    found |= {x.argval for x in instructions if x.opname == "LOAD_NAME"} - stored
    found = {name for name in found if not name.startswith("__")}
    return found.union(*(global_names(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def label(transform) -> str:
    """A transform in a few words, for tables and folder names: the nearest preset and what differs, or a type."""
    parts = []
    for part in flatten(transform):
        if isinstance(part, Policy):
            mine = asdict(part)
            changes = {
                name: {k: mine[k] for k, v in asdict(near).items() if mine[k] != v} for name, near in PRESETS.items()
            }
            name = min(changes, key=lambda name: (len(changes[name]), name != "full"))
            values = {k: "x".join(f"{x:g}" for x in v) if isinstance(v, tuple) else v for k, v in changes[name].items()}
            words = [f"{k}={v:g}" if isinstance(v, (int, float)) else f"{k}={v}" for k, v in values.items()]
            parts.append(" ".join(words if words and name == "none" else [name, *words]))
        else:
            name = part.__name__ if inspect.isroutine(part) else type(part).__name__
            inner = vars(part).get("transform") if hasattr(part, "__dict__") else None
            listed = inner if isinstance(inner, (list, tuple)) else [inner]
            has_parts = listed and all(map(_is_part, listed))
            parts.append(f"{name}({label(inner)})" if has_parts else name)
    return " + ".join(parts) or "none"


def words_of(part, depth: int = 8, arrays: bool = True) -> str:
    """A part in words: its type and the values that it was made with; the same in every process and at every step.

    Args:
        part: a transform, loss, optimizer, scheduler, model, or what they were made with.
        depth: number of levels of parts within parts that are described by their values.
        arrays: whether arrays and None are settings; False for a model, which may keep what it computed last.
    """

    def words(inner, deeper: int = 0) -> str:
        return words_of(inner, depth - deeper, arrays)

    if isinstance(part, dict):
        return f"{{{', '.join(f'{k}: {words(v)}' for k, v in sorted(part.items(), key=str))}}}"
    if isinstance(part, (list, tuple)):
        return f"[{', '.join(map(words, part))}]"
    if isinstance(part, functools.partial):
        return words([part.func, part.args, part.keywords])
    if isinstance(part, (set, frozenset)):
        return f"{{{', '.join(sorted(map(words, part)))}}}"  # their own order differs between processes
    if inspect.ismethod(part) and depth:
        return words_of([part.__func__, part.__self__], min(depth - 1, 3), arrays)
    if inspect.isfunction(part) and depth:
        code, values = _behavior(part)
        # Two functions may call each other, hence the limit.
        return f"{describe(part)} {_short_hash(f'{code} {words_of(values, min(depth - 1, 3), arrays)}')}"
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
    if isinstance(part, type) or not hasattr(part, "__dict__"):
        return True
    inner = [x for value in vars(part).values() for x in (value if isinstance(value, (list, tuple)) else [value])]
    return not (" at 0x" in repr(part) or any(map(_is_part, inner)) or _is_edited(type(part)))


def _is_part(x) -> bool:
    """Whether it can be a transform, or another function that a part was made with."""
    return callable(x) or hasattr(x, "at_step")


def _values(part, arrays: bool) -> dict:
    """Name -> what an object was made with. What training changes is left out: parameters, a sampler's arrays, and what
    the methods of a notebook's class assign when they are called.

    Args:
        arrays: False for a model, which may keep what it computed last.
    """
    changing = _IN_SCHEDULERS if isinstance(part, LRScheduler) else _IN_MODELS
    own = [kind for kind in type(part).__mro__ if _is_edited(kind)]
    members = {name: member for kind in reversed(own) for name, member in vars(kind).items()}
    attributes = {name: member for name, member in members.items() if _is_value(member)}  # those of the class
    attributes |= vars(part) if hasattr(part, "__dict__") else {}
    methods = [method for kind in own for method in _methods(kind)]
    made = _assigned(methods, {"__init__"})
    changes = {*changing, *_assigned(methods, _called(methods))}
    found = {k: v for k, v in attributes.items() if k[0] != "_" or k in _HIDDEN or k in made}
    if isinstance(part, nn.Module):
        # The weights of the classes, in a loss; a library's other buffers may change with every batch.
        buffers = part._buffers if own and arrays else {k: part._buffers.get(k) for k in ("weight", "pos_weight")}
        found |= {k: v for k, v in buffers.items() if v is not None}
    if isinstance(part, Normalize):
        found["constants"] = part.extra_repr()
    passing: tuple = ()
    if not arrays:
        passing = (torch.Tensor, np.ndarray, list, dict, type(None))  # as None until the first batch, then a tensor
    elif hasattr(part, "state_dict") and not isinstance(part, nn.Module):
        passing = (torch.Tensor, np.ndarray)
    found = {k: v for k, v in found.items() if k not in changes and (_are_numbers(v) or not isinstance(v, passing))}
    if isinstance(part, nn.Module):
        found |= {k: v for k, v in part._modules.items() if v is not None}
    return found | ({"methods": methods} if methods else {})


def _are_numbers(x) -> bool:
    """Whether it is a list or dict of numbers or texts."""
    values = list(x.values()) if isinstance(x, dict) else x if isinstance(x, list) else []
    return bool(values) and all(isinstance(v, (int, float, str)) for v in values)


def _methods(kind: type) -> list:
    """The functions that a class defines; torch puts one of its own into an optimizer's."""
    found = [_function(member) for member in vars(kind).values()]
    return [f for f in found if inspect.isfunction(f) and f.__module__ == kind.__module__]


def _called(methods: list) -> set[str]:
    """The names of the methods that run at each step, those that they call included."""
    found = {method.__name__ for method in methods} & set(_CALLED)
    for _ in methods:  # one more level each time
        found |= {name for m in methods if m.__name__ in found for name in inspect.unwrap(m).__code__.co_names}
    return found


def _assigned(methods: list, names: set[str]) -> set[str]:
    """The attributes that the methods of these names assign or change in place."""
    found = (name for m in methods if m.__name__ in names for name in _written(inspect.unwrap(m).__code__))
    return {name.removeprefix("self.") for name in found if name.startswith("self.")}


def _function(member):
    """The function behind a static method, a class method or a property; anything else as it is."""
    return getattr(member, "fget" if isinstance(member, property) else "__func__", member)


def _behavior(function) -> tuple[str, list]:
    """A function's code, and what it uses from outside: these tell it from one of the same name."""
    names = function.__code__.co_freevars
    used = {name: function.__globals__.get(name) for name in sorted(global_names(function.__code__))}
    used |= {name: cell.cell_contents for name, cell in zip(names, function.__closure__ or ())}
    # What it changes itself, such as a count or a list of losses, is no setting.
    written = _written(function.__code__)
    outside = [x for name, x in used.items() if name not in written]
    plain = [x for x in outside if _is_value(x) and not ("*" in written and isinstance(x, _COLLECTIONS))]
    own = [x for x in outside if inspect.isfunction(x) and x.__module__ == function.__module__ and x is not function]
    # A library's code changes with its version, and Python's instructions with Python's.
    is_a_librarys = (function.__module__ or "").partition(".")[0] in _LIBRARIES
    code = "" if is_a_librarys else _code(function.__code__, function.__doc__)
    return code, [function.__defaults__ or (), function.__kwdefaults__ or {}, plain, own]


def _is_value(x) -> bool:
    """Whether what a function uses from outside is a setting: values, arrays, transforms; no model, no data set."""
    if isinstance(x, type) or inspect.isroutine(x):
        return False
    if isinstance(x, torch.Tensor):
        return not x.requires_grad
    if any(kind.__module__.startswith("torchvision.transforms") for kind in type(x).__mro__):
        return True
    is_own_transform = callable(x) and _is_edited(type(x)) and not isinstance(x, nn.Module)  # it may be a network
    return isinstance(x, (int, float, str, tuple, *_COLLECTIONS)) or hasattr(x, "at_step") or is_own_transform


@cache
def _written(code: types.CodeType) -> frozenset[str]:
    """What a function assigns or changes in place: names from outside, and attributes as `self.NAME`.

    As by `global count`, `losses.append(x)`, `sums[k] += 1`, `self.seen = x`. Without its source, "*" stands for
    collections that it may change in place.
    """
    found: set[str] = set()
    try:
        source = inspect.getsource(code)
        tree = ast.parse(f"if True:\n{source}" if source[:1].isspace() else source)
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):  # of %%time; a lambda at the end of a call
        forms = {"STORE_GLOBAL": "{}", "STORE_DEREF": "{}", "STORE_ATTR": "self.{}"}
        found = {forms[x.opname].format(x.argval) for x in dis.get_instructions(code) if x.opname in forms}
        may_change = code.co_name != "<lambda>" or any(n in _CHANGE or n.endswith("_") for n in code.co_names)
        return frozenset(found | {"*"} if may_change else found)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            found.update(node.names)
        is_written = isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            is_written = node.func.attr in _CHANGE or node.func.attr.endswith("_")
            node = node.func.value
        elif isinstance(node, ast.Name):  # a variable of its own, unless it is declared global
            continue
        parts = (ast.Subscript, ast.Attribute)
        while isinstance(node, parts) and isinstance(node.value, parts):  # self.mean.data[0]: it is self.mean
            node = node.value
        if is_written and isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"self.{node.attr}" if node.value.id == "self" else node.value.id)
        elif is_written and isinstance(node, (ast.Subscript, ast.Name)):
            found.add(getattr(getattr(node, "value", node), "id", ""))
    return frozenset(found)


def _is_edited(kind: type) -> bool:
    """Whether a class is of a notebook, or of a file beside it, and not of a library: its code may change."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if kind.__module__ in _EDITED or not file:
        return kind.__module__ in _EDITED
    return not _is_installed(file) and kind.__module__.partition(".")[0] not in _LIBRARIES


@cache
def _is_installed(file: str) -> bool:
    """Whether a file came with Python or with a package."""
    installed = {"site-packages", "dist-packages"} & set(Path(file).parts)
    return bool(installed) or Path(file).is_relative_to(sysconfig.get_path("stdlib"))


def _code(code: types.CodeType, docstring: str | None = None) -> str:
    """Instructions, names and constants, those of functions within included; without addresses and its docstring."""
    kept = [x for x in code.co_consts if docstring is None or x is not docstring]
    constants = [_code(x) if isinstance(x, types.CodeType) else _constant(x) for x in kept]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _constant(value) -> str:
    return str(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _plain(value):
    """A hyper-parameter as JSON has it."""
    if isinstance(value, torch.Tensor):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (bool, int, float, str)) else describe(value)
