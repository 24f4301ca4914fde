"""The page Export: design a figure for a paper, and download it with its numbers."""

from dataclasses import dataclass, replace

import streamlit as st

from inspector.errors import ExportError
from inspector.explain.class_maps import ClassMaps, FigureContent
from inspector.output import export
from inspector.output.style import COLORMAPS, DEFAULT_STYLE, MM, PANELS, FigureStyle
from inspector.ui.components.downloads import show_download_buttons
from inspector.ui.components.messages import show_errors
from inspector.ui.state import cache, keys
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
_DPI = 120  # of the preview, and of the screen


@dataclass(frozen=True)
class FigureSize:
    """Size and resolution of a figure."""

    width: float | None  # in mm; None: as needed
    columns: int | None
    font_size: float  # in points
    dpi: int


@dataclass(frozen=True)
class FigureParts:
    """What a figure shows besides its maps."""

    title: str | None  # "" shows none, None the default one
    color_bar: bool
    equations: bool
    dark: bool


def show(selection: SidebarSelection) -> None:
    """Draw the page."""
    _show_page(selection.maps, selection.key)


@fragment
def _show_page(maps: ClassMaps, key: cache.MapsKey) -> None:
    with show_errors():
        _show_builder(maps, key)


def _show_builder(maps: ClassMaps, key: cache.MapsKey) -> None:
    content = _choose_content(maps)
    wide, narrow = st.columns([3, 2], gap="large")
    with narrow:
        downloads = st.container()
        style = _choose_style()
    # Drawn before the buttons: a figure that cannot be drawn is an error on the page, and offers no files.
    with wide, st.spinner("Drawing the figure ..."):
        image, inches = cache.draw_figure_preview(
            repr((key, content, style)), maps, content, replace(style, dpi=_DPI), style.dpi
        )
    with wide:
        st.image(image, width=round(inches[0] * _DPI), output_format="PNG", alt="preview of the figure")
        width, height = (round(25.4 * side) for side in inches)
        pixels = [round(style.dpi * side) for side in inches]
        st.caption(
            f"{width} x {height} mm; as PNG {pixels[0]} x {pixels[1]} pixels. PDF and SVG are sharp at any zoom."
        )
    with downloads:
        st.subheader("Download", anchor=False)
        show_download_buttons(FILES, lambda name: export.make_file(name, maps, content, style), key_prefix="export ")
        st.caption(
            "The ZIP holds all of these files, the photo and a manifest. `inspector rebuild class-maps.zip -o FOLDER` "
            "makes the same figure again, or reports which network, photo or version differs."
        )


def _choose_content(maps: ClassMaps) -> FigureContent:
    """Show the controls of what the figure shows."""
    labels = label_classes(maps)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        classes = st.multiselect(
            "Classes",
            labels,
            key=keys.FIGURE_CLASSES,
            bind="query-params",
            width=420,
            max_selections=20,
            placeholder="top classes",
            help="Type to search. Empty: the top classes, as many as the box beside it says.",
        )
        count = st.number_input(
            "Top classes", 1, 12, 5, key=keys.TOP_COUNT, bind="query-params", width=130, disabled=bool(classes)
        )
        chosen = tuple(labels.index(label) for label in classes)
        against = choose_reading(maps, chosen[0] if chosen else maps.top(1)[0][0])
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        raw = st.toggle(
            "Raw grid", key=keys.RAW_GRID, bind="query-params", help="Show the cells without interpolation."
        )
        dense = maps.classifier.head.pooling == "max" and st.toggle(
            "Score every cell",
            key=keys.POSITION_SCORES,
            bind="query-params",
            help="Each cell has the score that it would get if it alone were pooled. This is easier to read, but these "
            "scores do not sum to the logit.",
        )
        opacity = st.slider("Opacity", 0.0, 1.0, 0.85, 0.05, key=keys.FIGURE_OPACITY, bind="query-params", width=220)
    return maps.figure_content(chosen or count, against, dense, not raw, opacity)


