"""Matplotlib figures of class maps, for export. The module does not use pyplot, which is not thread-safe."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text

from inspector.errors import InspectorError
from inspector.explain.grid import require_place
from inspector.explain.map_arrays import Maps, to_array
from inspector.explain.shown_map import ClassMap, FigureContent
from inspector.images.decode import Pixels
from inspector.output.colormaps import COLORMAPS, LEVELS, find_colormap, list_bar_colors
from inspector.output.figure_file import InlineFigure
from inspector.output.figure_text import wrap_text, wrap_title
from inspector.output.overlay import common_scale, dimmed_photo, draw_map_on_photo, grid_image, make_gray
from inspector.output.style import DEFAULT_STYLE, MAX_PANELS, MM, PANELS, FigureStyle
from inspector.output.text import format_number

COLORS = ListedColormap(find_colormap().colors / 255, name="class map")
PANEL = 2.6  # default width of a panel, in inches
_GAP = 0.08  # between panels, in inches
_MAX_PIXELS = 100_000_000  # largest number of pixels in a PNG: about an A4 page at 1000 dpi
_DARK, _LIGHT = "#0e1117", "#fafafa"
_SMALL_PRINT = "0.35"


@dataclass(frozen=True, eq=False)
class _Panel:
    """What one panel shows."""

    title: str
    suffix: str  # end of the title, which is never cut off
    line: str
    values: Any  # map (h, w) in logits, a tensor or an array; None: the panel shows the photo
    grid: bool = False  # draw the cells of the map, without the photo
    bold: bool = False


@dataclass(frozen=True, eq=False)
class _Layout:
    """An empty figure, whose size fits its panels and their text."""

    figure: Figure
    axes: list[Axes]  # axes of the panels, row by row; there may be more axes than panels
    columns: int
    panel_width: float  # inches
    titles: list[str]  # title of each panel, wrapped to the width of the panel
    lines: list[list[str]]  # small print of each panel, wrapped to the width of the panel


def class_map_figure(maps: Maps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> Figure:
    """Draw a figure: the photo, and class maps over the photo. All maps share one scale; each has its sum as equation.

    Args:
        maps: class maps of a photo.
        shown: which maps to show, and how (contrast, opacity, ...).
        style: panels, size, fonts and colors.

    Raises:
        InspectorError: the panels do not fit into a figure of this style.
    """
    panels = list(_list_panels(maps, shown, style))
    if len(panels) > MAX_PANELS:
        raise InspectorError(f"{len(panels)} panels are too many for one figure. Use at most {MAX_PANELS}.")
    scale = common_scale([panel.values for panel in panels if panel.values is not None])
    layout = _layout_panels(maps, shown, style, panels)
    images = _draw_images(maps, shown, style, panels, scale, layout.panel_width)
    for axis, panel, image, title, lines in zip(layout.axes, panels, images, layout.titles, layout.lines, strict=False):
        show_image(axis, image, title, lines, style.font_size)
        axis.title.set_fontweight("bold" if panel.bold else "normal")
        if panel.grid:
            axis.get_images()[0].set_interpolation("nearest")
            axis.set_axis_on()
            axis.spines[:].set(linewidth=2 if panel.bold else 0.5)
    if style.colour_bar and any(panel.values is not None for panel in panels):
        unit = style.font_size / DEFAULT_STYLE.font_size
        meaning = maps.classifier.meaning
        quantity = meaning.quantity if shown.against is None else meaning.difference
        words = meaning.describe_cells(shown.dense, quantity, shown.finer > 1)
        add_color_bar(layout.axes, scale, style.colours, words, font_size=10 * unit, **_place_color_bar(layout, unit))
    if style.dark:
        _darken(layout.figure)
    return layout.figure


def _list_panels(maps: Maps, shown: FigureContent, style: FigureStyle) -> Iterator[_Panel]:
    names = maps.classifier.class_names
    for kind in [kind for kind in PANELS if kind in style.panels]:
        if kind == "photo":
            yield _Panel(maps.view.photo.name, "", describe_exactness(maps), None)
        elif kind == "classes":
            for k in shown.classes:
                class_map = maps.class_map(k, shown.against, shown.dense, shown.finer > 1)
                yield _Panel(names[k], f" ({maps.outcome(k)})", class_map.equation(), class_map.values)
        elif kind == "contrast":
            class_map = maps.contrast_map(shown.classes, shown.dense, shown.finer > 1)
            yield _Panel(class_map.title, "", class_map.equation(), class_map.values)
        else:
            yield from _list_all_maps(maps, shown.dense)


def _list_all_maps(maps: Maps, dense: bool) -> Iterator[_Panel]:
    names, winner = maps.classifier.class_names, int(maps.logits.argmax())
    if len(names) > MAX_PANELS:
        raise InspectorError(
            f"All {len(names)} class maps are too many for one figure. Use the panel classes, which shows some of them."
        )
    for k, name in enumerate(names):
        line = f"{maps.classifier.meaning.quantity} {format_number(float(maps.logits[k]), '.2f')}" + (
            ", top-1" if k == winner else ""
        )
        yield _Panel(name, "", line, maps.class_map(k, None, dense).values, grid=True, bold=k == winner)


def _layout_panels(maps: Maps, shown: FigureContent, style: FigureStyle, panels: list[_Panel]) -> _Layout:
    columns = min(style.columns or 3, len(panels))
    rows = -(-len(panels) // columns)
    unit = style.font_size / DEFAULT_STYLE.font_size
    beside = (1.25 if style.colour_bar else 0.2) * unit
    panel_width = PANEL if style.width is None else (style.width - beside) / columns
    if panel_width < 10 * MM:
        max_columns = max(0, int(((style.width or 0) - beside) / MM) // 10)
        raise InspectorError(
            f"A figure {(style.width or 0) / MM:.0f} mm wide has no room for {columns} columns and a color bar. "
            + (
                f"Use at most {max_columns} column{'s' * (max_columns > 1)}."
                if max_columns
                else "Use a larger width or a smaller font."
            )
        )
    width = PANEL * columns + beside if style.width is None else style.width
    # Keep text narrower than its panel, so that the texts of neighbors do not touch.
    room = panel_width - 0.15
    titles = [wrap_title(panel.title, panel.suffix, style.font_size, room) for panel in panels]
    lines = [wrap_text(panel.line, 8 * unit, room) if style.equations else [] for panel in panels]
    title = _make_title(maps, shown, style)
    title_lines = wrap_text(title, 10 * unit, width - 0.1) if title else []
    rows_shown, columns_shown = maps.view.photo.size
    aspect = min(2.0, max(0.6, rows_shown / columns_shown))
    # All sizes are known, so that no layout has to measure the texts, which would take as long as drawing them: in
    # inches, the height of a panel's image, of its title and small print above, and of the title of the figure.
    image_width = panel_width - _GAP
    image_height = aspect * image_width
    more_lines = 0.17 * max(title.count("\n") for title in titles) + 0.14 * max(map(len, lines))
    text_height = (0.32 + more_lines) * unit
    title_height = (0.04 + 0.18 * len(title_lines)) * unit
    height = title_height + (image_height + text_height) * rows + _GAP
    check_size(width, height, style.dpi)
    figure = InlineFigure(figsize=(width, height))
    if title_lines:
        figure.suptitle("\n".join(title_lines), y=1 - 0.05 * unit / height, fontsize=10 * unit, parse_math=False)
    places = {
        "left": _GAP / 2 / width,
        "right": (columns * panel_width - _GAP / 2) / width,
        "bottom": _GAP / height,
        "top": 1 - (title_height + text_height) / height,
        "wspace": _GAP / image_width,
        "hspace": text_height / image_height,
    }
    return _Layout(figure, add_empty_axes(figure, rows, columns, places), columns, panel_width, titles, lines)


def _place_color_bar(layout: _Layout, unit: float) -> dict[str, Any]:
    """Place the color bar beside the panels, as high as most of their rows. Return options of `add_color_bar`."""
    width, height = layout.figure.get_size_inches()
    bottom, top = layout.axes[-1].get_position().y0, layout.axes[0].get_position().y1
    left = layout.axes[layout.columns - 1].get_position().x1 + 0.15 * unit / width
    box = (left, bottom + 0.1 * (top - bottom), 0.12 * unit / width, 0.8 * (top - bottom))
    # The label is centered on the bar, and below the bar there is less space than above it.
    return {"cax": layout.figure.add_axes(box), "room": 0.98 * (bottom + top) * height}


def overlay_class_map(
    maps: Maps,
    class_map: ClassMap,
    colormap: str | Colormap,
    smooth: bool,
    opacity: float,
    scale: float | None,
    gray: bool = True,
) -> Pixels:
    """Draw a class map over its photo at the photo's own size; see `ClassMaps.overlay`."""
    view, field = maps.view, maps.shown_field
    require_place(field)
    canvas = dimmed_photo(view.photo, view.crop, max(view.photo.size), gray)
    ends = common_scale([class_map.values]) if scale is None else scale
    colors = sample_colormap(colormap)
    return draw_map_on_photo(canvas, view.crop, class_map.values, field, ends, smooth, opacity, colors)


