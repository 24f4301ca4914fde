"""The page of export: a figure for a paper, built while one looks at it, and everything that goes with it."""

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMaps, FigureContent
from inspector.output.figure import COLORMAPS, DEFAULT_STYLE, MM, PANELS, FigureStyle
from inspector.ui.state import cache
from inspector.ui.state.selection import choose_reading, label_classes
from inspector.ui.state.sidebar import SidebarSelection
from inspector.ui.state.streamlit_fixes import fragment

FILES = {
    "PNG": "figure.png",
    "PDF": "figure.pdf",
    "SVG": "figure.svg",
    "Report (HTML)": "report.html",
    "Logits (CSV)": "logits.csv",
    "Maps (CSV)": "contributions.csv",
    "Numbers (NPZ)": "maps.npz",
    "All (ZIP)": "class-maps.zip",
}
_DOTS = 120  # an inch, in the preview and on the screen


def show(selection: SidebarSelection) -> None:
    _builder(selection.maps, selection.key)


@fragment
def _builder(maps: ClassMaps, key: cache.MapsKey) -> None:
    try:
        _build(maps, key)
    except InspectorError as error:
        st.error(str(error), icon=":material/error:")


def _build(maps: ClassMaps, key: cache.MapsKey) -> None:
    shown = _choose_maps(maps)
    wide, narrow = st.columns([3, 2], gap="large")
    with narrow:
        downloads = st.container()
        style = _choose_style()
    with wide, st.spinner("Drawing the figure ..."):
        # Here and not when a button is pressed, where nobody would see what is wrong.
        image, inches = cache.figure_preview(
            repr((key, shown, style)), maps, shown, replace(style, dpi=_DOTS), style.dpi
        )
    with wide:
        st.image(image, width=round(inches[0] * _DOTS), output_format="PNG", alt="preview of the figure")
        (width, height), dots = (round(25.4 * side) for side in inches), [round(style.dpi * side) for side in inches]
        st.caption(f"{width} x {height} mm; as PNG {dots[0]} x {dots[1]} pixels. PDF and SVG are as sharp as you zoom.")
    with downloads:
        st.subheader("Take it away", anchor=False)
        _download_buttons(maps, shown, style)
        st.caption(
            "The ZIP holds all of it with the photo and a manifest: `inspector rebuild class-maps.zip -o FOLDER` makes "
            "the same figure, or says which network, photo or version differs."
        )


def _choose_maps(maps: ClassMaps) -> FigureContent:
    labels = label_classes(maps)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        classes = st.multiselect(
            "Classes", labels, key="classes", bind="query-params", width=420, max_selections=20,
            placeholder="the likeliest", help="Type to search. Empty: as many of the likeliest as is said beside it.",
        )  # fmt: skip
        count = st.number_input(
            "Likeliest", 1, 12, 5, key="likeliest", bind="query-params", width=130,
            disabled=bool(classes),
        )  # fmt: skip
        chosen = tuple(labels.index(label) for label in classes)
        against = choose_reading(maps, chosen[0] if chosen else maps.top(1)[0][0])
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        smooth = not st.toggle(
            "Raw grid", key="grid", bind="query-params", help="The cells as they are, not interpolated."
        )
        dense = maps.classifier.head.pooling == "max" and st.toggle(
            "Score every position", key="dense", bind="query-params",
            help="Every position as if it alone were pooled: easier to read, but it sums to no logit.",
        )  # fmt: skip
        opacity = st.slider("Opacity", 0.0, 1.0, 0.85, 0.05, key="figure_opacity", bind="query-params", width=220)
    return maps.figure_content(chosen or count, against, dense, smooth, opacity)


def _choose_style() -> FigureStyle:
    st.subheader("What it looks like", anchor=False)
    panels = st.pills(
        "Panels", PANELS, selection_mode="multi", default=DEFAULT_STYLE.panels, key="panels", bind="query-params",
        width="stretch",
        help="A contrast shows what speaks for the first class and against the second. All class maps are drawn as "
        "their raw grids, before pooling; for networks with few classes.",
    )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        width = st.number_input(
            "Width", 0.0, None, None, 1.0, format="%g", placeholder="as needed", key="width", bind="query-params",
            width=150,
            help="A column of a journal is often 89 mm (3.5 in) wide, a page 183 mm (7.2 in). The height follows.",
        )  # fmt: skip
        unit = st.segmented_control(
            "Unit", ["mm", "in"], default="mm", required=True, key="unit", bind="query-params", on_change=_convert_width
        )  # fmt: skip
        columns = st.number_input(
            "Columns", 1, 12, None, placeholder="3", key="columns", bind="query-params", width=120
        )
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        size = st.number_input(
            "Font size (pt)", 3.0, 40.0, 9.0, 0.5, format="%g", key="font", bind="query-params", width=150
        )
        dpi = st.number_input(
            "Dots an inch", 30, 1200, 200, 50, key="dpi", bind="query-params", width=150,
            help="Of a PNG, and of the photo within PDF and SVG. Journals ask for 300 or more.",
        )  # fmt: skip
    colours = st.selectbox(
        "Colour map", list(COLORMAPS), key="colours", bind="query-params", width=330,
        help="All have zero in the middle, and ends that colour-blind readers tell apart.",
    )  # fmt: skip
    st.caption("{} speaks for a class, {} against it.".format(*COLORMAPS[colours]).capitalize())
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        titled = st.toggle("Title", True, key="titled", bind="query-params")
        bar = st.toggle("Colour bar", True, key="bar", bind="query-params")
        equations = st.toggle(
            "Equations", True, key="equations", bind="query-params", help="How each map adds up, and the verdict."
        )
        dark = st.toggle("Dark", key="dark", bind="query-params", help="Light text on a dark page, for slides.")
    title = st.text_input(
        "Title in place of the usual one", key="heading", bind="query-params", disabled=not titled, max_chars=200,
        placeholder="the network and what its maps show",
    )  # fmt: skip
    if not panels:
        raise InspectorError("A figure needs a panel: choose one of those above.")
    return FigureStyle(
        panels=tuple(panels),
        columns=columns,
        width=None if width is None else width * (MM if unit == "mm" else 1),
        dpi=dpi,
        font_size=size,
        colours=colours,
        dark=dark,
        title=(title or None) if titled else "",
        colour_bar=bar,
        equations=equations,
    )


def _convert_width() -> None:
    """The same width in the unit that was just chosen."""
    if (width := st.session_state["width"]) is not None:
        st.session_state["width"] = round(width / MM if st.session_state["unit"] == "mm" else width * MM, 2)


def _download_buttons(maps: ClassMaps, shown: FigureContent, style: FigureStyle) -> None:
    """Made when pressed: each file takes up to a second, and matplotlib one more."""

    def maker(name: str) -> Callable[[], bytes]:
        def make() -> bytes:
            from inspector.output import export

            return export.make_file(name, maps, shown, style)

        return make

    with st.container(horizontal=True, gap="small"):
        for label, name in FILES.items():
            st.download_button(label, maker(name), name, key=f"export {name}", on_click="ignore")
