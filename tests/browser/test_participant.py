"""A fresh participant's path: the doctor, notebooks 1 to 4, and every exercise answered once wrong and once right."""

import nbformat
import pytest
from lab import ROOT

from cifar_utils.exercises import EXERCISES

pytestmark = [pytest.mark.slow, pytest.mark.browser]
IMPORTS = "import numpy as np\nimport torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
IMPORTS += "from torchvision.transforms import v2\nfrom cifar_utils.augment import PRESETS, Policy"
DOCTOR = "import sys\n!{sys.executable} -m cifar_utils doctor"


def answered(stem: str) -> list[str]:
    """The code cells of the solutions, with a hint and a wrong answer before each of them."""
    path = ROOT / "notebooks" / "exercises" / "solutions" / f"{stem}_solutions.ipynb"
    cells = [IMPORTS]
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            key = next((key for key in EXERCISES if f'check("{key}", ' in cell.source), None)
            if key:
                codes = [wrong.code for wrong in EXERCISES[key].wrong.values() if wrong.code]
                code = next(code for code in codes if "tiny_run" not in code and "_changed" not in code)
                cells += [f'hint("{key}")', f'{code}\ncheck("{key}", answer)']
            cells.append(cell.source)
    return cells


def run(open_notebook, name: str) -> str:
    notebook = open_notebook(name)
    notebook.run_all()
    assert notebook.ran_in_order()
    outputs = " ".join(notebook.outputs().split())
    notebook.check()
    notebook.close()
    return outputs


@pytest.mark.timeout(900)
def test_the_path_of_a_fresh_participant(lab, open_notebook):
    told = run(open_notebook, lab.write("doctor", DOCTOR))
    assert "OK JupyterLab shows widgets" in told and "OK a training step takes" in told and "FIX" not in told, told
    for stem in ("01_data_and_augmentation", "02_model", "03_training", "04_evaluation"):
        run(open_notebook, stem)
        name = lab.write(f"exercises/{stem[:2]}_answered", *answered(stem[:2]))
        outputs = run(open_notebook, name)
        for key in [key for key in EXERCISES if key[0] == stem[1]]:
            places = [outputs.find(f"{key} {word}") for word in ("Hint 1", "Not yet.", "Right.")]
            assert -1 < places[0] < places[1] < places[2], key
    assert (lab.runs / "policy.json").exists() and (lab.runs / "network.py").exists()