def sample_colormap(colormap: str | Colormap) -> str | Pixels:
    """Return the name of one of COLORMAPS as it is, and any colormap of matplotlib as a table of RGB colors (255, 3).

    Raises:
        InspectorError: matplotlib has no colormap of this name.
    """
    if isinstance(colormap, str):
        if colormap in COLORMAPS:
            return colormap
        if colormap not in matplotlib.colormaps:
            nearest = get_close_matches(colormap, [*COLORMAPS, *matplotlib.colormaps], n=3)
            hint = f" Nearest names: {', '.join(nearest)}." if nearest else ""
            raise InspectorError(f"No colormap {colormap!r}.{hint}")
        colormap = matplotlib.colormaps[colormap]
    colors: Pixels = (255 * colormap(np.linspace(0, 1, LEVELS))[:, :3]).round().astype(np.uint8)
    return colors


def add_empty_axes(figure: Figure, rows: int, columns: int, places: Mapping[str, float] | None = None) -> list[Axes]:
    """Add a grid of axes without ticks and frames to a figure; return the axes row by row.

    `places` are the edges of the grid and the gaps in it, as of matplotlib's GridSpec; None: the layout finds them.
    """
    # Remove the ticks; hidden ticks would cost time, because the layout measures the text of each.
    no_ticks: dict[str, Any] = {"xticks": [], "yticks": []}
    axes = figure.subplots(rows, columns, squeeze=False, subplot_kw=no_ticks, gridspec_kw=dict(places or {})).ravel()
    for axis in axes:
        axis.set_axis_off()
    return list(axes)


