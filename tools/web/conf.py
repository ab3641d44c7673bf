"""Sphinx's settings of the web edition, which tools/make_web.py builds."""

project = "The CIFAR-10 workshop"
copyright = "its authors, MIT license"
extensions = ["myst_nb"]
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
