"""What you made in one notebook, as a file for the others: the code of your network, and your augmentation policy.

    network_file.save(MyNetwork)        # in notebook 02: to runs/network.py
    MyNetwork = network_file.load()     # in notebook 03: the one that was saved last
    model = network_file.trained(run)   # in notebook 04: a run's model, whichever of the saved networks it is

A checkpoint holds weights, no code. The command line takes the same file: `--model runs/network.py:MyNetwork`.
"""

import __future__

import ast
import hashlib
import importlib.util
import inspect
import linecache
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from cifar_utils import behavior, checkpoint, runs, settings
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.models import Normalize, SmallCNN, has_lazy_layers

KEPT = "networks"  # the folder of the copies, one per version


def save(network: Callable[..., nn.Module]) -> Path:
    """Writes a class or function, and what it uses of the same notebook, to `settings.network_file()`.

    Args:
        network: called with `classes=...` (or without arguments), it makes the network.

    Returns:
        The file. One that was there is replaced once the new one has been tried. Copies of both stay in `networks/`
        beside it.

    Raises:
        ValueError: its code cannot be found, or it does not work outside the notebook.
        CheckpointError: the file cannot be written.
    """
    file, kept = settings.network_file(), keep(network)
    if file.is_file() and not file.is_symlink():
        code = file.read_bytes()
        if code not in [copy.read_bytes() for copy in kept.parent.glob("*.py")]:  # it was changed by hand
            checkpoint.write(kept.with_name(_copy_name("network", code)), code)
    checkpoint.write(file, kept.read_bytes())
    return file


def keep(network: Callable[..., nn.Module]) -> Path:
    """As `save`, but only into `networks/`, where `trained` finds it; returns the copy. Raises ValueError as `save`."""
    name = getattr(network, "__name__", "")
    if not (inspect.isclass(network) or inspect.isfunction(network)) or name == "<lambda>":
        what = "a lambda, which has no name to save" if name == "<lambda>" else f"a {type(network).__name__}"
        raise ValueError(f"a class or function that makes a network is needed, not {what}")
    lines: dict[str, str] = {}
    _collect(name, network, lines, {})
    imports = [line for line in lines.values() if line.startswith(("import ", "from "))]
    imports.sort(key=lambda line: ("__future__" not in line, line))
    code = [line for line in lines.values() if line not in imports]
    file = settings.network_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    trial = file.with_name(f".network_trial_{os.getpid()}.py")  # of this kernel: another may be saving as well
    try:
        text = ("\n".join(imports) + "\n\n\n" + "\n\n\n".join(code) + "\n").encode()
        checkpoint.write(trial, text)
        make(load(trial))
        kept = file.parent / KEPT / _copy_name(name, text)
        kept.parent.mkdir(exist_ok=True)
        checkpoint.write(kept, text)
    finally:
        trial.unlink(missing_ok=True)
    return kept


def _copy_name(name: str, code: bytes) -> str:
    """The name of a copy with this code, different for different code."""
    return f"{name}_{hashlib.sha256(code).hexdigest()[:6]}.py"


