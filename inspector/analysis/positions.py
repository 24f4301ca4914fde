"""Single cells of the class maps: their contributions, the channels they decide, the class with the highest value.

With global max pooling, one cell decides each channel: the first one, row by row, that has the channel's maximum.

    gap[c] = F[c, y*, x*] - highest F[c, y, x] at any other cell

A gap of zero is a tie: two cells have the maximum.

The class maps are `ClassMaps`, or `MapArrays` with channels; for these, torch is not imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspector.errors import InspectorError
from inspector.explain.map_arrays import Floats, MapArrays, Maps, to_array

NO_WINNER = -1  # winner of a cell in which all classes have the same value


@dataclass(frozen=True)
class CellContributions:
    """Contributions of one cell to the logits of some classes, and of its channels to the logit of one class."""

    row: int
    column: int
    parts: tuple[tuple[int, float], ...]  # (class, logits), in the order of the given classes
    channels: tuple[tuple[int, float], ...]  # (channel, logits) by decreasing absolute value, without zeros
    rest: float  # contribution of all other channels, in logits


@dataclass(frozen=True, eq=False)
class Decisions:
    """Which cell decides each channel of global max pooling."""

    cells: NDArray[np.intp]  # (C,), index of the deciding cell, row by row; -1 for a silent channel, whose maximum is 0
    gaps: Floats  # (C,), maximum minus the highest value at any other cell, in the unit of the feature map
    # (C,), first cell with the highest value except the deciding cell; -1 if the map has one cell
    runners_up: NDArray[np.intp]
    votes: NDArray[np.intp]  # (h, w), number of channels that each cell decides


@dataclass(frozen=True, eq=False)
class Winners:
    """The class with the highest value at each cell."""

    classes: tuple[int, ...]  # classes that win at least one cell, by decreasing number of cells
    grid: NDArray[np.intp]  # (h, w), index of the winning class; NO_WINNER if all classes have the same value
    values: Floats  # (h, w), value of the winning class in logits, without the bias


def inspect_cell(
    maps: Maps, row: int, column: int, k: str | int, classes: Sequence[int] = (), count: int = 5
) -> CellContributions:
    """Return the contributions of one cell.

    Args:
        maps: class maps of one image.
        row: row of the cell.
        column: column of the cell.
        k: name or index of the class whose logit is split over channels.
        classes: indices of the classes whose values are listed.
        count: number of channels to list, those with the largest absolute contributions.

    Raises:
        InspectorError: the cell is outside the grid.
    """
    _, height, width = maps.values.shape
    if not (0 <= row < height and 0 <= column < width):
        raise InspectorError(f"No cell ({row}, {column}). Rows are 0 to {height - 1}, columns 0 to {width - 1}.")
    contributions = to_array(maps.parts(k)[:, row, column])
    order = np.argsort(-np.abs(contributions), kind="stable")
    strongest = tuple((int(c), float(contributions[c])) for c in order[:count] if contributions[c] != 0)
    rest = contributions[np.sort(order[count:])].sum()
    values = maps.values[list(classes), row, column].tolist()
    return CellContributions(row, column, tuple(zip(classes, values, strict=True)), strongest, float(rest))


def has_deciding_cells(maps: Maps) -> bool:
    """Tell whether one cell decides each channel. This is so if max pooling is the only pooling."""
    if isinstance(maps, MapArrays):
        return maps.maxima is not None
    return maps.classifier.head.pooling == "max" and len(maps.decomposition.branches) == 1


def find_decisions(maps: Maps) -> Decisions:
    """Find which cell decides each channel, and by how much.

    Raises:
        InspectorError: max pooling is not the only pooling.
    """
    if not has_deciding_cells(maps):
        pooling = maps.classifier.pooling if isinstance(maps, MapArrays) else maps.classifier.head.pooling
        raise InspectorError(f"Expected a head whose only pooling is max pooling, got {pooling}.")
    feature_maps = to_array(maps.feature_maps)
    flat, channels = feature_maps.reshape(len(feature_maps), -1), np.arange(len(feature_maps))
    deciding = flat.argmax(1)
    maxima, others = flat[channels, deciding], flat.copy()
    others[channels, deciding] = -np.inf
    runners_up = others.argmax(1)
    second = others[channels, runners_up]
    cells = np.where(maxima == 0, -1, deciding)
    votes = np.bincount(cells[cells >= 0], minlength=flat.shape[1]).reshape(feature_maps.shape[1:])
    return Decisions(cells, maxima - second, np.where(second > -np.inf, runners_up, -1), votes)


def find_winners(maps: Maps) -> Winners:
    """Find the class with the highest value at each cell: the argmax over all class maps, without the bias.

    With max pooling, class scores are compared instead of contributions, because most cells contribute to no logit.
    In a tie, the class with the lower index wins, unless all classes have the same value.
    """
    values = to_array(_compute_scores(maps) if has_deciding_cells(maps) else maps.values)
    best, grid = values.max(0), values.argmax(0)
    grid = np.where(best == values.min(0), NO_WINNER, grid) if len(values) > 1 else grid
    counts = np.bincount(grid[grid != NO_WINNER], minlength=len(values))
    order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
    return Winners(tuple(order.tolist()), grid, best)


def _compute_scores(maps: Maps) -> Any:
    return maps.scores if isinstance(maps, MapArrays) else maps.position_scores()
