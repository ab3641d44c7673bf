"""What the committed notebooks must be like. nbval executes them; these tests look at what nbval does not."""

import ast
import re
import statistics
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from torch import nn

from cifar_utils import data, fit, models, network_file, overview
from cifar_utils.augment import PRESETS, Policy

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))
import run_notebooks  # noqa: E402

README = (ROOT / "README.md").read_text()
PATHS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
NAMES = [path.stem for path in PATHS]
REMEDY = 'its outputs must be made again, with the full data set: see "Changing a notebook" in CONTRIBUTING.md'


@pytest.fixture(params=PATHS, ids=NAMES)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def text_of(notebook):
    return "".join(output.get("text", "") for output in outputs(notebook))


def test_all_notebooks_are_there():
    assert NAMES[:4] == ["01_data_and_augmentation", "02_model", "03_training", "04_evaluation"]
    assert NAMES[4:] == [
        "05_fast_and_why", "06_what_augmentation_buys", "07_your_images", "08_more_than_one_process",
    ]  # fmt: skip


def test_executed_in_order_without_errors(notebook):
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert all(output.output_type != "error" for output in outputs(notebook))
    assert all(output.get("name") != "stderr" for output in outputs(notebook))


def test_every_compared_cell_has_a_stored_output(notebook):
    """nbval passes a marked cell whose stored output is missing without comparing anything."""
    for cell in code_cells(notebook):
        if "NBVAL_CHECK_OUTPUT" in cell.source:
            assert any(output.get("text") or output.get("data") for output in cell.outputs), cell.source


def test_there_are_compared_cells():
    """In all but notebook 3, where every number depends on the data or the profile; its cells assert instead."""
    marked = [path.stem for path in PATHS if "NBVAL_CHECK_OUTPUT" in path.read_text()]
    assert marked == [name for name in NAMES if name != "03_training"]


def test_every_figure_has_a_text_alternative(notebook):
    pictures = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    assert pictures
    for picture in pictures:
        assert len(picture.metadata["image/png"]["alt"]) > 40


def test_outputs_are_of_the_full_set(path, notebook):
    """The committed pages show the real thing, and the sample would be named on every figure and table."""
    if path.stem[:2] in ("05", "06", "08"):  # always of the sample
        assert "SAMPLE, 3,600 training images" in text_of(notebook)
        return
    assert "SAMPLE" not in text_of(notebook), REMEDY
    assert all("SAMPLE" not in str(output.get("metadata")) for output in outputs(notebook)), REMEDY


def test_small_and_portable(path, notebook):
    assert path.stat().st_size < 2_000_000
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    assert str(Path.home()) not in text_of(notebook) and str(ROOT) not in text_of(notebook)


def test_the_first_cell_names_goal_time_and_needs_and_cells_are_small(notebook):
    for word in ("You will be able to", "Takes", "Needs"):
        assert word in notebook.cells[0].source
    sizes = [len(cell.source.splitlines()) for cell in code_cells(notebook)]
    assert max(sizes) <= 20 and statistics.median(sizes) < 7
    lines = [line for cell in code_cells(notebook) for line in cell.source.splitlines()]
    assert max(map(len, lines)) <= 88, "JupyterLab would scroll the cell"


def test_every_preset_is_named_in_notebook_1_and_in_the_glossary():
    text = "\n".join(cell.source for cell in nbformat.read(PATHS[0], as_version=4).cells)
    row = next(
        line for line in (ROOT / "docs" / "glossary.md").read_text().splitlines() if line.startswith("| preset |")
    )
    for name in PRESETS:
        assert f"`{name}`" in text, f"notebook 1 does not name the preset {name}"
        assert re.search(rf"\b{name}\b", row), f"docs/glossary.md does not name the preset {name}"


@pytest.mark.parametrize("path", PATHS[:3], ids=NAMES[:3])
def test_the_test_split_is_not_touched_before_notebook_4(path):
    source = "\n".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))
    assert "train=False" not in source and '"test"' not in source


