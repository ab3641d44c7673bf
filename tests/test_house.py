"""The house: which file may import which, how long the center is, and that the loop stays readable."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "cifar_utils"
CENTER = [
    "settings", "progress", "files", "download", "data", "models", "warp", "augment", "plots", "checkpoint", "behavior",
    "words", "identity", "runs", "overview", "checks", "log", "train", "takehome", "network_file", "cli", "__main__",
]  # fmt: skip
WINGS = ("evaluation", "speedrun", "widgets", "exercises", "workshop", "scale")
FOR_THE_LOOP = {"evaluation.inference", "evaluation.metrics"}  # validation is part of it
READ_BY_PARTICIPANTS = ["data", "augment", "warp", "models", "train", "runs", "settings", "progress", "__main__"]


def imports(path: Path) -> set[str]:
    """The package's modules that a file imports, as in "data" or "evaluation.metrics"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cifar_utils":
            module = node.module.removeprefix("cifar_utils").strip(".")
            for alias in node.names:
                name = f"{module}.{alias.name}".strip(".")
                file = PACKAGE / (name.replace(".", "/") + ".py")
                package = PACKAGE / name.replace(".", "/") / "__init__.py"
                found.add(name if file.exists() or package.exists() else module)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("cifar_utils.") for a in node.names if a.name.startswith("cifar_utils.")}
    return found - {""}


def test_every_file_of_the_center_is_in_its_list():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == set(CENTER)


@pytest.mark.parametrize("name", [name for name in CENTER if name not in ("cli", "__main__")])
def test_the_center_imports_no_wing_but_what_the_loop_needs(name):
    assert {i for i in imports(PACKAGE / f"{name}.py") if i.split(".")[0] in WINGS} <= FOR_THE_LOOP


def test_imports_of_the_center_form_no_circle():
    known = {name: imports(PACKAGE / f"{name}.py") for name in CENTER}
    beyond = FOR_THE_LOOP | {"evaluation.predictions"}
    known |= {name: imports(PACKAGE / (name.replace(".", "/") + ".py")) for name in beyond}
    done: list[str] = []
    while left := [name for name in known if name not in done]:
        free = [name for name in left if (known[name] & set(known)) <= set(done)]
        assert free, f"a circle among {left}"
        done += free


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_imports_no_other_wing_but_evaluation(wing):
    for_the_shipped_network = {"speedrun"} if wing in ("widgets", "exercises", "workshop") else set()
    allowed = {wing, "evaluation"} | for_the_shipped_network
    for path in (PACKAGE / wing).glob("*.py"):
        foreign = {i for i in imports(path) if i.split(".")[0] in set(WINGS) - allowed}
        assert not foreign, f"{path.name} imports {foreign}"


def test_contributing_shows_who_imports_whom():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = {name: set(others.split(", ")) for name, others in re.findall(r"^    (\w+) +-> (.*)$", text, re.M)}
    alone = re.search(r"^    (.*?) +import nothing of the package$", text, re.M)[1].split(", ")
    assert drawn.pop("cli") == {"all of these"}
    found = {name: imports(PACKAGE / f"{name}.py") for name in CENTER if name not in ("cli", "__main__")}
    for wing in WINGS:
        names = set().union(*(imports(path) for path in (PACKAGE / wing).glob("*.py")))
        found[wing] = {name.split(".")[0] if name.split(".")[0] in WINGS else name for name in names} - {wing}
    assert drawn | {name: set() for name in alone} == found


def test_the_web_edition_has_a_page_for_every_file_of_the_center():
    sys.path.append(str(PACKAGE.parent / "tools"))
    import make_web

    assert set(make_web.CENTER) == set(CENTER) - {"cli", "__main__"}


def test_evaluation_does_not_know_training():
    for path in (PACKAGE / "evaluation").glob("*.py"):
        assert not imports(path) & {"train", "runs", "checks", "cli"}, path.name


READ = [path for path in sorted(PACKAGE.rglob("*.py")) if not {"exercises", "widgets"} & set(path.parts)]
# Methods that PyTorch, pickle and the signal module call: the docstring of their class says what they do.
HOOKS = {
    "forward", "extra_repr", "step", "make_params", "transform", "find_class", "state_dict", "load_state_dict",
    "request",
}  # fmt: skip
PASSED_ON = {"OSError", "NotImplementedError", "UnpicklingError"}  # caught again in the same function
METHODS_OF_OTHERS = {  # file -> what its docstrings must name as a source
    "evaluation/calibration": "Guo", "evaluation/comparison": "McNemar", "evaluation/metrics": "Wilson",
    "evaluation/saliency": "Draelos", "speedrun/mirror": "Cohen",
    "speedrun/ensemble": "Hansen", "speedrun/muon": "K. Jordan", "speedrun/resizing": "Howard",
    "speedrun/selection": "Loshchilov", "speedrun/whitening": "Page", "speedrun/winograd": "Winograd",
}  # fmt: skip


