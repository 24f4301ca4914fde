"""The photo with its class map, as one component. The mouse or the arrow keys choose a cell.

The server sends the photo, the maps of all listed classes and the places of the cells. The browser draws one map and
the marks, and reports the chosen cell and the masked cells. When the user chooses another class in the list of classes,
the browser draws its map at once, before the server answers.
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
    """A map on the photo: the values that the page writes, and the encoded cells that the browser draws."""

    alt: str  # alternative text of the picture
    values: ArrayLike  # (h, w)
    cells: str | None  # from map_canvas.encode_cells; None: Picture.image already shows the map


@dataclass(frozen=True, eq=False)
class Picture:
    """What the browser draws on the photo and writes below it."""

    image: str  # data URL: the photo, with the map if `frame` is None
    maps: Mapping[int, PhotoMap]  # class -> map, for all listed classes; only for class k if `frame` is None
    k: int  # index of the class that is shown
    frame: Frame | None  # how the maps are drawn; None: `image` already shows the map
    css_width: int  # width on the page, in CSS pixels; less in a narrow window
    height: int  # height of the photo, in its pixels; all extents are in pixels of the photo
    width: int
    rows: Sequence[CellExtent]
    columns: Sequence[CellExtent]
    unit: str  # written after a value
    notes: Sequence[str] = ()  # texts that are written after the unit
    note_of: Sequence[int] = ()  # for each cell, row by row: index of its text in `notes`
    masking: bool = False  # whether clicks mask cells
    hint: str = "Point at a cell for its value. Click it for more, or focus the photo and use the arrow keys."
    outside: str = "The network does not see this part of the photo."  # shown for the part that was cropped away


@dataclass(frozen=True)
class ChosenCells:
    """The cells that the user chose and masked on the photo."""

    cell: Cell | None
    masked: tuple[Cell, ...]


def show_photo(picture: Picture, start: Cell | None, revision: str, masked: Sequence[Cell]) -> ChosenCells:
    """Show the photo with its class map.

    Args:
        picture: what the browser draws and writes.
        start: the cell that is chosen when the photo first appears.
        revision: name of the mask of the server. When it changes, the browser replaces its mask by `masked`.
        masked: the masked cells of this revision.
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
    """Read what the browser reported. Leave out cells outside the grid: the report may be older than the picture."""

    def keep_on_grid(cell: Any) -> Cell | None:
        y, x = cell if cell is not None else (-1, -1)
        return (int(y), int(x)) if 0 <= y < len(picture.rows) and 0 <= x < len(picture.columns) else None

    if not report:
        return ChosenCells(keep_on_grid(start), tuple(masked))
    cells = report["masked"] if report["revision"] == revision else masked
    on_grid = (keep_on_grid(cell) for cell in cells)
    return ChosenCells(keep_on_grid(report["cell"]), tuple(cell for cell in on_grid if cell is not None))
