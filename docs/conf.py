"""How Sphinx builds the site of the documentation: `make docs`.

The sources are the Markdown files where they stand, so that their links lead to the same places on a code host and
on the site.
"""

from pathlib import Path

project = "Inspector"
root_doc = "docs/index"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
include_patterns = [
    *("docs/*.md", "docs/tutorials/*.ipynb", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"),
    *("benchmarks/results/*.md", "experiments/*/results/table.md"),
]
exclude_patterns = [".venv", "build", "dist", "data", "runs"]
# Tables of benchmarks have no title, and are linked from the text.
suppress_warnings = ["myst.header", "toc.not_included"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
# Outputs of tutorials are stored in them: `python docs/make_tutorials.py`. The tests run them.
nb_execution_mode = "off"

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring, napoleon_numpy_docstring = True, False

html_theme = "furo"
html_title = "Inspector"
html_copy_source = False
html_show_copyright = False
html_static_path, html_css_files = ["static"], ["site.css"]


def setup(app):  # type: ignore[no-untyped-def]  # noqa: D103
    app.connect("build-finished", _write_first_page)


def _write_first_page(app, exception):  # type: ignore[no-untyped-def]
    """Lead from the address of the site to its first page."""
    if exception is None:
        page = f'<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={root_doc}.html">'
        Path(app.outdir, "index.html").write_text(page, encoding="utf-8")
