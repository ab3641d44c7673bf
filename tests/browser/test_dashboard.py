"""The training dashboard: Stop and the learning rate work while training goes on, and Run All waits for the end."""

import json

import pytest

from cifar_utils import checkpoint, runs

pytestmark = [pytest.mark.slow, pytest.mark.browser]

SET_UP = """
from pathlib import Path
import torch
from cifar_utils import data, settings, training
from cifar_utils.policy import PRESETS
from cifar_utils.widgets import Dashboard
torch.set_num_threads(1)
train, validation = data.load_training(sample=True)
train, validation = train.select(torch.arange(800)), validation.select(torch.arange(100))
normalisation = data.Normalisation.of(train)
network = training.new_network(train, normalisation)
"""
TRAIN = """
config, run = training.Config(epochs={epochs}, batch_size=50), settings.runs_directory() / "{name}"
dashboard = Dashboard(network, train, validation, PRESETS["full"], config, normalisation, run)
history = await dashboard.train()
"""
AFTER = "print('after', len(history), dashboard._running)"


def status(notebook, text: str, timeout: float = 60) -> None:
    query = "t => document.querySelector('.cifar.dashboard .status')?.textContent.includes(t)"
    notebook.page.wait_for_function(query, arg=text, timeout=1000 * timeout)


def saved(lab, name: str) -> dict:
    return checkpoint.load(lab.runs / name / runs.LAST).meta["state"]


@pytest.fixture
def training(lab, open_notebook):
    """Opens a notebook that trains in a run of this name, and starts it."""

    def start(name: str, epochs: int = 500):
        cells = SET_UP, TRAIN.format(name=name, epochs=epochs), AFTER
        notebook = open_notebook(lab.write(name, *cells))
        notebook.start_all()
        notebook.page.locator(".cifar.dashboard").wait_for(timeout=60_000)
        notebook.page.wait_for_function(
            "() => parseFloat(document.querySelector('.cifar.dashboard .numbers').textContent.slice(6)) > 0.1"
        )
        return notebook

    return start


def test_stop_stops_while_run_all_waits(lab, training):
    notebook = training("stopped")
    assert "after" not in notebook.outputs()  # Run All waits
    notebook.shoot("dashboard")
    notebook.page.locator(".cifar.dashboard .stop").focus()
    notebook.page.keyboard.press("Enter")
    status(notebook, "stopped and saved")
    assert notebook.wait_for_all()
    assert "after" in notebook.outputs() and "False" in notebook.outputs()
    state = saved(lab, "stopped")
    assert 0 < state["epoch"] + state["step"] and state["epoch"] < 500
    assert notebook.page.locator(".cifar.dashboard .stop").is_disabled()
    assert notebook.page.locator(".cifar.dashboard .error").text_content() == ""
    assert notebook.page.locator(".cifar.dashboard").count() == 1
    notebook.check()


def test_the_learning_rate_can_be_turned_while_training_goes_on(lab, training):
    notebook = training("turned")
    slider, typed = (notebook.page.locator(f".cifar.dashboard .{c}") for c in ("rate", "rate-number"))
    for press, scale in (("End", 3), ("Home", 0)):
        slider.focus()
        notebook.page.keyboard.press(press)
        notebook.page.wait_for_function(
            "s => document.querySelector('.cifar.dashboard .rate-number').value === s", arg=str(scale)
        )
    notebook.page.wait_for_function(
        "() => document.querySelector('.numbers').textContent.includes('learning rate 0.00')"
    )
    typed.fill("11")
    notebook.page.keyboard.press("Enter")
    notebook.page.wait_for_function("() => document.querySelector('.cifar.dashboard .error').textContent")
    assert "is 11; it must be a number from 0 to 10" in notebook.page.locator(".cifar.dashboard .error").text_content()
    typed.fill("0.5")
    notebook.page.keyboard.press("Enter")
    notebook.page.wait_for_function("() => document.querySelector('.cifar.dashboard .rate').value === '0.5'")
    notebook.page.wait_for_timeout(500)
    notebook.page.locator(".cifar.dashboard .stop").click()
    status(notebook, "stopped and saved")
    assert notebook.wait_for_all()
    assert saved(lab, "turned")["learning_rate_scale"] == 0.5
    notebook.check()


def test_the_interrupt_button_stops_it_too_and_the_cell_goes_on_from_there(lab, training):
    notebook = training("interrupted", epochs=3)
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('notebook:interrupt-kernel')")
    status(notebook, "stopped and saved")
    notebook.wait_for_all()
    state = saved(lab, "interrupted")
    assert (state["epoch"], state["step"]) != (0, 0) and state["epoch"] < 3
    notebook.run_all()
    status(notebook, "finished")
    assert saved(lab, "interrupted")["epoch"] == 3
    assert len(json.loads((lab.runs / "interrupted" / "history.json").read_text())) == 3
    assert "after 3 False" in notebook.outputs()


def test_the_curves_and_the_batch_are_shown(lab, training):
    notebook = training("shown", epochs=2)
    assert notebook.wait_for_all()
    status(notebook, "finished")
    page = notebook.page
    history = json.loads((lab.runs / "shown" / "history.json").read_text())
    labels = page.locator(".cifar.dashboard svg").evaluate_all("all => all.map(e => e.getAttribute('aria-label'))")
    assert f"validation now {history[-1]['validation_loss']:.2f}" in labels[0]
    assert f"validation now {round(100 * history[-1]['validation_accuracy'])}%" in labels[1]
    assert page.locator(".cifar.dashboard svg .best").count() == 2
    page.locator(".cifar.dashboard .axis").select_option("minutes")
    assert "against minutes" in page.locator(".cifar.dashboard svg").first.get_attribute("aria-label")
    colours = page.locator(".cifar.dashboard .batch").evaluate(
        "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
    )
    assert colours > 1000  # a picture of 32 images

    from axe_playwright_python.sync_playwright import Axe

    results = Axe().run(page, context=".cifar.dashboard").response
    serious = [v["id"] for v in results["violations"] if v["impact"] in ("serious", "critical")]
    assert serious == []
    width = page.locator(".cifar.dashboard").evaluate("e => [e.scrollWidth, e.clientWidth]")
    assert width[0] <= width[1]
    notebook.check()


def test_an_error_of_training_is_shown_in_the_widget_and_in_the_cell(lab, open_notebook):
    cells = (
        SET_UP,
        TRAIN.format(name="diverges", epochs=3).replace("batch_size=50", "batch_size=50, learning_rate=1e30"),
    )
    notebook = open_notebook(lab.write("diverges", *cells))
    notebook.start_all()
    assert not notebook.wait_for_all()
    assert "training cannot go on" in notebook.page.locator(".cifar.dashboard .error").text_content()
    assert "FloatingPointError" in notebook.outputs()
