"""A network's code as a file: whole, tried before it replaces another, and the same network afterwards."""

import functools

import nbformat
import pytest
import torch
from cells import run_cell
from nbclient import NotebookClient
from torch import nn

from cifar_utils import network_file, settings
from cifar_utils.checkpoint import CheckpointError
from cifar_utils.models import Normalize, SmallCNN

IMPORTS = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\nWIDTHS = (8, 16)"
BLOCK = "def block(a, b):\n    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))"
BASE = "class Base(nn.Module):\n    def count(self):\n        return 1"
NETWORK = """class MyNetwork(Base):
    def __init__(self, classes=10):
        super().__init__()
        self.body = nn.Sequential(block(3, WIDTHS[0]), block(*WIDTHS))
        self.head = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor):
        return self.head(F.relu(self.body(x)).mean((2, 3)))"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path))
    return tmp_path


def cell(code: str, **names) -> dict:
    return run_cell(code, **{"nn": nn, "torch": torch} | names)


def test_what_the_network_uses_goes_along():
    network = cell("\n\n\n".join((IMPORTS, BLOCK, BASE, NETWORK)))["MyNetwork"]
    file = network_file.save(network)
    assert file == settings.network_file()
    text = file.read_text()
    for part in (BLOCK, BASE, NETWORK, "import torch\n", "WIDTHS = (8, 16)", "import torch.nn.functional as F"):
        assert part in text
    loaded = network_file.load()
    assert loaded.__name__ == "MyNetwork" and loaded is not network
    assert "__" not in text.replace("__init__", "") and loaded.__module__ == "network_file"
    mine, theirs = network(classes=4), network_file.make(loaded, classes=4)
    theirs.load_state_dict(mine.state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(mine(images), theirs(images))
    assert not list(file.parent.glob(".network*"))


def test_annotations_that_are_not_evaluated_stay_so():
    """A class may name itself in its annotations where the notebook says so."""
    code = "\n\n\n".join((IMPORTS, BLOCK, BASE, NETWORK + "\n\n    def twin(self) -> MyNetwork:\n        return self"))
    network = cell("from __future__ import annotations\n" + code)["MyNetwork"]
    assert network_file.save(network).read_text().startswith("from __future__ import annotations\n")
    assert network_file.make(network_file.load())(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_a_class_made_from_the_saved_one_can_be_saved():
    network_file.save(cell("\n\n\n".join((IMPORTS, BLOCK, BASE, NETWORK)))["MyNetwork"])
    code = "class Wider(Network):\n    def forward(self, x):\n        return 2 * super().forward(x)"
    network_file.save(cell(code, Network=network_file.load())["Wider"])
    text = settings.network_file().read_text()
    assert NETWORK in text and network_file.load().__name__ == "Wider"
    assert network_file.make(network_file.load())(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_a_class_made_from_a_saved_one_that_was_edited_and_saved_again_has_its_new_code():
    code = "class Wider(Network):\n    def forward(self, x):\n        return 2 * super().forward(x)"
    for number in (1, 2):  # the first time, Python remembers the file's lines
        edited = NETWORK.replace("self.body(x)", f"{number} * self.body(x)")
        network_file.save(cell("\n\n\n".join((IMPORTS, BLOCK, BASE, edited)))["MyNetwork"])
        network_file.save(cell(code, Network=network_file.load())["Wider"])
        assert f"{number} * self.body(x)" in settings.network_file().read_text()


def test_a_name_that_stands_for_two_things_is_refused(folder):
    network_file.save(cell("\n\n\n".join((IMPORTS, BLOCK, BASE, NETWORK)))["MyNetwork"])
    code = "class Wider(Network):\n    def forward(self, x):\n        return block(super().forward(x))"
    other = "def block(x):\n    return 2 * x"
    before = settings.network_file().read_text()
    with pytest.raises(ValueError, match="block stands for two different things: rename one of them"):
        network_file.save(cell(f"{other}\n\n\n{code}", Network=network_file.load())["Wider"])
    assert settings.network_file().read_text() == before


def test_names_of_libraries_that_are_no_classes_go_along():
    code = "from typing import Optional\nclass Net(nn.Module):\n    def __init__(self, width: Optional[int] = None):\n"
    code += "        super().__init__()\n        self.head = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))\n"
    code += "    def forward(self, x):\n        return self.head(x)"
    network_file.save(cell(code)["Net"])
    assert "from typing import Optional" in settings.network_file().read_text()


def test_without_a_saved_network_it_says_what_to_do(folder):
    with pytest.raises(ValueError, match="there is no file .*network.py: save a network first"):
        network_file.load()
    (folder / "network.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="it defines no class or function"):
        network_file.load()


def test_decorators_and_functions_that_call_each_other_go_along():
    code = """from dataclasses import dataclass
@dataclass
class Width:
    value: int
    def doubled(self):
        return 2 * self.value
def even(n):
    return True if n == 0 else odd(n - 1)
def odd(n):
    return False if n == 0 else even(n - 1)
