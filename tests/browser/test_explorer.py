"""The augmentation explorer, by keyboard in a real JupyterLab; each sheet must be that of the plain functions."""

import hashlib
import json
import re
from dataclasses import replace
from functools import cache

import nbformat
import pytest
from lab import Notebook
from nbconvert import HTMLExporter

from cifar_utils import data, takehome
from cifar_utils.augment import PRESETS, RANGES, Policy
from cifar_utils.widgets import preview
from cifar_utils.widgets.base import rgba
from cifar_utils.widgets.explorer import FIELDS

pytestmark = [pytest.mark.slow, pytest.mark.browser]


SHEET = ".cifar.explorer canvas.sheet"
CELL = """
from cifar_utils import data
from cifar_utils.widgets import Explorer
train, validation = data.split(data.cifar10(sample=True))
explorer = Explorer(train, validation)
explorer
"""
LATER = "explorer.set('degrees', 40)"  # from a cell, not by a control
OWN = """
import torch
from torch import nn
from cifar_utils.data import Dataset
from cifar_utils.widgets import Explorer
torch.manual_seed(0)
names = tuple(f"a class with a long name {i}" for i in range(100))
images = torch.randint(0, 256, (400, 3, 64, 64), dtype=torch.uint8)
train = Dataset(images[:200], torch.arange(200) % 100, names, source="mine")
validation = Dataset(images[200:], torch.arange(200) % 100, names, split="validation", source="mine")
Explorer(train, validation, network=nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 100)))
"""


@cache
def training_images():
    return data.split(data.cifar10(sample=True))[0]


def expected(policy: Policy, seed: int = 0, start: int = 0, classes=data.CIFAR10_CLASSES, swept: str = "") -> str:
    """The digest of the sheet that the plain functions make."""
    images = preview.choose(training_images(), classes, 5, start)
    shown = preview.sweep(images, policy, swept, 8) if swept else preview.draws(images, policy, seed, 8)
    sheet = preview.contact_sheet(images.images, shown)
    return hashlib.sha256(rgba(sheet)).hexdigest()


def changed(policy: Policy, key: str, value: float) -> Policy:
    name, _, part = key.partition(".")
    if part:
        pair = list(getattr(policy, name))
        pair[int(part)] = value
        value = tuple(pair)
    return replace(policy, **{name: value})


class Explorer:
    def __init__(self, notebook) -> None:
        self.notebook, self.page = notebook, notebook.page
        self.root = self.page.locator(".cifar.explorer")
        self.root.wait_for()

    def part(self, cls: str):
        return self.root.locator(f".{cls}")

    def shows(self, digest: str) -> None:
        for _ in range(600):
            if self.notebook.digests(SHEET) == [digest]:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"the sheet is another; the policy is {self.part('policy').text_content()}")

    def typed(self, key: str, text: str) -> None:
        """Waits until the field beside a slider shows this."""
        query = "([cls, text]) => document.querySelector(`.cifar.explorer .${cls}`).value === text"
        self.page.wait_for_function(query, arg=[f"number-{key.replace('.', '-')}", text], timeout=60_000)

    def error(self) -> str:
        self.page.wait_for_function("() => document.querySelector('.cifar.explorer .error').textContent")
        return self.part("error").text_content()


@pytest.fixture(scope="module")
def explorer(chromium, lab):
    notebook = Notebook(chromium, lab, lab.write("explorer", CELL, LATER))
    notebook.run_all()
    explorer = Explorer(notebook)
    explorer.root.scroll_into_view_if_needed()
    yield explorer
    notebook.check()
    notebook.close()


@pytest.fixture(autouse=True)
def reset(explorer):
    explorer.part("reset").click()
    # The sheet may be the first one already, while an error of the test before is still shown.
    explorer.page.wait_for_function("() => !document.querySelector('.cifar.explorer .error').textContent")
    explorer.shows(expected(PRESETS["full"]))


def test_a_policy_that_a_cell_has_changed_is_judged_as_well(explorer):
    run = "content.activeCellIndex = 1; await jupyterapp.commands.execute('notebook:run-cell')"
    explorer.page.evaluate(f"async () => {{ const content = jupyterapp.shell.currentWidget.content; {run}; }}")
    explorer.shows(expected(replace(PRESETS["full"], degrees=40)))
    query = "() => /%/.test(document.querySelector('.cifar.explorer .warning').textContent)"
    explorer.page.wait_for_function(query, timeout=60_000)


