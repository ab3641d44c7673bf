"""The augmentation explorer, by keyboard in a real JupyterLab; each picture must be that of the plain functions."""

import hashlib
import json
import re
from dataclasses import asdict, replace

import pytest
from lab import Notebook

from cifar_utils import checkpoint, data, preview, runs
from cifar_utils.policy import PRESETS, RANGES, Policy
from cifar_utils.widgets.base import rgba
from cifar_utils.widgets.explorer import FIELDS

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def expected(policy: Policy, seed: int = 0, start: int = 0, classes=data.CLASSES, swept: str = "") -> str:
    """The digest of the picture that the plain functions make."""
    training, _ = data.load_training(sample=True)
    images = preview.choose(training, classes, 5, start)
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
        for _ in range(100):
            if self.notebook.digests(".cifar.explorer canvas.sheet") == [digest]:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"the picture is another; the policy is {self.part('policy').text_content()}")

    def typed(self, key: str, text: str) -> None:
        """Waits until the field beside a slider says this."""
        query = "([cls, text]) => document.querySelector(`.cifar.explorer .${cls}`).value === text"
        self.page.wait_for_function(query, arg=[f"number-{key.replace('.', '-')}", text], timeout=5000)

    def error(self) -> str:
        self.page.wait_for_function("() => document.querySelector('.cifar.explorer .error').textContent")
        return self.part("error").text_content()


@pytest.fixture(scope="module")
def explorer(chromium, lab):
    """Of notebook 1, all of whose cells have run."""
    notebook = Notebook(chromium, lab, "01_data_and_augmentation")
    notebook.run_all()
    assert notebook.ran_in_order()
    explorer = Explorer(notebook)
    explorer.root.scroll_into_view_if_needed()
    yield explorer
    notebook.check()
    notebook.close()


@pytest.fixture(autouse=True)
def reset(explorer):
    explorer.part("reset").click()
    # The picture may be the first one already, while an error of the test before is still to be seen.
    explorer.page.wait_for_function("() => !document.querySelector('.cifar.explorer .error').textContent")
    explorer.shows(expected(PRESETS["full"]))


def test_it_fits_a_small_screen(explorer):
    """At 1280 x 720 nothing is cut off at the side, and the sliders are on the screen together with the picture."""
    explorer.root.evaluate("e => e.scrollIntoView()")
    explorer.notebook.shoot("explorer")
    sizes = explorer.root.evaluate("e => [e.scrollWidth, e.clientWidth, e.querySelector('.halves').clientHeight]")
    assert sizes[0] <= sizes[1] and sizes[2] <= 720
    fonts = explorer.root.evaluate(
        "e => [...e.querySelectorAll('label, button, p, select, input, small, legend')]"
        ".map(x => parseFloat(getComputedStyle(x).fontSize))"
    )
    assert min(fonts) >= 14


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
        assert explorer.part("policy").text_content() == repr(policy)
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


def test_seed_draw_again_images_classes_and_interpolation(explorer):
    full = PRESETS["full"]
    explorer.part("draw-again").click()
    explorer.shows(expected(full, seed=1))
    explorer.part("seed").fill("77")
    explorer.page.keyboard.press("Enter")
    explorer.shows(expected(full, seed=77))
    explorer.part("other-images").click()
    explorer.shows(expected(full, seed=77, start=5))
    for name in data.CLASSES:
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
def test_what_is_typed_out_of_range_is_refused_with_the_range(explorer, key):
    number = explorer.part(f"number-{key.replace('.', '-')}")
    low, high = RANGES[key.partition(".")[0]]
    number.fill("999")
    explorer.page.keyboard.press("Enter")
    assert re.search(rf"{key.partition('.')[0]} is .*999.*from {low:g} to {high:g}", explorer.error())
    explorer.shows(expected(PRESETS["full"]))
    refused = "cls => document.querySelector(`.cifar.explorer .${cls}`).value !== '999'"
    explorer.page.wait_for_function(refused, arg=f"number-{key.replace('.', '-')}")


def test_an_error_stays_until_the_next_change(explorer):
    """The verdict, which comes by itself shortly after, used to wipe it."""
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


def test_the_verdict_comes_by_itself(explorer):
    verdict = explorer.part("verdict")
    explorer.part("preset").select_option("none")
    explorer.page.wait_for_function("() => document.querySelector('.verdict').textContent.startsWith('Labels survive')")
    explorer.part("slider-scale-1").focus()
    explorer.part("number-brightness").fill("2")
    explorer.page.keyboard.press("Enter")
    explorer.part("number-scale-0").fill("0.05")
    explorer.page.keyboard.press("Enter")
    explorer.part("number-degrees").fill("180")
    explorer.page.keyboard.press("Enter")
    explorer.page.wait_for_function(
        "() => document.querySelector('.verdict').textContent.includes('likely to destroy')"
    )
    assert "warning" in verdict.get_attribute("class")


def test_the_code_can_be_copied(explorer):
    explorer.root.locator("summary").click()
    code = explorer.part("code").input_value()
    assert code == PRESETS["full"].to_code()
    explorer.part("copy").click()
    explorer.page.wait_for_function("() => /Copied|Ctrl-C/.test(document.querySelector('.cifar .note').textContent)")
    explorer.root.locator("summary").click()


def test_no_serious_accessibility_issue(explorer):
    from axe_playwright_python.sync_playwright import Axe

    explorer.root.locator("summary").click()
    results = Axe().run(explorer.page, context=".cifar.explorer").response
    serious = [v for v in results["violations"] if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in serious] == []
    explorer.root.locator("summary").click()


def test_the_saved_policy_is_the_one_that_notebook_3_trains_with(explorer, lab, open_notebook):
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

    training = open_notebook("03_training")
    training.run_all()
    assert training.ran_in_order()
    saved = checkpoint.load(lab.runs / "smoke" / runs.BEST).meta["setting"]["policy"]
    assert Policy.from_json(json.dumps(saved)) == policy and saved == json.loads(json.dumps(asdict(policy)))
    training.page.locator(".cifar.dashboard").scroll_into_view_if_needed()
    training.shoot("training")
    assert training.page.locator(".cifar.dashboard .status").text_content() == "finished"
    training.check()
