"""Split the logits of images over the positions of their feature maps, as their head allows.

    logit[k] = bias[k] + sum over y, x of  values[k, y, x]

Zhou et al. (CVPR 2016) for global average pooling and Linear; here for every pooling and what may follow it.
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

_CHUNK = 256  # positions at a time: for each a flattened head takes in 25,088 values


@dataclass(frozen=True, eq=False)
class BranchInput:
    """What one pooling of one image took in."""

    pooling: Pooling
    width: int  # how many pooled values it gave
    feature_maps: Tensor  # (C, h, w)
    derivative: Tensor | None  # d pooled / d feature maps, (C, h, w), of linear and other poolings

    def shares(self) -> Tensor:
        """What each position adds to each pooled value: (C, h, w)."""
        return position_shares(
            self.pooling, self.feature_maps[None], None if self.derivative is None else self.derivative[None]
        )[0]


@dataclass(frozen=True, eq=False)
class Decomposition:
    """All logits of one image as sums over positions."""

    values: Tensor  # (K, h, w), in logits, on the finest grid of all branches
    bias: Tensor  # (K,)
    branches: tuple[BranchInput, ...]
    head: Head
    pooled: Tensor | None  # (1, P), where weight and bias were read for this image
    head_function: HeadFunction | None

    @property
    def feature_maps(self) -> Tensor:
        """The feature maps before pooling, (C, h, w); of several branches one after the other, on the finest grid."""
        grid = self.values.shape[1:]
        # Values and not sums: a cell that is spread over four stands in each of them.
        return torch.cat(
            [_on_grid(b.feature_maps, grid) * (grid.numel() / b.feature_maps[0].numel()) for b in self.branches]
        )

    def weight(self, classes: Sequence[int]) -> Tensor:
        """d logits / d pooled values of some classes, (len(classes), P), where statistics and gates are held."""
        if self.head.weight is not None:
            return self.head.weight[classes]
        assert self.head_function is not None
        assert self.pooled is not None
        return self.head_function.frozen_jacobian_rows(self.pooled, classes)

    def parts(self, k: int) -> Tensor:
        """What each channel and position adds to one logit: (C, h, w), in logits; they sum to the logit less bias."""
        return self.parts_by(self.weight([k])[0])

    def parts_by(self, weight: Tensor) -> Tensor:
        """The same for a row of weights (P,): that of a class, or of one class less another's."""
        columns = weight.split([branch.width for branch in self.branches])
        parts = []
        for branch, column in zip(self.branches, columns, strict=True):
            brought = branch.shares()
            brought = brought * (column.view_as(brought) if branch.pooling == "flatten" else column[:, None, None])
            parts.append(_on_grid(brought, self.values.shape[1:]))
        return torch.cat(parts)

    def scores(self, classes: Sequence[int]) -> Tensor:
        """The score of every position as if it alone were pooled, (len(classes), h, w), of one branch not flattened."""
        (branch,) = self.branches
        return position_scores(branch.feature_maps[None], self.weight(classes))[0]


def decompose(
    network: nn.Module, head: Head, inputs: Tensor, heard: Sequence[CapturedPooling], tape: OpRecording | None = None
) -> list[Decomposition]:
    """Of each image of a batch (N, channels, H, W), from what was heard at the poolings of its head, and behind them.

    Without a tape, where one is needed, the network runs again for each image.
    """
    with torch.no_grad():
        if head.weight is not None:
            return _with_fixed_weight(head, heard)
        return [
            _of_image(head, head.head_function(network, inputs[n : n + 1], tape), heard, n) for n in range(len(inputs))
        ]


def _on_grid(maps: Tensor, grid: torch.Size) -> Tensor:
    return maps if maps.shape[-2:] == grid else resample_conserving(maps, (grid[0], grid[1]))


def _finest(heard: Sequence[CapturedPooling]) -> torch.Size:
    return max((one.feature_maps.shape[2:] for one in heard), key=lambda grid: grid.numel())


def _branches(head: Head, heard: Sequence[CapturedPooling], n: int) -> tuple[BranchInput, ...]:
    return tuple(
        BranchInput(
            branch.pooling, branch.width, one.feature_maps[n], None if one.derivative is None else one.derivative[n]
        )
        for branch, one in zip(head.branches, heard, strict=True)
    )


def _with_fixed_weight(head: Head, heard: Sequence[CapturedPooling]) -> list[Decomposition]:
    assert head.weight is not None
    assert head.bias is not None
    grid, images = _finest(heard), len(heard[0].feature_maps)
    maps, biases = [], head.bias.expand(images, -1)
    columns = head.weight.split([branch.width for branch in head.branches], 1)
    for branch, one, weight in zip(head.branches, heard, columns, strict=True):
        brought = one.class_maps
        if brought is None:
            brought = position_contributions(
                branch.pooling, one.feature_maps, None if head.per_class else weight, one.derivative
            )
        maps.append(_on_grid(brought, grid))
        if branch.pooling == "linear" and one.pooled is not None:
            # What the pooling adds by itself belongs to no position.
            constant = one.pooled - position_shares("linear", one.feature_maps, one.derivative).sum((2, 3))
            biases = biases + constant @ weight.T
    values = sum(maps[1:], start=maps[0])
    return [Decomposition(values[n], biases[n], _branches(head, heard, n), head, None, None) for n in range(images)]


def _of_image(head: Head, tail: HeadFunction, heard: Sequence[CapturedPooling], n: int) -> Decomposition:
    """With the weight of this image: what each position alone brings goes through the tail, statistics held."""
    branches, grid = _branches(head, heard, n), _finest(heard)
    pooled = torch.cat([one.pooled[n : n + 1] for one in heard if one.pooled is not None], 1)
    rows = [stack_position_rows(branch.pooling, branch.shares()) for branch in branches]
    # The shares of linear and other poolings need not sum to the pooled value: the rest belongs to no position.
    sums = [
        values if branch.derivative is None or branch.pooling not in ("linear", "other") else own.sum(0, keepdim=True)
        for branch, own, values in zip(branches, rows, pooled.split([b.width for b in branches], 1), strict=True)
    ]
    whole_and_rows = torch.cat([torch.cat(sums, 1), torch.block_diag(*rows)])
    passes = [tail.frozen_jvp(pooled.expand_as(some), some) for some in whole_and_rows.split(_CHUNK)]
    logits, (whole, changes) = passes[0][0], torch.cat([changed for _, changed in passes]).tensor_split([1])
    maps = []
    for branch, changed in zip(branches, changes.split([len(own) for own in rows]), strict=True):
        maps.append(_on_grid(changed.T.unflatten(1, branch.feature_maps.shape[1:]), grid))
    return Decomposition(sum(maps[1:], start=maps[0]), logits[0] - whole[0], branches, head, pooled, tail)