def test_the_participant_writes_the_networks_that_the_package_has():
    """The same block, statement by statement, and a network with the same parameters and, given these, outputs."""
    cells = code_cells(nbformat.read(PATHS[1], as_version=4))
    source = "\n".join(cell.source for cell in cells if cell.source.startswith(("def block(", "class SmallCNN(")))
    theirs = ast.parse(Path(models.__file__).read_text())
    blocks = [
        next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "block")
        for tree in (ast.parse(source), theirs)
    ]
    written, packaged = (ast.unparse(block.body[-1]) for block in blocks)
    assert written == packaged
    names = {"torch": torch, "nn": torch.nn}
    exec(source, names)
    mine, ours = names["SmallCNN"]().eval(), models.SmallCNN().eval()
    ours.load_state_dict(mine.state_dict())  # the same names and shapes
    images = torch.rand(8, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(mine(images), ours(images))


@pytest.mark.parametrize("path", PATHS[:4], ids=NAMES[:4])
def test_the_teaching_guide_has_a_row_for_each_section_of_the_core_notebooks(path):
    guide = (ROOT / "docs" / "teaching.md").read_text()
    part = guide.partition(f"**Notebook {path.name[1]}**")[2].partition("**Notebook ")[0]
    cells = nbformat.read(path, as_version=4).cells
    headings = re.findall(r"^## (.*)$", "\n".join(c.source for c in cells if c.cell_type == "markdown"), re.M)
    sections = [name for name in headings if name != "What to remember" and not name.startswith("Extra")]
    assert re.findall(r"^\| ([^|]+) \|", part, re.M)[1:] == sections


@pytest.mark.slow
def test_run_all_does_not_overwrite_a_saved_policy(tmp_path, monkeypatch):
    """The cells of notebook 1 that make the explorer and save: with a saved policy, and without one."""
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path))
    file, mine = tmp_path / "policy.json", Policy(degrees=33, fill=7).to_json()
    notebook = nbformat.read(PATHS[0], as_version=4)
    parts = ("import Explorer", "data.split(", "full = PRESETS", "Explorer(train", "policy_file()", "my_policy")
    notebook.cells = [cell for cell in code_cells(notebook) if any(part in cell.source for part in parts)]
    assert len(notebook.cells) == len(parts)
    copy = tmp_path / "saved_first.json"
    between = f"from pathlib import Path\nPath({str(copy)!r}).write_text(Path({str(file)!r}).read_text())\n"
    between += f"Path({str(file)!r}).write_text({mine!r})"
    notebook.cells += [nbformat.v4.new_code_cell(between), *deepcopy(notebook.cells)]  # Run All, twice
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert Policy.from_json(copy.read_text()) == PRESETS["full"]
    assert file.read_text() == mine


