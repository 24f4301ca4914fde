"""Class maps with different grids on one scale: per area of the photo, or resampled to one grid with their sums kept.

A cell of a 7 x 7 grid covers four times the area of a cell of a 14 x 14 grid, so its contribution is about four times
as large where the evidence is the same. Both functions divide the part of the photo that the network sees evenly among
the cells of a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inspector.explain.class_maps import ClassMap, ClassMaps
from inspector.explain.receptive_field import ReceptiveField, make_even_field
from inspector.images.preprocessing import Crop


@dataclass(frozen=True, eq=False)
class PlacedMap:
    """The values of a class map, and where they lie on the photo."""

    values: Tensor  # (h, w)
    crop: Crop
    field: ReceptiveField


@dataclass(frozen=True, eq=False)
class ComparableMaps:
    """Maps that can share one scale."""

    placed: list[PlacedMap]
    unit: str  # what the value of a cell is, in words

    @property
    def values(self) -> list[Tensor]:
        """Return the values (h, w) of each map."""
        return [one.values for one in self.placed]


def make_comparable(
    maps: Sequence[ClassMaps],
    class_maps: Sequence[ClassMap],
    resample: bool = False,
    by_area: bool = True,
    contrast: bool = False,
) -> ComparableMaps:
    """Give maps one scale.

    Args:
        maps: class maps, at least one.
        class_maps: the map of one class of each of them.
        resample: resample all maps to the grid with the fewest cells. They have to be of one photo. Maps whose place is
            unknown are not resampled.
        by_area: divide the values by the area of the cells where the grids differ.
        contrast: the maps sum to a difference of logits.

    Returns:
        The maps themselves if their grids are the same; else resampled, or in values per 1 % of the photo's area.
    """
    placed = [
        PlacedMap(class_map.values, one.view.crop, one.classifier.receptive_field)
        for one, class_map in zip(maps, class_maps, strict=True)
    ]
    meanings = [one.classifier.meaning for one in maps]
    quantities = [meaning.difference if contrast else meaning.quantity for meaning in meanings]
    named = [meaning.describe_cells(quantity=quantity) for meaning, quantity in zip(meanings, quantities, strict=True)]
    cells = " or ".join(dict.fromkeys(named))
    if len({one.values.shape for one in placed}) == 1 and (not resample or len({one.crop.box for one in placed}) == 1):
        return ComparableMaps(placed, cells)
    if resample and (resampled := resample_to_one_grid(placed)) is not None:
        rows, columns = min((one.values.shape for one in placed), key=lambda grid: grid[0] * grid[1])
        return ComparableMaps(resampled, f"{cells}, resampled to {rows} x {columns} cells")
    if not by_area:
        return ComparableMaps(placed, cells)
    units = " or ".join(dict.fromkeys(meaning.units for meaning in meanings))
    unit = f"contribution divided by the cell's area, in {units} per 1 % of the photo"
    return ComparableMaps([divide_by_area(one) for one in placed], unit)


def divide_by_area(placed: PlacedMap) -> PlacedMap:
    """Divide the value of each cell by the area of the cell, in percent of the photo's area."""
    (left, top, right, bottom), (height, width) = placed.crop.box, placed.crop.photo_size
    seen = 1.0 if placed.field.misplaced is not None else (right - left) * (bottom - top) / (height * width)
    return replace(placed, values=placed.values * (placed.values.numel() / (100 * seen)))


def resample_to_one_grid(placed: Sequence[PlacedMap]) -> list[PlacedMap] | None:
    """Resample maps of one photo to the smallest of their grids, over all that any network sees of the photo.

    Each value is spread evenly over the area of its cell, and every cell of the new grid sums what lies in it. So the
    sum of a map stays the same.

    Returns:
        The maps; None if the place of one of them is unknown.
    """
    if any(one.field.misplaced is not None for one in placed):
        return None
    left, top = (min(one.crop.box[i] for one in placed) for i in (0, 1))
    right, bottom = (max(one.crop.box[i] for one in placed) for i in (2, 3))
    rows, columns = min((tuple(one.values.shape) for one in placed), key=lambda grid: grid[0] * grid[1])
    crop = replace(placed[0].crop, box=(left, top, right, bottom))
    field = make_even_field(crop.input_size, (rows, columns))
    resampled = []
    for one in placed:
        x1, y1, x2, y2 = one.crop.box
        down = _find_overlaps(np.linspace(y1, y2, one.values.shape[0] + 1), np.linspace(top, bottom, rows + 1))
        across = _find_overlaps(np.linspace(x1, x2, one.values.shape[1] + 1), np.linspace(left, right, columns + 1))
        values = down @ one.values.detach().double().cpu().numpy() @ across.T
        resampled.append(PlacedMap(torch.from_numpy(values).to(one.values), crop, field))
    return resampled


def _find_overlaps(old: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the part of each old cell that lies in each new cell, (new cells, old cells), from the edges of both."""
    starts, ends = np.maximum(new[:-1, None], old[None, :-1]), np.minimum(new[1:, None], old[None, 1:])
    parts: NDArray[np.float64] = np.maximum(ends - starts, 0) / np.diff(old)
    return parts
