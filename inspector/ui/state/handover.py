"""What one page shows is what the next one begins with: class, contrast, colors and grid.

The pages Image, Layers, Compare and Export show class maps of the photo and the network of the bar. A page that is
opened takes over what the page before it showed, unless its link says otherwise, and hands on what it shows itself.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.errors import StreamlitAPIException

from inspector.output.viewer import MEAN
from inspector.ui.state import keys
from inspector.ui.state.selection import AVERAGE, CLASS, LOGIT, label_classes
from inspector.ui.state.view_state import SavedState, ViewState, fit_state, name_subject, start_photo, start_state

if TYPE_CHECKING:
    from inspector.ui.state.top_bar import PageSelection


def take_over(chosen: "PageSelection", page: str, widgets: Sequence[str]) -> None:
    """Give the widgets of a page that was just opened the values of the page before. What the link says comes first.

    Args:
        chosen: the class maps of the page.
        page: name of the page.
        widgets: keys of its widgets. The first one is always on the page.
    """
    saved: SavedState | None = st.session_state.get(keys.VIEW_STATE)
    is_opened = st.session_state.get(keys.SHOWN_PAGE) != page or widgets[0] not in st.session_state
    st.session_state[keys.SHOWN_PAGE] = page
    if saved is None or not is_opened:
        return
    values = _list_values(chosen, _read(chosen, saved))
    usual = _list_values(chosen, _start_without_link(chosen)) | {keys.FIGURE_CLASSES: []}
    for key in widgets:
        value = values[key]
        if key in st.query_params:
            continue
        if value is None or value == usual[key]:
            st.session_state.pop(key, None)  # the widget begins with this value itself
            continue
        st.session_state[key] = value
        # A widget that takes its value from the session does not write it into the link. If another part of the page
        # had this widget, Streamlit writes the link and refuses ours.
        with suppress(StreamlitAPIException):
            st.query_params[key] = str(value).lower() if isinstance(value, bool | float) else value


def _start_without_link(chosen: "PageSelection") -> ViewState:
    """Return what the widgets show without a link: the top-1 class and no contrast."""
    return ViewState(chosen.arrays.top(1)[0][0])


def hand_on(chosen: "PageSelection", **changes: Any) -> None:
    """Keep what a page shows for the page that is opened next.

    Args:
        chosen: the class maps of the page.
        changes: the fields of ViewState that the page shows.
    """
    saved: SavedState | None = st.session_state.get(keys.VIEW_STATE)
    labels = label_classes(chosen.arrays)
    before = _start_without_link(chosen) if saved is None else _read(chosen, saved)
    if "against" in changes and changes["against"] == "average":
        changes["against"] = MEAN
    # The chosen cell is where it was, on the grid that the page shows.
    before = before.on_grid(changes.get("finer", before.finer))
    state = fit_state(replace(before, **changes), chosen.arrays)
    st.session_state[keys.VIEW_STATE] = SavedState(name_subject(chosen.key, chosen.arrays), tuple(labels), state)


def _read(chosen: "PageSelection", saved: SavedState) -> ViewState:
    """Return what was shown last; for another photo or network, what it begins with."""
    labels = label_classes(chosen.arrays)
    if saved.subject == name_subject(chosen.key, chosen.arrays):
        return fit_state(saved.state, chosen.arrays)
    return fit_state(start_photo(saved, start_state(chosen.arrays, labels), labels), chosen.arrays)


def _list_values(chosen: "PageSelection", state: ViewState) -> dict[str, Any]:
    """Return a state as the values of widgets, by their keys."""
    names, labels = chosen.arrays.classifier.class_names, label_classes(chosen.arrays)
    top = chosen.arrays.top(1)[0][0]
    name = None if state.k == top and not state.pinned else labels[state.k]
    return {
        keys.CLASS: name,
        **{keys.compared_class(mode): None if name is None else names[state.k] for mode in ("networks", "photos")},
        keys.FIGURE_CLASSES: [labels[state.k]],
        keys.READING: {None: LOGIT, MEAN: AVERAGE}.get(state.against, CLASS),
        keys.AGAINST: None if state.against in (None, MEAN) else labels[state.against],
        keys.FINER: state.finer,
        keys.RAW_GRID: not state.smooth,
        keys.POSITION_SCORES: state.number == "scores",
        keys.COLORMAP: state.colors,
        keys.FIGURE_OPACITY: state.opacity,
        keys.GRAY: state.gray,
    }
