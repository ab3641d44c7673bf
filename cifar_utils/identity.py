"""What makes a run that run: everything its result depends on, in words that are the same in every process.

Two runs with the same words share a folder, and the second finds or resumes the first; see `folder_for`. words.py
puts a part in words.
"""

import hashlib
import inspect
import json
import re
import weakref
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import nn

from cifar_utils import settings
from cifar_utils.augment import PRESETS, Policy, describe, flatten
from cifar_utils.behavior import edited_methods
from cifar_utils.data import Dataset
from cifar_utils.models import uncompiled
from cifar_utils.words import is_part, short_hash, words_of

_MOMENTA = ("momentum", "betas")  # of an optimizer's groups: some schedulers change these beside the learning rate
# Optimizer -> the learning rate of each of its groups, and scheduler -> their momentum, as they were before training. A
# scheduler that is made anew may stand for a new training, for which a momentum was changed by hand.
_at_first: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_HASHED = {  # settings whose values tell a person nothing
    "tensors": "the model's tensors have other names or shapes",
    "layers": "the model is built otherwise (an activation, pooling, dropout or its forward?)",
    "frozen": "other parameters of the model are frozen",
    "hooks": "other hooks are registered",
    "code": "code or attributes are others",
}


def describe_run(train: Dataset, val: Dataset, transform, loss, parts: dict, numbers: dict) -> dict:
    """What two runs must have in common to be the same run, as JSON-like data; the same in every process."""
    model, optimizer, transforms = uncompiled(parts["model"]), parts["optimizer"], flatten(transform)
    shapes = [f"{name} {list(t.shape)} {t.dtype}" for name, t in model.state_dict().items()]
    name_of = {p: name for name, p in model.named_parameters()}
    rates = _first(optimizer, optimizer, ("lr",))  # schedulers note the first themselves, all but ReduceLROnPlateau
    momenta = _first(parts["scheduler"], optimizer, _MOMENTA)
    groups = [
        rate
        | momentum
        | {k: _plain(v) for k, v in group.items() if k not in ("lr", *_MOMENTA, "params") and v}
        | {"parameters": short_hash(" ".join(name_of[p] for p in group["params"]))}
        for rate, momentum, group in zip(rates, momenta, optimizer.param_groups)
    ]
    # A learning rate that is a tensor is changed in place by its scheduler; `initial_lr` of the groups tells it.
    defaults = {k: v for k, v in optimizer.defaults.items() if not isinstance(v, torch.Tensor)}
    names = [type(layer).__name__ for layer in (model if isinstance(model, nn.Sequential) else [model])]
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    return {
        "model": names[-1] if len(names) < 4 else type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tensors": hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:16],
        "layers": short_hash(words_of(model, 20, arrays=False)),
        **({"frozen": short_hash(" ".join(frozen))} if frozen else {}),
        "shards": getattr(parts["model"], "shards", 1),  # that batch norm sees one by one, see scale.parallel
        "augmentation": label(transform),
        "transform": words_of(transforms[0] if len(transforms) == 1 else transforms),
        "loss": words_of(loss),
        "optimizer": {
            "name": type(optimizer).__name__, "defaults": _plain(defaults), "groups": groups,
            **({"code": short_hash(words_of(optimizer, arrays=False))} if edited_methods(type(optimizer)) else {}),
        },
        **({"hooks": hooks} if (hooks := _hooks(model, optimizer)) else {}),
        "scheduler": words_of(parts["scheduler"]),
        "sampler": words_of(parts["sampler"]),
        **numbers,
        "data": {
            "title": str(train), "source": train.source, "size": train.size, "classes": list(train.classes),
            "seed": train.seed, "training": train.fingerprint(), "validation": val.fingerprint(),
            "validation_images": len(val),
        },
    }  # fmt: skip


def _first(part, optimizer: torch.optim.Optimizer, names: tuple[str, ...]) -> list[dict]:
    """For each group of the optimizer, its values of these names when the part was first described."""
    known = _at_first.setdefault(part, [])
    for group in optimizer.param_groups[len(known) :]:
        known.append({"initial_lr" if k == "lr" else k: _plain(group[k]) for k in names if k in group})
    return known


def _hooks(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """The functions that PyTorch calls at each step beside the model's own, such as one that clips gradients; or ""."""
    groups = [getattr(optimizer, f"_optimizer_step_{when}_hooks", {}) for when in ("pre", "post")]
    for layer in model.modules():
        groups += [layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks]
    for p in model.parameters():
        groups += [p._backward_hooks or {}, p._post_accumulate_grad_hooks or {}]  # type: ignore[attr-defined]
    found = [(place, [_of_hook(hook) for hook in hooks.values()]) for place, hooks in enumerate(groups) if hooks]
    return short_hash(str(found)) if found else ""


def _of_hook(hook) -> str:
    """A hook in words, without what it may fill: the object of a method, and the lists that a partial hands it."""
    if inspect.ismethod(hook):
        return words_of(hook.__func__)
    if isinstance(hook, partial):
        values = [x for x in (*hook.args, *hook.keywords.values()) if isinstance(x, (int, float, str))]
        return f"{_of_hook(hook.func)} {values}"
    return words_of(hook)


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


def changes(then: dict, now: dict) -> list[str]:
    """How the settings of two runs differ, in words, without what follows from another difference."""
    follows = {"transform": "augmentation", "scheduler": "epochs"}
    then = then | {name: now[name] for name, cause in follows.items() if then.get(cause) != now[cause]}
    # Which optimizer, before which of its options.
    return sorted(differences(then, now), key=lambda text: text.partition(" ")[0].count("."))


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


def label(transform) -> str:
    """A transform in a few words, for tables and folder names: the nearest preset and what differs, or a type."""
    parts = []
    for part in flatten(transform):
        if isinstance(part, Policy):
            mine = asdict(part)
            unlike = {
                name: {k: mine[k] for k, v in asdict(near).items() if mine[k] != v} for name, near in PRESETS.items()
            }
            name = min(unlike, key=lambda name: (len(unlike[name]), name != "full"))
            values = {k: "x".join(f"{x:g}" for x in v) if isinstance(v, tuple) else v for k, v in unlike[name].items()}
            words = [f"{k}={v:g}" if isinstance(v, (int, float)) else f"{k}={v}" for k, v in values.items()]
            parts.append(" ".join(words if words and name == "none" else [name, *words]))
        else:
            name = part.__name__ if inspect.isroutine(part) else type(part).__name__
            inner = vars(part).get("transform") if hasattr(part, "__dict__") else None
            listed = inner if isinstance(inner, (list, tuple)) else [inner]
            has_parts = listed and all(map(is_part, listed))
            parts.append(f"{name}({label(inner)})" if has_parts else name)
    return " + ".join(parts) or "none"


def _plain(value):
    """A hyper-parameter as JSON has it."""
    if isinstance(value, torch.Tensor):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (bool, int, float, str)) else describe(value)
