"""The photo with its class map, as one component that is hovered, clicked and walked with the arrow keys.

The server sends the photo, the numbers of the grids and where the cells lie. The browser draws the map and the marks,
and reports the chosen cell and the masked ones. It also has the maps of the other listed classes: a class that is
chosen in the list of classes is drawn at once, before the server is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from inspector.explain.grid import CellExtent
from inspector.ui.components.assets import make_component
from inspector.ui.components.map_canvas import Frame
from inspector.ui.state import keys

_show = make_component("photo")

Cell = tuple[int, int]  # row, column


@dataclass(frozen=True, eq=False)
class PhotoMap:
    """A map on the photo: its numbers, and how it is drawn."""

    alt: str  # alternative text of the picture
    values: ArrayLike  # (h, w)
    cells: str | None  # from map_canvas.encode_cells; None: the image shows the map


@dataclass(frozen=True, eq=False)
class Picture:
    """What the browser draws and writes."""

    image: str  # data URL: the photo, with the map if `frame` is None
    maps: Mapping[int, PhotoMap]  # of each listed class; of one class if `frame` is None
    k: int  # the class that is shown
    frame: Frame | None  # how its map is drawn; None: the image shows it
    css_width: int  # in CSS pixels; less in a narrow window
    height: int  # of the photo, in its pixels; all extents are in these
    width: int
    rows: Sequence[CellExtent]
    columns: Sequence[CellExtent]
    unit: str  # follows a value
    notes: Sequence[str] = ()  # follow the unit in some cells
    note_of: Sequence[int] = ()  # index into `notes`, for each cell
    masking: bool = False  # clicks mask cells
    hint: str = "Point at a cell for its value. Click it for more, or focus the photo and use the arrow keys."
    outside: str = "The network does not see this part of the photo."  # for the part of the photo that was cropped away


@dataclass(frozen=True)
class ChosenCells:
    """What the user chose on the photo."""

    cell: Cell | None
    masked: tuple[Cell, ...]


def show_photo(picture: Picture, start: Cell | None, revision: str, masked: Sequence[Cell]) -> ChosenCells:
    """Show the photo with its class map.

    Args:
        picture: what is drawn.
        start: the cell that is chosen when the photo first appears.
        revision: name of the mask that the server chose. A new one replaces the mask of the browser.
        masked: the cells of that mask.
    """
    data = asdict(replace(picture, maps={})) | {
        "class": str(picture.k),
        "maps": {str(k): _encode_map(photo_map) for k, photo_map in picture.maps.items()},
        "rows": [_round_extent(extent) for extent in picture.rows],
        "columns": [_round_extent(extent) for extent in picture.columns],
        "keys": "Arrow keys choose a cell, Escape clears the choice"
        + (", Enter masks the cell." if picture.masking else "."),
        "start": start,
        "revision": revision,
        "masked": masked,
    }
    result = _show(key=keys.PHOTO_COMPONENT, data=data, default={"chosen": None}, on_chosen_change=lambda: None)
    return read_chosen(result.chosen, picture, start, revision, masked)


def _encode_map(photo_map: PhotoMap) -> dict[str, Any]:
    values = np.asarray(photo_map.values, np.float32).flatten().tolist()
    return {"alt": photo_map.alt, "values": [float(f"{value:.4g}") for value in values], "cells": photo_map.cells}


def _round_extent(extent: CellExtent) -> list[float]:
    return [round(place, 2) for place in astuple(extent)]


def read_chosen(
    report: Any, picture: Picture, start: Cell | None, revision: str, masked: Sequence[Cell]
) -> ChosenCells:
    """Read what the browser reported, as far as it fits this picture: the report may be older than the picture."""

    def keep_on_grid(cell: Any) -> Cell | None:
        y, x = cell if cell is not None else (-1, -1)
        return (int(y), int(x)) if 0 <= y < len(picture.rows) and 0 <= x < len(picture.columns) else None

    if not report:
        return ChosenCells(keep_on_grid(start), tuple(masked))
    cells = report["masked"] if report["revision"] == revision else masked
    on_grid = (keep_on_grid(cell) for cell in cells)
    return ChosenCells(keep_on_grid(report["cell"]), tuple(cell for cell in on_grid if cell is not None))