def _choose_style() -> FigureStyle:
    """Show the controls of how the figure looks.

    Raises:
        ExportError: no panel is chosen.
    """
    st.subheader("Style", anchor=False)
    panels = st.pills(
        "Panels",
        PANELS,
        selection_mode="multi",
        default=DEFAULT_STYLE.panels,
        key=keys.PANELS,
        bind="query-params",
        width="stretch",
        help="contrast: evidence for the first class and against the second. all: the raw grids of all class maps "
        "before pooling, for networks with few classes.",
    )
    size = _choose_size()
    colors = _choose_colors()
    parts = _choose_parts()
    if not panels:
        raise ExportError("A figure needs at least one panel. Choose one above.")
    return FigureStyle(
        panels=tuple(panels),
        columns=size.columns,
        width=size.width,
        dpi=size.dpi,
        font_size=size.font_size,
        colours=colors,
        dark=parts.dark,
        title=parts.title,
        colour_bar=parts.color_bar,
        equations=parts.equations,
    )


def _choose_size() -> FigureSize:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        width = st.number_input(
            "Width",
            0.0,
            None,
            None,
            1.0,
            format="%g",
            placeholder="as needed",
            key=keys.WIDTH,
            bind="query-params",
            width=150,
            help="A column of a journal is often 89 mm (3.5 in) wide, a page 183 mm (7.2 in). The height follows.",
        )
        unit = st.segmented_control(
            "Unit",
            ["mm", "in"],
            default="mm",
            required=True,
            key=keys.UNIT,
            bind="query-params",
            on_change=_convert_width,
        )
        columns = st.number_input(
            "Columns", 1, 12, None, placeholder="3", key=keys.COLUMNS, bind="query-params", width=120
        )
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        font_size = st.number_input(
            "Font size (pt)", 3.0, 40.0, 9.0, 0.5, format="%g", key=keys.FONT_SIZE, bind="query-params", width=150
        )
        dpi = st.number_input(
            "Resolution (dpi)",
            30,
            1200,
            200,
            50,
            key=keys.DPI,
            bind="query-params",
            width=150,
            help="Pixels per inch, of a PNG and of the photo within PDF and SVG. Journals ask for 300 or more.",
        )
    return FigureSize(None if width is None else width * (MM if unit == "mm" else 1), columns, font_size, dpi)


def _convert_width() -> None:
    """Convert the width to the unit that was just chosen."""
    if (width := st.session_state[keys.WIDTH]) is not None:
        converted = width / MM if st.session_state[keys.UNIT] == "mm" else width * MM
        st.session_state[keys.WIDTH] = round(converted, 2)


def _choose_colors() -> str:
    colors = st.selectbox(
        "Color map",
        list(COLORMAPS),
        key=keys.COLORMAP,
        bind="query-params",
        width=330,
        help="All have zero in the middle, and ends that color-blind readers can tell apart.",
    )
    st.caption("{} is evidence for a class, {} against it.".format(*COLORMAPS[colors]).capitalize())
    return colors


def _choose_parts() -> FigureParts:
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        has_title = st.toggle("Title", True, key=keys.TITLED, bind="query-params")
        color_bar = st.toggle("Color bar", True, key=keys.COLOR_BAR, bind="query-params")
        equations = st.toggle(
            "Equations",
            True,
            key=keys.EQUATIONS,
            bind="query-params",
            help="The sum of each map and its bias, and the verdict.",
        )
        dark = st.toggle("Dark", key=keys.DARK, bind="query-params", help="Light text on a dark page, for slides.")
    title = st.text_input(
        "Title instead of the default one",
        key=keys.HEADING,
        bind="query-params",
        disabled=not has_title,
        max_chars=200,
        placeholder="the network and what its maps show",
    )
    return FigureParts((title or None) if has_title else "", color_bar, equations, dark)
