"""The web edition, opened from a folder: it needs no host, can be searched, and fits screens, keys and readers."""

import os
import re
import subprocess
import sys
from urllib.parse import urlparse

import pytest
from lab import ROOT, SCREENSHOTS, find_chromium

from cifar_utils.exercises import EXERCISES

pytestmark = [pytest.mark.slow, pytest.mark.browser]
PAGES = [
    "index", "notebooks/01_data_and_augmentation", "notebooks/04_evaluation", "docs/teaching", "docs/exercises",
    "api/center", "api/exercises",
]  # fmt: skip
TERMS = (
    "convolution", "whitening", "McNemar", "temperature", "overfitting", "checkpoint", "perspective", "Winograd",
    "calibration", "softmax",
)  # fmt: skip


@pytest.fixture(scope="module")
def web(chromium, tmp_path_factory):
    pytest.importorskip("sphinx", reason="the web edition needs the extra [web]")
    folder = tmp_path_factory.mktemp("web") / "pages"
    command = [sys.executable, "tools/make_web.py", "--output", folder, "--pdf"]
    environment = os.environ | {"CIFAR_CHROMIUM": find_chromium()}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    return folder


@pytest.fixture
def open_page(chromium, web):
    """Opens a page; every request must be for a file of the folder."""
    opened, foreign = [], []

    def open_(name: str, query: str = "", **screen):
        page = chromium.new_page(**screen)
        page.on("request", lambda r: urlparse(r.url).scheme in ("file", "data", "blob") or foreign.append(r.url))
        page.goto(f"{(web / name).as_uri()}.html{query}")
        opened.append(page)
        return page

    yield open_
    for page in opened:
        page.close()
    assert foreign == []


@pytest.fixture(scope="module")
def pages(chromium, web):
    """Opens each page once, at 1280 x 720; every request must be for a file of the folder."""
    opened, foreign = {}, []

    def page_of(name: str):
        if name not in opened:
            page = opened[name] = chromium.new_page()
            page.on("request", lambda r: urlparse(r.url).scheme in ("file", "data", "blob") or foreign.append(r.url))
            page.goto(f"{(web / name).as_uri()}.html")
        opened[name].set_viewport_size({"width": 1280, "height": 720})
        return opened[name]

    yield page_of
    for page in opened.values():
        page.close()
    assert foreign == []


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_has_its_text(pages, name):
    page = pages(name)
    texts = page.locator(".bd-article img").evaluate_all("all => all.map(e => e.alt)")
    assert all(len(text) > 10 for text in texts)
    if name.startswith("notebooks"):
        assert len(texts) > 5 and page.locator(".bd-article img").first.evaluate("e => e.naturalWidth") > 100


@pytest.mark.parametrize("term", TERMS)
def test_the_search_finds_a_term(open_page, term):
    page = open_page("search", f"?q={term}")
    page.locator("#search-results li").first.wait_for(timeout=20_000)
    links = page.locator("#search-results li a").evaluate_all("all => all.map(e => e.href)")
    assert any("/notebooks/" in link or "/docs/" in link for link in links)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readers_find_nothing_serious_to_complain_of(pages, name, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = pages(name)
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
    options = {"resultTypes": ["violations"]}  # the default, without which Axe describes all that is right as well
    options |= {"runOnly": ["color-contrast"]} if scheme == "dark" else {}  # nothing but colors differs
    found = Axe().run(page, context=".bd-article", options=options).response["violations"]
    serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
    assert serious == []
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"web_{name.replace('/', '_')}_{scheme}.png")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [390, 320])  # a phone; 1280 pixels at 400%
def test_a_narrow_page_does_not_scroll_sideways(pages, name, width):
    page = pages(name)
    page.set_viewport_size({"width": width, "height": 800})
    wide, inside = page.evaluate("() => [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= inside + 1
    page.screenshot(path=SCREENSHOTS / f"web_{name.replace('/', '_')}_{width}.png")


def test_solutions_are_folded_until_they_are_opened_with_the_keyboard(open_page):
    page = open_page("docs/exercises")
    first = page.locator("details").first
    assert not first.evaluate("e => e.open")
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert first.evaluate("e => e.open")


def test_each_solution_leads_back_to_its_exercise(open_page):
    page = open_page("docs/exercises")
    exercises = page.locator("div.exercise").evaluate_all("all => all.map(e => e.id)")
    links = page.locator("details div.solution a[href^='#exercise-']").evaluate_all("all => all.map(e => e.hash)")
    assert len(exercises) == len(EXERCISES) and links == [f"#{name}" for name in exercises]


def test_all_links_between_pages_lead_somewhere(web):
    for path in [path for path in web.rglob("*.html") if "_static" not in path.parts]:
        for target in re.findall(r'href="([^"#?]+)', path.read_text()):
            if not re.match(r"[a-z]+:", target):
                assert (path.parent / target).exists(), (path.name, target)


PUBLIC = {  # page -> some of what it must describe
    "center": ("train.fit", "train.steps", "data.from_folder", "augment.Policy", "models.SmallCNN", "runs.load"),
    "evaluation": ("evaluation.inference.predict", "evaluation.calibration.fit_temperature"),
    "speedrun": ("speedrun.recipes.recipe", "speedrun.muon.muon"),
    "scale": ("scale.sweep.read", "scale.parallel.steps"),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_package_s_pages_describe_its_public_names(open_page, name):
    page = open_page(f"api/{name}")
    found = page.locator("dt.sig").evaluate_all("all => all.map(e => e.id)")
    assert {f"cifar_utils.{public}" for public in PUBLIC[name]} <= set(found)
    assert not [name for name in found if name.rsplit(".", 1)[1].startswith("_")]


def test_everything_is_printed_as_one_pdf(web):
    pdf = (web / "workshop.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and len(pdf) > 3e6
    pages = len(re.findall(rb"/Type ?/Page\b", pdf))
    assert pages > 60
