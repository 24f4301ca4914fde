"""The first page: the photo beside one class map, the predictions, the chosen cell, and the maps of several classes."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from inspector.analysis.positions import find_winners
from inspector.explain.class_names import label_names
from inspector.explain.map_arrays import FEW_CLASSES, FinerArrays, MapArrays
from inspector.explain.shown_map import FigureContent
from inspector.output.overlay import common_scale
from inspector.output.style import FigureStyle
from inspector.output.viewer import ViewerData, list_sent, make_viewer_data
from inspector.ui.components.controls import show_download_buttons, show_errors, show_import_of_torch
from inspector.ui.components.map_canvas import make_photo_url
from inspector.ui.components.save import show_save_menu
from inspector.ui.components.viewer import show_class_strip, show_viewer
from inspector.ui.pages.class_maps_boxes import answer_boxes
from inspector.ui.pages.class_maps_grid import ShownMaps, find_shown, list_finer
from inspector.ui.pages.class_maps_panels import answer_cell, answer_winners
from inspector.ui.pages.class_maps_saved import list_pictures
from inspector.ui.state import keys, stored_networks
from inspector.ui.state.selection import CHANNELS
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
    shown, refusal = find_shown(chosen, state)
    refused = None if refusal is None else {"finer": state.finer, "sentence": refusal}
    state = state if refused is None else state.on_grid(1)
    save_state(state, subject, labels, start_state(maps, labels))
    few = len(maps.values) <= FEW_CLASSES
    sent = range(len(maps.values)) if few else [k for k in (state.k, state.against) if k is not None and k >= 0]
    finer = list_finer(chosen, shown, list_sent([k for k, _, _ in maps.top(TOP)], sent))
    data = _make_data(maps, finer, labels, sent, _SIDE)
    channel = show_viewer(data, state, subject, refused=refused, **_collect_answers(chosen, shown, data, state))
    if channel is not None and chosen.layers_page is not None:
        st.switch_page(chosen.layers_page, query_params={keys.SUBPAGE: CHANNELS, keys.CHANNEL: str(channel)})
    listed = tuple(dict.fromkeys([state.k, *data.top]))
    _show_save_row(chosen, shown, state, listed)
    show_class_strip(_make_data(maps, finer, labels, sent, _SMALL_SIDE), state, subject, few)
    if few:
        st.caption("All class maps before pooling, as a figure")
        show_download_buttons(_ALL_MAPS_FILES, lambda name: _make_file(name, chosen, state, listed))


def _make_data(
    maps: MapArrays, finer: FinerArrays | None, labels: Sequence[str], sent: Sequence[int], side: int
) -> ViewerData:
    photo = make_photo_url(maps.view, side, maps.classifier.receptive_field.misplaced is None)
    return make_viewer_data(maps, labels, sent, photo, side, TOP, finer)


def _collect_answers(chosen: PageSelection, shown: ShownMaps, data: ViewerData, state: ViewState) -> dict[str, Any]:
    """Return what the viewer shows besides the maps, in types that JSON can store."""
    arrays = chosen.arrays
    return {
        "located": answer_boxes(chosen.key, shown, state),
        "card": _answer_cell(chosen, shown, data, state),
        "masked_outcome": _answer_mask(chosen, data, state),
        "winners": answer_winners(arrays, find_winners(arrays)) if state.view == "winning class" else None,
    }


def _answer_cell(chosen: PageSelection, shown: ShownMaps, data: ViewerData, state: ViewState) -> dict[str, Any] | None:
    """Return what the chosen cell sees and its strongest channels: without torch, if the arrays have channels."""
    if state.cell is None:
        return None
    maps = chosen.arrays if chosen.arrays.channels is not None else shown.finer or chosen.maps
    return answer_cell(maps, shown.finer, data, state)


def _answer_mask(chosen: PageSelection, data: ViewerData, state: ViewState) -> dict[str, Any] | None:
    """Return the logits without the masked cells, which the network itself computes."""
    if state.view != "what if":
        return None
    if not state.masked:
        # The user is about to mask cells, and would wait for this then.
        stored_networks.import_torch_in_background(chosen.load_accelerated)
        return None
    show_import_of_torch()
    from inspector.ui.pages.class_maps_masks import answer_mask

    return answer_mask(chosen.maps, chosen.key, data, state)


def _find_scale(shown: ShownMaps, state: ViewState, listed: Sequence[int]) -> float:
    """Return the scale of the viewer: the largest |value| of the chosen class and the top classes.

    A contrast of two classes has its own scale: the difference of two similar classes is seen, too.
    """
    compared = [state.k] if isinstance(state.contrast, int) else listed
    return common_scale([shown.class_map(k, state.contrast, state.number == "scores").values for k in compared])


def _show_save_row(chosen: PageSelection, shown: ShownMaps, state: ViewState, listed: Sequence[int]) -> None:
    """Show the menu that saves the pictures, and the buttons for the figure and its numbers."""
    scale = _find_scale(shown, state, listed)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        show_save_menu(list_pictures(chosen, shown, state, scale, listed), "viewer", "Save the picture")
        show_download_buttons(
            _FILES,
            lambda name: _make_file(name, chosen, state, listed),
            "or the figure of all top classes, its numbers",
        )


def _make_file(name: str, chosen: PageSelection, state: ViewState, listed: Sequence[int]) -> bytes:
    content = FigureContent(
        tuple(listed), state.contrast, state.number == "scores", state.smooth, state.opacity, state.factor
    )
    style = FigureStyle(colours=state.colors, gray=state.gray)
    # Imported here, because matplotlib takes a second to import, and all files but the figures need torch.
    if name in (*_FIGURES.values(), *_ALL_MAPS_FILES.values()):
        from inspector.output.class_map_files import make_figure_file

        return make_figure_file(name, chosen.find_maps(content), content, style)
    from inspector.output.export import make_file

    return make_file(name, chosen.maps if state.factor == 1 else chosen.compute_finer(state.factor), content, style)
