"""Read the front end: the JavaScript, CSS and HTML of the components, and the templates of HTML fragments."""

import re
from pathlib import Path
from typing import Any

import streamlit as st

from inspector.output.templates import make_environment

_FOLDER = Path(__file__).parent / "frontend"
ICON, LOGO = (str(Path(__file__).parents[1] / "assets" / name) for name in ("icon.png", "logo.svg"))
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)


def make_component(name: str, *styles: str) -> Any:
    """Register a Streamlit component made of frontend/NAME.html, NAME.css and NAME.js, and of more files of styles.

    Returns:
        Function that shows it, with the arguments of Streamlit's component. Its JavaScript gets `data` as [data].
    """
    component = st.components.v2.component(
        f"inspector.{name}",
        html=_read(f"{name}.html"),
        css="\n".join(_read(file) for file in (*styles, f"{name}.css")),
        js=bundle_javascript(f"{name}.js"),
        isolate_styles=False,
    )
    # Streamlit imports pandas, which takes half a second, to look for tables in a dict, but not in a tuple.
    return lambda data, **settings: component(data=(data,), **settings)


def bundle_javascript(name: str) -> str:
    """Join a module of frontend/ with the modules that it imports.

    Streamlit takes the JavaScript of a component as one string, which cannot import files. So the imported modules are
    placed before the module, without their ``export``. All top-level names of these modules have to differ.
    """
    modules: dict[str, str] = {}

    def add(file: str) -> None:
        if file not in modules:
            text = _read(file)
            for imported in _IMPORT.findall(text):
                add(imported)
            modules[file] = _IMPORT.sub("", text)

    add(name)
    *imported, entry = modules.values()
    return "\n".join([*(re.sub(r"^export ", "", text, flags=re.MULTILINE) for text in imported), entry])


def read_page_style() -> str:
    """Return the style of all pages as an HTML element."""
    style = _read("page.css")
    return f"<style>{style}</style>"


def render_fragment(name: str, **values: Any) -> str:
    """Fill in a template of frontend/ and return the HTML. Every value is escaped."""
    return make_environment("inspector.ui.components", "frontend").get_template(name).render(values)


def _read(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")
