"""Global pooling, and how each kind decomposes a pooled value over cells.

    average   p[c] = sum over y, x of  F[c, y, x] / (h * w)
    max       p[c] = F[c, y*, x*],  (y*, x*) the first cell, row by row, with the maximum
    flatten   p[c, y, x] = F[c, y, x]: nothing is pooled, and every cell has its own weights
    linear    p[c] = sum over y, x of  S[c, y, x] * F[c, y, x] + constant, such as a depthwise convolution
    other     the same to first order, S = dp / dF, such as generalized mean or log-sum-exp

Each is a sum over cells, therefore a logit that is affine in p is one too.
Lin, Chen, Yan, "Network in Network" (2013), for global average pooling; Oquab et al., "Is object localization
for free?" (CVPR 2015), for global max pooling; Zhou et al., "Learning deep features for discriminative
localization" (CVPR 2016), for the class maps that follow.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from inspector.explain.kinds import Pooling
from inspector.explain.precision import multiply
from inspector.explain.receptive_field import Axis, ReceptiveField, make_even_field

Reduction = Literal["average", "max"]


def global_average(feature_maps: Tensor) -> Tensor:
    """Compute the mean of each channel: (N, C, H, W) -> (N, C)."""
    return feature_maps.mean((2, 3))


def global_max(feature_maps: Tensor) -> Tensor:
    """Compute the maximum of each channel: (N, C, H, W) -> (N, C)."""
    return feature_maps.amax((2, 3))


def global_depth(feature_maps: Tensor, reduction: Reduction = "average") -> Tensor:
    """Compute the mean or maximum over the channels in each cell: (N, C, H, W) -> (N, 1, H, W)."""
    if reduction == "average":
        return feature_maps.mean(1, keepdim=True)
    return feature_maps.amax(1, keepdim=True)


# Poolings as functions from feature maps (N, C, H, W) to pooled values (N, P).
POOL: dict[Pooling, Callable[[Tensor], Tensor]] = {
    "average": global_average,
    "max": global_max,
    "flatten": lambda feature_maps: feature_maps.flatten(1),
}


class GlobalAveragePooling(nn.Module):
    """The mean of each channel: (N, C, H, W) -> (N, C)."""

    def forward(self, feature_maps: Tensor) -> Tensor:
        """Pool feature maps (N, C, H, W)."""
        return global_average(feature_maps)


class GlobalMaxPooling(nn.Module):
    """The maximum of each channel: (N, C, H, W) -> (N, C)."""

    def forward(self, feature_maps: Tensor) -> Tensor:
        """Pool feature maps (N, C, H, W)."""
        return global_max(feature_maps)


class GlobalDepthPooling(nn.Module):
    """The mean or maximum over the channels in each cell: (N, C, H, W) -> (N, 1, H, W)."""

    def __init__(self, reduction: Reduction = "average") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(self, feature_maps: Tensor) -> Tensor:
        """Pool feature maps (N, C, H, W)."""
        return global_depth(feature_maps, self.reduction)


def identify_pooling(feature_maps: Tensor, pooled: Tensor) -> list[Pooling]:
    """Find which poolings map feature maps to pooled values, by comparing numbers.

    Args:
        feature_maps: (N, C, h, w).
        pooled: (N, P).

    Returns:
        All that agree: several if the maps are constant, none for an unknown pooling.
    """
    # Two implementations of the same sum differ by rounding, so compare with a tolerance. In half precision the pooled
    # values themselves are rounded.
    rounding = max(torch.finfo(tensor.dtype).eps for tensor in (feature_maps, pooled))
    tolerance = max(1e-5, 2 * rounding) * float(feature_maps.abs().max())
    wide = torch.float32 if feature_maps.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    expected = {name: pool(feature_maps.to(wide)) for name, pool in POOL.items()}
    return [
        name
        for name, values in expected.items()
        if values.shape == pooled.shape and torch.allclose(values, pooled.to(wide), rtol=0, atol=tolerance)
    ]


def argmax_positions(feature_maps: Tensor) -> Tensor:
    """Find the cell with the maximum of each channel.

    Args:
        feature_maps: (N, C, h, w).

    Returns:
        int64 Tensor (N, C): the index of the cell, row by row; the first of equal maxima; -1 if the maximum is 0, where
        no cell decides (after a ReLU the channel is inactive).
    """
    maxima, positions = feature_maps.flatten(2).max(2)
    return torch.where(maxima == 0, -1, positions)


def position_shares(pooling: Pooling, feature_maps: Tensor, derivative: Tensor | None = None) -> Tensor:
    """Compute what each cell adds to each pooled value.

    Args:
        pooling: the kind of pooling.
        feature_maps: (N, C, h, w).
        derivative: d pooled / d feature maps, (N, C, h, w); needed for linear and other poolings.

    Returns:
        Tensor (N, C, h, w). Its sum over the cells is the pooled value; linear and other poolings may add a
        constant. With flatten the shares are the pooled values themselves.
    """
    if pooling == "average":
        return feature_maps / (feature_maps.shape[2] * feature_maps.shape[3])
    if pooling == "max":
        # An inactive channel has the index -1. Its share is 0 in every cell, so any cell will serve here.
        positions = argmax_positions(feature_maps).clamp(min=0)
        shares = torch.zeros_like(feature_maps).flatten(2)
        return shares.scatter_(2, positions[..., None], global_max(feature_maps)[..., None]).view_as(feature_maps)
    if pooling == "flatten":
        return feature_maps
    assert derivative is not None, "linear and other poolings are decomposed by their derivative"
    return feature_maps * derivative


def position_contributions(
    pooling: Pooling, feature_maps: Tensor, weight: Tensor | None, derivative: Tensor | None = None
) -> Tensor:
    """Compute what each cell adds to each logit.

    Args:
        pooling: the kind of pooling.
        feature_maps: (N, C, h, w).
        weight: (K, P); None if every channel is a class of its own, K = C.
        derivative: as for `position_shares`.

    Returns:
        Tensor (N, K, h, w) in logits, whose sum over the cells is weight @ pooled. For max pooling, a channel's whole
        contribution is in the cell with its maximum.
    """
    if weight is None:
        return position_shares(pooling, feature_maps, derivative)
    if pooling == "max":
        # Nearly all shares are zero: for a thousand classes, this is far less work than a product with them.
        positions = argmax_positions(feature_maps).clamp(min=0)
        contributions = weight * global_max(feature_maps)[:, None]  # (N, K, C)
        maps = contributions.new_zeros(*contributions.shape[:2], feature_maps[0, 0].numel())
        maps.scatter_add_(2, positions[:, None].expand_as(contributions), contributions)
        return maps.view(*maps.shape[:2], *feature_maps.shape[2:])
    if pooling == "flatten":
        # One image at a time, because the products of a batch would be N times as large as the weight.
        products = (weight * maps.flatten() for maps in feature_maps)
        return torch.stack([product.unflatten(1, feature_maps.shape[1:]).sum(1) for product in products])
    return position_scores(position_shares(pooling, feature_maps, derivative), weight)


def stack_position_rows(pooling: Pooling, shares: Tensor) -> Tensor:
    """Return, for each cell, the pooled values that this cell alone gives, as one row: (C, h, w) -> (h * w, P)."""
    rows = shares.flatten(1).T
    if pooling != "flatten":
        return rows
    # With flatten every cell has its own columns, ordered channel by channel; the columns of other cells are zero.
    return (torch.eye(len(rows)).to(rows)[:, None] * rows[:, :, None]).flatten(1)


def resample_conserving(
    maps: Tensor, grid: Sequence[int], fields: tuple[ReceptiveField, ReceptiveField] | None = None
) -> Tensor:
    """Resample maps (..., h, w) to another grid; every cell's value is divided among the cells that it covers.

    Args:
        maps: maps (..., h, w).
        grid: rows and columns of the result.
        fields: receptive fields of the cells of the maps, and of those of the result. Default: both grids divide the
            same area evenly.

    Returns:
        Tensor (..., *grid) with the same sum as `maps`: the outermost cells take what lies beyond them.
    """
    return _resample(maps, grid, fields, conserve=True)


def resample_averaging(
    maps: Tensor, grid: Sequence[int], fields: tuple[ReceptiveField, ReceptiveField] | None = None
) -> Tensor:
    """Resample maps (..., h, w) to another grid; every cell gets the mean value of its area.

    The arguments are those of `resample_conserving`. Beyond the outermost cells of the maps their values go on.
    """
    return _resample(maps, grid, fields, conserve=False)


def _resample(
    maps: Tensor, grid: Sequence[int], fields: tuple[ReceptiveField, ReceptiveField] | None, conserve: bool
) -> Tensor:
    old_grid, new_grid = tuple(maps.shape[-2:]), tuple(grid)
    old, new = fields or (make_even_field((1, 1), old_grid), make_even_field((1, 1), new_grid))
    if old_grid == new_grid and (fields is None or (old.y, old.x) == (new.y, new.x)):
        return maps
    vertical, horizontal = (
        _overlap(_edges(one, n), _edges(other, m), conserve).to(maps)
        for one, n, other, m in zip((old.y, old.x), old_grid, (new.y, new.x), new_grid, strict=True)
    )
    return vertical @ maps @ horizontal.T


def _edges(axis: Axis, cells: int) -> Tensor:
    return axis.centre + axis.stride * (torch.arange(cells + 1, dtype=torch.float64) - 0.5)


def _overlap(old: Tensor, new: Tensor, conserve: bool) -> Tensor:
    """Return how much of the intervals between edges `old` lies in each interval between edges `new`: (new, old).

    As a part of the old interval if `conserve`, and then the outermost new intervals have no end; else as a part of the
    new interval, and then the outermost old intervals have no end.
    """
    lengths = (old if conserve else new).diff()
    endless = (new if conserve else old).clone()
    endless[0], endless[-1] = -math.inf, math.inf
    old, new = (old, endless) if conserve else (endless, new)
    inside = torch.minimum(new[1:, None], old[1:]) - torch.maximum(new[:-1, None], old[:-1])
    return inside.clamp(min=0) / (lengths if conserve else lengths[:, None])


def position_scores(feature_maps: Tensor, weight: Tensor) -> Tensor:
    """Compute the score of each cell as if it alone were pooled.

    For average pooling, the mean over the cells is the logit less the bias. For max pooling, these are the dense scores
    of Oquab et al. (2015), which do not sum to the logit.

    Args:
        feature_maps: (N, C, h, w).
        weight: (K, C).

    Returns:
        Tensor (N, K, h, w) in logits, without the bias.
    """
    scores: Tensor = multiply(weight, feature_maps.flatten(2)).unflatten(2, feature_maps.shape[2:])
    return scores
