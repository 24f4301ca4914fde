"""The figures of an export as files: of the classes shown, and of all class maps. Imports no torch."""

from typing import cast

from inspector.explain.map_arrays import MapArrays, Maps
from inspector.explain.shown_map import FigureContent
from inspector.output.figure import class_map_figure
from inspector.output.figure_file import FORMATS, Format, encode_figure
from inspector.output.overlay import OPACITY
from inspector.output.style import DEFAULT_STYLE, FigureStyle

FIGURES = tuple(f"figure.{format}" for format in FORMATS)
ALL_MAPS = tuple(f"all-maps.{format}" for format in FORMATS)
_ALL_MAPS_STYLE = FigureStyle(("all",), columns=5)


def make_figure_file(name: str, maps: Maps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> bytes:
    """Make a figure as the bytes of a file.

    Args:
        name: one of FIGURES, or of ALL_MAPS, which show every class map as its raw grid.
        maps: class maps of a photo.
        shown: which maps FIGURES show, and how (contrast, opacity, ...).
        style: how FIGURES look.

    Raises:
        InspectorError: the figure cannot be drawn in this style.
    """
    format = cast(Format, name.rpartition(".")[2])
    if name in FIGURES:
        return encode_figure(class_map_figure(maps, shown, style), format, style.dpi)
    has_scores = maps.scores is not None if isinstance(maps, MapArrays) else maps.classifier.head.has_position_scores
    all_maps = FigureContent((maps.top(1)[0][0],), None, has_scores, smooth=True, opacity=OPACITY)
    return encode_figure(class_map_figure(maps, all_maps, _ALL_MAPS_STYLE), format)