def load(file: str | Path | None = None, name: str | None = None) -> Callable[..., nn.Module]:
    """The class or function of this name in a Python file, by default the last one that the file defines.

    It runs the file's code, so name only files that you trust.

    Args:
        file: by default `settings.network_file()`.

    Raises:
        ValueError: the file is missing, fails when it runs, or has no such name.
    """
    file = Path(file or settings.network_file())
    if not file.is_file():
        advice = "" if name else ": save a network first, by network_file.save in notebook 2"
        raise ValueError(f"there is no file {file}{advice}")
    try:
        spec = importlib.util.spec_from_file_location("network_file", file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # a dataclass looks itself up there
        # Not spec.loader: it would take the compiled code of a file of the same second and length.
        exec(compile(file.read_bytes(), str(file), "exec"), vars(module))
        # Without a name: the last that is defined there or, if none is, imported; a dict keeps the order.
        known = {
            key: thing for key, thing in vars(module).items() if inspect.isclass(thing) or inspect.isfunction(thing)
        }
        own = [key for key, thing in known.items() if thing.__module__ == "network_file"]
        if not known if name is None else not hasattr(module, name):
            raise ValueError(f"it defines no {name or 'class or function'}")
        return getattr(module, name or [*known, *own][-1])
    except (Exception, SystemExit) as error:  # a participant's code can fail in any way
        raise ValueError(f"{file}: {name or 'the network'} cannot be loaded ({error}{_line(error)})") from error


def load_all() -> Iterator[Callable[..., nn.Module]]:
    """All networks that were ever saved, the newest first; files that do not work any more are left out.

    One by one: a file's code runs only if no network before it was the right one.
    """
    newest = [file for file in [settings.network_file()] if file.exists()]
    kept = sorted((settings.network_file().parent / KEPT).glob("*.py"), key=lambda file: -file.stat().st_mtime_ns)
    contents = {file.read_bytes() for file in newest}
    for file in newest + [file for file in kept if file.read_bytes() not in contents]:
        with suppress(ValueError):
            yield load(file)


def make(network: Callable[..., nn.Module], classes: int = 10) -> nn.Module:
    """The network for this many classes, where the class or function takes their number.

    Raises:
        ValueError: it fails, makes something other than an nn.Module, or has lazy layers.
    """
    argument, name = None, getattr(network, "__name__", f"an object of the class {type(network).__name__}")
    try:
        known = inspect.signature(network).parameters
        argument = next((word for word in ("classes", "num_classes", "n_classes") if word in known), None)
        model = network(**{argument: classes}) if argument else network()
    except Exception as error:
        called = f"{name}({argument}={classes})" if argument else f"{name}()"
        raise ValueError(f"{called} cannot be made ({error}{_line(error)})") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} makes a {type(model).__name__}; an nn.Module is needed")
    if has_lazy_layers(model):
        raise ValueError(f"{name} has lazy layers: give each the number of its inputs, as in nn.Linear")
    return model


def with_normalize(model: nn.Module, normalize: Normalize) -> nn.Module:
    """The model behind this layer, unless it has a Normalize of its own."""
    has_one = any(isinstance(layer, Normalize) for layer in model.modules())
    return model if has_one else nn.Sequential(normalize, model)


def trained(run: str | Path, *others: Callable[..., nn.Module]) -> nn.Module:
    """A run's best model, in eval mode, whichever network it is: SmallCNN, one that was ever saved, or one of `others`.

    `runs.load` refuses a network that is not the run's, so the right one is found by trying.

    Args:
        run: the run's folder.
        others: more classes or functions that make networks, tried first.

    Raises:
        CheckpointError: there is no usable checkpoint, or none of these networks is the one.
    """
    about, problem = runs.about(run)["settings"], ""
    for network in chain((*others, SmallCNN), load_all()):
        try:
            model = make(network, len(about["data"]["classes"]))
        except ValueError as error:  # it cannot have this many classes
            problem = problem or str(error)
            continue
        for candidate in dict.fromkeys((with_normalize(model, Normalize()), model)):  # it may be trained without
            try:
                return runs.load(run, candidate)
            except (CheckpointError, ValueError) as error:  # it is another one
                problem = problem or str(error)
    modules = [getattr(getattr(other, "func", other), "__module__", None) or "" for other in others]
    if any(not module.startswith("cifar_utils") for module in modules):
        raise CheckpointError(problem)
    raise CheckpointError(
        f"{run} holds a {about['model']} whose code is neither the package's nor among the networks you saved. Save it "
        "(network_file.save in notebook 2), or pass its class: trained(run, MyNetwork), or --model FILE.py:NAME on the "
        "command line."
    )


