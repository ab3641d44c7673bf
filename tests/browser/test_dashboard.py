"""The training dashboard: its controls work while training continues, it survives a reload of the page, and where its
kernel is gone, it says so."""

import json
import re

import pytest

from cifar_utils import checkpoint, runs

pytestmark = [pytest.mark.slow, pytest.mark.browser]

SET_UP = """
import torch
from torch import nn
from cifar_utils import data, settings
from cifar_utils.augment import PRESETS
from cifar_utils.models import Normalize, SmallCNN
from cifar_utils.widgets import Dashboard, dashboard
dashboard.PAUSE = 0.3  # seconds between two updates, instead of two
torch.set_num_threads(1)
torch.manual_seed(0)
train, validation = data.split(data.cifar10(sample=True))
train, validation = train.select(torch.arange(800)), validation.select(torch.arange(100))
"""
TRAIN = """
model = nn.Sequential(Normalize.from_dataset(train), SmallCNN(widths=(8, 16, 16)))
dashboard = Dashboard(model, train, validation, transform=PRESETS["full"], epochs={epochs}, batch_size=50,
                      run=settings.runs_directory() / "{name}")
history = await dashboard.train()
"""
AFTER = "print('next cell', len(history), dashboard._running)"
WHERE = """
print('in the main loop:', dashboard._task.get_loop() is dashboard._loop) if hasattr(dashboard, '_task') else None
"""


def status(notebook, text: str, timeout: float = 60) -> None:
    query = "t => document.querySelector('.cifar.dashboard .status')?.textContent.includes(t)"
    notebook.page.wait_for_function(query, arg=text, timeout=1000 * timeout)


def curves(notebook) -> dict:
    """The loss chart: horizontal places of the training curve's points, and the number of finished epochs."""
    chart = notebook.page.locator(".cifar.dashboard svg").first
    points = chart.locator("polyline").first.get_attribute("points").split()
    return {"x": [float(point.split(",")[0]) for point in points], "epochs": chart.locator("rect").count()}


def epochs_done(notebook) -> float:
    return float(notebook.page.locator(".cifar.dashboard .numbers").text_content().split()[1])


def wait_for_epoch(notebook, epoch: float, timeout: float = 60) -> None:
    query = "n => parseFloat(document.querySelector('.cifar.dashboard .numbers')?.textContent.slice(6)) >= n"
    notebook.page.wait_for_function(query, arg=epoch, timeout=1000 * timeout)


def picture(notebook):
    """The saved picture of the curves, below the place of the widget."""
    return notebook.page.locator(".cifar-saved")


def saved(lab, name: str) -> dict:
    return checkpoint.load(lab.runs / name / runs.LAST)["states"]["trainer"]


@pytest.fixture
def training(lab, open_notebook):
    """Opens a notebook that trains in a run of this name, and starts it."""

    def start(name: str, epochs: int = 500, train: str = TRAIN):
        cells = SET_UP, train.format(name=name, epochs=epochs), AFTER + WHERE
        notebook = open_notebook(lab.write(name, *cells))
        notebook.start_all()
        notebook.page.locator(".cifar.dashboard").wait_for(timeout=60_000)
        wait_for_epoch(notebook, 0.2)
        return notebook

    return start


def test_the_learning_rate_can_be_changed_while_training_continues(lab, training):
    notebook = training("changed")
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
    notebook.page.locator(".cifar.dashboard .stop").click()
    status(notebook, "stopped and saved")
    assert notebook.wait_for_all()
    assert saved(lab, "changed")["learning_rate_scale"] == 0.5
    notebook.check()


def test_the_interrupt_button_stops_it_too_and_the_cell_resumes_from_there(lab, training):
    notebook = training("interrupted", epochs=12)
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('notebook:interrupt-kernel')")
    status(notebook, "stopped and saved")
    notebook.wait_for_all()
    state = saved(lab, "interrupted")
    assert (state["epoch"], state["step"]) != (0, 0) and state["epoch"] < 12
    notebook.run_all()
    status(notebook, "finished")
    assert saved(lab, "interrupted")["epoch"] == 12
    assert len(json.loads((lab.runs / "interrupted" / "history.json").read_text())) == 12
    assert "next cell 12 False" in notebook.outputs()


def goes_on(notebook, lab, name: str, before: dict, epoch: float) -> None:
    """The page was left while training went on: the dashboard is live, with the whole curve and a Stop that works."""
    status(notebook, "training")
    after = curves(notebook)
    assert len(after["x"]) >= len(before["x"]) and after["epochs"] >= before["epochs"]
    assert after["x"][0] < 70  # the chart begins at 52
    now = epochs_done(notebook)
    assert now >= epoch
    wait_for_epoch(notebook, now + 1)
    assert len(curves(notebook)["x"]) > len(after["x"])
    assert picture(notebook).is_hidden()
    notebook.page.locator(".cifar.dashboard .stop").click()
    status(notebook, "stopped and saved")
    assert now < saved(lab, name)["epoch"] < 500


