"""The web app. Start it with `streamlit run app.py`."""

from collections.abc import Callable, Sequence
from importlib import import_module

import streamlit as st

from inspector.ui.components.controls import show_errors
from inspector.ui.state import sidebar, streamlit_fixes

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


pages = [
    st.Page(
        make_page("class_maps", sidebar.read_sidebar), title="Class maps", icon=":material/grid_view:", default=True
    ),
    st.Page(make_page("layers", sidebar.read_sidebar), title="Layers", icon=":material/layers:", url_path="layers"),
    st.Page(
        make_page("channels", sidebar.read_sidebar), title="Channels", icon=":material/bar_chart:", url_path="channels"
    ),
    st.Page(make_page("compare", sidebar.read_network), title="Compare", icon=":material/compare:", url_path="compare"),
    st.Page(make_page("export", sidebar.read_sidebar), title="Export", icon=":material/download:", url_path="export"),
    st.Page(make_page("methods", sidebar.read_sidebar), title="Methods", icon=":material/balance:", url_path="methods"),
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
st.navigation(pages, position="top").run()
