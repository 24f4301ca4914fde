"""The page Compare: networks on one photo, photos by one network, or attribution methods on one photo."""

import streamlit as st

from inspector.ui.components.controls import choose_segment
from inspector.ui.pages import compare_maps
from inspector.ui.pages.compare_maps import NETWORKS, PHOTOS
from inspector.ui.state import keys
from inspector.ui.state.top_bar import PageSelection

METHODS = "methods"  # a value in links, as are NETWORKS and PHOTOS


def show(chosen: PageSelection) -> None:
    """Draw the page."""
    _read_old_link()
    default = NETWORKS if compare_maps.list_same_classes(chosen.network) else PHOTOS
    text = "Several networks on one photo, several photos by one network, or several attribution methods on one photo."
    views = [NETWORKS, PHOTOS, METHODS]
    view = choose_segment("Compare", views, default=default, key=keys.SUBPAGE, help=text, label_visibility="collapsed")
    if view == METHODS:
        # Imported here, because Captum takes a second to import.
        from inspector.ui.pages import methods

        methods.show(chosen)
    else:
        compare_maps.show(chosen, view)


def _read_old_link() -> None:
    """Show what a link of an earlier version names: it has the parameter `compare` in place of `view`."""
    if (old := st.query_params.get(keys.OLD_COMPARE)) in (NETWORKS, PHOTOS):
        st.session_state[keys.SUBPAGE] = old
        del st.query_params[keys.OLD_COMPARE]
