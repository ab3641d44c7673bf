"""A saved notebook is readable where no widget is shown."""

import json

import nbformat
import pytest
from nbconvert import HTMLExporter

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def test_where_no_widget_can_be_shown_there_is_an_image(lab, open_notebook):
    """A notebook saved from the browser carries no widget state, and its page shows the static figure."""
    name = lab.write(
        "static",
        "from cifar_utils import data\nfrom cifar_utils.widgets import Explorer\n"
        "train, validation = data.split(data.cifar10(sample=True))\nExplorer(train, validation)",
    )
    notebook = open_notebook(name)
    notebook.run_all()
    notebook.page.locator(".cifar.explorer").wait_for()
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    path = lab.notebooks / f"{name}.ipynb"
    for _ in range(50):
        saved = nbformat.read(path, as_version=4)
        if saved.cells[0].outputs:
            break
        notebook.page.wait_for_timeout(100)
    output = saved.cells[0].outputs[-1]
    assert "widgets" not in saved.metadata or not json.dumps(saved.metadata["widgets"]).count("layout")
    assert len(output.data["image/png"]) > 10_000 and "5 rows" in output.metadata["image/png"]["alt"]
    page, _ = HTMLExporter().from_notebook_node(saved)
    assert "data:image/png;base64," in page and "widget-view+json" not in page.split("<main")[-1]
    notebook.check()