def check_size(width: float, height: float, dpi: int) -> None:
    """Raise InspectorError if a figure of this width and height (inches) has more than _MAX_PIXELS pixels at `dpi`."""
    if width * height * dpi**2 > _MAX_PIXELS:
        raise InspectorError(
            f"A figure of {width / MM:.0f} x {height / MM:.0f} mm at {dpi} dpi has too many pixels. "
            f"Use at most {math.floor(math.sqrt(_MAX_PIXELS / (width * height)))} dpi."
        )


def _make_title(maps: Maps, shown: FigureContent, style: FigureStyle) -> str:
    if style.title is not None:
        return style.title
    title = f"{maps.classifier.name}: {maps.describe_reading(shown.dense, shown.against)}"
    # Every figure with equations shows the verdict: in the photo's panel, or else in the title.
    says_it_elsewhere = "photo" in style.panels or not style.equations
    title = title if says_it_elsewhere else f"{title} \N{MIDDLE DOT} {describe_exactness(maps)}"
    finer = None if maps.finer is None else f"\N{MIDDLE DOT} {maps.finer.describe()}"
    return " ".join(filter(None, (title, finer, maps.classifier.receptive_field.warning)))


def _draw_images(
    maps: Maps, shown: FigureContent, style: FigureStyle, panels: list[_Panel], scale: float, panel_width: float
) -> Iterator[Pixels]:
    """Draw the image of each panel with about as many pixels as it has in the figure at `dpi`, at most 3200."""
    view, field = maps.view, maps.shown_field
    height, width = view.photo.size
    photo = dimmed_photo(view.photo, view.crop, min(3200, math.ceil(style.dpi * panel_width * max(1, height / width))))
    canvas = make_gray(photo) if style.gray else photo
    for panel in panels:
        values = panel.values
        if values is None:
            yield photo
        elif panel.grid:
            yield grid_image(to_array(values), scale, style.colours)
        else:
            yield draw_map_on_photo(canvas, view.crop, values, field, scale, shown.smooth, shown.opacity, style.colours)


