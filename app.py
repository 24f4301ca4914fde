"""The app: `streamlit run app.py`."""

import streamlit as st

from inspector.ui.pages import channels, class_maps, compare, dataset, export, layers, methods, network, runs
from inspector.ui.state import streamlit_fixes

streamlit_fixes.apply_streamlit_fixes()
st.set_page_config(page_title="Inspector: exact class maps", page_icon=":material/grid_view:", layout="wide")
# Streamlit leaves six empty lines above every page, and beside the sidebar columns too narrow to read.
st.html(
    """<style>
    [data-testid=stMainBlockContainer] { padding-top: 4.5rem }
    [data-testid=stColumn] { min-width: min(100%, 17rem) }
    [data-testid=stColumn] [data-testid=stColumn] { min-width: min(100%, 13.5rem) }
    </style>"""
)
pages = [
    st.Page(class_maps.show, title="Class maps", icon=":material/grid_view:", default=True),
    st.Page(layers.show, title="Layers", icon=":material/layers:", url_path="layers"),
    st.Page(channels.show, title="Channels", icon=":material/bar_chart:", url_path="channels"),
    st.Page(compare.show, title="Compare", icon=":material/compare:", url_path="compare"),
    st.Page(export.show, title="Export", icon=":material/download:", url_path="export"),
    st.Page(methods.show, title="Methods", icon=":material/balance:", url_path="methods"),
    st.Page(network.show, title="Network", icon=":material/account_tree:", url_path="network"),
    st.Page(runs.show, title="Laboratory", icon=":material/science:", url_path="laboratory"),
    st.Page(dataset.show, title="Data set", icon=":material/photo_library:", url_path="survey"),
]
st.navigation(pages, position="top").run()
