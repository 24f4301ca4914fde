"""The first page: the photo beside one class map, the predictions, the chosen cell, and the maps of several classes."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from inspector.explain.kinds import VERDICTS
from inspector.explain.map_arrays import FEW_CLASSES, MapArrays
from inspector.output.overlay import common_scale
from inspector.output.style import FigureStyle
from inspector.output.viewer import ViewerData, make_viewer_data
from inspector.ui.components.controls import show_download_buttons, show_errors
from inspector.ui.components.map_canvas import make_photo_url
from inspector.ui.components.save import show_save_menu
from inspector.ui.components.viewer import show_class_strip, show_viewer
from inspector.ui.pages.class_maps_saved import list_pictures
from inspector.ui.state import keys
from inspector.ui.state.selection import CHANNELS, label_names
from inspector.ui.state.streamlit_fixes import fragment
from inspector.ui.state.top_bar import PageSelection
from inspector.ui.state.view_state import ViewState, name_subject, read_state, save_state, start_state

TOP = 5
_SIDE, _SMALL_SIDE = 800, 360  # longer sides of the map and of the small maps, in pixels
_FIGURES = {"PNG": "figure.png", "PDF": "figure.pdf", "SVG": "figure.svg"}
_FILES = _FIGURES | {"NPZ": "maps.npz", "All (ZIP)": "class-maps.zip"}
_ALL_MAPS_FILES = {"PNG": "all-maps.png", "PDF": "all-maps.pdf", "SVG": "all-maps.svg"}


@fragment
@show_errors()
def show(chosen: PageSelection) -> None:
    """Draw the page."""
    maps, labels = chosen.arrays, label_names(chosen.arrays.classifier.class_names)
    subject = name_subject(chosen.key, maps)
    state = read_state(maps, subject, labels)
    save_state(state, subject, labels, start_state(maps, labels))
    few = len(maps.values) <= FEW_CLASSES
    sent = range(len(maps.values)) if few else [k for k in (state.k, state.against) if k is not None and k >= 0]
    data = _make_data(maps, labels, sent, _SIDE)
    channel = show_viewer(data, state, subject, **_collect_answers(chosen, data, state))
    if channel is not None and chosen.layers_page is not None:
        st.switch_page(chosen.layers_page, query_params={keys.SUBPAGE: CHANNELS, keys.CHANNEL: str(channel)})
    listed = tuple(dict.fromkeys([state.k, *data.top]))
    _show_save_row(chosen, state, listed, _find_scale(maps, state, listed))
    show_class_strip(_make_data(maps, labels, sent, _SMALL_SIDE), state, subject, few)
    if few:
        st.caption("All class maps before pooling, as a figure")
        show_download_buttons(_ALL_MAPS_FILES, lambda name: _make_file(name, chosen, state, listed))


def _make_data(maps: MapArrays, labels: Sequence[str], sent: Sequence[int], side: int) -> ViewerData:
    photo = make_photo_url(maps.view, side, maps.classifier.receptive_field.misplaced is None)
    return make_viewer_data(maps, labels, sent, photo, side, TOP)


def _collect_answers(chosen: PageSelection, data: ViewerData, state: ViewState) -> dict[str, Any]:
    """Return what the viewer shows besides the maps, in types that JSON can store."""
    maps = chosen.arrays
    note_of = [] if maps.maxima is None else maps.maxima.flatten().tolist()
    votes = range(max(note_of, default=-1) + 1)
    verdict = VERDICTS[maps.verdict]
    backend = "" if maps.backend == "eager" else f" The forward pass ran through {maps.backend}."
    return {
        "notes": [f", maximum of {count} channel{'' if count == 1 else 's'}" for count in votes],
        "note_of": note_of,
        "verdict_color": verdict.color,
        "verdict_sentence": f"{verdict.sentence} {maps.classifier.meaning.sentence(len(maps.values))}{backend}",
        **_ask_network(chosen, data, state),
    }


def _ask_network(chosen: PageSelection, data: ViewerData, state: ViewState) -> dict[str, Any]:
    """Return what needs the network itself: the chosen cell, the masked cells, the winning classes."""
    if state.cell is None and state.view != "winning class" and not (state.masked and state.view == "what if"):
        return {"card": None, "masked_outcome": None, "winners": None}
    # Imported here, because these modules import torch, which takes seconds.
    from inspector.analysis.positions import find_winners
    from inspector.ui.pages.class_maps_panels import answer_cell, answer_mask, answer_winners

    maps = chosen.maps
    return {
        "card": answer_cell(maps, data, state),
        "masked_outcome": answer_mask(maps, chosen.key, data, state),
        "winners": answer_winners(maps, find_winners(maps)) if state.view == "winning class" else None,
    }


def _find_scale(maps: MapArrays, state: ViewState, listed: Sequence[int]) -> float:
    """Return the scale of the viewer: the largest |value| of the chosen class and the top classes.

    A contrast of two classes has its own scale: the difference of two similar classes is seen, too.
    """
    compared = [state.k] if isinstance(state.contrast, int) else listed
    return common_scale([maps.class_map(k, state.contrast, state.number == "scores").values for k in compared])


def _show_save_row(chosen: PageSelection, state: ViewState, listed: Sequence[int], scale: float) -> None:
    """Show the menu that saves the pictures, and the buttons for the figure and its numbers."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        show_save_menu(list_pictures(chosen, state, scale, listed), "viewer", "Save the picture")
        show_download_buttons(
            _FILES,
            lambda name: _make_file(name, chosen, state, listed),
            "or the figure of all top classes, its numbers",
        )


def _make_file(name: str, chosen: PageSelection, state: ViewState, listed: Sequence[int]) -> bytes:
    # Imported here, because matplotlib takes a second to import.
    from inspector.output import export

    maps = chosen.maps
    content = maps.figure_content(
        listed, state.contrast, dense=state.number == "scores", smooth=state.smooth, opacity=state.opacity
    )
    return export.make_file(name, maps, content, FigureStyle(colours=state.colors, gray=state.gray))