def documented(tree: ast.Module):
    """Each public function, class and method: its name, node, and docstring with that of its class."""
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        yield node.name, node, ast.get_docstring(node)
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and method.name not in HOOKS:
                own = ast.get_docstring(method)
                yield f"{node.name}.{method.name}", method, own and f"{own}\n{ast.get_docstring(node)}"


@pytest.mark.parametrize("path", READ, ids=lambda path: path.relative_to(PACKAGE).with_suffix("").as_posix())
def test_every_docstring_gives_shapes_and_errors(path):
    """Exercises and widgets are left out: their parts are called by name, from a page or by `check`."""
    for name, node, text in documented(ast.parse(path.read_text(encoding="utf-8"))):
        assert text, f"{name} has no docstring"
        if isinstance(node, ast.ClassDef):
            continue
        exceptions = [x.exc for x in ast.walk(node) if isinstance(x, ast.Raise)]
        raised = [x.func if isinstance(x, ast.Call) else x for x in exceptions]
        errors = {x.id for x in raised if isinstance(x, ast.Name) and x.id.endswith("Error")} - PASSED_ON
        if name == "read_image":
            errors -= {"ValueError"}  # it becomes a DataError
        assert all(error in text for error in errors), f"{name} raises {errors}, which its docstring does not name"
        arguments = [*node.args.args, *node.args.kwonlyargs]
        types = " ".join(ast.unparse(x) for x in [*(a.annotation for a in arguments), node.returns] if x)
        has_arrays = re.search(r"\b(Tensor|ndarray)\b", types)
        says_shape = re.search(r"\[[\w ,]*\]|tensor|parameters that were drawn|see `|What `", text)
        assert not has_arrays or says_shape, f"{name} takes or returns arrays, and its docstring gives no shape"


UNIT_OR_RANGE = re.compile(  # digits, another docstring, or a word for what is counted or measured
    r"\d|see `|\b(seconds?|minutes|pixels?|degrees|fraction|percent|bytes|number|many|most|epochs?|steps?|images?"
    r"|characters|positions?|unit)\b"
)


@pytest.mark.parametrize("path", READ, ids=lambda path: path.relative_to(PACKAGE).with_suffix("").as_posix())
def test_every_number_has_its_unit_or_range(path):
    """What a function takes as int or float is named in its docstring, where a unit, a range or a count stands."""
    for name, node, text in documented(ast.parse(path.read_text(encoding="utf-8"))):
        for argument in [] if isinstance(node, ast.ClassDef) else [*node.args.args, *node.args.kwonlyargs]:
            kind = ast.unparse(argument.annotation) if argument.annotation else ""
            if re.search(r"\b(int|float)\b", kind):
                about = [line for line in text.splitlines() if re.search(rf"\b{argument.arg}\b", line)]
                words = " ".join(about).replace(argument.arg, "")
                assert UNIT_OR_RANGE.search(words), f"{name}: the docstring gives no unit or range of {argument.arg}"


@pytest.mark.parametrize("name", METHODS_OF_OTHERS)
def test_a_method_from_a_paper_names_its_source(name):
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    texts = [ast.get_docstring(tree) or "", *(text or "" for _, _, text in documented(tree))]
    assert METHODS_OF_OTHERS[name] in "\n".join(texts)


def code_lines(path: Path) -> int:
    """Lines with code: neither blank, nor a comment, nor of a docstring."""
    source = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant):
                lines -= set(range(body[0].lineno, body[0].end_lineno + 1))
    quiet = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in quiet and not (token.type == tokenize.STRING and token.line.strip().startswith('"""')):
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines)


def test_what_a_participant_reads_is_short():
    assert sum(code_lines(PACKAGE / f"{name}.py") for name in READ_BY_PARTICIPANTS) < 1200


@pytest.mark.slow
def test_starting_waits_for_no_package_that_is_not_needed():
    """torchvision takes a second and 160 MB: for those who use its transforms."""
    show = "import cifar_utils.cli, sys; print(sorted({'torchvision', 'pandas', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", show], capture_output=True, text=True).stdout == "[]\n"


def test_the_loop_is_readable():
    tree = ast.parse((PACKAGE / "train.py").read_text(encoding="utf-8"))
    steps = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "steps")
    assert steps.end_lineno - steps.body[1].lineno + 1 <= 80, "the body of steps(), without its docstring"
