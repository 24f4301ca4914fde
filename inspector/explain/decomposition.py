"""Decompose the logits of images over the cells of their feature maps, as their head allows.

    logit[k] = bias[k] + sum over y, x of  values[k, y, x]

Zhou et al. (CVPR 2016) for global average pooling and Linear; here for any pooling, and for what may follow it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inspector.explain.head import Head
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
from inspector.explain.tracing.recording import OpRecording

_CHUNK = 256  # cells per pass through the head: a flattened head takes 25,088 values for each


@dataclass(frozen=True, eq=False)
class BranchInput:
    """The input of one pooling for one image."""

    pooling: Pooling
    width: int  # number of its pooled values
    feature_maps: Tensor  # (C, h, w)
    derivative: Tensor | None  # d pooled / d feature maps, (C, h, w), of linear and other poolings

    def shares(self) -> Tensor:
        """Compute what each cell adds to each pooled value: (C, h, w)."""
        return position_shares(
            self.pooling, self.feature_maps[None], None if self.derivative is None else self.derivative[None]
        )[0]


@dataclass(frozen=True, eq=False)
class Decomposition:
    """All logits of one image as sums over cells."""

    values: Tensor  # (K, h, w) in logits, on the finest grid of all branches
    bias: Tensor  # (K,)
    branches: tuple[BranchInput, ...]
    head: Head
    pooled: Tensor | None  # (1, P); only if weight and bias depend on the image
    head_function: HeadFunction | None  # likewise

    @property
    def feature_maps(self) -> Tensor:
        """The feature maps before pooling, (C, h, w); those of several branches concatenated, on the finest grid."""
        grid = self.values.shape[1:]
        # Resampling divides a cell's value among the smaller cells. Activations are not divided: scale them back.
        return torch.cat(
            [_resample(b.feature_maps, grid) * (grid.numel() / b.feature_maps[0].numel()) for b in self.branches]
        )

    def weight(self, classes: Sequence[int]) -> Tensor:
        """Return d logits / d pooled values of some classes: (len(classes), P), statistics and ReLU masks frozen."""
        if self.head.weight is not None:
            return self.head.weight[classes]
        assert self.head_function is not None
        assert self.pooled is not None
        return self.head_function.frozen_jacobian_rows(self.pooled, classes)

    def parts(self, k: int) -> Tensor:
        """Compute what each channel adds to logit k in each cell.

        Returns:
            Tensor (C, h, w) in logits; its sum is the logit less the bias.
        """
        return self.parts_by(self.weight([k])[0])

    def parts_by(self, weight: Tensor) -> Tensor:
        """Compute the same for any row of weights (P,), such as the difference of two classes' rows."""
        columns = weight.split([branch.width for branch in self.branches])
        parts = []
        for branch, column in zip(self.branches, columns, strict=True):
            shares = branch.shares()
            per_value = column.view_as(shares) if branch.pooling == "flatten" else column[:, None, None]
            parts.append(_resample(shares * per_value, self.values.shape[1:]))
        return torch.cat(parts)

    def scores(self, classes: Sequence[int]) -> Tensor:
        """Compute the score of each cell as if it alone were pooled; the head must have one branch, not flattened.

        Returns:
            Tensor (len(classes), h, w) in logits, without the bias.
        """
        (branch,) = self.branches
        return position_scores(branch.feature_maps[None], self.weight(classes))[0]


def decompose(
    network: nn.Module,
    head: Head,
    inputs: Tensor,
    poolings: Sequence[CapturedPooling],
    recording: OpRecording | None = None,
) -> list[Decomposition]:
    """Decompose the logits of each image of a batch.

    Args:
        network: the classifier's network.
        head: its head.
        inputs: normalized images (N, channels, H, W).
        poolings: what the poolings of the head took in and returned for these images.
        recording: of what follows the poolings. Without one, a head without a weight runs the network again for each
            image.

    Returns:
        N decompositions.
    """
    with torch.no_grad():
        if head.weight is not None:
            return _decompose_with_fixed_weight(head, poolings)
        return [
            _decompose_with_own_weight(head, head.head_function(network, inputs[n : n + 1], recording), poolings, n)
            for n in range(len(inputs))
        ]


def _resample(maps: Tensor, grid: torch.Size) -> Tensor:
    return maps if maps.shape[-2:] == grid else resample_conserving(maps, (grid[0], grid[1]))


def _find_finest_grid(poolings: Sequence[CapturedPooling]) -> torch.Size:
    return max((captured.feature_maps.shape[2:] for captured in poolings), key=lambda grid: grid.numel())


def _select_image(head: Head, poolings: Sequence[CapturedPooling], n: int) -> tuple[BranchInput, ...]:
    return tuple(
        BranchInput(
            pooling=branch.pooling,
            width=branch.width,
            feature_maps=captured.feature_maps[n],
            derivative=None if captured.derivative is None else captured.derivative[n],
        )
        for branch, captured in zip(head.branches, poolings, strict=True)
    )


def _decompose_with_fixed_weight(head: Head, poolings: Sequence[CapturedPooling]) -> list[Decomposition]:
    assert head.weight is not None
    assert head.bias is not None
    grid, images = _find_finest_grid(poolings), len(poolings[0].feature_maps)
    maps, biases = [], head.bias.expand(images, -1)
    columns = head.weight.split([branch.width for branch in head.branches], 1)
    for branch, captured, weight in zip(head.branches, poolings, columns, strict=True):
        contributions = captured.class_maps
        if contributions is None:
            contributions = position_contributions(
                branch.pooling, captured.feature_maps, None if head.per_class else weight, captured.derivative
            )
        maps.append(_resample(contributions, grid))
        if branch.pooling == "linear" and captured.pooled is not None:
            # A constant that the pooling adds belongs to no cell.
            shares = position_shares("linear", captured.feature_maps, captured.derivative)
            biases = biases + (captured.pooled - shares.sum((2, 3))) @ weight.T
    values = sum(maps[1:], start=maps[0])
    return [
        Decomposition(values[n], biases[n], _select_image(head, poolings, n), head, None, None) for n in range(images)
    ]


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
    pooled = torch.cat([captured.pooled[n : n + 1] for captured in poolings if captured.pooled is not None], 1)
    shares = [stack_position_rows(branch.pooling, branch.shares()) for branch in branches]  # (h * w, width) each
    # The shares of linear and other poolings need not sum to the pooled values: the rest belongs to no cell.
    totals = [
        cells.sum(0, keepdim=True) if branch.pooling in ("linear", "other") else values
        for branch, cells, values in zip(branches, shares, pooled.split([b.width for b in branches], 1), strict=True)
    ]
    logits, contributions = _multiply_by_jacobian(
        function, pooled, torch.cat([torch.cat(totals, 1), torch.block_diag(*shares)])
    )
    total, contributions = contributions[0], contributions[1:]
    maps = [
        _resample(cells.T.unflatten(1, branch.feature_maps.shape[1:]), grid)
        for branch, cells in zip(branches, contributions.split([len(cells) for cells in shares]), strict=True)
    ]
    return Decomposition(sum(maps[1:], start=maps[0]), logits - total, branches, head, pooled, function)


def _multiply_by_jacobian(function: HeadFunction, pooled: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits (K,) at pooled values (1, P), and the product of the Jacobian there with each row: (R, K)."""
    passes = [function.frozen_jvp(pooled.expand_as(chunk), chunk) for chunk in rows.split(_CHUNK)]
    return passes[0][0][0], torch.cat([products for _, products in passes])
