"""The path of a fresh participant in a browser: the doctor, notebooks 1, 3 and 4 and the cells of notebook 2 that write
and save a network (nbval runs it whole), with a policy, a network and an optimizer of their own, trained and compared;
every exercise, answered once wrong and once right (all in one notebook; nbval runs each by itself); a photo of their
own.
"""

import json
import re

import nbformat
import pytest
from lab import ROOT

from cifar_utils import runs
from cifar_utils.augment import PRESETS, Policy, describe
from cifar_utils.exercises import EXERCISES

pytestmark = [pytest.mark.slow, pytest.mark.browser]
DOCTOR = "import sys\n!{sys.executable} -m cifar_utils doctor"
IMPORTS = "import numpy as np\nimport torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
IMPORTS += "from torchvision.transforms import v2\nfrom cifar_utils.augment import PRESETS, Policy"


# What notebook 3 does beside training and comparing, which it has done once when it runs for the second network.
LEFT_OUT = ("order = torch.randperm", "val.images[::5]", "overfitted")
LEFT_OUT += ("# in the second epoch", "resumed = fit", "last_weights")


def notebook_of(stem: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4)


def cell_with(notebook: nbformat.NotebookNode, text: str) -> nbformat.NotebookNode:
    """The one code cell with this text."""
    (found,) = (cell for cell in notebook.cells if cell.cell_type == "code" and text in cell.source)
    return found


def answered(stem: str) -> list[str]:
    """The code cells of the solutions, with a hint and a wrong answer before each of them."""
    path = ROOT / "notebooks" / "exercises" / "solutions" / f"{stem}_solutions.ipynb"
    cells = [IMPORTS]
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            key = next((key for key in EXERCISES if f'check("{key}", ' in cell.source), None)
            if key:
                codes = [wrong.code for wrong in EXERCISES[key].wrong.values()]
                code = next(code for code in codes if "tiny_run" not in code and "_changed" not in code)
                cells += [f'hint("{key}")', f'{code}\ncheck("{key}", answer)']
            if stem == "04":  # fewer images: the robustness curve has nine strengths
                fewer = r"\1\nval = val.select(list(range(0, len(val), 4)))"
                cell.source, count = re.subn(r"^(train, val = data.split\(.*)$", fewer, cell.source, flags=re.M)
                assert count == ("data.split(" in cell.source)
            cells.append(cell.source)
    return cells


def run(open_notebook, name: str, again: bool = False):
    """Opened again, it shows the widget of a kernel that is gone until its cell has run, and the console says so."""
    notebook = open_notebook(name)
    notebook.run_all()
    assert notebook.ran_in_order()
    if not again:
        notebook.check()
    return notebook


@pytest.mark.timeout(1200)
def test_the_path_of_a_fresh_participant(lab, open_notebook):
    # The doctor, before notebook 1: another policy.
    first = notebook_of("01_data_and_augmentation")
    first.cells.insert(0, nbformat.v4.new_code_cell(DOCTOR))
    nbformat.write(first, lab.notebooks / "mine_01.ipynb")
    notebook = run(open_notebook, "mine_01")
    told = " ".join(notebook.outputs().split())
    assert "OK JupyterLab shows widgets" in told and "OK a training step takes" in told and "FIX" not in told, told
    explorer = notebook.page.locator(".cifar.explorer")
    explorer.locator(".preset").select_option("strong")
    explorer.get_by_role("button", name="Train with this policy").click()
    saved = lab.runs / "policy.json"
    for _ in range(100):
        if saved.exists() and Policy.from_json(saved.read_text()) == PRESETS["strong"]:
            break
        notebook.page.wait_for_timeout(100)
    assert Policy.from_json(saved.read_text()) == PRESETS["strong"]
    notebook.close()

    # Notebook 3 as it is; then a network of one's own, saved as in notebook 2: SGD and AdamW each.
    notebook = run(open_notebook, "03_training")
    transforms = [runs.about(path.parent)["settings"]["transform"] for path in lab.runs.glob(f"*/{runs.BEST}")]
    assert describe(PRESETS["strong"]) in transforms
    notebook.page.locator(".cifar.dashboard").first.scroll_into_view_if_needed()
    notebook.shoot("training")
    assert notebook.page.locator(".cifar.dashboard .status").first.text_content() == "finished"
    notebook.close()
    model, again = notebook_of("02_model"), notebook_of("03_training")
    saving = [
        cell_with(model, part) for part in ("import math", "def block(", "class MyNetwork", "# file = network_file")
    ]
    saving[-1].source = saving[-1].source.replace("# ", "")
    again.cells = saving + [cell for cell in again.cells if not any(part in cell.source for part in LEFT_OUT)]
    nbformat.write(again, lab.notebooks / "mine_03.ipynb")
    notebook = run(open_notebook, "mine_03", again=True)
    assert "class MyNetwork(nn.Module)" in (lab.runs / "network.py").read_text()
    table = notebook.outputs()
    for words in ("SmallCNN", "MyNetwork", "strong", "SGD 0.1", "AdamW 0.003"):
        assert words in table
    notebook.close()
    settings = [json.loads(file.read_text())["settings"] for file in lab.runs.glob("*/run.json")]
    assert {s["model"] for s in settings} >= {"SmallCNN", "MyNetwork"} and len(settings) >= 4

    # Notebook 4: any of the runs, and the comparison with the next.
    notebook = run(open_notebook, "04_evaluation")
    assert "best epoch 1" in notebook.outputs() and "McNemar's exact p" in notebook.outputs()
    notebook.close()

    # The exercises: a hint, a wrong answer, the solution.
    cells = [cell for number in "1234" for cell in answered(f"0{number}")]
    notebook = run(open_notebook, lab.write("exercises/answered", *cells))
    outputs = " ".join(notebook.outputs().split())
    for key in EXERCISES:
        places = [outputs.find(f"{key} {word}") for word in ("Hint 1", "Not yet.", "Right.")]
        assert -1 < places[0] < places[1] < places[2], key
    notebook.close()


def test_a_photo_is_uploaded_and_classified(lab, open_notebook, tmp_path):
    photo = tmp_path / "my_cup.jpg"
    photo.write_bytes((ROOT / "cifar_utils" / "photos" / "coffee.jpg").read_bytes())
    whole = notebook_of("07_your_images")  # which nbval runs; here the part about one photo
    last = whole.cells.index(cell_with(whole, "others = classify("))
    whole.cells = whole.cells[: last + 1]
    nbformat.write(whole, lab.notebooks / "photo.ipynb")
    notebook = run(open_notebook, "photo")
    assert "cat.jpg: 451 x 300 pixels" in notebook.outputs()
    with notebook.page.expect_file_chooser() as chooser:
        notebook.page.get_by_role("button", name="A photo").click()
    chooser.value.set_files(photo)
    position = whole.cells.index(cell_with(whole, "photo = photo_file(upload)"))
    notebook.page.get_by_role("button", name="A photo (1)").wait_for()  # the file went to the kernel
    assert notebook.page.evaluate(
        """position => {
            window.jupyterapp.shell.currentWidget.content.activeCellIndex = position;
            return window.jupyterapp.commands.execute('notebook:run-all-below');
        }""",
        position,
    )
    assert "my_cup.jpg: 450 x 300 pixels" in notebook.outputs()
    notebook.check()
