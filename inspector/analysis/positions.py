"""Single cells of the class maps: their contributions, the channels they decide, the class with the highest value.

With global max pooling, one cell decides each channel: the first one, row by row, that has the channel's maximum.

    gap[c] = F[c, y*, x*] - highest F[c, y, x] at any other cell

A gap of zero is a tie: two cells have the maximum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMaps
from inspector.explain.pooling import argmax_positions

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

    cells: Tensor  # (C,), index of the deciding cell, row by row; -1 for a silent channel, whose maximum is 0
    gaps: Tensor  # (C,), maximum minus the highest value at any other cell, in the unit of the feature map
    runners_up: Tensor  # (C,), first cell with the highest value except the deciding cell; -1 if the map has one cell
    votes: Tensor  # (h, w), number of channels that each cell decides


@dataclass(frozen=True, eq=False)
class Winners:
    """The class with the highest value at each cell."""

    classes: tuple[int, ...]  # classes that win at least one cell, by decreasing number of cells
    grid: Tensor  # (h, w), index of the winning class; NO_WINNER if all classes have the same value
    values: Tensor  # (h, w), value of the winning class in logits, without the bias


def inspect_cell(
    maps: ClassMaps, row: int, column: int, k: str | int, classes: Sequence[int] = (), count: int = 5
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
    contributions = maps.parts(k)[:, row, column]
    order = contributions.abs().argsort(descending=True, stable=True)[:count]
    strongest = tuple((int(c), float(contributions[c])) for c in order if contributions[c] != 0)
    rest = contributions.index_fill(0, order, 0).sum()
    values = maps.values[list(classes), row, column].tolist()
    return CellContributions(row, column, tuple(zip(classes, values, strict=True)), strongest, float(rest))


def has_deciding_cells(maps: ClassMaps) -> bool:
    """Tell whether one cell decides each channel. This is so if max pooling is the only pooling."""
    return maps.classifier.head.pooling == "max" and len(maps.decomposition.branches) == 1


def find_decisions(maps: ClassMaps) -> Decisions:
    """Find which cell decides each channel, and by how much.

    Raises:
        InspectorError: max pooling is not the only pooling.
    """
    if not has_deciding_cells(maps):
        raise InspectorError(f"Expected a head whose only pooling is max pooling, got {maps.classifier.head.pooling}.")
    feature_maps = maps.decomposition.branches[0].feature_maps
    flat = feature_maps.flatten(1)
    cells = argmax_positions(feature_maps[None])[0]
    second, runners_up = flat.scatter(1, flat.argmax(1, keepdim=True), -math.inf).max(1)
    runners_up = runners_up.where(second > -math.inf, -1)
    votes = torch.bincount(cells[cells >= 0], minlength=flat.shape[1]).view(feature_maps.shape[1:])
    return Decisions(cells, flat.amax(1) - second, runners_up, votes)


def find_winners(maps: ClassMaps) -> Winners:
    """Find the class with the highest value at each cell: the argmax over all class maps, without the bias.

    With max pooling, class scores are compared instead of contributions, because most cells contribute to no logit.
    In a tie, the class with the lower index wins, unless all classes have the same value.
    """
    values = maps.position_scores() if has_deciding_cells(maps) else maps.values
    best, grid = values.max(0)
    grid = torch.where(best == values.amin(0), NO_WINNER, grid) if len(values) > 1 else grid
    counts = torch.bincount(grid[grid != NO_WINNER], minlength=len(values))
    order = counts.argsort(descending=True, stable=True)[: int((counts > 0).sum())]
    return Winners(tuple(order.tolist()), grid, best)
