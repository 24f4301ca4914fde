"""Decompose the logits of images over the cells of their feature maps, as their head allows.

    logit[k] = bias[k] + sum over y, x of  values[k, y, x]

Zhou et al. (CVPR 2016) did this for global average pooling and Linear. Here it works for any pooling and any head.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inspector.explain.feature_capture import CapturedPass
from inspector.explain.head import Head, relative_error
from inspector.explain.head_function import HeadFunction
from inspector.explain.kinds import Pooling
from inspector.explain.pooling import (
    position_contributions,
    position_scores,
    position_shares,
    resample_conserving,
    stack_position_rows,
)
from inspector.explain.tracing.forward import CapturedPooling

_CHUNK = 256  # cells per pass through the head: a flattened head takes 25,088 values for each
# Number of values that torch sums on one thread. For more it wakes other threads, which then busy-wait for longer than
# a fast network runs.
_ONE_THREAD = 32_000


@dataclass(frozen=True, eq=False)
class BranchInput:
    """The input of one pooling for one image."""

    pooling: Pooling
    width: int  # number of pooled values
    feature_maps: Tensor  # (C, h, w)
    derivative: Tensor | None  # d pooled / d feature maps, (C, h, w), of linear and other poolings

    def shares(self) -> Tensor:
        """Compute what each cell adds to each pooled value: (C, h, w)."""
        derivative = None if self.derivative is None else self.derivative[None]
        return position_shares(self.pooling, self.feature_maps[None], derivative)[0]


@dataclass(frozen=True, eq=False)
class Decomposition:
    """All logits of one image as sums over cells."""

    values: Tensor  # (K, h, w) in logits, on the finest grid of all branches
    bias: Tensor  # (K,)
    branches: tuple[BranchInput, ...]
    head: Head
    pooled: Tensor | None  # (1, P); only if weight and bias depend on the image
    head_function: HeadFunction | None  # only if weight and bias depend on the image

    @property
    def feature_maps(self) -> Tensor:
        """The feature maps before pooling, (C, h, w); those of several branches concatenated, on the finest grid."""
        grid = self.values.shape[1:]
        branches = [branch.feature_maps for branch in self.branches]
        # Resampling divides a cell's value among smaller cells. Activations must not be divided, so scale them back.
        return torch.cat([resample_conserving(maps, grid) * (grid.numel() / maps[0].numel()) for maps in branches])

    def weight(self, classes: Sequence[int]) -> Tensor:
        """Return d logits / d pooled values of some classes: (len(classes), P), statistics and ReLU masks frozen."""
        if self.head.weight is not None:
            return self.head.weight[classes]
        assert self.head_function is not None
        assert self.pooled is not None
        return self.head_function.frozen_jacobian_rows(self.pooled, classes)

    def compare_with_logits(self, logits: Tensor) -> tuple[float, bool]:
        """Return the residual of all classes in logits, and whether rounding explains it for every class."""
        chunks = self.values.flatten(1).split(max(1, _ONE_THREAD // self.values[0].numel()))
        sums = torch.cat([chunk.sum(1) for chunk in chunks]) + self.bias
        total = torch.cat([chunk.abs().sum(1) for chunk in chunks]) + self.bias.abs()
        return float((sums - logits).abs().max()), bool((relative_error(sums, logits, total) <= 1).all())

    def parts(self, k: int) -> Tensor:
        """Compute what each channel adds to logit k in each cell.

        Returns:
            Tensor (C, h, w) in logits; its sum is the logit less the bias.
        """
        return self.parts_by(self.weight([k])[0])

    def parts_by(self, weight: Tensor) -> Tensor:
        """Compute what each channel adds in each cell to pooled @ weight, (C, h, w), for any weight row (P,)."""
        parts = []
        for branch, column in zip(self.branches, weight.split(self.head.widths), strict=True):
            shares = branch.shares()
            per_value = column.view_as(shares) if branch.pooling == "flatten" else column[:, None, None]
            parts.append(resample_conserving(shares * per_value, self.values.shape[1:]))
        return torch.cat(parts)

    def scores(self, classes: Sequence[int]) -> Tensor:
        """Compute the score of each cell as if it alone were pooled, for a head with one branch that is not "flatten".

        Returns:
            Tensor (len(classes), h, w) in logits, without the bias.
        """
        (branch,) = self.branches
        return position_scores(branch.feature_maps[None], self.weight(classes))[0]


def decompose(network: nn.Module, head: Head, inputs: Tensor, captured: CapturedPass) -> list[Decomposition]:
    """Decompose the logits of each image of a batch.

    Args:
        network: the classifier's network.
        head: its head.
        inputs: normalized images (N, channels, H, W).
        captured: what was captured for these images. Without a recording, a head without a weight runs the network
            again for each image.

    Returns:
        N decompositions.
    """
    with torch.no_grad():
        if head.weight is not None:
            return _decompose_with_fixed_weight(head, captured)
        functions = [head.head_function(network, image[None], captured.recording) for image in inputs]
        return [_decompose_with_own_weight(head, one, captured.poolings, n) for n, one in enumerate(functions)]


def _find_finest_grid(poolings: Sequence[CapturedPooling]) -> tuple[int, int]:
    return max((captured.grid for captured in poolings), key=math.prod)


def _select_image(head: Head, poolings: Sequence[CapturedPooling], n: int) -> tuple[BranchInput, ...]:
    inputs = []
    for branch, captured in zip(head.branches, poolings, strict=True):
        derivative = None if captured.derivative is None else captured.derivative[n]
        inputs.append(BranchInput(branch.pooling, branch.width, captured.feature_maps[n], derivative))
    return tuple(inputs)


def _decompose_with_fixed_weight(head: Head, captured: CapturedPass) -> list[Decomposition]:
    poolings, values = captured.poolings, captured.class_maps
    weight, bias = head.affine
    grid, biases, maps = _find_finest_grid(poolings), bias.expand(len(captured.logits), -1), []
    for branch, pooling, columns in zip(head.branches, poolings, weight.split(head.widths, 1), strict=True):
        feature_maps, derivative = pooling.feature_maps, pooling.derivative
        if values is None:
            columns_or_none = None if head.per_class else columns
            contributions = position_contributions(branch.pooling, feature_maps, columns_or_none, derivative)
            maps.append(resample_conserving(contributions, grid))
        if branch.pooling == "linear":
            # A constant that the pooling adds belongs to no cell.
            shares = position_shares("linear", feature_maps, derivative)
            biases = biases + (pooling.pooled_values - shares.sum((2, 3))) @ columns.T
    values = sum(maps[1:], start=maps[0]) if values is None else values
    images = zip(values, biases, strict=True)
    return [Decomposition(*image, _select_image(head, poolings, n), head, None, None) for n, image in enumerate(images)]


def _decompose_with_own_weight(
    head: Head, function: HeadFunction, poolings: Sequence[CapturedPooling], n: int
) -> Decomposition:
    """Decompose image n, whose weight J is the Jacobian of the head at its pooled values p, statistics frozen.

    A cell adds J s to the logits, where s is its share of p: zero in the pooled values of the other branches. The
    shares of two branches with cells a1, a2 and b1 are the rows of

        a1  0
        a2  0
        0   b1

    J is not computed: products with it, one per cell, cost less.
    """
    branches, grid = _select_image(head, poolings, n), _find_finest_grid(poolings)
    pooled = torch.cat([captured.pooled_values[n : n + 1] for captured in poolings], 1)
    shares = [stack_position_rows(branch.pooling, branch.shares()) for branch in branches]  # (h * w, width) each
    # The shares of linear and other poolings need not sum to the pooled values: the rest belongs to no cell.
    totals = [
        cells.sum(0, keepdim=True) if branch.pooling in ("linear", "other") else values
        for branch, cells, values in zip(branches, shares, pooled.split(head.widths, 1), strict=True)
    ]
    rows = torch.cat([torch.cat(totals, 1), torch.block_diag(*shares)])
    # Every product also returns the logits, which are the same for all rows.
    passes = [function.frozen_jvp(pooled.expand_as(chunk), chunk) for chunk in rows.split(_CHUNK)]
    logits, products = passes[0][0][0], torch.cat([products for _, products in passes])
    total, contributions = products[0], products[1:]
    maps = [
        resample_conserving(cells.T.unflatten(1, branch.feature_maps.shape[1:]), grid)
        for branch, cells in zip(branches, contributions.split([len(cells) for cells in shares]), strict=True)
    ]
    return Decomposition(sum(maps[1:], start=maps[0]), logits - total, branches, head, pooled, function)
