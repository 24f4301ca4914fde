"""The page of class maps: a photo, a network, and which pixels brought which part of a logit."""

from collections.abc import Callable

import streamlit as st

from inspector.analysis.positions import cell_extents, find_decisions, find_winners, has_deciding_positions
from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMap, ClassMaps, FigureContent
from inspector.explain.kinds import VERDICTS
from inspector.output.overlay import common_scale
from inspector.ui.components import html, photo
from inspector.ui.components.class_list import Row, show_class_list
from inspector.ui.components.map_canvas import MapDrawing, encode_cells, make_frame, make_photo_url, show_maps
from inspector.ui.components.photo import Picture
from inspector.ui.pages import class_maps_panels
from inspector.ui.pages.network import badge
from inspector.ui.state import cache
from inspector.ui.state.selection import choose_class, choose_reading, label_classes
from inspector.ui.state.sidebar import SidebarSelection, photo_width
from inspector.ui.state.streamlit_fixes import fragment

TOP = 5
FEW_CLASSES = 20  # with more, all class maps side by side say nothing
MAP, WINNERS, WHAT_IF = "class map", "winning class", "what if"


def show(selection: SidebarSelection) -> None:
    _page(selection.maps, selection.key)


@fragment
def _page(maps: ClassMaps, key: cache.MapsKey) -> None:
    try:
        _show(maps, key)
    except InspectorError as error:
        st.error(str(error), icon=":material/error:")


def _show(maps: ClassMaps, key: cache.MapsKey) -> None:
    k, against, mode, dense, smooth, opacity = _controls(maps)
    top = [j for j, _, _ in maps.top(TOP)]
    listed = tuple(dict.fromkeys([*top, k]))
    read = {j: maps.class_map(j, against, dense) for j in listed}
    scale = common_scale([class_map.values for class_map in read.values()])
    shown = maps.figure_content(listed, against, dense, smooth, opacity)

    wide, narrow = st.columns([3, 2], gap="large")
    with wide:
        picture, below = _picture(maps, k, read, mode, scale, smooth, opacity, maps.describe_reading(dense, against))
        _photo(maps, key, picture, below, mode, k, listed, read[k], _linked())
    with narrow:
        _sum(maps, read[k])
        _predictions(maps, listed, k)
        st.caption("Download the figure, the numbers with their manifest, or everything")
        names = {"PNG": "figure.png", "PDF": "figure.pdf", "SVG": "figure.svg", "NPZ": "maps.npz"}
        _download_buttons(maps, shown, names | {"All (ZIP)": "class-maps.zip"})
    st.subheader(f"The {TOP} likeliest classes on the same scale", anchor=False)
    _side_by_side(maps, {j: read[j] for j in top}, scale, smooth, opacity)
    if len(maps.values) <= FEW_CLASSES:
        st.subheader("All class maps before pooling", anchor=False)
        st.caption("Each class's score at every position. Pooled over all positions they are the logits.")
        st.html(html.draw_all_class_maps(maps))
        _download_buttons(maps, shown, {"PNG": "all-maps.png", "PDF": "all-maps.pdf", "SVG": "all-maps.svg"})


