"""The oldest ipykernel that is allowed, as some hosts have it: the dashboard trains, and says which controls wait."""

import re
import subprocess
import sys
from importlib.metadata import requires

import pytest
from lab import Lab
from test_dashboard import AFTER, SET_UP, TRAIN, saved, status

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    oldest = re.search(r"ipykernel>=([\d.]+)", " ".join(requires("cifar-utils")))[1]
    packages = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", packages]
    found = subprocess.run([*command, f"ipykernel=={oldest}.*"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"ipykernel {oldest} cannot be installed: {found.stderr[-200:]}")
    lab = Lab(tmp_path_factory.mktemp("lab"), packages)
    yield lab
    lab.close()


def test_the_dashboard_trains_and_says_which_controls_wait(lab, open_notebook):
    which = "import ipykernel\nprint('kernel', ipykernel.__version__)"
    notebook = open_notebook(lab.write("old", SET_UP, TRAIN.format(epochs=4, name="old"), AFTER, which))
    notebook.start_all()
    status(notebook, "in this kernel, the controls work between two cells")
    assert notebook.wait_for_all()
    assert "kernel 6." in notebook.outputs() and "next cell 4 False" in notebook.outputs()
    status(notebook, "finished")
    assert saved(lab, "old")["epoch"] == 4
    notebook.check()