def save_policy(policy, backup: bool = False) -> Path:
    """Saves the augmentation policy with which notebook 3 trains, and returns its file; see `checkpoint.write`."""
    path = settings.policy_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write(path, policy.to_json().encode(), backup)
    return path


def _line(error: BaseException) -> str:
    """The last line of the participant's own code that led to the error, as in ", line 3"; "" if there is none."""

    def is_own(file: str) -> bool:
        made = Path(file).name.startswith(("<frozen", ".network_trial"))
        return not (made or behavior.is_installed(file) or Path(file).is_relative_to(Path(__file__).parent))

    own = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own(frame.filename)]
    return f", line {own[-1].lineno}" if own else ""


def _collect(name: str, thing, lines: dict[str, str], things: dict[str, Any]) -> None:
    """Adds the code of what this name stands for, after the code of all that it uses; `things`: name -> what it is."""
    if name in things:
        if things[name] is not thing and things[name] != thing:
            raise ValueError(f"{name} stands for two different things: rename one of them")
        return
    things[name] = thing
    if isinstance(thing, ModuleType):
        lines[name] = f"import {thing.__name__}{_alias(name, thing)}"
    elif _is_literal(thing):
        lines[name] = f"{name} = {thing!r}"
    elif getattr(thing, "__module__", "__main__") not in behavior.EDITED and hasattr(thing, "__name__"):
        lines[name] = f"from {thing.__module__} import {thing.__name__}{_alias(name, thing)}"
    elif not (inspect.isclass(thing) or inspect.isroutine(thing)):
        raise ValueError(f"it uses {name}, a {type(thing).__name__} of the notebook: define that within the network")
    elif name != thing.__name__:  # as in Network = network_file.load()
        _collect(thing.__name__, thing, lines, things)
        lines[name] = f"{name} = {thing.__name__}"
    else:
        source, outside = _definition(thing)
        if outside.get("annotations") is __future__.annotations:  # without it, names in annotations are looked up
            lines["annotations"] = "from __future__ import annotations"
        lines[name] = ""  # two functions may call each other
        try:
            used = behavior.global_names(compile(source, thing.__name__, "exec"))
        except SyntaxError:  # a text over several lines keeps `dedent` from moving the code to the left
            raise ValueError(f"the code of {name} cannot be cut out: define it at the left margin") from None
        for other in sorted(used & outside.keys() - {thing.__name__}):
            _collect(other, outside[other], lines, things)
        del lines[name]  # behind what it uses
        lines[name] = source


def _is_literal(thing) -> bool:
    """Whether its repr is code that makes it: not so for NumPy's numbers, infinity, or a tuple of classes."""
    if type(thing) not in (bool, int, float, str, tuple):
        return False
    with suppress(ValueError, SyntaxError):
        return bool(ast.literal_eval(repr(thing)) == thing)
    return False


def _alias(name: str, thing) -> str:
    return f" as {name}" if name != thing.__name__ else ""


def _definition(thing) -> tuple[str, dict]:
    """The source of a class or function, and the names that it can see outside.

    `inspect.getsource` does not find a class of a notebook. Its methods know their cell.
    """
    functions = [thing] if inspect.isfunction(thing) else [f for f in vars(thing).values() if inspect.isfunction(f)]
    for function in map(inspect.unwrap, functions):  # what a decorator wraps
        linecache.checkcache(function.__code__.co_filename)  # `load` reads a file that `save` writes anew
        source = "".join(linecache.getlines(function.__code__.co_filename))
        for node in ast.walk(ast.parse(source)):
            if not (isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == thing.__name__):
                continue
            first = min([decorator.lineno for decorator in node.decorator_list] + [node.lineno])
            if first <= function.__code__.co_firstlineno <= node.end_lineno:  # a cell may define a name twice
                lines = source.splitlines()[first - 1 : node.end_lineno]
                return textwrap.dedent("\n".join(lines)), function.__globals__
    raise ValueError(f"the code of {thing.__name__} is not in this notebook: define it in a cell, with a method")
