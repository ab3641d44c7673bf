"""What a function or class of a notebook is and does, read from its source and its instructions: nothing is called."""

import ast
import dis
import inspect
import sys
import sysconfig
import tokenize
import types
from contextlib import suppress
from functools import _lru_cache_wrapper as _Cached
from functools import cache
from pathlib import Path

LIBRARIES = ("cifar_utils", "torch", "torchvision")  # their functions are told apart by name
EDITED = ("__main__", "network_file")  # modules of a notebook's code: its own, and that of `network_file.load`
_CALLED = (  # of a part, at each step or when it resumes
    "__call__", "forward", "transform", "make_params", "at_step", "epoch", "record", "step", "get_lr",
    "load_state_dict", "zero_grad", "train", "eval",
)  # fmt: skip
_CHANGE = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "remove", "discard", "clear"}


def is_edited(thing) -> bool:
    """Whether a class, function or module is of a notebook or of a file beside it, not of a library: it may change."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__ or ""
    if name in EDITED:
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return not (not file or is_installed(file) or name.partition(".")[0] in LIBRARIES)


@cache
def is_installed(file: str) -> bool:
    """Whether a file came with Python or with a package."""
    installed = {"site-packages", "dist-packages"} & set(Path(file).parts)
    return bool(installed) or Path(file).is_relative_to(sysconfig.get_path("stdlib"))


def outside(function) -> dict:
    """Name -> what a function uses from outside: globals, variables of the function around it, and `file.NAME` of a
    Python file beside the notebook.
    """
    code = function.__code__
    known = function.__globals__
    found = {name: known[name] for name in sorted(global_names(code)) if name in known}  # the others are Python's own
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        with suppress(ValueError):  # a variable that has no value yet
            found[name] = cell.cell_contents
    found = {name: x.__wrapped__ if isinstance(x, _Cached) else x for name, x in found.items()}
    files = [(name, vars(x)) for name, x in found.items() if isinstance(x, types.ModuleType) and is_edited(x)]
    return found | {f"{name}.{n}": things[n] for name, things in files for n in _names(code) if n in things}


def _names(code: types.CodeType) -> set[str]:
    """All names that code reads, attributes included, those of functions within as well."""
    inner = (_names(x) for x in code.co_consts if isinstance(x, types.CodeType))
    return set(code.co_names).union(*inner)


def edited_methods(kind: type) -> list:
    """The functions that a class and its bases define, those of libraries left out."""
    edited = [base for base in kind.__mro__ if is_edited(base)]
    found = [(base, _function(member)) for base in edited for member in vars(base).values()]
    # torch puts one of its own into an optimizer's.
    return [f for base, f in found if inspect.isfunction(f) and f.__module__ == base.__module__]


def _function(member):
    """The function behind a static method, a class method or a property; anything else as it is."""
    return getattr(member, "fget" if isinstance(member, property) else "__func__", member)


def called(methods: list, names=_CALLED) -> set[str]:
    """The names of these methods, by default those that run at each step, and of the methods that they call."""
    found = {method.__name__ for method in methods} & set(names)
    for _ in methods:  # one more level each time
        found |= {name for m in methods if m.__name__ in found for name in inspect.unwrap(m).__code__.co_names}
    return found


def assigned(methods: list, names: set[str]) -> set[str]:
    """The attributes that the methods of these names assign or change in place."""
    found = [(m, n) for m in methods if m.__name__ in names for n in written(inspect.unwrap(m).__code__)]
    return {_mangled(name.removeprefix("self."), m) for m, name in found if name.startswith("self.")}


def _mangled(name: str, method) -> str:
    """The attribute's name in its object: Python makes _Class__name of a name that begins with two underscores."""
    if name[:2] != "__" or name[-2:] == "__":
        return name
    kind = method.__qualname__.rpartition(".")[0].rpartition(".")[2]
    return f"_{kind.lstrip('_')}{name}"


@cache
def written(code: types.CodeType) -> frozenset[str]:
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


def global_names(code: types.CodeType) -> set[str]:
    """The names of the globals that code reads, that of functions and classes within included; without __name__ etc.

    A name that is local in one function may be global in another: Python knows which.
    """
    read = list(dis.get_instructions(code))
    stored = {x.argval for x in read if x.opname == "STORE_NAME"}  # by the body of a class
    found = {x.argval for x in read if x.opname in ("LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")}
    found |= {x.argval for x in read if x.opname == "LOAD_NAME"} - stored
    found = {name for name in found if not name.startswith("__")}
    return found.union(*(global_names(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def instructions(code: types.CodeType, docstring: str | None = None) -> str:
    """Instructions, names and constants, those of functions within included; without addresses and its docstring."""
    kept = [x for x in code.co_consts if docstring is None or x is not docstring]
    constants = [instructions(x) if isinstance(x, types.CodeType) else _constant(x) for x in kept]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _constant(value) -> str:
    return str(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