def add_color_bar(
    axes: Sequence[Axes],
    scale: float,
    colormap: str = "inspector",
    label: str = "contribution per cell (sums to the logit)",
    *,
    font_size: float,
    room: float | None = None,
    **layout: Any,
) -> None:
    """Add one color bar for class maps that share a scale.

    Args:
        axes: the axes that show the maps, at least one.
        scale: value at the upper end of the bar; the lower end is -scale, or 0 if only the positive part is drawn.
        colormap: one of COLORMAPS.
        label: what the value of a cell is.
        font_size: font size of label and ticks, in points.
        room: length of the label's lines at most, in inches; None: most of the height of the axes' rows.
        layout: options of matplotlib's Figure.colorbar, such as shrink, aspect, location.
    """
    colors = ListedColormap(list_bar_colors(colormap) / 255, name=colormap)
    # If all maps are zero, the color bar still needs two different ends.
    ends = Normalize(COLORMAPS[colormap].lowest * (scale or 1.0), scale or 1.0)
    bar = axes[0].figure.colorbar(ScalarMappable(ends, colors), ax=list(axes), **layout)
    lines = wrap_text(label, font_size, 0.9 * _measure_rows(axes, font_size) if room is None else room)
    bar.set_label("\n".join(lines), fontsize=font_size, labelpad=0.4 * font_size)
    bar.ax.tick_params(labelsize=font_size, length=0.35 * font_size, pad=0.35 * font_size)
    bar.ax.xaxis.set_visible(False)  # it is empty, and the layout would measure it for each of the other axes


def _measure_rows(axes: Sequence[Axes], font_size: float) -> float:
    """Return the height in inches of the rows that these axes stand in, without the text above; font size in points."""
    places = [place for axis in axes if (place := axis.get_subplotspec()) is not None]
    figure = axes[0].get_figure(root=True)
    assert places, "axes of add_empty_axes stand in a grid"
    assert figure is not None, "the axes belong to a figure"
    rows = {place.rowspan.start for place in places}
    lines = len(figure.get_suptitle().splitlines()) + max(len(axis.get_title().split("\n")) for axis in axes)
    height = float(figure.get_figheight()) * len(rows) / places[0].get_gridspec().nrows
    return height - 1.3 * font_size / 72 * lines


def _darken(figure: Figure) -> None:
    """Change the figure to light text on a dark background; the maps keep their colors."""
    figure.set_facecolor(_DARK)
    for axis in figure.axes:
        axis.tick_params(color=_LIGHT, labelcolor=_LIGHT)
        for spine in axis.spines.values():
            spine.set_edgecolor("0.6")
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_color("0.75" if text.get_color() == _SMALL_PRINT else _LIGHT)


def describe_exactness(maps: Maps) -> str:
    """Return the verdict and the residual in one line."""
    return f"verdict: {maps.verdict}, residual {maps.residual:.1e}"


def show_image(
    axis: Axes, image: Pixels, title: str, lines: Sequence[str], font_size: float = DEFAULT_STYLE.font_size
) -> None:
    """Show an image. Above the image are its title and, below the title, the lines of small print."""
    axis.imshow(image)
    # With its height given, the layout need not measure the axis below the title, which is empty.
    axis.set_title(title + "\n" * len(lines), fontsize=font_size, parse_math=False, y=1)
    above: dict[str, Any] = {"transform": axis.transAxes, "ha": "center", "va": "bottom"}
    axis.text(0.5, 1.02, "\n".join(lines), fontsize=font_size * 8 / 9, color=_SMALL_PRINT, **above)
