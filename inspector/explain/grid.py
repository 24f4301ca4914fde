"""Where the cells of a map lie on the photo, and a map resampled there.

Cell i of an axis stands at the center of its receptive field, `center + i * stride` in pixels of the network's input.
A place p of the axis is at the position `(p - center) / stride` among the cells. Between two centers a map is
interpolated linearly, and beyond the outer ones it is constant:

    weight of cell i at p = max(0, 1 - |position - i|),  position limited to 0 ... cells - 1

Without interpolation the position is rounded first; halfway between two centers, the later cell is taken. The browser
draws maps by the same formula (`interpolate` in output/frontend/map_drawing.js).

If the cells do not respond at their places (explain/places.py), their map belongs on no photo: what needs a place
raises PlaceError, and maps are drawn as the bare grid.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspector.errors import PlaceError
from inspector.explain.receptive_field import Axis, ReceptiveField, make_even_field
from inspector.images.preprocessing import Crop


@dataclass(frozen=True)
class AxisPlacement:
    """Where cells are along one side of a photo: place s (0 to 1) is at cell position `slope * s + offset`."""

    slope: float
    offset: float
    start: float  # start and end of the part of the side that the network sees
    end: float


@dataclass(frozen=True)
class CellExtent:
    """One row or one column of cells in pixels of the photo, limited to the part that the network sees."""

    start: float  # the cell is drawn from start to end, where no other center is nearer
    end: float
    center: float  # center of its receptive field; may be outside the photo
    first: float  # first and last pixel of its receptive field
    last: float


def require_place(field: ReceptiveField) -> None:
    """Raise PlaceError if the place of a map's cells is unknown."""
    if field.misplaced is not None:
        raise PlaceError(f"The place of this evidence is unknown: {field.misplaced}. Its sums are right all the same.")


def interpolation_weights(positions: ArrayLike, cells: int, smooth: bool = True) -> NDArray[np.float64]:
    """Compute how much of each cell is taken at positions along one axis.

    Args:
        positions: (n,), in cells; 0 is the center of the first one.
        cells: number of cells.
        smooth: interpolate between the two nearest centers, or take the nearest cell alone.

    Returns:
        (n, cells); every row sums to 1.
    """
    limited = np.clip(np.asarray(positions, np.float64), 0, cells - 1)
    if not smooth:
        limited = np.floor(limited + 0.5)
    return np.asarray(np.maximum(0, 1 - np.abs(limited[:, None] - np.arange(cells))), np.float64)


def input_positions(axis: Axis, length: int) -> NDArray[np.float64]:
    """Return the position among the cells of every pixel along one axis of the network's input: (length,)."""
    return np.asarray((np.arange(length) + 0.5 - axis.centre) / axis.stride, np.float64)


def nearest_cells(axis: Axis, cells: int, length: int) -> NDArray[np.intp]:
    """Find the cell with the nearest center for every pixel along one axis of the network's input: (length,)."""
    nearest: NDArray[np.intp] = interpolation_weights(input_positions(axis, length), cells, smooth=False).argmax(1)
    return nearest


def resample_on_input(values: ArrayLike, field: ReceptiveField, size: Sequence[int]) -> NDArray[np.float64]:
    """Resample a map (h, w) at every pixel of the network's input: (H, W), interpolated between the cell centers.

    Raises:
        PlaceError: the place of the cells is unknown.
    """
    require_place(field)
    grid = np.asarray(values, np.float64)
    down, across = (
        interpolation_weights(input_positions(axis, length), cells)
        for axis, length, cells in zip((field.y, field.x), size, grid.shape, strict=True)
    )
    return down @ grid @ across.T


def resample_on_photo(
    values: ArrayLike, crop: Crop, field: ReceptiveField, size: tuple[int, int], smooth: bool
) -> NDArray[np.float32]:
    """Resample a map over the whole photo.

    Args:
        values: map (h, w).
        crop: where the network's input lies on the photo.
        field: receptive field of the map's cells.
        size: (height, width) of the result; the photo is stretched to it.
        smooth: interpolate between the cell centers, or give every pixel the value of its nearest cell.

    Returns:
        (height, width); zero outside the crop.

    Raises:
        PlaceError: the place of the cells is unknown.
    """
    require_place(field)
    grid = np.asarray(values, np.float32)
    down, across = (
        _weigh_photo_pixels(placement, cells, length, smooth)
        for placement, cells, length in zip(axis_placements(crop, field), grid.shape, size, strict=True)
    )
    drawn: NDArray[np.float32] = (down @ grid @ across.T).astype(np.float32, copy=False)
    return drawn


