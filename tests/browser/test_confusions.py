"""The confusion explorer: every control, and the images behind the cells, against the plain functions."""

import hashlib

import numpy as np
import pytest
from lab import Notebook

from cifar_utils import data
from cifar_utils.evaluation import gallery, metrics
from cifar_utils.widgets.base import rgba

pytestmark = [pytest.mark.slow, pytest.mark.browser]

CELL = """
import numpy as np
from cifar_utils import data
from cifar_utils.evaluation import Predictions
from cifar_utils.widgets import ConfusionExplorer
test = data.cifar10(train=False, sample=True)
def made_up(seed):  # mostly right, with an error of every kind
    p = np.random.default_rng(seed).dirichlet(np.ones(10) / 4, len(test))
    p[np.arange(len(test)), test.labels] += 0.6
    return Predictions.from_array(p / p.sum(1, keepdims=True), test)
tables = {"plain": made_up(0), "with TTA": made_up(1)}
ConfusionExplorer(tables, test)
"""
MANY = """
import numpy as np, torch
from cifar_utils.data import Dataset
from cifar_utils.evaluation import Predictions
from cifar_utils.widgets import ConfusionExplorer
torch.manual_seed(0)
images = torch.randint(0, 256, (400, 3, 64, 64), dtype=torch.uint8)
names = tuple(f"a class with a long name {i}" for i in range(100))
test = Dataset(images, torch.arange(400) % 100, names, split="test", source="mine")
p = np.random.default_rng(0).dirichlet(np.ones(100) / 20, 400)
q = np.random.default_rng(1).dirichlet(np.ones(100) / 20, 400)
ConfusionExplorer({"one": Predictions.from_array(p, test), "two": Predictions.from_array(q, test)}, test)
"""


@pytest.fixture(scope="module")
def tables():
    """The predictions that the cell shows, sorted by index, and the images in this order."""
    names: dict = {}
    exec(CELL, names)
    order = np.argsort(names["test"].index.numpy())
    return [table.select(order) for table in names["tables"].values()], names["test"].images[order]


@pytest.fixture(scope="module")
def notebook(chromium, lab):
    notebook = Notebook(chromium, lab, lab.write("confusions", CELL))
    notebook.run_all()
    notebook.page.locator(".cifar.confusions").scroll_into_view_if_needed()
    yield notebook
    notebook.check()
    notebook.close()


def digests(notebook) -> list[str]:
    return notebook.digests(".cifar.confusions figure canvas")


def digests_of(images) -> list[str]:
    return [hashlib.sha256(rgba(pixels)).hexdigest() for pixels in images.permute(0, 2, 3, 1).numpy()]


def heading(notebook, text: str) -> None:
    query = "t => document.querySelector('.cifar.confusions .heading').textContent.startsWith(t)"
    notebook.page.wait_for_function(query, arg=text, timeout=60_000)


def shows(notebook, images) -> None:
    for _ in range(600):
        if digests(notebook) == digests_of(images):
            return
        notebook.page.wait_for_timeout(50)
    assert digests(notebook) == digests_of(images)


def part(notebook, cls: str):
    return notebook.page.locator(f".cifar.confusions .{cls}")


@pytest.mark.parametrize("true,predicted", [(3, 5), (0, 0), (9, 1), (6, 0)])
def test_clicking_a_cell_shows_its_images(notebook, tables, true, predicted):
    (table, _), images = tables
    part(notebook, f"cell-{true}-{predicted}").click()
    rows = gallery.images_in_cell(table, true, predicted)
    names = data.CIFAR10_CLASSES
    cell = f"{names[true]} predicted as {names[predicted]}" if true != predicted else "airplane predicted correctly"
    heading(notebook, f"{cell}: {len(rows)} of")
    assert digests(notebook) == digests_of(images[rows[:24]])
    captions = notebook.page.locator(".cifar.confusions figcaption").all_inner_texts()
    assert [c.split("\n")[0] for c in captions] == [gallery.caption(table, row) for row in rows[:24]]
    notebook.shoot(f"confusions_{true}_{predicted}")


def test_the_cells_show_the_matrix(notebook, tables):
    matrix = metrics.confusion_matrix(tables[0][0])
    found = notebook.page.locator(".cifar.confusions .matrix button").all_inner_texts()
    assert np.array(found, int).reshape(10, 10).tolist() == matrix.tolist()
    label = part(notebook, "cell-3-5").get_attribute("aria-label")
    assert label.startswith(f"cat predicted as dog: {matrix[3, 5]} images, ")


def test_the_keyboard_reaches_every_cell(notebook, tables):
    part(notebook, "cell-0-0").click()
    heading(notebook, "airplane predicted correctly")
    for _ in range(12):
        notebook.page.keyboard.press("ArrowDown")
        notebook.page.keyboard.press("ArrowRight")
    notebook.page.keyboard.press("Enter")
    heading(notebook, "truck predicted correctly")
    for _ in range(12):
        notebook.page.keyboard.press("ArrowUp")
        notebook.page.keyboard.press("ArrowLeft")
    notebook.page.keyboard.press("Space")
    heading(notebook, "airplane predicted correctly")


@pytest.mark.parametrize("order", gallery.ORDERS)
def test_orders_and_pages(notebook, tables, order):
    (table, _), images = tables
    part(notebook, "cell-1-1").click()
    part(notebook, "order").select_option(order)
    rows = gallery.images_in_cell(table, 1, 1, order)
    shows(notebook, images[rows[:24]])
    part(notebook, "next").click()
    shows(notebook, images[rows[24:48]])
    part(notebook, "previous").click()
    shows(notebook, images[rows[:24]])
    part(notebook, "order").select_option(gallery.ORDERS[0])