OWN_NETWORK = """from torch import nn


class MyNetwork(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.out = nn.Linear(8, classes)

    def forward(self, images):
        return self.out(self.conv(images).relu().mean((2, 3)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["1, 0", "7, 9"])
def test_notebook_4_evaluates_any_run_of_a_network_of_ones_own(tmp_path, monkeypatch, chosen):
    """A network without `blocks` and `head`; and numbers that no run has."""
    monkeypatch.setenv("CIFAR_RUNS", str(tmp_path))
    # Its name does not matter, not even where it is that of the workshop's fast network.
    (tmp_path / "network.py").write_text(OWN_NETWORK.replace("MyNetwork", "CNN") if chosen == "1, 0" else OWN_NETWORK)
    train, val = data.split(data.cifar10(sample=True))
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = network_file.make(network_file.load(), 10)
        model = nn.Sequential(models.Normalize.from_dataset(train), network)
        fit(model, train.select(torch.arange(200)), val, epochs=1, seed=seed)
    notebook = nbformat.read(PATHS[3], as_version=4)
    (cell,) = [cell for cell in code_cells(notebook) if "chosen, compared = 0, 1" in cell.source]
    cell.source = cell.source.replace("chosen, compared = 0, 1", f"chosen, compared = {chosen}")
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = text_of(notebook)
    first, second = (1, 0) if chosen == "1, 0" else (0, 1)
    order = [run.folder.name for run in overview.find_runs(val)]
    assert f"first {order[first]},\nsecond {order[second]}" in text
    assert ("Run 7 is not in the table" in text) == (chosen == "7, 9")


def test_the_outputs_are_those_of_the_code(path, notebook):
    assert notebook.metadata["code"] == run_notebooks.code_hash(notebook), REMEDY


def test_in_the_committed_run_the_plain_network_reaches_83_percent_within_10_minutes():
    """On the full set, with the whole policy, plain SGD: read from the outputs of the run that is committed."""
    training = text_of(nbformat.read(PATHS[2], as_version=4))
    assert "45,000 training images" in training
    assert all(name in training for name in ("degrees=", "distortion_scale=", "brightness=", "flip_p="))
    evaluation = text_of(nbformat.read(PATHS[3], as_version=4))
    assert "this is the shipped network" not in evaluation
    seconds = int(re.search(r"^best epoch \d+, after (\d+) seconds", evaluation, re.M)[1])
    accuracy = float(re.search(r"^accuracy ([\d.]+)% of 10,000 test images", evaluation, re.M)[1])
    assert seconds <= 600 and accuracy >= 83
    assert f"{accuracy}%" in README and f"{seconds} seconds" in README


def test_in_the_committed_run_augmentation_pays_on_the_sample():
    """Notebook 6, as committed: with augmentation at least 5 points more, and p is below 0.001."""
    text = text_of(nbformat.read(PATHS[5], as_version=4))
    ((points, p),) = re.findall(r"second minus first ([-+][\d.]+) points[^=]*p = ([\d.e-]+)", text)
    assert float(points) >= 5 and float(p) < 0.001


NUMBERS = {"one": 1, "two": 2, "three": 3}


@pytest.mark.parametrize("number", [3, 5, 6, 7])
def test_the_minutes_of_training_that_a_notebook_names_are_those_of_its_progress_bars(number):
    notebook = nbformat.read(PATHS[number - 1], as_version=4)
    stated = re.search(r"of which (\w+) are training|of which (one) is training", notebook.cells[0].source)
    minutes = NUMBERS.get(stated[1] or stated[2]) or int(stated[1])
    ended = re.findall(r"Training[^\n\r]*\[(\d+):(\d\d), 00:00 left", text_of(notebook))
    assert abs(sum(int(m) + int(s) / 60 for m, s in ended) - minutes) <= 0.75


WORDS, LINES, TASK = 100, 20, 3  # words read and code lines followed per minute; minutes for a "Your turn"


def test_the_minutes_that_a_notebook_names_are_plausible(path, notebook):
    """Reading, following the code, running it (as measured when its outputs were made), and the participant's turns."""
    stated = int(re.search(r"\*\*Takes\*\* about (\d+) minutes", notebook.cells[0].source)[1])
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    lines = sum(len(cell.source.splitlines()) for cell in code_cells(notebook))
    estimate = (
        len(text.split()) / WORDS + lines / LINES + notebook.metadata.seconds / 60 + TASK * text.count("our turn")
    )
    assert 0.7 * stated <= estimate <= 1.3 * stated
    assert re.search(rf"^\| \[\d · .*notebooks/{path.name}\).* (\d+) \|$", README, re.M)[1] == str(stated)


@pytest.mark.slow
def test_nbval_notices_a_changed_output(tmp_path):
    """A negative control: with one stored number changed, the run must fail."""
    for number in (27, 28):
        printed = nbformat.v4.new_output("stream", name="stdout", text=f"{number}\n")
        cell = nbformat.v4.new_code_cell("# NBVAL_CHECK_OUTPUT\nprint(27)", outputs=[printed], execution_count=1)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"stored_{number}.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    done = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout and "stored_28.ipynb" in done.stdout