def _weigh_photo_pixels(placement: AxisPlacement, cells: int, length: int, smooth: bool) -> NDArray[np.float32]:
    places = (np.arange(length) + 0.5) / length
    weights = interpolation_weights(placement.slope * places + placement.offset, cells, smooth)
    inside = (places >= placement.start) & (places <= placement.end)
    seen: NDArray[np.float32] = (weights * inside[:, None]).astype(np.float32)
    return seen


def axis_placements(crop: Crop, field: ReceptiveField) -> tuple[AxisPlacement, AxisPlacement]:
    """Return where the rows of cells lie down the photo, and the columns across it.

    Raises:
        PlaceError: the place of the cells is unknown.
    """
    require_place(field)
    rows, columns = (_place(*side) for side in _list_sides(crop, field))
    return rows, columns


def _list_sides(crop: Crop, field: ReceptiveField) -> list[tuple[Axis, float, float, int, int]]:
    """Return for y and x: axis of the cells, start and end of the crop, length of the network's input and the photo."""
    left, top, right, bottom = crop.box
    return list(zip((field.y, field.x), (top, left), (bottom, right), crop.input_size, crop.photo_size, strict=True))


def _place(axis: Axis, start: float, end: float, input_length: int, photo_length: int) -> AxisPlacement:
    # Scale from the photo's side (0 to 1) to pixels of the network's input, and from these to cells.
    scale = input_length / (end - start)
    slope, offset = photo_length * scale, -start * scale
    return AxisPlacement(
        slope / axis.stride, (offset - axis.centre) / axis.stride, start / photo_length, end / photo_length
    )


def cell_extents(
    grid: Sequence[int], crop: Crop, field: ReceptiveField
) -> tuple[tuple[CellExtent, ...], tuple[CellExtent, ...]]:
    """Return the rows and the columns of cells of a grid (h, w); cell (y, x) is where row y and column x cross.

    Where the place of the cells is unknown, they divide the whole drawing evenly, as the bare grid is drawn.
    """
    if field.misplaced is not None:
        height, width = crop.photo_size
        crop, field = replace(crop, box=(0, 0, width, height)), make_even_field(crop.input_size, grid)
    rows, columns = (_find_extents(cells, *side) for cells, side in zip(grid, _list_sides(crop, field), strict=True))
    return rows, columns


def _find_extents(cells: int, axis: Axis, first: float, last: float, length: int, photo: int) -> tuple[CellExtent, ...]:
    scale = (last - first) / length

    def on_photo(place: float) -> float:
        return min(max(first + min(max(place, 0), length) * scale, 0), photo)

    extents = []
    for i in range(cells):
        center = axis.centre + i * axis.stride
        # The first and the last cell extend to the edges of the crop.
        start = center - axis.stride / 2 if i else -math.inf
        end = center + axis.stride / 2 if i < cells - 1 else math.inf
        seen = (on_photo(center - axis.size / 2), on_photo(center + axis.size / 2))
        extents.append(CellExtent(on_photo(start), on_photo(end), first + center * scale, *seen))
    return tuple(extents)


def find_surroundings(axis: Axis, place: int, low: float, high: float, cells: int = 3) -> tuple[float, float]:
    """Return where some cells around a cell begin and end along one axis: no more than what the cell sees.

    Args:
        axis: receptive fields of the cells.
        place: number of the cell.
        low: where the input, or the part of it that may be shown, begins. What would exceed it is moved inside.
        high: where it ends.
        cells: number of cells, with the one in the middle.
    """
    side = min(cells * axis.stride, axis.size, high - low)
    first = min(max(axis.centre + place * axis.stride - side / 2, low), high - side)
    return first, first + side


def fit_size(photo_size: Sequence[int], side: int) -> tuple[int, int]:
    """Return the (height, width) of a drawing of the photo whose longer side has `side` pixels."""
    factor = side / max(photo_size)
    height, width = (max(1, round(length * factor)) for length in photo_size)
    return height, width
