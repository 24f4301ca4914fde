"""Matplotlib figures of class maps, for export; never pyplot, which is not thread-safe."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from torch import Tensor

from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMap, ClassMaps, FigureContent
from inspector.images.photo import Pixels
from inspector.images.preprocessing import View
from inspector.output.overlay import (
    common_scale,
    dimmed_photo,
    draw_map_on_photo,
    grid_image,
)
from inspector.output.style import DEFAULT_STYLE, MM, PANELS, FigureStyle, diverging_colormap

COLORS = ListedColormap(diverging_colormap() / 255, name="class map")
PANEL = 2.6  # inches
MOST_PANELS = 60
_MOST_PIXELS = 100_000_000  # of a PNG: an A4 page at 1000 dpi
_DARK, _LIGHT = "#0e1117", "#fafafa"
_SMALL_PRINT = "0.35"


@dataclass(frozen=True, eq=False)
class _Drawing:
    """What stands in one panel."""

    title: str
    suffix: str  # of the title, never cut off
    line: str
    values: Tensor | None  # (h, w), in logits; None: the photo
    grid: bool = False  # as its cells, without the photo
    bold: bool = False


def class_map_figure(maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> Figure:
    """The photo and, over it, one class map a class on one shared scale, with the numbers that add up.

    Raises InspectorError for maps without a photo, or a style in which they have no room.
    """
    view = maps.view
    if view is None:
        raise InspectorError("These class maps came from a tensor: there is no photo to draw them on.")
    drawings = list(_drawings(maps, shown, style))
    if len(drawings) > MOST_PANELS:
        raise InspectorError(f"{len(drawings)} panels are too many for one figure; at most {MOST_PANELS} would do.")
    scale = common_scale([drawing.values for drawing in drawings if drawing.values is not None])
    columns = min(style.columns or 3, len(drawings))
    rows = -(-len(drawings) // columns)
    panel_width, figure, titles, lines = _layout_panels(maps, shown, style, drawings, columns, rows)
    # Without ticks, even unseen ones: the layout would measure the text of each.
    axes = np.atleast_1d(figure.subplots(rows, columns, subplot_kw={"xticks": [], "yticks": []})).ravel()
    for axis in axes:
        axis.set_axis_off()
    sharp = style.dpi * panel_width / (DEFAULT_STYLE.dpi * PANEL)
    canvas = dimmed_photo(view.photo, view.crop, round(800 * min(4.0, max(1.0, sharp))))
    for axis, drawing, title, small in zip(axes, drawings, titles, lines, strict=False):
        _draw(axis, drawing, maps, view, canvas, scale, shown, style)
        _write(axis, title, small, style.font_size)
        axis.title.set_fontweight("bold" if drawing.bold else "normal")
    if style.colour_bar and any(drawing.values is not None for drawing in drawings):
        _colour_bar(axes.tolist(), scale, style)
    if style.dark:
        _darken(figure)
    return figure


def _drawings(maps: ClassMaps, shown: FigureContent, style: FigureStyle) -> Iterator[_Drawing]:
    assert maps.view is not None
    names = maps.classifier.class_names
    for kind in PANELS:
        if kind not in style.panels:
            continue
        if kind == "photo":
            yield _Drawing(maps.view.photo.name, "", exactness_line(maps), None)
        elif kind == "classes":
            for k in shown.classes:
                one = maps.class_map(k, shown.against, shown.dense)
                yield _Drawing(names[k], f" ({maps.probabilities[k]:.1%})", one.equation(), one.values)
        elif kind == "contrast":
            one = find_contrast(maps, shown)
            yield _Drawing(one.title, "", one.equation(), one.values)
        else:
            winner = int(maps.logits.argmax())
            if len(names) > MOST_PANELS:
                raise InspectorError(
                    f"All {len(names)} class maps are too many for one figure: panels of single classes would do."
                )
            for k, name in enumerate(names):
                one = maps.class_map(k, None, shown.dense)
                logit = f"logit {maps.logits[k]:.2f}".replace("-", "\N{MINUS SIGN}")
                marked = logit + (", winner" if k == winner else "")
                yield _Drawing(name, "", marked, one.values, grid=True, bold=k == winner)


def find_contrast(maps: ClassMaps, shown: FigureContent) -> ClassMap:
    """The first class shown against the second, or against the likeliest other where it is the only one."""
    if not shown.classes or len(maps.logits) < 2:
        raise InspectorError("A contrast needs two classes: one more among those shown would do.")
    first, *others = shown.classes
    other = next((k for k in (*others, *(k for k, _, _ in maps.top(2))) if k != first), None)
    return maps.class_map(first, other, shown.dense)


def _layout_panels(
    maps: ClassMaps, shown: FigureContent, style: FigureStyle, drawings: Sequence[_Drawing], columns: int, rows: int
) -> tuple[float, Figure, list[str], list[list[str]]]:
    """A panel's width in inches, an empty figure as large as its panels and text need, and the text in lines."""
    assert maps.view is not None
    unit = style.font_size / DEFAULT_STYLE.font_size
    beside = (1.1 if style.colour_bar else 0.2) * unit
    panel_width = PANEL if style.width is None else (style.width - beside) / columns
    if panel_width < 10 * MM:
        most_columns = max(0, int(((style.width or 0) - beside) / MM) // 10)
        raise InspectorError(
            f"A figure {(style.width or 0) / MM:.0f} mm wide has no room for {columns} columns beside its colour bar: "
            + (f"at most {most_columns} would do." if most_columns else "a wider one or a smaller font would do.")
        )
    width = PANEL * columns + beside if style.width is None else style.width
    # Wider text would make its panel narrower.
    room = panel_width - 0.15
    titles = [_fit_text(d.title, d.suffix, style.font_size, room) for d in drawings]
    lines = [_wrap_text(d.line, 8 * unit, room) if style.equations else [] for d in drawings]
    said = _title(maps, shown, style)
    over = _wrap_text(said, 10 * unit, width - 0.1) if said else []
    photo_height, photo_width = maps.view.photo.size
    tall = min(2.0, max(0.6, photo_height / photo_width))
    most = max(map(len, lines))
    # Of a panel's text beside its small print: in a width that was asked for, no more than it takes.
    of_text = ((0.46 if style.width is None else 0.26) + 0.14 * most) * unit
    height = (panel_width * tall + of_text) * rows + (0.12 + 0.18 * len(over)) * unit
    fits(width, height, style.dpi)
    figure = Figure(figsize=(width, height), layout="constrained")
    if over:
        figure.suptitle("\n".join(over), fontsize=10 * unit, parse_math=False)
    return panel_width, figure, titles, lines


def fits(width: float, height: float, dpi: int) -> None:
    """InspectorError where a figure of this size in inches has more pixels than should be drawn."""
    if width * height * dpi**2 > _MOST_PIXELS:
        raise InspectorError(
            f"A figure of {width / MM:.0f} x {height / MM:.0f} mm at {dpi} dots an inch has too many pixels: "
            f"{math.floor(math.sqrt(_MOST_PIXELS / (width * height)))} dots an inch would do."
        )


def _title(maps: ClassMaps, shown: FigureContent, style: FigureStyle) -> str:
    if style.title is not None:
        return style.title
    title = f"{maps.classifier.name}: {maps.describe_reading(shown.dense, shown.against)}"
    # Where a map is shown, so is how exact it is.
    return title if "photo" in style.panels or not style.equations else f"{title} \N{MIDDLE DOT} {exactness_line(maps)}"


def _draw(
    axis: Axes,
    drawing: _Drawing,
    maps: ClassMaps,
    view: View,
    canvas: Pixels,
    scale: float,
    shown: FigureContent,
    style: FigureStyle,
) -> None:
    if drawing.values is None:
        axis.imshow(canvas)
    elif drawing.grid:
        axis.imshow(grid_image(drawing.values.numpy(force=True), scale, style.colours), interpolation="nearest")
        axis.set_axis_on()
        axis.spines[:].set(linewidth=2 if drawing.bold else 0.5)
    else:
        field = maps.classifier.receptive_field
        axis.imshow(
            draw_map_on_photo(
                canvas, view.crop, drawing.values, field, scale, shown.smooth, shown.opacity, style.colours
            )
        )


def _colour_bar(axes: list[Axes], scale: float, style: FigureStyle) -> None:
    size = style.font_size * 10 / 9
    colours = ListedColormap(style.palette / 255, name=style.colours)
    add_color_bar(axes, scale, colours, font_size=size, shrink=0.7, aspect=30)


def add_color_bar(
    axes: Sequence[Axes], scale: float, colormap: Colormap = COLORS, *, font_size: float, **layout: Any
) -> None:
    """Add one color bar for class maps that share a scale.

    Args:
        axes: the axes with the maps, at least one.
        scale: value at the upper end, in logits; the lower end is its negative.
        colormap: the colors of the maps.
        font_size: of label and ticks, in points.
        layout: options of matplotlib's Figure.colorbar, as shrink, aspect, location.
    """
    # A map of zeros still needs a color bar with two ends.
    ends = Normalize(-(scale or 1.0), scale or 1.0)
    bar = axes[0].figure.colorbar(ScalarMappable(ends, colormap), ax=list(axes), **layout)
    bar.set_label("logits per cell", fontsize=font_size)
    bar.ax.tick_params(labelsize=font_size)


def _darken(figure: Figure) -> None:
    """Light text on a dark page; the maps keep their colours."""
    figure.set_facecolor(_DARK)
    for axis in figure.axes:
        axis.tick_params(color=_LIGHT, labelcolor=_LIGHT)
        for spine in axis.spines.values():
            spine.set_edgecolor("0.6")
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_color("0.75" if text.get_color() == _SMALL_PRINT else _LIGHT)


def _inches(text: str, size: float) -> float:
    """How wide a line is in the figure's font at a size in points."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return float(width) / 72


def _fit_text(name: str, suffix: str, size: float, width: float) -> str:
    """A name shortened until it has room in a width in inches with its suffix, which stays whole."""
    for length in range(28, 4, -1):
        if _inches(fitted := shorten_name(name, length) + suffix, size) <= width:
            return fitted
    return shorten_name(name, 4) + suffix


def _wrap_text(text: str, size: float, width: float) -> list[str]:
    """The lines of a text in a width in inches; a word stays with its number."""
    lines = [""]
    kept = re.sub(r"(map|\+|bias|=|verdict:|residual|score|logit) (?=\S)", "\\1\N{NO-BREAK SPACE}", text)
    for word in kept.split(" "):
        longer = f"{lines[-1]} {word}".strip(" ")
        if lines[-1] and _inches(longer, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def all_maps_figure(maps: ClassMaps, dense: bool = False) -> Figure:
    """All class maps before pooling side by side with their pooled values, the winner marked; for few classes."""
    values = maps.position_scores() if dense else maps.values
    classes = len(values)
    scale = common_scale([values])
    columns = min(5, classes)
    rows = -(-classes // columns)
    figure = Figure(figsize=(1.75 * columns + 0.9, 2.25 * rows + 0.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    winner = int(maps.logits.argmax())
    for axis in axes[classes:]:
        axis.set_axis_off()
    for k, axis in enumerate(axes[:classes]):
        axis.imshow(values[k].numpy(force=True), cmap=COLORS, vmin=-scale, vmax=scale)
        axis.set(xticks=[], yticks=[])
        axis.set_title(
            shorten_name(maps.classifier.class_names[k], 16),
            parse_math=False,
            fontsize=9,
            fontweight="bold" if k == winner else "normal",
        )
        axis.set_xlabel(f"logit {maps.logits[k]:.2f}" + ("  winner" if k == winner else ""), fontsize=8)
        for spine in axis.spines.values():
            spine.set(linewidth=3 if k == winner else 0.5)
    add_color_bar(axes.tolist(), scale, font_size=10, shrink=0.8, aspect=25)
    figure.suptitle(f"{maps.classifier.name}: {maps.describe_reading(dense)}", fontsize=10, parse_math=False)
    return figure


def shorten_name(name: str, length: int = 28) -> str:
    """The beginning of a long name."""
    return name if len(name) <= length else f"{name[: length - 1]}\N{HORIZONTAL ELLIPSIS}"


def exactness_line(maps: ClassMaps) -> str:
    """How exact the maps are, in words and as the largest miss."""
    return f"verdict: {maps.verdict}, residual {maps.residual:.1e}"


def panel(axis: Axes, image: np.ndarray, title: str, *lines: str) -> None:
    """An image under its title and lines of small print."""
    axis.imshow(image)
    _write(axis, title, lines, DEFAULT_STYLE.font_size)


def _write(axis: Axes, title: str, lines: Sequence[str], size: float) -> None:
    axis.set_title(title + "\n" * len(lines), fontsize=size, parse_math=False)
    axis.text(
        0.5, 1.02, "\n".join(lines), transform=axis.transAxes, ha="center", va="bottom", fontsize=size * 8 / 9,
        color=_SMALL_PRINT,
    )  # fmt: skip
