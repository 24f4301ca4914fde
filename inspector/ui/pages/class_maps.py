"""The page Class maps: the class map of one photo by one network, over the photo and in numbers."""

import re
from typing import Any

import streamlit as st

from inspector.analysis.positions import find_decisions, find_winners, has_deciding_cells
from inspector.explain.class_maps import ClassMap, ClassMaps
from inspector.explain.grid import cell_extents
from inspector.explain.kinds import VERDICTS
from inspector.output.overlay import common_scale
from inspector.output.text import format_number
from inspector.ui.components import html, photo
from inspector.ui.components.class_list import Row, show_class_list
from inspector.ui.components.controls import choose_segment, show_download_buttons, show_errors, verdict_badge
from inspector.ui.components.map_canvas import MapDrawing, encode_cells, make_class_map_frame, make_photo_url, show_maps
from inspector.ui.components.markdown import plain
from inspector.ui.pages import class_maps_panels
from inspector.ui.pages.class_maps_panels import Cell, ShownMaps
from inspector.ui.state import cache, keys
from inspector.ui.state import selection as choices
from inspector.ui.state.selection import MapSelection, View
from inspector.ui.state.sidebar import SidebarSelection, photo_width
from inspector.ui.state.streamlit_fixes import fragment

TOP = 5
FEW_CLASSES = 20  # with more classes, all class maps side by side are too many to read
MAP: View = "class map"
WINNERS: View = "winning class"
WHAT_IF: View = "what if"
_SIDE = 360  # longer side of the small maps, in pixels
_FIGURES = {"PNG": "figure.png", "PDF": "figure.pdf", "SVG": "figure.svg"}
_FILES = _FIGURES | {"NPZ": "maps.npz", "All (ZIP)": "class-maps.zip"}
_ALL_MAPS_FILES = {"PNG": "all-maps.png", "PDF": "all-maps.pdf", "SVG": "all-maps.svg"}


@fragment
@show_errors()
def show(chosen: SidebarSelection) -> None:
    """Draw the page."""
    shown = _choose(chosen.maps, chosen.key)
    maps, selection = shown.maps, shown.selection
    content = maps.figure_content(
        shown.listed, selection.against, dense=selection.dense, smooth=selection.smooth, opacity=selection.opacity
    )

    def make_file(name: str) -> bytes:
        # Imported here, because matplotlib takes a second to import.
        from inspector.output import export

        return export.make_file(name, maps, content)

    wide, narrow = st.columns([3, 2], gap="large")
    with wide:
        picture, legend = _draw_winners(shown) if selection.view == WINNERS else _draw_map(shown)
        _show_photo(shown, picture, legend, _read_cell_of_link())
    with narrow:
        _show_sum(maps, shown.class_maps[selection.k])
        _show_predictions(maps, shown.listed, selection.k)
        st.caption("Download the figure (PNG, PDF, SVG), the numbers (NPZ), or everything")
        show_download_buttons(_FILES, make_file)
    st.subheader(f"The top {TOP} classes on one scale", anchor=False)
    _show_side_by_side(shown, [j for j, _, _ in maps.top(TOP)])
    if len(maps.values) <= FEW_CLASSES:
        st.subheader("All class maps before pooling", anchor=False)
        st.caption("The score of each class in each cell. Pooled over all cells, the scores give the logits.")
        st.html(html.draw_all_class_maps(maps))
        show_download_buttons(_ALL_MAPS_FILES, make_file)


