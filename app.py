"""The web app. Start it with `streamlit run app.py`."""

from collections.abc import Callable, Sequence
from importlib import import_module

import streamlit as st

from inspector.ui.components.controls import show_errors
from inspector.ui.state import keys, sidebar, streamlit_fixes

streamlit_fixes.apply_streamlit_fixes()
st.set_page_config(page_title="Inspector: exact class maps", page_icon=":material/grid_view:", layout="wide")
# Streamlit leaves six empty lines above every page. Columns beside the sidebar are too narrow to read.
st.html(
    """<style>
    [data-testid=stMainBlockContainer] { padding-top: 4.5rem }
    [data-testid=stColumn] { min-width: min(100%, 17rem) }
    [data-testid=stColumn] [data-testid=stColumn] { min-width: min(100%, 13.5rem) }
    </style>"""
)


def make_page(name: str, read: Callable[[Callable[[], object]], Sequence[object]]) -> Callable[[], None]:
    """Return the function that draws a page.

    Args:
        name: module of inspector.ui.pages. Most of these modules import torch, which takes seconds the first time.
        read: draws the sidebar, then calls its argument, which imports the module. Returns the arguments of the
            module's function `show`.
    """
    module = f"inspector.ui.pages.{name}"

    @show_errors()
    def run() -> None:
        arguments = read(lambda: import_module(module))
        import_module(module).show(*arguments)

    return run


def make_old_page(address: str, new: int, view: str) -> st.Page:
    """Make a page at an address of an earlier version. It opens the page with index `new`, with this part chosen."""

    def open_new_page() -> None:
        link = {name: st.query_params.get_all(name) for name in st.query_params}
        st.switch_page(pages[new], query_params=link | {keys.SUBPAGE: [view]})

    return st.Page(open_new_page, title=address.capitalize(), url_path=address, visibility="hidden")


pages = [
    st.Page(
        make_page("class_maps", sidebar.read_sidebar), title="Class maps", icon=":material/grid_view:", default=True
    ),
    st.Page(make_page("layers", sidebar.read_sidebar), title="Layers", icon=":material/layers:", url_path="layers"),
    st.Page(make_page("compare", sidebar.read_sidebar), title="Compare", icon=":material/compare:", url_path="compare"),
    st.Page(make_page("export", sidebar.read_sidebar), title="Export", icon=":material/download:", url_path="export"),
    st.Page(
        make_page("network", sidebar.read_network), title="Network", icon=":material/account_tree:", url_path="network"
    ),
    st.Page(
        make_page("runs", sidebar.read_nothing), title="Training runs", icon=":material/science:", url_path="laboratory"
    ),
    st.Page(
        make_page("dataset", sidebar.read_nothing), title="Data set", icon=":material/photo_library:", url_path="survey"
    ),
]
old_pages = [make_old_page("channels", 1, "channels"), make_old_page("methods", 2, "methods")]
st.navigation([*pages, *old_pages], position="top").run()
