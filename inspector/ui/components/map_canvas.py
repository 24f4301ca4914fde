"""Maps over photos, drawn in the browser. The server sends the photo once, and only the cells of each map.

A map of 7 x 7 cells takes 0.1 kB. If the server drew it, each encoded picture would take 100 kB.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import ArrayLike

from inspector.explain.grid import AxisPlacement, axis_placements, fit_size
from inspector.explain.receptive_field import ReceptiveField
from inspector.images.decode import Pixels
from inspector.images.preprocessing import View
from inspector.output.colormaps import encode_colors
from inspector.output.overlay import dimmed_photo, find_gray, needs_lossless
from inspector.ui.components import html
from inspector.ui.components.assets import make_component
from inspector.ui.state.cache import get_view

if TYPE_CHECKING:
    from inspector.explain.class_maps import ClassMaps

_LARGE_SIDE = 800  # longer side of the picture of a photo from which smaller ones are made, in pixels
_STRONGEST = 32767  # encoded value of a cell that has the strongest color

_show = make_component("map_canvas")


@dataclass(frozen=True)
class Frame:
    """How the browser draws maps of one grid over one photo."""

    size: tuple[int, int]  # height and width of the drawing, in pixels
    grid: tuple[int, int]  # rows and columns
    down: Sequence[float]  # the fields of AxisPlacement, for the rows
    across: Sequence[float]  # the fields of AxisPlacement, for the columns
    smooth: bool
    opacity: float  # opacity of the strongest color, 0-1
    on_photo: bool = True  # False where the place of the cells is unknown: the maps are drawn without the photo
    colors: str = encode_colors("inspector")


@dataclass(frozen=True)
class MapDrawing:
    """A map over the photo, with its texts. They are plain text, not HTML."""

    cells: str  # from encode_cells
    alt: str  # alternative text, for screen readers
    name: str = ""
    note: str = ""  # follows the name
    line: str = ""  # below the name


def make_frame(
    grid: Sequence[int], view: View, field: ReceptiveField, side: int, smooth: bool, opacity: float = 0.85
) -> Frame:
    """Make the frame of maps with a grid (h, w) over the photo. `side` is the longer side of the drawing, in pixels.

    Where the place of the cells is unknown, the maps are the bare grid.
    """
    size = fit_size(view.photo.size, side)
    if field.misplaced is not None:
        down, across = (AxisPlacement(cells, -0.5, 0, 1) for cells in (grid[0], grid[1]))
        return Frame(size, (grid[0], grid[1]), astuple(down), astuple(across), False, opacity, on_photo=False)
    down, across = axis_placements(view.crop, field)
    return Frame(size, (grid[0], grid[1]), astuple(down), astuple(across), smooth, opacity)


def make_class_map_frame(maps: "ClassMaps", side: int, smooth: bool, opacity: float = 0.85) -> Frame:
    """Make the frame of class maps or feature maps over their photo."""
    return make_frame(maps.values.shape[1:], get_view(maps), maps.classifier.receptive_field, side, smooth, opacity)


def find_gray_below(view: View, field: ReceptiveField) -> int | None:
    """Return the mean brightness (0-255) of the photo below maps; None where they are drawn on no photo."""
    return None if field.misplaced is not None else find_gray(view.photo, view.crop)


def encode_cells(values: ArrayLike, scale: float) -> str:
    """Encode a map (h, w) for the browser: 16 bits per cell, row by row, in base64.

    Args:
        values: the map.
        scale: the |value| with the strongest color; values beyond it are clipped.
    """
    parts = np.clip(np.asarray(values, np.float32) / np.float32(scale or 1.0), -1, 1)
    return base64.b64encode(np.rint(parts * _STRONGEST).astype("<i2").tobytes()).decode()


def _draw_photo(view: View, side: int, gray: bool) -> Pixels:
    if side == _LARGE_SIDE:
        return _draw_large_photo(view, gray)
    if side > _LARGE_SIDE or max(view.photo.size) < _LARGE_SIDE:
        return dimmed_photo(view.photo, view.crop, side, gray)
    # Reducing a large photo takes longer than the network: a small picture is made from the large one.
    height, width = fit_size(view.photo.size, side)
    large = _draw_large_photo(view, gray)
    return np.asarray(cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


@lru_cache(maxsize=4)
def _draw_large_photo(view: View, gray: bool) -> Pixels:
    return dimmed_photo(view.photo, view.crop, _LARGE_SIDE, gray)


@lru_cache(maxsize=32)
def make_photo_url(view: View, side: int, on_photo: bool = True, gray: bool = False) -> str:
    """Return the photo under the maps as a data URL.

    Args:
        view: the photo, and the part that the network sees.
        side: longer side of the picture, in pixels.
        on_photo: False for a white area in place of the photo.
        gray: draw the photo in gray.
    """
    if not on_photo:
        return html.make_data_url(
            html.encode_image(np.full((*fit_size(view.photo.size, side), 3), 255, np.uint8), True)
        )
    pixels = _draw_photo(view, side, gray)
    return html.make_data_url(html.encode_image(pixels, needs_lossless(view.photo.size)))


def show_maps(
    key: str,
    view: View,
    frame: Frame,
    drawings: Sequence[MapDrawing],
    min_width: str = "10rem",
    previews: Mapping[int, MapDrawing] | None = None,
    gray: bool = True,
) -> None:
    """Show maps over one photo, side by side.

    Args:
        key: key of the widget.
        view: the photo.
        frame: how the maps are drawn.
        drawings: the maps.
        min_width: minimum width of each map, as a CSS length; as many maps as fit stand in a row.
        gray: draw the photo in gray, so that the colors of the maps are seen on any photo.
        previews: channel -> its map. When the user clicks the channel, this map replaces the first map at once.
    """
    data = {
        "photo": make_photo_url(view, max(frame.size), frame.on_photo, gray),
        "frame": asdict(frame),
        "drawings": [asdict(drawing) for drawing in drawings],
        "min_width": min_width,
        "previews": {str(channel): asdict(drawing) for channel, drawing in (previews or {}).items()},
    }
    _show(key=key, data=data)
