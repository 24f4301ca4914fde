"""The page Export: design a figure for a paper, and download it with its numbers."""

from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from inspector.errors import ExportError, InspectorError
from inspector.explain.class_maps import ClassMaps, FigureContent
from inspector.output import export
from inspector.output.colormaps import COLORMAPS
from inspector.output.style import DEFAULT_STYLE, MAX_PANELS, MM, PANELS, FigureStyle
from inspector.output.viewer import VIEWER_COLORMAPS
from inspector.ui.components import controls
from inspector.ui.components.controls import choose_segment, enter_number, show_errors, switch
from inspector.ui.components.markdown import plain
from inspector.ui.components.save import show_python
from inspector.ui.components.saved_figures import write_figure
from inspector.ui.state import cache, keys
from inspector.ui.state.handover import hand_on, take_over
from inspector.ui.state.selection import (
    choose_interpolation,
    choose_position_scores,
    choose_reading,
    label_classes,
)
from inspector.ui.state.streamlit_fixes import fragment
from inspector.ui.state.top_bar import PageSelection
from inspector.ui.state.view_state import FINER

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
# What the page takes over from the one before.
_WIDGETS = (
    *(keys.FIGURE_CLASSES, keys.READING, keys.AGAINST),
    *(keys.FINER, keys.RAW_GRID, keys.POSITION_SCORES, keys.COLORMAP, keys.FIGURE_OPACITY, keys.GRAY),
)
_CELLS = {1: "own", 2: "2x finer", 4: "4x finer"}  # number of cells per cell of the network's own, along an axis
_DPI = 120  # pixels per inch of the preview


@fragment
@show_errors()
def show(selection: PageSelection) -> None:
    """Draw the page."""
    take_over(selection, "export", _WIDGETS)
    maps, content = _choose_content(selection)
    wide, narrow = st.columns([3, 2], gap="large")
    with narrow:
        downloads = st.container()
        style = _choose_style()
    hand_on(
        selection,
        k=content.classes[0],
        against=content.against,
        number="scores" if content.dense else "contributions",
        smooth=content.smooth,
        opacity=content.opacity,
        gray=style.gray,
        finer=content.finer,
        **({"colors": style.colours} if style.colours in VIEWER_COLORMAPS else {}),
    )
    # Draw the figure before the buttons: if it cannot be drawn, the page shows an error and offers no files.
    with wide, show_errors():
        style = _leave_out_too_many(style, len(maps.logits))
        _show_preview(selection.key, maps, content, style)
        with downloads:
            _show_downloads(selection.key, maps, content, style)


def _leave_out_too_many(style: FigureStyle, count: int) -> FigureStyle:
    """Return the style without the panel "all" if a figure has no room for all class maps, and say so."""
    if "all" not in style.panels or count <= MAX_PANELS:
        return style
    panels = tuple(panel for panel in style.panels if panel != "all") or DEFAULT_STYLE.panels
    text = f"All {count} class maps are too many for one figure, so the panel *all* is not drawn."
    st.warning(f"{text} Choose some of the classes above instead.", icon=":material/grid_off:")
    return replace(style, panels=panels)


def _show_preview(key: cache.MapsKey, maps: ClassMaps, content: FigureContent, style: FigureStyle) -> None:
    """Show the figure and its size.

    Raises:
        InspectorError: the figure cannot be drawn.
    """
    with st.spinner("Drawing the figure ..."):
        drawn = repr((key, content, style)), maps, content, replace(style, dpi=_DPI)
        image, inches = cache.draw_figure_preview(*drawn, style.dpi)
    st.image(image, width=round(inches[0] * _DPI), output_format="PNG", alt="preview of the figure")
    width, height = (round(25.4 * side) for side in inches)
    pixels = [round(style.dpi * side) for side in inches]
    st.caption(f"{width} x {height} mm; as PNG {pixels[0]} x {pixels[1]} pixels. PDF and SVG are sharp at any zoom.")


def _show_downloads(key: cache.MapsKey, maps: ClassMaps, content: FigureContent, style: FigureStyle) -> None:
    st.subheader("Download", anchor=False)
    make_file = partial(export.make_file, maps=maps, shown=content, style=style)
    controls.show_download_buttons(FILES, make_file, key_prefix="export ")
    show_python(write_figure(key, maps, content, style), "export python")
    st.caption(
        "The ZIP holds all of these files, the photo and a manifest. `inspector rebuild class-maps.zip -o FOLDER` "
        "makes the same figure again, or reports which network, photo or version differs."
    )


