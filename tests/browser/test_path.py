"""What a participant does, in a browser: change the policy, the network and the optimizer, train each, compare, and
classify a photo of their own."""

import json

import nbformat
import pytest
from lab import ROOT

from cifar_utils import runs
from cifar_utils.augment import PRESETS, Policy, describe

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def notebook_of(stem: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4)


def cell_with(notebook: nbformat.NotebookNode, text: str) -> nbformat.NotebookNode:
    """The one code cell with this text."""
    (found,) = (cell for cell in notebook.cells if cell.cell_type == "code" and text in cell.source)
    return found


def run(open_notebook, name: str):
    notebook = open_notebook(name)
    notebook.run_all()
    assert notebook.ran_in_order()
    return notebook


@pytest.mark.timeout(900)
def test_change_one_thing_train_again_compare(lab, open_notebook):
    # Notebook 1: another policy.
    notebook = run(open_notebook, "01_data_and_augmentation")
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

    # Notebook 3 as it is; then a network of one's own, saved in notebook 2: SGD and AdamW each.
    notebook = run(open_notebook, "03_training")
    transforms = [runs.about(path.parent)["settings"]["transform"] for path in lab.runs.glob(f"*/{runs.BEST}")]
    assert describe(PRESETS["strong"]) in transforms
    notebook.page.locator(".cifar.dashboard").first.scroll_into_view_if_needed()
    notebook.shoot("training")
    assert notebook.page.locator(".cifar.dashboard .status").first.text_content() == "finished"
    notebook.close()
    changed = notebook_of("02_model")
    cell = cell_with(changed, "# file = network_file.save(MyNetwork)")
    cell.source = cell.source.replace("# ", "")
    nbformat.write(changed, lab.notebooks / "mine_02.ipynb")
    run(open_notebook, "mine_02").close()
    assert "class MyNetwork(nn.Module)" in (lab.runs / "network.py").read_text()
    notebook = run(open_notebook, "03_training")
    table = notebook.outputs()
    for words in ("SmallCNN", "MyNetwork", "strong", "SGD 0.1", "AdamW 0.003"):
        assert words in table
    notebook.close()
    settings = [json.loads(file.read_text())["settings"] for file in lab.runs.glob("*/run.json")]
    assert {s["model"] for s in settings} >= {"SmallCNN", "MyNetwork"} and len(settings) >= 4

    # Notebook 4: any of the runs, and the comparison with the next.
    notebook = run(open_notebook, "04_evaluation")
    assert "best epoch 1" in notebook.outputs() and "McNemar's exact p" in notebook.outputs()
    notebook.check()


def test_a_photo_is_uploaded_and_classified(lab, open_notebook, tmp_path):
    photo = tmp_path / "my_cup.jpg"
    photo.write_bytes((ROOT / "cifar_utils" / "photos" / "coffee.jpg").read_bytes())
    notebook = run(open_notebook, "07_your_images")
    assert "cat.jpg: 451 x 300 pixels" in notebook.outputs()
    with notebook.page.expect_file_chooser() as chooser:
        notebook.page.get_by_role("button", name="A photo").click()
    chooser.value.set_files(photo)
    position = [cell.source for cell in notebook_of("07_your_images").cells].index(
        cell_with(notebook_of("07_your_images"), "photo = photo_file(upload)").source
    )
    notebook.page.wait_for_timeout(1000)  # the file goes to the kernel
    assert notebook.page.evaluate(
        """position => {
            window.jupyterapp.shell.currentWidget.content.activeCellIndex = position;
            return window.jupyterapp.commands.execute('notebook:run-all-below');
        }""",
        position,
    )
    assert "my_cup.jpg: 450 x 300 pixels" in notebook.outputs()
    notebook.check()