def _controls(maps: ClassMaps) -> tuple[int, int | str | None, str, bool, bool, float]:
    """The class shown, what it is contrasted with, what the photo shows, dense or not, smooth or not, opacity."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        k = choose_class(maps)
        against = choose_reading(maps, k)
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        mode = st.segmented_control(
            "On the photo", [MAP, WINNERS, WHAT_IF], default=MAP, required=True, key="show", bind="query-params",
            label_visibility="collapsed",
            help="The class map; or at every position the class to which it gives most; or click positions away "
            "and read the logits without them.",
        )  # fmt: skip
        smooth = not st.toggle(
            "Raw grid", key="grid", bind="query-params", help="The cells as they are, not interpolated."
        )
        dense = maps.classifier.head.pooling == "max" and st.toggle(
            "Score every position", key="dense", bind="query-params",
            help="Max pooling takes one position a channel: those parts sum to the logit. Switched on, every position "
            "is scored as if it alone were pooled: easier to read, but it sums to no logit.",
        )  # fmt: skip
        opacity = st.slider("Opacity", 0.0, 1.0, 0.85, 0.05, key="opacity", width=220)
    return k, against, mode, dense, smooth, opacity


def _picture(
    maps: ClassMaps, k: int, read: dict[int, ClassMap], mode: str, scale: float, smooth: bool, opacity: float,
    reading: str,
) -> tuple[Picture, str]:  # fmt: skip
    """What the browser draws on the photo, and what explains its colours, as HTML."""
    assert maps.view is not None, "the app shows photos only"
    height, width = maps.view.photo.size
    shown = photo_width(maps.view.photo)
    side = round(shown * max(1, height / width))
    notes: list[str] = []
    note_of: list[int] = []
    how = None
    if mode == WINNERS:
        won = find_winners(maps)
        image = html.make_data_url(html.draw_winning_classes(maps, won, side, opacity))
        grids = {k: photo.Map("winning classes", won.values, None)}
        # The last note is that of NOBODY, which is -1.
        notes = [f" for {maps.classifier.class_names[j]}" for j in won.classes] + [": nobody wins"]
        place = {j: i for i, j in enumerate(won.classes)}
        note_of = [place.get(j, len(notes) - 1) for j in won.grid.flatten().tolist()]
        below = html.winners_legend(maps, won)
    else:
        image = make_photo_url(maps.view, side)
        grids = {
            j: photo.Map(f"class map: {one.title}", one.values, encode_cells(one.values, scale))
            for j, one in read.items()
        }
        how = make_frame(maps.values.shape[1:], maps.view, maps.classifier.receptive_field, side, smooth, opacity)
        below = html.colour_bar(scale, f"logits a position: {reading}")
        if has_deciding_positions(maps):
            note_of = find_decisions(maps).votes.flatten().tolist()
            notes = [f", decides {votes} channel{'' if votes == 1 else 's'}" for votes in range(max(note_of) + 1)]
    rows, columns = cell_extents(maps)
    picture = photo.Picture(
        image, grids, k, how, shown, height, width, rows, columns, "logits", notes, note_of, mode == WHAT_IF
    )  # fmt: skip
    return picture, below


@fragment
def _photo(
    maps: ClassMaps, key: cache.MapsKey, picture: Picture, below: str, mode: str, k: int, listed: tuple[int, ...],
    class_map: ClassMap, start: tuple[int, int] | None,
) -> None:  # fmt: skip
    """The photo, and what belongs to the position chosen on it: a click runs no more of the page than this."""
    chosen = photo.show_photo(picture, start, *class_maps_panels.preset(key, maps))
    _link(chosen.cell)
    st.html(below)
    if mode == WINNERS:
        st.caption(
            "The class to which each position gives the most logits, bias left out, with the number of positions where "
            "it wins."
            + (
                " Of max pooling: as if the position alone were pooled."
                if maps.classifier.head.pooling == "max"
                else ""
            )
        )
    try:
        if mode == WHAT_IF:
            class_maps_panels.what_if(maps, key, chosen.masked, listed, class_map)
        if chosen.cell is not None:
            class_maps_panels.position(maps, chosen.cell, k, listed)
    except InspectorError as error:
        st.error(str(error), icon=":material/error:")


def _linked() -> tuple[int, int] | None:
    """The position that the link names, if it names one."""
    parts = st.query_params.get("position", "").split(",")
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(part.isdecimal() for part in parts) else None


def _link(cell: tuple[int, int] | None) -> None:
    told = None if cell is None else f"{cell[0]},{cell[1]}"
    if st.query_params.get("position") == told:
        return
    if told is None:
        del st.query_params["position"]
    else:
        st.query_params["position"] = told


def _sum(maps: ClassMaps, class_map: ClassMap) -> None:
    st.subheader(class_map.title, anchor=False)
    st.markdown(f"**{class_map.equation()}** logits")
    if class_map.total is None:
        st.caption("Scores of positions sum to no logit. The parts, with the switch off, do:")
    miss = f"Largest miss over all {len(maps.values)} classes: {maps.residual:.1e} logits."
    st.markdown(
        f"{badge(maps.verdict)} {miss}",
        help="For every class, map and bias are added up and compared with the logit that the network gave. "
        f"{VERDICTS[maps.verdict].sentence}"
        + ("" if maps.backend == "eager" else f" The pass ran through {maps.backend}."),
    )


def _predictions(maps: ClassMaps, listed: tuple[int, ...], k: int) -> None:
    """The likeliest classes; choosing one switches the class."""
    labels = label_classes(maps)

    def choose(j: int) -> None:
        st.session_state["class"] = labels[j]

    rows = [Row(j, labels[j], float(maps.probabilities[j]), html.true_minus(f"{maps.logits[j]:.3f}")) for j in listed]
    show_class_list(rows, k, choose)


def _side_by_side(maps: ClassMaps, read: dict[int, ClassMap], scale: float, smooth: bool, opacity: float) -> None:
    """Several class maps over the photo on one scale, with what they add up to."""
    assert maps.view is not None, "the app shows photos only"
    how = make_frame(maps.values.shape[1:], maps.view, maps.classifier.receptive_field, 360, smooth, opacity)
    names = maps.classifier.class_names
    drawn = [
        MapDrawing(
            encode_cells(one.values, scale), f"class map of {names[j]}", names[j], f"{maps.probabilities[j]:.1%}",
            one.equation(),
        )
        for j, one in read.items()
    ]  # fmt: skip
    show_maps("the likeliest", maps.view, how, drawn)


def _download_buttons(maps: ClassMaps, shown: FigureContent, names: dict[str, str]) -> None:
    """Files of the export by label; made when pressed, and matplotlib imported only then: each takes a second."""

    def maker(name: str) -> Callable[[], bytes]:
        def make() -> bytes:
            from inspector.output import export

            return export.make_file(name, maps, shown)

        return make

    with st.container(horizontal=True, gap="small"):
        for label, name in names.items():
            st.download_button(label, maker(name), name, key=name, on_click="ignore")
