"""Fixtures of the widgets' tests: Chromium, and a JupyterLab. Screenshots are left in build/screenshots."""

import os

import pytest
from lab import FLAGS, Lab, Notebook, find_chromium


def missing(reason: str):
    """Skips, or fails where a browser is required, as in CI."""
    (pytest.fail if os.environ.get("CIFAR_BROWSER") == "required" else pytest.skip)(reason)


@pytest.fixture(scope="session")
def chromium():
    path = find_chromium()
    if path is None:
        missing("no Chromium: install it (on Debian: apt-get install chromium) or name it in CIFAR_CHROMIUM")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        missing("playwright is not installed: pip install -e '.[browser]'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    """A server, and a folder of runs, for the tests of one file."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture
def open_notebook(chromium, lab):
    """Opens a notebook by name, and closes it after the test."""
    opened = []

    def open_(name: str) -> Notebook:
        opened.append(Notebook(chromium, lab, name))
        return opened[-1]

    yield open_
    for notebook in opened:
        if not notebook.page.is_closed():
            notebook.close()