def test_two_runs_are_compared(notebook, tables):
    (first, second), _ = tables
    names = part(notebook, "run").locator("option").all_inner_texts()
    part(notebook, "other").select_option(names[1])
    notebook.page.wait_for_function("() => document.querySelector('.comparison').textContent.includes('McNemar')")
    difference = metrics.confusion_matrix(second) - metrics.confusion_matrix(first)
    for t, p in ((0, 0), (3, 5), (7, 7)):
        text = part(notebook, f"cell-{t}-{p}").text_content()
        assert (f"{abs(difference[t, p])})" in text) == bool(difference[t, p])
    assert "other: " in notebook.page.locator(".cifar.confusions figcaption").first.inner_text()
    notebook.shoot("confusions_compared")
    part(notebook, "run").select_option(names[1])
    part(notebook, "other").select_option("")
    notebook.page.wait_for_function("() => document.querySelector('.comparison').textContent === ''")
    found = notebook.page.locator(".cifar.confusions .matrix button").all_inner_texts()
    assert np.array(found, int).reshape(10, 10).tolist() == metrics.confusion_matrix(second).tolist()
    part(notebook, "run").select_option(names[0])


def test_no_serious_accessibility_issue_and_nothing_cut_off(notebook):
    assert notebook.serious_accessibility_issues(".cifar.confusions") == []
    assert not notebook.is_cut_off(".cifar.confusions")


@pytest.mark.parametrize("zoom,dark", [(1, False), (1.5, True)], ids=["light", "150 percent and dark"])
def test_the_images_are_in_sight_when_a_cell_is_chosen(notebook, request, zoom, dark):
    request.addfinalizer(lambda: notebook.look())
    notebook.look(zoom, dark)
    notebook.page.locator(".cifar.confusions").evaluate("e => e.scrollIntoView()")
    other = part(notebook, "other")
    for compared in (False, True):
        other.select_option(index=2 if compared else 0)
        notebook.page.wait_for_function(
            "yes => document.querySelector('.comparison').textContent.includes('McNemar') === yes", arg=compared
        )
        for true in (0, 3, 9):
            part(notebook, f"cell-{true}-{true}").click()
            heading(notebook, f"{data.CIFAR10_CLASSES[true]} predicted correctly")
            for selector in (".heading", "figure canvas >> nth=0"):
                assert notebook.is_in_sight(f".cifar.confusions {selector}"), (true, compared, selector)
        notebook.shoot(f"confusions_{zoom}_{'compared' if compared else 'alone'}", scroll=False)
    assert notebook.serious_accessibility_issues(".cifar.confusions") == []
    assert not notebook.is_cut_off(".cifar.confusions")
    # The check can fail: images below the matrix are noticed.
    style = notebook.page.add_style_tag(
        content=".cifar .halves { flex-flow: column !important }"
        ".cifar .shown { position: static !important; order: 0 !important }"
    )
    part(notebook, "cell-9-9").scroll_into_view_if_needed()
    assert not notebook.is_in_sight(".cifar.confusions figure canvas >> nth=0")
    style.evaluate("e => e.remove()")
    other.select_option("")
    notebook.page.wait_for_function("() => document.querySelector('.comparison').textContent === ''")


def test_100_classes_of_64_pixels(lab, open_notebook):
    notebook = open_notebook(lab.write("hundred", MANY))
    notebook.run_all()
    part(notebook, "matrix").wait_for()
    notebook.page.locator(".cifar.confusions").scroll_into_view_if_needed()
    assert notebook.page.locator(".cifar.confusions .matrix button").count() == 10_000
    part(notebook, "cell-97-97").scroll_into_view_if_needed()
    part(notebook, "cell-97-97").click()
    heading(notebook, "a class with a long name 97 predicted correctly")
    for _ in range(5):
        notebook.page.keyboard.press("ArrowDown")
        notebook.page.keyboard.press("ArrowRight")
    notebook.page.keyboard.press("Enter")
    heading(notebook, "a class with a long name 99 predicted correctly")
    notebook.shoot("confusions_100_scrolled")
    counts = part(notebook, "matrix").locator("button").all_text_contents()
    assert sum(int(text or 0) for text in counts) == 400
    column = int(np.flatnonzero([int(text or 0) for text in counts[:100]])[0])  # the first class's first prediction
    part(notebook, f"cell-0-{column}").scroll_into_view_if_needed()
    part(notebook, f"cell-0-{column}").click()
    heading(notebook, "a class with a long name 0 predicted")
    canvas = notebook.page.locator(".cifar.confusions figure canvas").first
    assert canvas.evaluate("c => [c.width, c.height]") == [64, 64]
    part(notebook, "other").select_option("two")
    notebook.page.wait_for_function("() => document.querySelector('.comparison').textContent.includes('McNemar')")
    notebook.page.locator(".cifar.confusions").evaluate("e => e.scrollIntoView()")
    notebook.shoot("confusions_100")
    assert not notebook.is_cut_off(".cifar.confusions")
    fonts = part(notebook, "matrix").evaluate(
        "e => [...e.querySelectorAll('button, th')].map(x => parseFloat(getComputedStyle(x).fontSize))"
    )
    assert min(fonts) >= 14
    notebook.check()
