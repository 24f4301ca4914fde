"""One position of the class maps: what it adds, what it sees, which channels speak there, and what it decides.

With global max pooling every channel is decided at one position, the first that holds its maximum, row by row:

    gap[c] = F[c, y*, x*] - the highest F[c, y, x] at any other position

A gap of zero is a tie, which the first position decides.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMaps
from inspector.explain.pooling import argmax_positions

NO_WINNER = -1  # the winner of a position that tells no class from another


@dataclass(frozen=True)
class CellContributions:
    """What one position adds to the logits of some classes, and through which channels to that of one class."""

    row: int
    column: int
    parts: tuple[tuple[int, float], ...]  # (class, logits), in the order in which the classes were named
    channels: tuple[tuple[int, float], ...]  # (channel, logits), the largest absolute value first; none of zero
    rest: float  # what the other channels add, in logits


@dataclass(frozen=True, eq=False)
class Decisions:
    """Which position decides each channel of global max pooling."""

    cells: Tensor  # (C,), counted row by row; -1 for a silent channel: its maximum is 0, and nothing decided
    gaps: Tensor  # (C,), the maximum less the highest value elsewhere, in the feature map's unit; 0 is a tie
    runners_up: Tensor  # (C,), the first position that holds the highest value elsewhere; -1 where there is none
    votes: Tensor  # (h, w), how many channels each position decides


@dataclass(frozen=True, eq=False)
class Winners:
    """The class that each position speaks for most."""

    classes: tuple[int, ...]  # those that win somewhere, the one with the most positions first
    grid: Tensor  # (h, w), the winning class; NO_WINNER where all classes are equal
    values: Tensor  # (h, w), its value there, in logits, less bias


def inspect_cell(
    maps: ClassMaps, row: int, column: int, k: str | int, classes: Sequence[int] = (), count: int = 5
) -> CellContributions:
    """What a position adds to the logits of `classes`, and the `count` channels that add most to class k there.

    InspectorError for a position outside the grid.
    """
    _, height, width = maps.values.shape
    if not (0 <= row < height and 0 <= column < width):
        raise InspectorError(
            f"No position ({row}, {column}): rows go from 0 to {height - 1} and columns from 0 to {width - 1}."
        )
    contributions = maps.parts(k)[:, row, column]
    order = contributions.abs().argsort(descending=True, stable=True)[:count]
    strongest = tuple((int(c), float(contributions[c])) for c in order if contributions[c] != 0)
    rest = contributions.index_fill(0, order, 0).sum()
    values = maps.values[list(classes), row, column].tolist()
    return CellContributions(row, column, tuple(zip(classes, values, strict=True)), strongest, float(rest))


def has_deciding_cells(maps: ClassMaps) -> bool:
    """Whether every channel is decided at one position: whether max pooling is the only pooling."""
    return maps.classifier.head.pooling == "max" and len(maps.decomposition.branches) == 1


def find_decisions(maps: ClassMaps) -> Decisions:
    """Which position decides each channel, and by how much; of equal values the first position, row by row, does.

    InspectorError where not max pooling alone pools.
    """
    if not has_deciding_cells(maps):
        raise InspectorError(
            "Positions decide channels where max pooling is the only pooling: this head's is "
            f"{maps.classifier.head.pooling}."
        )
    feature_maps = maps.decomposition.branches[0].feature_maps
    flat = feature_maps.flatten(1)
    cells = argmax_positions(feature_maps[None])[0]
    first = flat.argmax(1, keepdim=True)
    others = flat.scatter(1, first, -math.inf)
    second, runners_up = others.max(1)
    has_one_cell = second == -math.inf
    votes = torch.bincount(cells[cells >= 0], minlength=flat.shape[1]).view(feature_maps.shape[1:])
    return Decisions(cells, flat.amax(1) - second, torch.where(has_one_cell, -1, runners_up), votes)


def find_winners(maps: ClassMaps) -> Winners:
    """The class that each position gives the most logits, bias left out: the argmax of all class maps.

    For max pooling of the position scores, since most positions have no part of any logit. Of equal classes the first
    wins; where all are equal, nobody.
    """
    values = maps.position_scores() if has_deciding_cells(maps) else maps.values
    best, grid = values.max(0)
    grid = torch.where(best == values.amin(0), NO_WINNER, grid) if len(values) > 1 else grid
    counts = torch.bincount(grid[grid != NO_WINNER], minlength=len(values))
    order = counts.argsort(descending=True, stable=True)[: int((counts > 0).sum())]
    return Winners(tuple(order.tolist()), grid, best)
