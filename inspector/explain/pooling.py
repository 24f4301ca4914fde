"""Global pooling, and how each kind splits a pooled value over positions.

    average   p[c] = sum over y, x of  F[c, y, x] / (h * w)
    max       p[c] = F[c, y*, x*],  (y*, x*) the first position, row by row, that holds the maximum
    flatten   p[c, y, x] = F[c, y, x]: nothing is pooled, every position keeps its own weight
    linear    p[c] = sum over y, x of  S[c, y, x] * F[c, y, x] + constant: a sum, a convolution as large as the maps
    other     the same to first order, S = dp / dF: generalised mean, log-sum-exp

Each is a sum over positions, which is why a logit that is affine in p is one too.
Lin, Chen, Yan, "Network in Network" (2013), for global average pooling; Oquab et al., "Is object localization
for free?" (CVPR 2015), for global max pooling; Zhou et al., "Learning deep features for discriminative
localization" (CVPR 2016), for the class maps that follow.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from inspector.explain.kinds import Pooling

Reduction = Literal["average", "max"]


def global_average(feature_maps: Tensor) -> Tensor:
    """The mean of every channel: (N, C, H, W) -> (N, C)."""
    return feature_maps.mean((2, 3))


def global_max(feature_maps: Tensor) -> Tensor:
    """The maximum of every channel: (N, C, H, W) -> (N, C)."""
    return feature_maps.amax((2, 3))


def global_depth(feature_maps: Tensor, reduction: Reduction = "average") -> Tensor:
    """The mean or maximum over all channels at every position: (N, C, H, W) -> (N, 1, H, W)."""
    if reduction == "average":
        return feature_maps.mean(1, keepdim=True)
    return feature_maps.amax(1, keepdim=True)


class GlobalAveragePooling(nn.Module):
    """(N, C, H, W) -> (N, C), each channel's mean."""

    def forward(self, feature_maps: Tensor) -> Tensor:
        return global_average(feature_maps)


class GlobalMaxPooling(nn.Module):
    """(N, C, H, W) -> (N, C), each channel's maximum."""

    def forward(self, feature_maps: Tensor) -> Tensor:
        return global_max(feature_maps)


class GlobalDepthPooling(nn.Module):
    """(N, C, H, W) -> (N, 1, H, W), each position's mean or maximum over the channels."""

    def __init__(self, reduction: Reduction = "average") -> None:
        super().__init__()
        self.reduction: Reduction = reduction

    def forward(self, feature_maps: Tensor) -> Tensor:
        return global_depth(feature_maps, self.reduction)


def identify_pooling(feature_maps: Tensor, pooled: Tensor) -> list[Pooling]:
    """Which poolings take these feature maps (N, C, h, w) to `pooled` (N, P), told by the numbers.

    More than one where the maps are the same at every position; none for a pooling that is not known.
    """
    candidates: dict[Pooling, Callable[[Tensor], Tensor]] = {
        "average": global_average,
        "max": global_max,
        "flatten": lambda maps: maps.flatten(1),
    }
    # Sums of many terms differ in their last digits from one implementation to the next.
    tolerance = 1e-5 * float(feature_maps.abs().max())
    expected = {name: pool(feature_maps) for name, pool in candidates.items()}
    return [
        name
        for name, values in expected.items()
        if values.shape == pooled.shape and torch.allclose(values, pooled, rtol=0, atol=tolerance)
    ]


def argmax_positions(feature_maps: Tensor) -> Tensor:
    """The position, counted row by row, that holds each channel's maximum: (N, C, h, w) -> (N, C).

    Of equal maxima the first. -1 for a channel whose maximum is 0: after a ReLU it is silent, and nothing decided.
    """
    maxima, positions = feature_maps.flatten(2).max(2)
    return torch.where(maxima == 0, -1, positions)


def position_shares(pooling: Pooling, feature_maps: Tensor, slope: Tensor | None = None) -> Tensor:
    """What each position adds to each pooled value: (N, C, h, w), from feature maps of that shape.

    Their sum over positions is the pooled value; for flatten there is nothing to sum. `slope`, d pooled / d feature
    maps, is for linear and other poolings, whose pooled values may have a constant besides.
    """
    if pooling == "average":
        return feature_maps / (feature_maps.shape[2] * feature_maps.shape[3])
    if pooling == "max":
        # A silent channel brings 0 wherever it is put.
        positions = argmax_positions(feature_maps).clamp(min=0)
        parts = torch.zeros_like(feature_maps).flatten(2)
        return parts.scatter_(2, positions[..., None], global_max(feature_maps)[..., None]).view_as(feature_maps)
    if pooling == "flatten":
        return feature_maps
    assert slope is not None, "only the network knows how it pools"
    return feature_maps * slope


def position_contributions(
    pooling: Pooling, feature_maps: Tensor, weight: Tensor | None, slope: Tensor | None = None
) -> Tensor:
    """What each position adds to each logit: feature maps (N, C, h, w) and weight (K, P) -> (N, K, h, w), in logits.

    Without a weight every channel is a class of its own, K = C. The sum over positions is weight @ pooled, exactly.
    For max pooling it is sparse: the deciding position of a channel gets all that the channel brings.
    """
    images, channels, height, width = feature_maps.shape
    if weight is None:
        return position_shares(pooling, feature_maps, slope)
    if pooling == "max":
        # For a thousand classes far less work than a product with the shares, which are nearly all zero.
        positions = argmax_positions(feature_maps).clamp(min=0)
        brought = weight * global_max(feature_maps)[:, None]  # (N, K, C)
        maps = brought.new_zeros(images, len(weight), height * width)
        return maps.scatter_add_(2, positions[:, None].expand_as(brought), brought).view(*maps.shape[:2], height, width)
    if pooling == "flatten":
        # One image at a time: the products of a batch would be N times as large as the weight.
        products = (weight * maps.flatten() for maps in feature_maps)
        return torch.stack([product.view(-1, channels, height, width).sum(1) for product in products])
    return position_scores(position_shares(pooling, feature_maps, slope), weight)


def stack_position_rows(pooling: Pooling, parts: Tensor) -> Tensor:
    """The pooled values that each position alone gives: shares (C, h, w) -> (h * w, P)."""
    rows = parts.flatten(1).T
    if pooling != "flatten":
        return rows
    # Every position keeps its own columns.
    return (torch.eye(len(rows)).to(rows)[:, None] * rows[:, :, None]).flatten(1)


def resample_conserving(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps (..., h, w) on another grid over the same area, every cell's value spread evenly: the sum stays."""
    down, across = (_overlap(old, new).to(maps) for old, new in zip(maps.shape[-2:], grid, strict=True))
    return down @ maps @ across.T


def _overlap(old: int, new: int) -> Tensor:
    """What part of each of `old` cells of a line lies in each of `new` ones: (new, old), every column sums to 1."""
    starts, ends = torch.arange(new)[:, None] / new, torch.arange(1, new + 1)[:, None] / new
    inside = torch.minimum(ends, torch.arange(1, old + 1) / old) - torch.maximum(starts, torch.arange(old) / old)
    return inside.clamp(min=0) * old


def position_scores(feature_maps: Tensor, weight: Tensor) -> Tensor:
    """The score of every position as if it alone were pooled: (N, C, h, w), (K, C) -> (N, K, h, w), in logits.

    The bias is not in them. The mean over positions of average pooling's scores is its logit less bias; with max
    pooling they are the dense reading of Oquab et al. (2015), and sum to no logit.
    """
    maps: Tensor = (weight @ feature_maps.flatten(2)).view(len(feature_maps), len(weight), *feature_maps.shape[2:])
    return maps