def test_a_reloaded_page_and_a_notebook_opened_again_find_the_training_live(lab, training):
    """Reloaded at once: not even JupyterLab's automatic save has been there yet."""
    notebook = training("left")
    wait_for_epoch(notebook, 3)
    before, epoch = curves(notebook), epochs_done(notebook)
    notebook.reload()
    goes_on(notebook, lab, "left", before, epoch)
    notebook.shoot("dashboard_reloaded")
    notebook.page.locator(".cifar.dashboard .resume").click()  # and so it goes on, without the cell
    status(notebook, "training")
    wait_for_epoch(notebook, epochs_done(notebook) + 1)
    before, epoch = curves(notebook), epochs_done(notebook)
    notebook.close_tab()
    notebook.page.evaluate("() => jupyterapp.commands.execute('docmanager:open', {path: 'notebooks/left.ipynb'})")
    goes_on(notebook, lab, "left", before, epoch)
    notebook.check()


def test_stop_stops_while_run_all_waits_and_continue_resumes_in_the_same_dashboard(lab, training):
    notebook = training("continued", epochs=40)
    board = notebook.page.locator(".cifar.dashboard")
    assert "next cell" not in notebook.outputs()  # Run All waits
    texts = board.locator("svg").first.locator("text").all_text_contents()
    assert "0" in texts and not re.search(r"\de-|0\.00\d", " ".join(texts))  # also of the very first points
    stop, resume = board.locator(".stop"), board.locator(".resume")
    looks = {}
    for theme in ("light", "dark"):
        notebook.set_dark(theme == "dark")
        looks[theme] = [float(b.evaluate("e => getComputedStyle(e).opacity")) for b in (stop, resume)]
    assert stop.is_enabled() and resume.is_disabled() and resume.get_attribute("disabled") is not None
    assert all(enabled == 1 and disabled < 0.6 for enabled, disabled in looks.values())
    stop.focus()
    notebook.page.keyboard.press("Enter")
    status(notebook, "stopped and saved: press Continue")
    assert notebook.wait_for_all()
    assert "next cell" in notebook.outputs() and "False" in notebook.outputs()
    at_stop = saved(lab, "continued")
    assert 0 < at_stop["epoch"] + at_stop["step"] and board.locator(".error").text_content() == ""
    before = curves(notebook)
    assert stop.is_disabled() and resume.is_enabled()
    assert resume.evaluate("e => e === document.activeElement"), "else a keyboard starts at the page's top again"
    notebook.shoot("dashboard_stopped_dark")
    board.locator("input[type=range]").press("ArrowLeft")  # whose answer JupyterLab remembers by its subshell
    board.locator("input[type=range]").press("ArrowRight")
    resume.click()
    status(notebook, "training")
    assert stop.is_enabled() and resume.is_disabled() and board.count() == 1
    status(notebook, "finished")
    assert stop.is_disabled() and resume.is_disabled()
    after = curves(notebook)
    assert after["epochs"] == 40 and len(after["x"]) > len(before["x"])
    assert at_stop["epoch"] < saved(lab, "continued")["epoch"] == 40
    run_last = "content.activeCellIndex = 2; await jupyterapp.commands.execute('notebook:run-cell')"
    notebook.page.evaluate(f"async () => {{ jupyterapp.shell.currentWidget.{run_last}; }}")
    assert "next cell 40 False" in notebook.outputs()  # the cells below find the history of the whole training
    assert "in the main loop: True" in notebook.outputs()
    notebook.check()


def says_that_it_is_gone(notebook) -> None:
    status(notebook, "Training no longer runs here")
    assert "run the cell again to resume" in notebook.page.locator(".cifar.dashboard .status").text_content()
    for control in ("stop", "resume", "rate", "rate-number"):
        assert notebook.page.locator(f".cifar.dashboard .{control}").is_disabled()
    assert curves(notebook)["epochs"] >= 1  # the curves stay


def test_where_the_kernel_is_restarted_the_dashboard_says_so(training):
    notebook = training("restarted")
    wait_for_epoch(notebook, 2)
    assert notebook.page.locator(".cifar.dashboard .status").text_content() == "training"
    notebook.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    says_that_it_is_gone(notebook)
    notebook.shoot("dashboard_restarted")