def _choose_content(selection: PageSelection) -> tuple[ClassMaps, FigureContent]:
    """Show the controls for the content of the figure. Return the class maps, and what is chosen of them."""
    maps = selection.maps
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
        count = enter_number("Top classes", 1, 12, 5, key=keys.TOP_COUNT, width=130, disabled=bool(classes))
        chosen = tuple(labels.index(label) for label in classes)
        against = choose_reading(maps, chosen[0] if chosen else maps.top(1)[0][0])
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        text = "The network's own cells, or also the cells between them, 4 or 16 times as many."
        factor = choose_segment("Cells", FINER, key=keys.FINER, format_func=_CELLS.__getitem__, help=text)
        smooth = choose_interpolation()
        dense = choose_position_scores(maps)
        opacity = st.slider("Opacity", 0.0, 1.0, 0.85, 0.05, key=keys.FIGURE_OPACITY, bind="query-params", width=220)
    maps = _compute_finer(selection, factor)
    return maps, maps.figure_content(chosen or count, against, dense=dense, smooth=smooth, opacity=opacity)


def _compute_finer(selection: PageSelection, factor: int) -> ClassMaps:
    """Return the class maps with a finer grid; without one, and a sentence on the page, where there is none."""
    if factor != 1:
        try:
            with st.spinner("Computing the cells between ..."):
                return selection.compute_finer(factor)
        except InspectorError as error:
            st.warning(plain(str(error)), icon=":material/grid_off:")
    return selection.maps


def _choose_style() -> FigureStyle:
    """Show the controls for the style of the figure. Return the choices.

    Raises:
        ExportError: no panel is chosen.
    """
    st.subheader("Style", anchor=False)
    panels = controls.choose_several(
        "Panels",
        PANELS,
        DEFAULT_STYLE.panels,
        key=keys.PANELS,
        width="stretch",
        help="contrast: evidence for the first class and against the second. all: the raw grids of all class maps "
        "before pooling, for networks with few classes.",
    )
    settings = _choose_size() | {"colours": _choose_colors()} | _choose_parts()
    if not panels:
        raise ExportError("A figure needs at least one panel. Choose one above.")
    return FigureStyle(tuple(panels), **settings)


def _choose_size() -> dict[str, Any]:
    """Show the controls for size and resolution. Return them as arguments of FigureStyle."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        text = "A column of a journal is often 89 mm (3.5 in) wide, a page 183 mm (7.2 in). The height follows."
        width = enter_number(
            "Width", 0.0, None, None, 1.0, format="%g", placeholder="as needed", key=keys.WIDTH, help=text
        )
        unit = choose_segment("Unit", ["mm", "in"], key=keys.UNIT, on_change=_convert_width)
        columns = enter_number("Columns", 1, 12, None, placeholder="3", key=keys.COLUMNS, width=120)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        font_size = enter_number("Font size (pt)", 3.0, 40.0, 9.0, 0.5, format="%g", key=keys.FONT_SIZE)
        text = "Pixels per inch, of a PNG and of the photo within PDF and SVG. Journals ask for 300 or more."
        dpi = enter_number("Resolution (dpi)", 30, 1200, 200, 50, key=keys.DPI, help=text)
    inches = None if width is None else width * (MM if unit == "mm" else 1)
    return {"width": inches, "columns": columns, "font_size": font_size, "dpi": dpi}


def _convert_width() -> None:
    """Convert the width after the user has chosen another unit."""
    if (width := st.session_state[keys.WIDTH]) is not None:
        converted = width / MM if st.session_state[keys.UNIT] == "mm" else width * MM
        st.session_state[keys.WIDTH] = round(converted, 2)


def _choose_colors() -> str:
    text = "All have zero in the middle, and ends that color-blind readers can tell apart."
    colors = controls.choose_option("Color map", list(COLORMAPS), key=keys.COLORMAP, width=330, help=text)
    st.caption(plain(COLORMAPS[colors].describe()))
    return colors


def _choose_parts() -> dict[str, Any]:
    """Show the controls for title, color bar, equations and colors of the page. Return arguments of FigureStyle."""
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        has_title = switch("Title", key=keys.TITLED, on=True)
        color_bar = switch("Color bar", key=keys.COLOR_BAR, on=True)
        gray = switch("Gray photo", "Below the maps, so that their colors are seen.", key=keys.GRAY, on=True)
        text = "The sum of each map and its bias, and the verdict."
        equations = switch("Equations", text, key=keys.EQUATIONS, on=True)
        dark = switch("Dark", "Light text on a dark page, for slides.", key=keys.DARK)
    title = st.text_input(
        "Title instead of the default one",
        key=keys.HEADING,
        bind="query-params",
        disabled=not has_title,
        max_chars=200,
        placeholder="the network and what its maps show",
    )
    heading = (title or None) if has_title else ""
    return {"title": heading, "colour_bar": color_bar, "equations": equations, "dark": dark, "gray": gray}
