"""tools/run_notebooks.py: pages and executed notebooks, also when a cell fails."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_notebook

TOOL = Path(__file__).resolve().parent.parent / "tools" / "run_notebooks.py"


@pytest.mark.slow
def test_a_failing_cell_is_told_and_the_others_are_kept(tmp_path):
    figure = """from cifar_utils import plots
plots.show(plots.curves({'line': [1, 2]}, 'Two "numbers"', 'x', 'y'))
print(6 * 7)"""
    for name, source in (("1_good", figure), ("2_bad", "print('before')\n1 / 0")):
        nbformat.write(new_notebook(cells=[new_code_cell(source)]), tmp_path / f"{name}.ipynb")
    paths = sorted(tmp_path.glob("*.ipynb"))
    command = [sys.executable, TOOL, "--output", tmp_path / "build", *paths]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "1_good.ipynb: done" in result.stdout
    assert "2_bad.ipynb: a cell failed: ZeroDivisionError" in result.stdout
    assert "Traceback" not in result.stderr
    good = nbformat.read(tmp_path / "build" / "1_good.ipynb", as_version=4)
    assert good.cells[0].outputs[1].text == "42\n"
    page = (tmp_path / "build" / "1_good.html").read_text(encoding="utf-8")
    picture = BeautifulSoup(page, "html.parser").find("img")
    assert picture["alt"].startswith('Two "numbers". Line plot of y against x')
    assert "before" in (tmp_path / "build" / "2_bad.html").read_text(encoding="utf-8")
    assert not nbformat.read(paths[0], as_version=4).cells[0].outputs, "the original is left alone"
