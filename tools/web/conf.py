"""Sphinx's settings of the web edition, which tools/make_web.py builds."""

import re

SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:")

project = "The CIFAR-10 workshop"
copyright = "its authors, MIT license"
extensions = ["myst_nb", "sphinx_exercise", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
napoleon_use_ivar = True
html_theme = "sphinx_book_theme"
html_title = project
nb_execution_mode = "off"  # the pages show the outputs that are committed
myst_heading_anchors = 3
myst_enable_extensions = []
suppress_warnings = ["toc.not_included"]  # tables that pages link to
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "use_fullscreen_button": False}
html_theme_options |= {"navbar_persistent": []}  # one field for the search is enough
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["workshop.css"]
html_js_files = ["workshop.js"]


def as_restructured_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings are plain text with `code` in backticks, and with indented lines of code: says so in Sphinx's way."""
    found, heading, in_code = [], "", False
    for line in lines:
        if line and not line.startswith(" "):
            heading, in_code = line.strip(), False
        if line.startswith("    ") and heading not in SECTIONS:
            if not in_code:
                found += ["", "::", ""]
            in_code = True
        if not in_code:
            parts = re.split(r"(`[^`]+`)", line.replace("\\", r"\\"))
            line = "".join(f"`{p}`" if p.startswith("`") else re.sub(r"[*`|]|_\b", r"\\\g<0>", p) for p in parts)
        found.append(line)
    lines[:] = found


def setup(app) -> None:
    app.connect("autodoc-process-docstring", as_restructured_text, priority=100)  # before the sections are read
