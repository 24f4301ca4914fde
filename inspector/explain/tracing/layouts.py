"""How feature maps may be laid out in a tensor, given the shapes before and after a pooling.

    channels first    (N, C, h, w), or tokens (N, C, h * w)
    channels last     (N, h, w, C), or tokens (N, h * w, C)

A shape may fit both: with as many channels as rows, (N, 16, 16, 16) -> (N, 16) does. Both are returned then, and
branches.py takes the one that explains the numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureLayout:
    """How feature maps are laid out in a tensor."""

    channels: Literal["first", "last"]
    grid: tuple[int, int] | None  # h, w; None for tokens that form no grid, because a class token is among them
    tokens: bool = False  # all cells are on one axis
    is_guess: bool = False  # whether no feature maps with this grid were seen before

    def feature_maps(self, tensor: Tensor) -> Tensor:
        """Return a view of the tensor as (N, C, h, w); as (N, C, 1, tokens) where there is no grid."""
        if self.tokens:
            rows: Tensor = tensor if self.channels == "first" else tensor.transpose(1, 2)
            maps: Tensor = rows.unflatten(2, self.grid or (1, -1))
            return maps
        return tensor if self.channels == "first" else tensor.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class PooledLayout:
    """How pooled values are laid out in the result of a pooling call."""

    shape: torch.Size  # of the result
    # Layout and shape of the maps if they were flattened with the channels last: (h, w, C), or (h * w, C). None: the
    # result has the order of the pooled values.
    flattened: tuple[FeatureLayout, torch.Size] | None = None

    def read(self, result: Tensor) -> Tensor:
        """Return the pooled values (N, P) in a result; flattened maps in the order C, h, w."""
        if self.flattened is None:
            return result.flatten(1)
        layout, shape = self.flattened
        return layout.feature_maps(result.reshape(-1, *shape[1:])).flatten(1)

    def restore(self, pooled: Tensor) -> Tensor:
        """Return pooled values (R, P) in the layout of a result."""
        if self.flattened is not None:
            _, shape = self.flattened
            # The channels are the last axis of `shape`.
            pooled = pooled.unflatten(1, (shape[-1], -1)).transpose(1, 2)
        return pooled.reshape(-1, *self.shape[1:])


class GridFinder:
    """Finds the grid (h, w) on which tokens lie, from what was seen in the pass up to now."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}  # number of cells -> last grid of maps with that many
        self._grids: set[tuple[int, int]] = set()  # all grids of maps
        self._image: tuple[int, int] | None = None  # (H, W) of the first image

    def note_image(self, tensor: Tensor) -> bool:
        """Note the input: the first tensor of a pass with four axes is the image. Return whether this one is it."""
        if self._image is not None or tensor.ndim != 4:
            return False
        self._image = tensor.shape[2], tensor.shape[3]
        return True

    def note_maps(self, maps: Tensor) -> None:
        """Note the grid of feature maps (N, C, h, w), the result of a convolution for example."""
        height, width = maps.shape[2:]
        # One row or one column may be the output of attention for a single query: it is not taken as a grid.
        if height > 1 and width > 1:
            self._seen[height * width] = height, width
            self._grids.add((height, width))

    def was_seen(self, cells: int, grid: tuple[int, int] | None = None) -> bool:
        """Tell whether there were feature maps with this number of cells, in this grid if one is given."""
        return cells in self._seen if grid is None else grid in self._grids

    def find(self, cells: int) -> tuple[int, int] | None:
        """Return the grid of a number of tokens: that of earlier feature maps, else one in the image's proportions."""
        return self._seen.get(cells) or (None if self._image is None else divide_image(self._image, cells))


def divide_image(size: Sequence[int], cells: int) -> tuple[int, int] | None:
    """Return the grid (h, w) of this many square patches of an image (H, W); None if there is none.

    Height and width may be rounded up or down to whole patches. Of several grids, the one whose patches are closest to
    a square is returned.
    """
    grids = [(h, cells // h) for h in range(1, cells + 1) if cells % h == 0]
    possible = [grid for grid in grids if have_one_stride(size, grid)]
    return min(possible, key=lambda grid: measure_disproportion(grid, size), default=None)


def have_one_stride(size: Sequence[int], grid: Sequence[int]) -> bool:
    """Tell whether a grid (h, w) divides an image (H, W) by one stride on both axes, rounded up or down."""
    least = max(pixels / (n + 1) for pixels, n in zip(size, grid, strict=True))
    most = min(pixels / (n - 1) if n > 1 else math.inf for pixels, n in zip(size, grid, strict=True))
    return least < most


def measure_disproportion(grid: Sequence[int], size: Sequence[int]) -> float:
    """Return how far the proportions of a grid (h, w) are from those of an image (H, W), as a logarithm; 0 is equal."""
    return abs(math.log(grid[0] / grid[1]) - math.log(size[0] / size[1])) if all(grid) else math.inf


def find_layouts(
    source: torch.Size, result: torch.Size, grids: GridFinder, is_sequence: bool = False
) -> list[FeatureLayout]:
    """Return the layouts of feature maps that shapes before and after a call allow; none if it is no pooling.

    Args:
        source: shape of the tensor that was pooled.
        result: shape of the result: one value per channel, or all values on one axis.
        grids: knows the grids of tokens.
        is_sequence: the call takes (N, C, length) by definition.
    """
    if len(result) not in (2, 3, 4) or source[:1] != result[:1] or not source[0]:
        return []
    values = result.numel() // source[0]
    if len(source) == 4:
        return _find_map_layouts(source, result, values, grids)
    if len(source) == 3:
        return _find_token_layouts(source, result, values, grids, is_sequence)
    return []


def _find_map_layouts(source: torch.Size, result: torch.Size, values: int, grids: GridFinder) -> list[FeatureLayout]:
    _, a, b, c = source
    flattened = values == a * b * c and len(result) == 2
    # Maps of one cell are pooled when they lose their axes of length 1. Before that, any layer keeps their shape.
    may_have_one_cell = len(result) == 2
    layouts = []
    # Not for (N, 1, 1, W): these may be W channels of one cell, with the channels last, not flattened maps.
    if (b * c > 1 or may_have_one_cell) and (
        (flattened and (a * b > 1 or b * c == 1)) or (values == a == result[1] and b * c > 1)
    ):
        layouts.append(FeatureLayout("first", (b, c), is_guess=not grids.was_seen(b * c, (b, c))))
    if (a * b > 1 or may_have_one_cell) and c > 1 and (values == c == result[-1] or flattened):
        layouts.append(FeatureLayout("last", (a, b), is_guess=not grids.was_seen(a * b, (a, b))))
    return layouts


def _find_token_layouts(
    source: torch.Size, result: torch.Size, values: int, grids: GridFinder, is_sequence: bool
) -> list[FeatureLayout]:
    _, rows, columns = source
    if rows == 1 or columns == 1:
        return []
    layouts = []
    flattened = values == rows * columns and len(result) == 2
    if not is_sequence and (values == columns == result[-1] or (flattened and grids.find(rows))):
        layouts.append(FeatureLayout("last", grids.find(rows), tokens=True, is_guess=not grids.was_seen(rows)))
    # If the number of columns is no known grid, this is a reduction over channels, as in normalization.
    grid = grids.find(columns) if is_sequence or len(result) == 2 or grids.was_seen(columns) else None
    if grid is not None and (values == rows == result[1] or flattened):
        layouts.append(FeatureLayout("first", grid, tokens=True, is_guess=not grids.was_seen(columns)))
    return layouts
