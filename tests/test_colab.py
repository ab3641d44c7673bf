"""Google Colab: the first cell of docs/installing.md, and behind it notebooks with widgets and Colab's own versions."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from cifar_utils.workshop import copies

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
# The packages around the kernel, as in googlecolab/backend-info in August 2026, and what they need.
KERNEL = ("ipykernel==6.17.1", "ipython==7.34.0", "ipywidgets==7.7.1", "traitlets==5.7.1", "jupyter-client==7.4.9")
NEEDED = ("pickleshare", "backcall", "decorator", "ipython-genutils", "entrypoints", "nest-asyncio")
STUB = "def enable_custom_widget_manager():\n    print('custom widgets are enabled')\n"
WHICH = """
import IPython, ipykernel, ipywidgets, cifar_utils
print("Colab's", IPython.__version__, ipykernel.__version__, ipywidgets.__version__, cifar_utils.__file__)
"""


def first_cell() -> str:
    text = (ROOT / "docs" / "installing.md").read_text()
    return re.search(r"<!-- the first cell in Colab.*?```python\n(.*?)```", text, re.DOTALL)[1]


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> Path:
    """The folder /content with the uploaded file, and a folder of Colab's packages."""
    content = tmp_path_factory.mktemp("content")
    copies.write(content / "made" / "cifar10-workshop")
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-c", content / "cifar10-workshop.zip", "cifar10-workshop"],
        cwd=content / "made",
        check=True,
    )
    packages = content / "packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", packages]
    found = subprocess.run([*command, *KERNEL, *NEEDED], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"Colab's versions cannot be installed: {found.stderr[-200:]}")
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").touch()
    (packages / "google" / "colab" / "output.py").write_text(STUB)
    return content


@pytest.mark.parametrize("name", ["01_data_and_augmentation", "03_training"])  # with the explorer and the dashboard
def test_a_notebook_runs_behind_the_first_cell(content, name):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    cell = first_cell().replace("/content", str(content))
    widget = re.compile(r"Explorer\(train|dashboard\.train\(\)")
    last = next(i for i, each in enumerate(notebook.cells) if each.cell_type == "code" and widget.search(each.source))
    del notebook.cells[last + 1 :]  # what follows shows no widget
    notebook.cells[:0] = [nbformat.v4.new_code_cell(cell), nbformat.v4.new_code_cell(WHICH)]
    place = {"metadata": {"path": str(content)}}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place)
    settings = {"PYTHONPATH": str(content / "packages"), "CIFAR_RUNS": str(content / "runs"), "CIFAR_PROFILE": "smoke"}
    client.execute(env=os.environ | settings | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"})
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    assert f"Colab's 7.34.0 6.17.1 7.7.1 {content}" in "".join(texts)
    assert "custom widgets are enabled" in texts[0]
    if name.startswith("01"):
        assert any("Ready: Colab, Python" in text for text in texts)
    with zipfile.ZipFile(content / "cifar10-workshop.zip") as file:
        assert f"cifar10-workshop/notebooks/{name}.ipynb" in file.namelist()