def test_it_fits_a_small_screen(explorer):
    """At 1280 x 720, beside the file browser, nothing is cut off at the side, and text is of a legible size."""
    explorer.root.evaluate("e => e.scrollIntoView()")
    explorer.notebook.shoot("explorer")
    assert not explorer.notebook.is_cut_off(".cifar.explorer")
    fonts = explorer.root.evaluate(
        "e => [...e.querySelectorAll('label, button, p, select, input, small, legend, span')]"
        ".map(x => parseFloat(getComputedStyle(x).fontSize))"
    )
    assert min(fonts) >= 14


SLIDERS = ["strength", *(f"slider-{key.replace('.', '-')}" for key in FIELDS)]


def out_of_sight(explorer, sliders: list[str]) -> list[str]:
    """Those of the sliders that cannot be moved with them and the images in sight, coming from above and from below."""
    found = []
    for end, step in (("start", 1), ("end", -1)):
        explorer.root.evaluate("(e, end) => { document.activeElement.blur(); e.scrollIntoView({block: end}); }", end)
        for slider in sliders[::step]:
            explorer.part(slider).focus()
            explorer.page.keyboard.press("ArrowRight")
            for _ in range(10):  # while the page scrolls
                if in_sight := all(map(explorer.notebook.is_in_sight, (SHEET, f".cifar.explorer .{slider}"))):
                    break
                explorer.page.wait_for_timeout(50)
            if not in_sight:
                found.append(f"{slider} from the {end}")
    return found


@pytest.mark.parametrize("zoom,dark", [(1, False), (1.5, True)], ids=["light", "150 percent and dark"])
def test_the_images_stay_in_sight_while_any_slider_moves(explorer, request, zoom, dark):
    notebook = explorer.notebook
    request.addfinalizer(lambda: notebook.look())
    notebook.look(zoom, dark)
    assert out_of_sight(explorer, SLIDERS) == []
    assert not notebook.is_cut_off(".cifar.explorer")
    for slider in ("strength", "slider-shear"):
        explorer.part(slider).focus()
        notebook.shoot(f"explorer_{zoom}_{'dark' if dark else 'light'}_{slider}", scroll=False)
    assert notebook.serious_accessibility_issues(".cifar.explorer") == []
    # The check can fail: images that scroll away are noticed.
    style = notebook.page.add_style_tag(content=".cifar :is(.stage, .framed) { position: static !important }")
    assert out_of_sight(explorer, SLIDERS[-2:])
    style.evaluate("e => e.remove()")


@pytest.mark.parametrize("key", FIELDS)
def test_every_slider_reaches_both_ends_by_keyboard(explorer, key):
    slider = explorer.part(f"slider-{key.replace('.', '-')}")
    policy = PRESETS["strong"]
    explorer.part("preset").select_option("strong")
    explorer.shows(expected(policy))
    low, high = RANGES[key.partition(".")[0]]
    for press, end in (("End", high), ("Home", low)):
        slider.focus()
        explorer.page.keyboard.press(press)
        if key.startswith("scale") and (key, press) != ("scale.0", "Home") and (key, press) != ("scale.1", "End"):
            assert "the first number must not exceed the second" in explorer.error()  # refused, and nothing changes
            explorer.shows(expected(policy))
            continue
        policy = changed(policy, key, end)
        explorer.shows(expected(policy))
        assert " ".join(explorer.part("policy").text_content().split()) == repr(policy)
        explorer.typed(key, f"{end:g}")


def test_the_arrow_keys_take_one_step(explorer):
    explorer.part("slider-degrees").focus()
    explorer.page.keyboard.press("ArrowRight")
    explorer.shows(expected(replace(PRESETS["full"], degrees=11)))


@pytest.mark.parametrize("name", PRESETS)
def test_presets(explorer, name):
    explorer.part("preset").select_option(name)
    explorer.shows(expected(PRESETS[name]))


@pytest.mark.parametrize("press,strength", [("End", 4), ("Home", 0)])
def test_the_strength_knob(explorer, press, strength):
    explorer.part("strength").focus()
    explorer.page.keyboard.press(press)
    explorer.shows(expected(PRESETS["full"].scaled(strength)))


