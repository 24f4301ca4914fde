"""Read the app's own front end: the JavaScript, CSS and HTML of its components, and the templates of HTML fragments."""

from pathlib import Path
from typing import Any

import streamlit as st

from inspector.output.frontend import bundle_javascript, read_frontend
from inspector.output.templates import make_environment

FOLDER = Path(__file__).parent / "frontend"
ICON, LOGO = (str(Path(__file__).parents[1] / "assets" / name) for name in ("icon.png", "logo.svg"))


def make_component(name: str, *styles: str) -> Any:
    """Register a Streamlit component made of frontend/NAME.html, NAME.css and NAME.js, and of more files of styles.

    Its files may lie in the folder of the viewer, too, which output/frontend.py reads.

    Returns:
        Function that shows it, with the arguments of Streamlit's component. Its JavaScript gets `data` as [data].
    """
    component = st.components.v2.component(
        f"inspector.{name}",
        html=_read(f"{name}.html"),
        css="\n".join(_read(file) for file in (*styles, f"{name}.css")),
        # Streamlit takes the JavaScript of a component as one string, which cannot import files.
        js=bundle_javascript(f"{name}.js", FOLDER),
        isolate_styles=False,
    )
    # Streamlit imports pandas, which takes half a second, to look for tables in a dict, but not in a tuple.
    return lambda data, **settings: component(data=(data,), **settings)


def read_page_style() -> str:
    """Return the style of all pages as an HTML element."""
    style = _read("page.css")
    return f"<style>{style}</style>"


def render_fragment(name: str, **values: Any) -> str:
    """Fill in a template of frontend/ and return the HTML. Every value is escaped."""
    return make_environment("inspector.ui.components", "frontend").get_template(name).render(values)


def _read(name: str) -> str:
    return read_frontend(name, FOLDER)