def small():
    return nn.Linear(Width(4).doubled(), 3 if even(2) else 2)"""
    network_file.save(cell(code)["small"])
    assert network_file.make(network_file.load()).weight.shape == (3, 8)


def test_a_local_name_is_not_taken_for_the_notebooks(folder):
    """`images` is an argument here, whatever the notebook calls so."""
    code = NETWORK.replace("x: torch.Tensor", "images").replace("self.body(x)", "self.body(images)")
    scope = cell("\n\n\n".join((IMPORTS, BLOCK, BASE, code)), images=torch.zeros(3), classes=torch.zeros(2))
    network_file.save(scope["MyNetwork"])
    assert "images = " not in settings.network_file().read_text()


def test_a_name_that_is_local_in_one_method_may_be_the_notebooks_in_another(folder):
    code = """
class Looping(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.blocks = nn.Sequential(block(3, 4), block(4, classes))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))
"""
    blocks = "def block(inputs, outputs):\n    return nn.Conv2d(inputs, outputs, 3)"
    network_file.save(cell("\n\n\n".join((IMPORTS, blocks, code)))["Looping"])
    assert network_file.make(network_file.load())(torch.zeros(2, 3, 16, 16)).shape == (2, 10)


def test_a_file_runs_only_where_no_network_before_it_is_the_one(folder):
    network_file.save(cell("def small():\n    return nn.Linear(2, 3)")["small"])
    (folder / "networks" / "newer.py").write_text("raise SystemExit")
    assert next(network_file.load_all()).__name__ == "small"


def test_a_tensor_of_the_notebook_is_refused(folder):
    code = NETWORK.replace("F.relu(", "F.relu(weights * ")
    scope = cell("\n\n\n".join((IMPORTS, BLOCK, BASE, code)), weights=torch.ones(1))
    with pytest.raises(ValueError, match="it uses weights, a Tensor of the notebook"):
        network_file.save(scope["MyNetwork"])


def test_a_function_and_a_network_of_the_package():
    network_file.save(cell("def small():\n    return nn.Linear(2, 3)")["small"])
    assert isinstance(network_file.make(network_file.load()), nn.Linear)
    network_file.save(SmallCNN)
    assert network_file.load(name="SmallCNN") is SmallCNN


def test_a_mistake_is_named_with_its_line(folder):
    (folder / "mine.py").write_text("def net(classes):\n    width = 3\n    return missing(classes)\n")
    with pytest.raises(ValueError, match=r"net\(classes=10\) cannot be made \(name 'missing' is not defined, line 3\)"):
        network_file.make(network_file.load(folder / "mine.py"))
    (folder / "mine.py").write_text("import torch\n1 / 0\n")
    with pytest.raises(ValueError, match=r"the network cannot be loaded \(division by zero, line 2\)"):
        network_file.load(folder / "mine.py")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("answer = 3", "a class or function that makes a network is needed, not a int"),
        ("answer = lambda: 3", "a class or function that makes a network is needed"),
        ("def answer(classes):\n    return classes", "answer makes a int; an nn.Module is needed"),
        (
            "def answer(classes):\n    return missing(classes)",
            r"answer\(classes=10\) cannot be made \(name 'missi",
        ),
        ("class answer(nn.Module):\n    pass", "the code of answer is not in this notebook"),
        ("def answer():\n    return nn.LazyLinear(10)", "answer has lazy layers: give each the number of its inputs"),
        ("KINDS = (nn.ReLU, nn.GELU)\ndef answer():\n    return KINDS[0]()", "it uses KINDS, a tuple of the notebook"),
        (
            "RATE = float('inf')\ndef answer():\n    return nn.Dropout(1 / RATE)",
            "it uses RATE, a float of the notebook",
        ),
    ],
)
def test_what_does_not_work_is_refused_and_the_file_that_was_there_stays(code, message):
    network_file.save(cell("def good():\n    return nn.Linear(2, 3)")["good"])
    before = settings.network_file().read_text()
    with pytest.raises(ValueError, match=message):
        network_file.save(cell(code)["answer"])
    assert settings.network_file().read_text() == before
    assert {path.name for path in settings.runs_directory().iterdir()} == {"network.py", network_file.KEPT}
    assert len(list(network_file.load_all())) == 1


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, None, "there is no file"),
        ("1 / 0", None, "division by zero"),
        ("x = 1", None, "the network cannot be loaded"),
        ("def a(): pass", "b", "b cannot be loaded"),
        ("import missing_package", None, "No module named 'missing_package'"),
        ("class A: pass\nimport sys\nsys.exit(0)", None, "the network cannot be loaded"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(folder, text, name, message):
    file = folder / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        network_file.load(file, name)
    assert str(file) in str(error.value)


def test_a_decorated_function_is_found(folder):
    decorator = "def named(f):\n    @wraps(f)\n    def inner(*a):\n        return f(*a)\n    return inner\n"
    decorated = "@named\ndef answer():\n    return nn.Linear(2, 3)\n"
    network_file.save(cell(f"from functools import wraps\n{decorator}{decorated}")["answer"])
    assert network_file.load()().out_features == 3


def test_of_two_definitions_of_one_name_the_last_is_saved(folder):
    twice = "def answer():\n    return nn.Linear(2, 3)\n\ndef answer():\n    return nn.Linear(2, 5)"
    network_file.save(cell(twice)["answer"])
    assert network_file.load()().out_features == 5


@pytest.mark.slow
def test_in_a_notebook_where_a_cell_was_run_twice(folder):
    """Each execution of a cell has a source of its own; the newest counts."""
    old = NETWORK.replace("nn.Linear(16, classes)", "nn.Linear(16, classes, bias=False)")
    cells = [IMPORTS, BLOCK, BASE, old, NETWORK, "from cifar_utils import network_file\nnetwork_file.save(MyNetwork)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    NotebookClient(notebook, kernel_name="python3").execute()
    assert network_file.load(folder / "network.py")().head.bias is not None


def test_every_version_that_was_saved_is_found_again():
    """A run is loaded with the code that it was trained with, after the network was changed and saved anew."""
    first = cell("\n\n\n".join((IMPORTS, BLOCK, BASE, NETWORK)))["MyNetwork"]
    network_file.save(first)
    network_file.save(first)
    wider = NETWORK.replace("nn.Linear(16,", "nn.Linear(32,")
    second = cell("\n\n\n".join((IMPORTS.replace("16", "32"), BLOCK, BASE, wider)))["MyNetwork"]
    network_file.save(second)
    found = list(network_file.load_all())
    assert [network_file.make(network).head.in_features for network in found] == [32, 16]
    for file in (settings.network_file().parent / network_file.KEPT).glob("*.py"):
        file.write_text("broken(")
    assert len(list(network_file.load_all())) == 1  # the newest, which may also have been written by hand


def test_a_file_that_was_changed_by_hand_is_kept_when_the_next_is_saved(folder):
    """Its run could not be evaluated otherwise."""
    code = "\n\n\n".join((IMPORTS, BLOCK, BASE, NETWORK))
    file = network_file.save(cell(code)["MyNetwork"])
    edited = file.read_text().replace("(8, 16)", "(4, 16)")
    file.write_text(edited)
    network_file.save(cell(code)["MyNetwork"])
    network_file.save(cell(code)["MyNetwork"])
    assert [copy.read_text() for copy in (folder / "networks").glob("network_*.py")] == [edited]
    assert len(list((folder / "networks").glob("MyNetwork_*.py"))) == 1


def test_a_made_network_without_a_name_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="an object of the class partial makes a list; an nn.Module is needed"):
        network_file.make(functools.partial(list, [1]))


def test_a_lambda_and_a_class_that_cannot_be_cut_out_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="not a lambda, which has no name to save"):
        network_file.save(lambda classes=10: nn.Linear(classes, classes))
    text = 'if True:\n    class Net(nn.Module):\n        def forward(self, x):\n            """\nOf x.\n"""\n'
    with pytest.raises(ValueError, match="the code of Net cannot be cut out: define it at the left margin"):
        network_file.save(cell(text + "            return x")["Net"])


def test_a_line_is_named_in_a_folder_of_the_packages_name(tmp_path):
    file = tmp_path / "cifar_utils" / "net.py"
    file.parent.mkdir()
    file.write_text("import torch\n\nWIDTH = 1 / 0\n")
    with pytest.raises(ValueError, match="division by zero, line 3"):
        network_file.load(file)


def test_a_run_without_a_normalize_layer_is_found_too(tmp_path):
    from tiny import tiny

    from cifar_utils import fit

    network = cell("def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))")["net"]
    network_file.save(network)
    fit(network(), tiny(), tiny(32, "validation"), epochs=1, run=tmp_path / "run")
    assert isinstance(network_file.trained(tmp_path / "run")[1], nn.Linear)


def test_a_file_that_changes_within_a_second_is_read_anew(folder):
    """Python takes a compiled file for that of a source of the same second and length."""
    for word in ("ReLU", "GELU"):
        (folder / "network.py").write_text(f"from torch import nn\ndef net():\n    return nn.{word}()\n")
        assert type(network_file.load(folder / "network.py")()).__name__ == word


def test_a_runs_model_is_found_among_all_saved_networks(tmp_path):
    from tiny import tiny

    from cifar_utils import fit

    networks = [cell(f"def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10), nn.{name}())")["net"]
                for name in ("Identity", "Tanh")]  # fmt: skip
    for network in networks:
        network_file.save(network)
    run = tmp_path / "run"
    fit(network_file.with_normalize(networks[0](), Normalize()), tiny(), tiny(32, "validation"), epochs=1, run=run)
    model = network_file.trained(run)
    assert isinstance(model[1][2], nn.Identity) and not model.training
    for file in (tmp_path / network_file.KEPT).glob("*.py"):
        file.unlink()
    settings.network_file().unlink()
    with pytest.raises(CheckpointError, match="holds a Sequential whose code is neither the package"):
        network_file.trained(run)
    assert isinstance(network_file.trained(run, networks[1], networks[0])[1][2], nn.Identity)
