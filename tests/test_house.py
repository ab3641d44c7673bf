"""The house: which file may import which, how long the center is, and that the loop stays readable."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "cifar_utils"
CENTER = [
    "settings", "progress", "files", "download", "data", "models", "warp", "augment", "plots", "checkpoint", "runs",
    "overview", "checks", "train", "takehome", "network_file", "cli", "__main__",
]  # fmt: skip
WINGS = ("evaluation", "speedrun", "widgets", "exercises", "workshop", "scale")
FOR_THE_LOOP = {"evaluation.predictions", "evaluation.metrics"}  # validation is part of it
READ_BY_PARTICIPANTS = ["data", "augment", "warp", "models", "train", "runs"]


def imports(path: Path) -> set[str]:
    """The package's modules that a file imports, as in "data" or "evaluation.metrics"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
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
    known |= {name: imports(PACKAGE / (name.replace(".", "/") + ".py")) for name in FOR_THE_LOOP}
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


def test_evaluation_does_not_know_training():
    for path in (PACKAGE / "evaluation").glob("*.py"):
        assert not imports(path) & {"train", "runs", "checks", "cli"}, path.name


READ = [path for path in sorted(PACKAGE.rglob("*.py")) if not {"exercises", "widgets"} & set(path.parts)]


@pytest.mark.parametrize("path", READ, ids=lambda path: path.relative_to(PACKAGE).with_suffix("").as_posix())
def test_every_public_function_says_what_it_does_and_what_it_refuses(path):
    """Exercises and widgets are left out: their parts are called by name, from a page or by `check`."""
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        assert ast.get_docstring(node), node.name
        refuses = isinstance(node, ast.FunctionDef) and "raise ValueError" in ast.unparse(node)
        assert not refuses or "Error" in ast.get_docstring(node), f"{node.name} raises what its docstring does not name"


def code_lines(path: Path) -> int:
    """Lines with code: neither blank, nor a comment, nor of a docstring."""
    source = path.read_text()
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


def test_the_loop_is_readable():
    tree = ast.parse((PACKAGE / "train.py").read_text())
    steps = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "steps")
    assert steps.end_lineno - steps.body[1].lineno + 1 <= 80, "the body of steps(), without its docstring"
