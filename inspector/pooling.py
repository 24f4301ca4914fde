"""Global pooling, and how each kind splits a pooled value over positions.

    average   p[c] = sum over y, x of  F[c, y, x] / (h * w)
    max       p[c] = F[c, y*, x*],  (y*, x*) the first position, row by row, that holds the maximum
    flatten   p[c, y, x] = F[c, y, x]: nothing is pooled, every position keeps its own weight

Each is a sum over positions, which is why a logit that is affine in p is one too.
Lin, Chen, Yan, "Network in Network" (2013), for global average pooling; Oquab et al., "Is object localization
for free?" (CVPR 2015), for global max pooling; Zhou et al., "Learning deep features for discriminative
localization" (CVPR 2016), for the class maps that follow.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Pooling = Literal["average", "max", "flatten"]
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


def recognise(feature_maps: Tensor, pooled: Tensor) -> list[Pooling]:
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


def deciding_positions(feature_maps: Tensor) -> Tensor:
    """The position, counted row by row, that holds each channel's maximum: (N, C, h, w) -> (N, C).

    Of equal maxima the first. -1 for a channel whose maximum is 0: after a ReLU it is silent, and nothing decided.
    """
    maxima, positions = feature_maps.flatten(2).max(2)
    return torch.where(maxima == 0, -1, positions)


def split(pooling: Pooling, feature_maps: Tensor, weight: Tensor | None) -> Tensor:
    """What each position adds to each logit: feature maps (N, C, h, w) and weight (K, P) -> (N, K, h, w), in logits.

    Without a weight every channel is a class of its own, K = C. The sum over positions is weight @ pooled, exactly.
    For max pooling it is sparse: the deciding position of a channel gets all that the channel brings.
    """
    images, channels, height, width = feature_maps.shape
    if pooling == "average":
        shares = feature_maps / (height * width)
        return shares if weight is None else position_scores(shares, weight)
    if pooling == "max":
        # A silent channel brings 0 wherever it is put.
        positions = deciding_positions(feature_maps).clamp(min=0)
        maxima = global_max(feature_maps)
        if weight is None:
            maps = torch.zeros_like(feature_maps).flatten(2)
            return maps.scatter_(2, positions[..., None], maxima[..., None]).view_as(feature_maps)
        brought = weight * maxima[:, None]  # (N, K, C)
        maps = brought.new_zeros(images, len(weight), height * width)
        return maps.scatter_add_(2, positions[:, None].expand_as(brought), brought).view(*maps.shape[:2], height, width)
    if weight is None:
        return feature_maps
    # One image at a time: the products of a batch would be N times as large as the weight.
    products = (weight * maps.flatten() for maps in feature_maps)
    return torch.stack([product.view(-1, channels, height, width).sum(1) for product in products])


def position_scores(feature_maps: Tensor, weight: Tensor) -> Tensor:
    """The score of every position as if it alone were pooled: (N, C, h, w), (K, C) -> (N, K, h, w), in logits.

    The bias is not in them. The mean over positions of average pooling's scores is its logit less bias; with max
    pooling they are the dense reading of Oquab et al. (2015), and sum to no logit.
    """
    maps: Tensor = (weight @ feature_maps.flatten(2)).view(len(feature_maps), len(weight), *feature_maps.shape[2:])
    return maps
