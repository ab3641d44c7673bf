"""Slides of the notebooks: what begins a slide, and that nothing is fetched from another host."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def make_slides(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import make_slides

    return make_slides


CELLS = {
    "slide": new_markdown_cell("# Title"),
    "skip": new_code_cell("import torch"),
    "subslide": new_markdown_cell("Some text about #5."),
    "-": new_code_cell("print(1)"),
}


def test_headings_begin_slides_code_stays_and_tags_decide(make_slides):
    assert {make_slides.slide_type(cell) for cell in CELLS.values()} == set(CELLS)
    assert all(make_slides.slide_type(cell) == kind for kind, cell in CELLS.items())
    assert make_slides.slide_type(new_code_cell("import json\n\nfor x in (1, 2):\n    print(x)\nprint(json)")) == "-"
    assert make_slides.slide_type(new_markdown_cell("What came out.\n\n## The next section")) == "slide"
    tagged = new_code_cell("print(1)", metadata={"tags": ["other", "notes"]})
    assert make_slides.slide_type(tagged) == "notes"


def test_a_page_has_its_slides_and_the_figures_alt_texts_and_loads_reveal_from_beside_it(make_slides):
    notebook = nbformat.read(ROOT / "notebooks" / "02_model.ipynb", as_version=4)
    page = make_slides.slides(notebook, "02_model")
    loaded = re.findall(r"""<(?:script|link|img)[^>]*?(?:src|href)=["']([^"']+)""", page)
    assert {"reveal.js/dist/reveal.js", "reveal.js/dist/reveal.css"} <= set(loaded)
    assert all(name.startswith(("reveal.js/", "data:")) for name in loaded)
    assert "import torch" not in page.split("<body")[1] and "A convolution, by hand" in page
    alts = [
        output.metadata["image/png"]["alt"][:40]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("metadata", {}).get("image/png")
    ]
    assert alts and all(f'alt="{alt[:20]}' in page for alt in alts)


def test_without_npm_it_says_what_to_do(make_slides, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["make_slides.py", "--output", str(tmp_path / "slides")])
    assert make_slides.main() == 1
    assert "could not be fetched with npm" in capsys.readouterr().out


def test_reveal_is_fetched_once(make_slides, tmp_path, monkeypatch):
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "reveal.js").touch()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was there"))
    make_slides.fetch_reveal(tmp_path)
