"""The slides in a browser, from the disk and without a network."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm fetches reveal.js")
def test_the_slides_turn_without_a_network(chromium, tmp_path):
    command = [sys.executable, ROOT / "tools" / "make_slides.py", "--output", tmp_path]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    context = chromium.new_context(offline=True, viewport={"width": 1280, "height": 720})
    for notebook in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        page = context.new_page()
        errors, fetched = [], []
        page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        page.on("request", lambda request, fetched=fetched: fetched.append(request.url))
        page.goto((tmp_path / f"{notebook.stem}.html").as_uri())
        page.wait_for_function("window.Reveal && Reveal.isReady()")
        count = page.evaluate("Reveal.getTotalSlides()")
        assert count > 8
        for _ in range(count - 1):
            page.keyboard.press("Space")
        assert page.evaluate("Reveal.isLastSlide()")
        elsewhere = [url for url in fetched if not url.startswith(("file:", "data:"))]
        assert fetched and (errors, elsewhere) == ([], [])
        page.close()
    context.close()
