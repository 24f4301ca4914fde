"""Grids of photos on which it is known where the evidence of a class can be, and how much of a map is there.

Rao, Böhle and Schiele, "Towards better understanding attribution methods", CVPR 2022. Photos of different classes are
laid side by side in a grid. The score of a map is the share of its positive values in the cell of its class, 0-1. Three
networks are compared, which differ in what a logit can depend on:

    GridPG   the network itself, on the whole grid: other photos may contribute to the logit, so 1 need not be right
    DiPart   the logit pools only the feature maps over its photo: others contribute within a receptive field at most
    DiFull   each photo has passed through the network alone: other photos cannot contribute, so the answer is 1

(Böhle et al., CVPR 2021, introduced GridPG.)
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from inspector.analysis.attribution.case import Attribution
from inspector.errors import AttributionError

GridKind = Literal["GridPG", "DiPart", "DiFull"]


class GridNetwork(nn.Module):
    """A network on a grid of photos: (N, channels, rows * H, columns * W) -> a logit per photo, (N, rows * columns)."""

    def __init__(
        self,
        features: nn.Module,
        weight: Tensor,
        bias: Tensor,
        classes: Sequence[int],
        grid: tuple[int, int],
        feature_grid: tuple[int, int],
        kind: GridKind,
    ) -> None:
        """Make the network.

        Args:
            features: the network up to its global average pooling: images -> feature maps (N, C, h, w).
            weight: (K, C) of the linear layer after the pooling.
            bias: (K,).
            classes: class of each photo, row by row; the logits of the others are not computed.
            grid: (rows, columns) of photos.
            feature_grid: (h, w) of the feature maps of one photo.
            kind: what a logit can depend on.

        Raises:
            AttributionError: there is no such kind, or not one class per photo.
        """
        super().__init__()
        if kind not in get_args(GridKind):
            raise AttributionError(f"No kind {kind!r}. Use {', '.join(get_args(GridKind))}.")
        if len(classes) != grid[0] * grid[1]:
            raise AttributionError(f"Expected a class for each of {grid[0]} x {grid[1]} photos, got {len(classes)}.")
        self.features, self.grid, self.kind = features, grid, kind
        (rows, columns), (h, w) = grid, feature_grid
        chosen = weight[list(classes)]  # (rows * columns, C)
        self.linear: nn.Linear
        if kind == "GridPG":
            self.linear = _make_linear(chosen, bias[list(classes)])
        else:
            # The mean over the cells of one photo, as weights of all cells of the grid: flatten and linear.
            owner = torch.eye(rows * columns).to(chosen).reshape(-1, rows, 1, columns, 1).expand(-1, -1, h, -1, w)
            weights = chosen[:, :, None, None] * owner.reshape(-1, 1, rows * h, columns * w) / (h * w)
            self.linear = _make_linear(weights.flatten(1), bias[list(classes)])

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logit of each photo's class."""
        if self.kind == "DiFull":
            rows, columns = self.grid
            tiles = [tile for row in images.chunk(rows, 2) for tile in row.chunk(columns, 3)]
            maps = [self.features(tile) for tile in tiles]
            bands = [torch.cat(maps[row * columns : (row + 1) * columns], 3) for row in range(rows)]
            return self.linear(torch.cat(bands, 2).flatten(1))  # type: ignore[no-any-return]
        maps = self.features(images)
        return self.linear(maps.mean((2, 3)) if self.kind == "GridPG" else maps.flatten(1))  # type: ignore[no-any-return]


def _make_linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    return linear


def measure_share_in_cell(attribution: Attribution | Tensor, grid: tuple[int, int], number: int) -> float | None:
    """Measure the share of the positive values of a map that are in one photo of the grid.

    Args:
        attribution: map over the whole grid of photos; each photo has the same number of its values.
        grid: (rows, columns) of photos.
        number: of the photo, row by row.

    Returns:
        0-1; None if no value is positive.

    Raises:
        AttributionError: the photos do not have the same number of values.
    """
    values = attribution if isinstance(attribution, Tensor) else attribution.values
    rows, columns = grid
    height, width = values.shape
    if height % rows or width % columns:
        raise AttributionError(f"A map of {height} x {width} values cannot be divided among {rows} x {columns} photos.")
    positive = values.detach().double().clamp(min=0).reshape(rows, height // rows, columns, width // columns)
    shares = positive.sum((1, 3)).flatten()
    total = float(shares.sum())
    return float(shares[number]) / total if total > 0 else None