@pytest.mark.parametrize("field", preview.SWEEPS)
def test_sweeps(explorer, field):
    explorer.part("sweep").select_option(field)
    explorer.shows(expected(PRESETS["full"], swept=field))
    images = preview.choose(training_images(), data.CIFAR10_CLASSES, 5)
    values = preview.sweep_values(images, PRESETS["full"], field, 8)
    captions = explorer.root.locator(".captions span")
    assert captions.all_text_contents() == ["original", *values]
    names = explorer.root.locator(".row-names span")
    assert names.all_text_contents() == [data.CIFAR10_CLASSES[label] for label in images.labels]
    (sheet,), columns, rows = explorer.page.evaluate(  # at once: the page may draw them anew in between
        """() => ['.sheet', '.captions span', '.row-names span'].map((part) => Array.from(
            document.querySelectorAll(`.cifar.explorer ${part}`), (e) => e.getBoundingClientRect().toJSON()))"""
    )
    for i, box in enumerate(columns[1:]):  # each value is below its column
        column = sheet["x"] + sheet["width"] * (37 + 34 * (i + 0.5)) / 310
        assert abs(box["x"] + box["width"] / 2 - column) < 3 and 0 <= box["y"] - sheet["y"] - sheet["height"] < 10
    for i, box in enumerate(rows):  # and each name beside its row
        row = sheet["y"] + sheet["height"] * (i + 0.5) / 5
        assert abs(box["y"] + box["height"] / 2 - row) < 3 and box["x"] < sheet["x"]
    explorer.notebook.shoot(f"explorer_sweep_{field}")


def test_seed_draw_again_images_classes_and_interpolation(explorer):
    full = PRESETS["full"]
    explorer.part("draw-again").click()
    explorer.shows(expected(full, seed=1))
    explorer.part("seed").fill("77")
    explorer.page.keyboard.press("Enter")
    explorer.shows(expected(full, seed=77))
    explorer.part("other-images").click()
    explorer.shows(expected(full, seed=77, start=5))
    for name in data.CIFAR10_CLASSES:
        if name not in ("cat", "dog"):
            explorer.part("classes").get_by_label(name).press("Space")
    explorer.shows(expected(full, seed=77, classes=("cat", "dog")))
    explorer.part("interpolation").select_option("nearest")
    explorer.shows(expected(replace(full, interpolation="nearest"), seed=77, classes=("cat", "dog")))
    for name in ("cat", "dog"):
        explorer.part("classes").get_by_label(name).press("Space")
    assert "choose at least one of airplane" in explorer.error()
    last = "() => document.querySelector('.cifar.explorer .classes input[value=dog]').checked"
    explorer.page.wait_for_function(last)  # refused: the last one stays


@pytest.mark.parametrize("key", FIELDS)
def test_a_value_out_of_range_is_refused_with_the_range(explorer, key):
    number = explorer.part(f"number-{key.replace('.', '-')}")
    low, high = RANGES[key.partition(".")[0]]
    number.fill("999")
    explorer.page.keyboard.press("Enter")
    assert re.search(rf"{key.partition('.')[0]} is .*999.*from {low:g} to {high:g}", explorer.error())
    explorer.shows(expected(PRESETS["full"]))
    refused = "cls => document.querySelector(`.cifar.explorer .${cls}`).value !== '999'"
    explorer.page.wait_for_function(refused, arg=f"number-{key.replace('.', '-')}")


def test_an_error_stays_until_the_next_change(explorer):
    """The network's judgment, which follows without a click, must not clear it."""
    explorer.part("preset").select_option("strong")  # which is judged while the error is shown
    explorer.part("number-degrees").fill("999")
    explorer.page.keyboard.press("Enter")
    assert "degrees" in explorer.error()
    explorer.page.wait_for_timeout(2000)
    assert "degrees" in explorer.part("error").text_content()
    explorer.part("preset").select_option("none")
    explorer.page.wait_for_function("() => !document.querySelector('.cifar.explorer .error').textContent")


def test_undo_takes_back_one_change_at_a_time(explorer):
    explorer.part("slider-degrees").focus()
    explorer.page.keyboard.press("End")
    explorer.shows(expected(replace(PRESETS["full"], degrees=180)))
    explorer.part("preset").select_option("none")
    explorer.shows(expected(PRESETS["none"]))
    explorer.part("undo").click()
    explorer.shows(expected(replace(PRESETS["full"], degrees=180)))
    explorer.part("undo").click()
    explorer.shows(expected(PRESETS["full"]))


def test_the_warning_follows_without_a_click(explorer):
    warning = explorer.part("warning")
    explorer.part("preset").select_option("none")
    explorer.page.wait_for_function(
        "() => document.querySelector('.cifar.explorer .warning').textContent.startsWith('Labels survive')"
    )
    explorer.part("slider-scale-1").focus()
    explorer.part("number-brightness").fill("2")
    explorer.page.keyboard.press("Enter")
    explorer.part("number-scale-0").fill("0.05")
    explorer.page.keyboard.press("Enter")
    explorer.part("number-degrees").fill("180")
    explorer.page.keyboard.press("Enter")
    explorer.page.wait_for_function(
        "() => document.querySelector('.cifar.explorer .warning').textContent.includes('likely to destroy')"
    )
    assert "destroys" in warning.get_attribute("class")
    explorer.notebook.shoot("explorer_warning")