@pytest.mark.parametrize("cut_short", [True, False])
def test_a_notebook_opened_without_its_kernel_shows_the_saved_curves_and_one_sentence(lab, training, cut_short):
    name = f"anew_{cut_short}"
    at_once = "import cifar_utils.widgets.dashboard as module\nmodule.PICTURE_PAUSE = 0\n"
    notebook = training(name, train=at_once + TRAIN)
    wait_for_epoch(notebook, 2)
    assert picture(notebook).is_hidden()
    if not cut_short:
        notebook.page.locator(".cifar.dashboard .stop").click()
        assert notebook.wait_for_all()
    notebook.page.evaluate(
        """async () => {
            await jupyterapp.commands.execute('docmanager:save');
            await jupyterapp.shell.currentWidget.sessionContext.shutdown();
        }"""
    )
    if cut_short:
        says_that_it_is_gone(notebook)
    notebook.reload()
    picture(notebook).wait_for()
    notebook.page.locator("text=Error displaying widget").wait_for(state="hidden")
    assert notebook.page.locator(".cifar.dashboard").count() == 0
    caption = picture(notebook).locator("figcaption").text_content()
    assert "Epoch" in caption and "of 500" in caption and "running the cell again resumes" in caption
    assert ("no longer runs here" in caption) == cut_short
    image = picture(notebook).locator("img")
    assert re.search("Two line plots over [1-9][0-9]* epoch", image.get_attribute("alt"))
    assert image.evaluate("e => e.naturalWidth") > 500
    picture(notebook).evaluate("e => e.scrollIntoView()")
    notebook.shoot(f"dashboard_{name}")


OWN = """
def resize(images):
    return torch.nn.functional.interpolate(images.float() / 255, (96, 96))

model = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 10))
dashboard = Dashboard(model, train, validation, transform=resize, epochs=5,
                      optimizer=torch.optim.AdamW(model.parameters()), run=settings.runs_directory() / "own")
history = await dashboard.train()
"""


def test_before_training_the_charts_are_empty_then_curves_and_batch_are_shown_also_of_a_network_of_ones_own(
    lab, open_notebook
):
    """Three dashboards in one notebook."""
    untrained = TRAIN.format(name="empty", epochs=1).replace("history = await dashboard.train()", "dashboard")
    notebook = open_notebook(lab.write("shown", SET_UP, untrained, TRAIN.format(name="shown", epochs=4), OWN))
    notebook.run_all()
    boards = notebook.page.locator(".cifar.dashboard")
    empty, shown, own = (boards.nth(number) for number in range(3))
    own.locator(".status", has_text="finished").wait_for()
    texts = empty.locator("svg text").all_text_contents()
    assert sorted(texts) == sorted(2 * ["epochs", "training", "validation"] + ["Loss", "Accuracy"])  # no scale
    assert "no data yet" in empty.locator("svg").first.get_attribute("aria-label")
    assert empty.locator(".numbers").text_content() == ""
    assert empty.locator(".batch").is_hidden() and empty.locator(".stop").is_disabled()
    notebook.shoot("dashboard_empty")

    history = json.loads((lab.runs / "shown" / "history.json").read_text())
    labels = shown.locator("svg").evaluate_all("all => all.map(e => e.getAttribute('aria-label'))")
    assert f"validation now {history[-1]['validation_loss']:.2f}" in labels[0]
    assert f"validation now {round(100 * history[-1]['validation_accuracy'])}%" in labels[1]
    assert shown.locator("svg .best").count() == 2
    shown.scroll_into_view_if_needed()
    notebook.shoot("dashboard_finished", scroll=False)
    shown.locator(".axis").select_option("minutes")
    assert "against minutes" in shown.locator("svg").first.get_attribute("aria-label")
    colors = shown.locator(".batch").evaluate(
        "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
    )
    assert colors > 1000  # 32 images
    assert notebook.serious_accessibility_issues(".cifar.dashboard") == []
    assert all(e <= c for e, c in boards.evaluate_all("all => all.map(e => [e.scrollWidth, e.clientWidth])"))

    assert own.locator(".batch").evaluate("c => c.width") == 8 * 66 + 2  # 96 pixels, reduced to 64
    notebook.check()


def test_an_error_of_training_is_shown_in_the_widget_and_in_the_cell(lab, open_notebook):
    fast = 'run=settings.runs_directory() / "diverges", optimizer=torch.optim.SGD(model.parameters(), lr=1e38)'
    cell = TRAIN.format(name="diverges", epochs=3).replace('run=settings.runs_directory() / "diverges"', fast)
    notebook = open_notebook(lab.write("diverges", SET_UP, cell))
    notebook.start_all()
    assert not notebook.wait_for_all()
    assert "training cannot continue" in notebook.page.locator(".cifar.dashboard .error").text_content()
    assert "FloatingPointError" in notebook.outputs()
