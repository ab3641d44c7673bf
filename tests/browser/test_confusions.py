"""The confusion explorer of notebook 4: every control, and the images behind the cells, against the plain functions."""

import hashlib
import shutil

import numpy as np
import pytest
from lab import Notebook

from cifar_utils import data, evaluation, gallery, training
from cifar_utils.predictions import predict
from cifar_utils.widgets.base import rgba

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture(scope="module")
def tables():
    """The predictions that notebook 4 shows: no run is there, so of the network that ships."""
    network, normalisation, _ = training.restore(training.SHIPPED)
    test = data.load_test(sample=True)
    tables = [predict(network, test, normalisation, averaging=averaging) for averaging in (False, True)]
    order = np.argsort(test.index.numpy())
    return [table.select(order) for table in tables], test.images[order]


@pytest.fixture(scope="module")
def notebook(chromium, lab):
    shutil.rmtree(lab.runs / "smoke", ignore_errors=True)
    notebook = Notebook(chromium, lab, "04_evaluation")
    notebook.run_all()
    assert notebook.ran_in_order()
    notebook.page.locator(".cifar.confusions").scroll_into_view_if_needed()
    yield notebook
    notebook.check()
    notebook.close()


def digests(notebook) -> list[str]:
    return notebook.digests(".cifar.confusions figure canvas")


def of(images) -> list[str]:
    return [hashlib.sha256(rgba(pixels)).hexdigest() for pixels in images.permute(0, 2, 3, 1).numpy()]


def heading(notebook, text: str) -> None:
    query = "t => document.querySelector('.cifar.confusions .heading').textContent.startsWith(t)"
    notebook.page.wait_for_function(query, arg=text, timeout=10_000)


def part(notebook, cls: str):
    return notebook.page.locator(f".cifar.confusions .{cls}")


@pytest.mark.parametrize("true,predicted", [(3, 5), (0, 0), (9, 1), (6, 0)])
def test_clicking_a_cell_shows_its_images(notebook, tables, true, predicted):
    (table, _), images = tables
    part(notebook, f"cell-{true}-{predicted}").click()
    rows = gallery.behind(table, true, predicted)
    what = f"{data.CLASSES[true]} called {data.CLASSES[predicted]}" if true != predicted else "airplane recognised"
    heading(notebook, f"{what}: {len(rows)} of")
    assert digests(notebook) == of(images[rows[:24]])
    captions = notebook.page.locator(".cifar.confusions figcaption").all_inner_texts()
    assert [c.split("\n")[0] for c in captions] == [gallery.caption(table, row) for row in rows[:24]]
    notebook.shoot(f"confusions_{true}_{predicted}")


def test_the_matrix_is_the_matrix(notebook, tables):
    matrix = evaluation.confusion_matrix(tables[0][0])
    found = notebook.page.locator(".cifar.confusions .matrix button").all_inner_texts()
    assert np.array(found, int).reshape(10, 10).tolist() == matrix.tolist()
    said = part(notebook, "cell-3-5").get_attribute("aria-label")
    assert said.startswith(f"cat called dog: {matrix[3, 5]} images, ")


def test_the_keyboard_reaches_every_cell(notebook, tables):
    part(notebook, "cell-0-0").click()
    heading(notebook, "airplane recognised")
    for _ in range(12):
        notebook.page.keyboard.press("ArrowDown")
        notebook.page.keyboard.press("ArrowRight")
    notebook.page.keyboard.press("Enter")
    heading(notebook, "truck recognised")
    for _ in range(12):
        notebook.page.keyboard.press("ArrowUp")
        notebook.page.keyboard.press("ArrowLeft")
    notebook.page.keyboard.press("Space")
    heading(notebook, "airplane recognised")


@pytest.mark.parametrize("order", gallery.ORDERS)
def test_orders_and_pages(notebook, tables, order):
    (table, _), images = tables
    part(notebook, "cell-1-1").click()
    part(notebook, "order").select_option(order)
    rows = gallery.behind(table, 1, 1, order)
    for _ in range(50):
        if digests(notebook) == of(images[rows[:24]]):
            break
        notebook.page.wait_for_timeout(50)
    assert digests(notebook) == of(images[rows[:24]])
    part(notebook, "next").click()
    notebook.page.wait_for_timeout(500)
    assert digests(notebook) == of(images[rows[24:48]])
    part(notebook, "previous").click()
    notebook.page.wait_for_timeout(500)
    assert digests(notebook) == of(images[rows[:24]])
    part(notebook, "order").select_option(gallery.ORDERS[0])


def test_two_runs_are_compared(notebook, tables):
    (first, second), _ = tables
    names = part(notebook, "run").locator("option").all_inner_texts()
    part(notebook, "other").select_option(names[1])
    notebook.page.wait_for_function("() => document.querySelector('.comparison').textContent.includes('McNemar')")
    difference = evaluation.confusion_matrix(second) - evaluation.confusion_matrix(first)
    for t, p in ((0, 0), (3, 5), (7, 7)):
        text = part(notebook, f"cell-{t}-{p}").text_content()
        assert (f"{abs(difference[t, p])})" in text) == bool(difference[t, p])
    assert "other: " in notebook.page.locator(".cifar.confusions figcaption").first.inner_text()
    notebook.shoot("confusions_compared")
    part(notebook, "run").select_option(names[1])
    part(notebook, "other").select_option("")
    notebook.page.wait_for_function("() => document.querySelector('.comparison').textContent === ''")
    found = notebook.page.locator(".cifar.confusions .matrix button").all_inner_texts()
    assert np.array(found, int).reshape(10, 10).tolist() == evaluation.confusion_matrix(second).tolist()
    part(notebook, "run").select_option(names[0])


def test_no_serious_accessibility_issue_and_nothing_cut_off(notebook):
    from axe_playwright_python.sync_playwright import Axe

    results = Axe().run(notebook.page, context=".cifar.confusions").response
    serious = [
        (v["id"], v["nodes"][0]["html"]) for v in results["violations"] if v["impact"] in ("serious", "critical")
    ]
    assert serious == []
    sizes = notebook.page.locator(".cifar.confusions").evaluate("e => [e.scrollWidth, e.clientWidth]")
    assert sizes[0] <= sizes[1]