def test_the_warning_is_of_the_last_policy_however_fast_the_controls_follow(explorer):
    """A slider that moves while the network still measures the policy before: the newer value must not be overtaken."""
    for pause in (300, 400, 500, 700):
        explorer.part("preset").select_option("none")
        explorer.page.wait_for_timeout(pause)
        explorer.part("slider-degrees").evaluate(
            "e => { e.value = 180; e.dispatchEvent(new Event('input', { bubbles: true })); }"
        )
        explorer.shows(expected(replace(PRESETS["none"], degrees=180)))
        explorer.page.wait_for_function(
            "() => document.querySelector('.cifar.explorer .warning').textContent.includes('destroy')"
        )


def test_the_code_can_be_copied(explorer):
    explorer.root.locator("summary").click()
    code = explorer.part("code").input_value()
    assert code == takehome.to_code(PRESETS["full"])
    assert max(map(len, (code + explorer.part("policy").text_content()).splitlines())) <= 88
    explorer.part("code").scroll_into_view_if_needed()
    assert not explorer.notebook.is_cut_off(".cifar.explorer .code")
    explorer.notebook.shoot("explorer_code", scroll=False)
    explorer.part("copy").click()
    explorer.page.wait_for_function("() => /Copied|Ctrl-C/.test(document.querySelector('.cifar .note').textContent)")
    explorer.root.locator("summary").click()


def test_no_serious_accessibility_issue(explorer):
    explorer.root.locator("summary").click()
    assert explorer.notebook.serious_accessibility_issues(".cifar.explorer") == []
    explorer.root.locator("summary").click()


def test_a_policy_is_saved_and_loaded(explorer, lab):
    """That notebook 3 trains with it is tested in test_path.py."""
    policy = replace(PRESETS["full"], degrees=25, fill=99)
    for key, value in (("degrees", "25"), ("fill", "99")):
        explorer.part(f"number-{key}").fill(value)
        explorer.page.keyboard.press("Enter")
    explorer.shows(expected(policy))
    explorer.part("save").click()
    explorer.page.wait_for_function("() => document.querySelector('.cifar .note').textContent.startsWith('Saved')")
    assert json.loads((lab.runs / "policy.json").read_text()) == json.loads(policy.to_json())
    explorer.part("preset").select_option("none")
    explorer.shows(expected(PRESETS["none"]))
    explorer.part("load").click()
    explorer.shows(expected(policy))


def test_where_no_widget_can_be_shown_there_is_an_image(lab, explorer):
    """A notebook saved from the browser carries no widget state, and its page shows the static figure."""
    explorer.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    for _ in range(50):
        saved = nbformat.read(lab.notebooks / "explorer.ipynb", as_version=4)
        if saved.cells[0].outputs:
            break
        explorer.page.wait_for_timeout(100)
    output = saved.cells[0].outputs[-1]
    assert "widgets" not in saved.metadata or not json.dumps(saved.metadata["widgets"]).count("layout")
    assert len(output.data["image/png"]) > 10_000 and "5 rows" in output.metadata["image/png"]["alt"]
    page, _ = HTMLExporter().from_notebook_node(saved)
    assert "data:image/png;base64," in page and "widget-view+json" not in page.split("<main")[-1]


def test_100_classes_of_64_pixels_and_a_network_of_your_own(lab, open_notebook):
    notebook = open_notebook(lab.write("own_images", OWN))
    notebook.run_all()
    explorer = Explorer(notebook)
    size = notebook.page.locator(".cifar.explorer canvas.sheet").evaluate("c => [c.width, c.height]")
    assert size == [9 * 66 + 4, 5 * 66 + 2]
    assert "This network cannot judge a policy" in explorer.part("warning").text_content()
    explorer.part("uncheck").click()
    explorer.part("classes").get_by_label("a class with a long name 77", exact=True).press("Space")
    query = (
        "() => document.querySelector('.cifar.explorer .sheet').getAttribute('aria-label').includes('name 77, a class')"
    )
    notebook.page.wait_for_function(query)
    explorer.part("slider-degrees").focus()
    notebook.page.keyboard.press("End")
    explorer.typed("degrees", "180")
    assert not notebook.is_cut_off(".cifar.explorer")
    explorer.root.evaluate("e => e.scrollIntoView()")
    notebook.shoot("explorer_own_images")
    notebook.check()
