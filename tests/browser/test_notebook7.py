"""Notebook 7, the one-document view that some hosts open: notebook 1 runs, and the widgets work."""

import pytest
from lab import Lab
from test_dashboard import AFTER, SET_UP, TRAIN, saved, status
from test_explorer import Explorer, expected

from cifar_utils.augment import PRESETS

pytest.importorskip("notebook", reason="Notebook 7 is not installed: pip install -e '.[browser]'")
pytestmark = [pytest.mark.slow, pytest.mark.browser]
ITS_OWN = "page: Cannot read properties of undefined (reading 'schema')"  # an empty notebook has it in 7.6 as well


def check(notebook) -> None:
    """As `Notebook.check`, without what Notebook 7 itself does wrong."""
    notebook.problems = [problem for problem in notebook.problems if problem != ITS_OWN]
    notebook.check()


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"), application="notebook")
    yield lab
    lab.close()


def test_notebook_1_runs_through_and_its_explorer_shows_what_its_controls_say(open_notebook):
    notebook = open_notebook("01_data_and_augmentation")
    notebook.run_all()
    assert notebook.ran_in_order()
    explorer = Explorer(notebook)
    explorer.shows(expected(PRESETS["full"]))
    explorer.part("preset").select_option("strong")
    explorer.shows(expected(PRESETS["strong"]))
    notebook.shoot("notebook7_explorer")
    check(notebook)


def test_the_dashboard_trains_and_stops(lab, open_notebook):
    notebook = open_notebook(lab.write("dashboard", SET_UP, TRAIN.format(epochs=500, name="notebook7"), AFTER))
    notebook.start_all()
    status(notebook, "training")
    notebook.page.wait_for_function("() => document.querySelectorAll('.cifar.dashboard svg rect').length > 0")
    notebook.shoot("notebook7_dashboard")
    notebook.page.locator(".cifar.dashboard .stop").click()
    assert notebook.wait_for_all()
    assert 0 < saved(lab, "notebook7")["epoch"] < 500
    check(notebook)
