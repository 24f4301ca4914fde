"""The web app. Start it with `streamlit run app.py`."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import streamlit as st

from inspector.explain.memory import share_freed_memory
from inspector.ui.components import assets
from inspector.ui.components.controls import show_errors
from inspector.ui.state import keys, links, login, streamlit_fixes, top_bar
from inspector.ui.state.top_bar import Bar

streamlit_fixes.apply_streamlit_fixes()
share_freed_memory()

Read = Callable[[Bar, Callable[[], object]], Sequence[object]]


def make_page(name: str, read: Read, title: str, address: str, **settings: Any) -> st.Page:
    """Make a page.

    Args:
        name: module of inspector.ui.pages. Most of these modules import torch, which takes seconds the first time.
        read: is called with what was chosen in the bar and a function that imports the module. Returns the arguments
            of the module's function `show`.
        title: name of the page.
        address: last part of its address.
        settings: passed to st.Page.
    """
    module = f"inspector.ui.pages.{name}"

    @show_errors()
    def run() -> None:
        arguments = read(bar, lambda: import_module(module))
        import_module(module).show(*arguments)

    return st.Page(run, title=title, url_path=address, **settings)


def make_old_page(address: str, new: str, view: str | None = None) -> st.Page:
    """Make a page at an address of an earlier version. It opens the page `new`, with its part `view` chosen."""

    def open_new_page() -> None:
        link = {name: st.query_params.get_all(name) for name in st.query_params}
        st.switch_page(pages[new], query_params=link | ({keys.SUBPAGE: [view]} if view else {}))

    return st.Page(open_new_page, title=address.capitalize(), url_path=address, visibility="hidden")


# Pages have no icons: the browser would fetch the icon of a page from a host of fonts, as the icon of its tab.
pages = {
    "image": make_page("class_maps", top_bar.read_arrays, "Image", "image", default=True),
    "layers": make_page("layers", top_bar.read_selection, "Layers", "layers"),
    "compare": make_page("compare", top_bar.read_selection, "Compare", "compare"),
    "model": make_page("network", top_bar.read_network, "Model", "model"),
    "dataset": make_page("dataset", top_bar.read_network, "Dataset", "dataset"),
    "concepts": make_page("concepts", top_bar.read_bar, "Concepts", "concepts"),
    "runs": make_page("runs", top_bar.read_bar, "Training runs", "runs"),
    "about": make_page("about", top_bar.read_nothing, "About", "about"),
    "export": make_page("export", top_bar.read_selection, "Export", "export", visibility="hidden"),
}
old_pages = [
    make_old_page("channels", "layers", "channels"),
    make_old_page("methods", "compare", "methods"),
    make_old_page("network", "model"),
    make_old_page("survey", "dataset"),
    make_old_page("laboratory", "runs"),
]
page = st.navigation([*pages.values(), *old_pages], position="top")
st.set_page_config(page_title=f"{page.title} - Inspector", page_icon=assets.ICON, layout="wide")
st.logo(assets.LOGO, size="large")
st.html(assets.read_page_style())
login.require_login()
if page in old_pages:
    page.run()  # opens another page, before any widget takes its value from the link
bar = top_bar.draw_bar(pages["model"], pages["export"], pages["layers"], pages["dataset"])
page.run()
with bar.notes:
    links.show_notes()