def _choose(maps: ClassMaps, key: cache.MapsKey) -> ShownMaps:
    """Show the controls, and compute what the page shows."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        k = choices.choose_class(maps)
        against = choices.choose_reading(maps, k)
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        view = choose_segment(
            "Shown on the photo",
            [MAP, WINNERS, WHAT_IF],
            key=keys.VIEW,
            label_visibility="collapsed",
            help="Class map: what each cell adds to the logit. Winning class: the class to which each cell adds most. "
            "What if: click cells to mask them, and read the logits without them.",
        )
        smooth = choices.choose_interpolation()
        dense = choices.choose_position_scores(maps)
        opacity = st.slider("Opacity", 0.0, 1.0, 0.85, 0.05, key=keys.OPACITY, width=220)
    listed = tuple(dict.fromkeys([*(j for j, _, _ in maps.top(TOP)), k]))
    class_maps = {j: maps.class_map(j, against, dense) for j in listed}
    scale = common_scale([class_map.values for class_map in class_maps.values()])
    extents = cell_extents(maps.values.shape[1:], cache.get_view(maps).crop, maps.classifier.receptive_field)
    decisions = find_decisions(maps) if has_deciding_cells(maps) else None
    selection = MapSelection(k, against, dense, view, smooth, opacity, scale)
    return ShownMaps(maps, key, selection, listed, class_maps, *extents, decisions)


def _draw_map(shown: ShownMaps) -> tuple[photo.Picture, str]:
    """Return what the browser needs to draw the class maps over the photo, and their color bar as HTML."""
    maps, selection = shown.maps, shown.selection
    side = _longer_side(maps)
    grids = {
        j: photo.PhotoMap(f"class map: {one.title}", one.values, encode_cells(one.values, selection.scale))
        for j, one in shown.class_maps.items()
    }
    frame = make_class_map_frame(maps, side, selection.smooth, selection.opacity)
    notes, note_of = [], []
    if shown.decisions is not None:
        note_of = shown.decisions.votes.flatten().tolist()
        notes = [f", maximum of {votes} channel{'' if votes == 1 else 's'}" for votes in range(max(note_of) + 1)]
    image = make_photo_url(cache.get_view(maps), side, frame.on_photo)
    unit = maps.describe_reading(selection.dense, selection.against)
    picture = _make_picture(shown, image=image, maps=grids, frame=frame, notes=notes, note_of=note_of)
    return picture, html.make_color_bar(selection.scale, unit)


def _draw_winners(shown: ShownMaps) -> tuple[photo.Picture, str]:
    """Return the photo with each cell in the color of its winning class, and the legend as HTML."""
    maps = shown.maps
    winners = find_winners(maps)
    image = html.make_data_url(html.draw_winning_classes(maps, winners, _longer_side(maps), shown.selection.opacity))
    grids = {shown.selection.k: photo.PhotoMap("winning classes", winners.values, None)}
    # The last note is for cells in which all classes have the same value: the grid has the class -1 there.
    notes = [f" for {maps.classifier.class_names[j]}" for j in winners.classes] + [": no class wins"]
    place = {j: i for i, j in enumerate(winners.classes)}
    note_of = [place.get(j, len(notes) - 1) for j in winners.grid.flatten().tolist()]
    picture = _make_picture(shown, image=image, maps=grids, frame=None, notes=notes, note_of=note_of)
    return picture, html.make_class_legend(maps, winners)


def _longer_side(maps: ClassMaps) -> int:
    """Return the longer side of the photo as it is drawn, in pixels."""
    photo = cache.get_view(maps).photo
    height, width = photo.size
    return round(photo_width(photo) * max(1, height / width))


def _make_picture(shown: ShownMaps, **drawn: Any) -> photo.Picture:
    """Make a picture from `drawn` and the fields that class maps and winning classes have in common."""
    seen = cache.get_view(shown.maps).photo
    return photo.Picture(
        k=shown.selection.k,
        css_width=photo_width(seen),
        height=seen.size[0],
        width=seen.size[1],
        rows=shown.rows,
        columns=shown.columns,
        unit=shown.maps.classifier.meaning.units,
        masking=shown.selection.view == WHAT_IF,
        **drawn,
    )


@fragment
def _show_photo(shown: ShownMaps, picture: photo.Picture, legend: str, start: Cell | None) -> None:
    """Show the photo, and the numbers of the cell chosen on it. A click runs only this part of the page."""
    view, pooling = shown.selection.view, shown.maps.classifier.head.pooling
    chosen = photo.show_photo(picture, start, *class_maps_panels.read_mask(shown))
    _write_cell_to_link(chosen.cell)
    st.html(legend)
    if view == WINNERS:
        note = " With max pooling, each cell is scored as if it alone were pooled." if pooling == "max" else ""
        st.caption(
            "The class to which each cell adds the most, without the bias, and the number of cells where each class "
            f"wins.{note}"
        )
    with show_errors():
        if view == WHAT_IF:
            class_maps_panels.show_what_if(shown, chosen.masked)
        if chosen.cell is not None:
            class_maps_panels.show_cell(shown, chosen.cell)


def _read_cell_of_link() -> Cell | None:
    found = re.fullmatch(r"(\d{1,9}),(\d{1,9})", st.query_params.get(keys.CELL, ""))
    return (int(found[1]), int(found[2])) if found else None


def _write_cell_to_link(cell: Cell | None) -> None:
    text = None if cell is None else f"{cell[0]},{cell[1]}"
    if st.query_params.get(keys.CELL) == text:
        return
    if text is None:
        del st.query_params[keys.CELL]
    else:
        st.query_params[keys.CELL] = text


def _show_sum(maps: ClassMaps, class_map: ClassMap) -> None:
    """Show the sum of the map and the bias, the verdict and the residual."""
    st.subheader(plain(class_map.title), anchor=False)
    meaning = maps.classifier.meaning
    st.markdown(f"**{class_map.equation()}** {plain(meaning.units)}")
    if class_map.total is None:
        st.caption(
            f"These scores do not sum to the {meaning.quantity}. With *Score every cell* off, the contributions do:"
        )
    if meaning.quantity != "logit":
        st.caption(plain(meaning.sentence(len(maps.values))))
    units = plain(meaning.units)
    residual = f"Largest residual over all {len(maps.values)} classes: {maps.residual:.1e} {units}."
    backend = "" if maps.backend == "eager" else f" The forward pass ran through {maps.backend}."
    st.markdown(
        f"{verdict_badge(maps.verdict)} {residual}",
        help=f"For every class, the sum of map and bias is compared with the {meaning.quantity} of the network. "
        f"{VERDICTS[maps.verdict].sentence}{backend}",
    )


def _show_predictions(maps: ClassMaps, listed: tuple[int, ...], k: int) -> None:
    """List the top classes. Choosing one of them changes the class of the page."""
    labels = choices.label_classes(maps)

    def choose(j: int) -> None:
        st.session_state[keys.CLASS] = labels[j]

    meaning = maps.classifier.meaning
    rows = [
        Row(
            j,
            labels[j],
            float(maps.probabilities[j]) if meaning.has_probabilities else None,
            format_number(float(maps.logits[j]), ".3f"),
        )
        for j in listed
    ]
    show_class_list(rows, k, choose, meaning.quantity)


def _show_side_by_side(shown: ShownMaps, classes: list[int]) -> None:
    """Show the maps of several classes over the photo on one scale, with their sums."""
    maps, selection = shown.maps, shown.selection
    frame = make_class_map_frame(maps, _SIDE, selection.smooth, selection.opacity)
    names = maps.classifier.class_names
    drawings = [
        MapDrawing(
            encode_cells(shown.class_maps[j].values, selection.scale),
            f"class map of {names[j]}",
            names[j],
            maps.outcome(j),
            shown.class_maps[j].equation(),
        )
        for j in classes
    ]
    show_maps(keys.TOP_MAPS, cache.get_view(maps), frame, drawings)
