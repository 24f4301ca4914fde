"""Decompose the logits of images over the cells of their feature maps, as their head allows.

    logit[k] = bias[k] + sum over y, x of  values[k, y, x]

Zhou et al. (CVPR 2016) did this for global average pooling and Linear. Here it works for any pooling and any head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inspector.errors import NetworkError
from inspector.explain.branch_input import BranchInput, count_rows, select_image
from inspector.explain.channel_function import move_channel_function
from inspector.explain.feature_capture import CapturedPass
from inspector.explain.head import Head
from inspector.explain.head_checks import is_locally_affine
from inspector.explain.head_function import FrozenHead, HeadFunction
from inspector.explain.kinds import Verdict
from inspector.explain.map_arrays import compare_sums
from inspector.explain.pooling import (
    position_contributions,
    position_scores,
    position_shares,
    stack_position_rows,
)
from inspector.explain.precision import find_product_type, find_tolerance, find_widest, relative_error, widen
from inspector.explain.tracing.forward import CapturedPooling

_CHUNK = 256  # cells per pass through the head: a flattened head takes 25,088 values for each


@dataclass(frozen=True, eq=False)
class Decomposition:
    """All logits of one image as sums over cells."""

    values: Tensor  # (K, h, w) in logits, on the finest grid of all branches
    bias: Tensor  # (K,)
    branches: tuple[BranchInput, ...]
    head: Head
    verdict: Verdict  # what the sums are, if they are the network's logits
    frozen: FrozenHead | None = None  # the head with what it freezes; only if weight and bias depend on the image

    @property
    def feature_maps(self) -> Tensor:
        """The feature maps before pooling, (C, h, w); those of several branches concatenated, on the finest grid."""
        branches = [branch.feature_maps for branch in self.branches]
        return torch.cat(self.head.lay_on_finest_grid(branches, average=True))

    def weight(self, classes: Sequence[int]) -> Tensor:
        """Return d logits / d pooled values of some classes: (len(classes), P), statistics and ReLU masks frozen."""
        if self.head.weight is not None:
            return self.head.weight[list(classes)]
        assert self.frozen is not None
        return self.frozen.jacobian(classes)

    def compare_with_logits(self, logits: Tensor, pooled: Tensor | None = None) -> tuple[float, bool]:
        """Compare the sums over the cells with the network's logits.

        Args:
            logits: (K,).
            pooled: the network's own pooled values (1, P), if they are known.

        Returns:
            The largest residual of all classes, in logits, and whether rounding explains it for every class.
        """
        tolerance = max(self.head.tolerance, find_tolerance({find_product_type(logits)}))
        residual, classes = _find_differences(self.values, self.bias, widen(logits), tolerance)
        if not classes:
            return residual, True
        shares = torch.cat([branch.summed_shares() for branch in self.branches])
        rows = count_rows(len(shares), shares.device)
        parts = (classes[first : first + rows] for first in range(0, len(classes), rows))
        return residual, all(self._is_rounding(shares, logits, some, tolerance, pooled) for some in parts)

    def _is_rounding(
        self, shares: Tensor, logits: Tensor, classes: list[int], tolerance: float, pooled: Tensor | None
    ) -> bool:
        """Tell whether rounding explains differences between sums and logits that exceed that of the sums over cells.

        The contributions of the channels may cancel in each cell, and the network rounds its pooled values: torch's
        AvgPool2d adds one value after the other.
        """
        sums = self.values[classes].flatten(1).sum(1) + self.bias[classes]
        weight, bias = self.weight(classes).to(shares), self.bias[classes].to(shares)
        sums, logits = sums.to(shares), widen(logits)[classes].to(shares)
        total = weight.abs() @ shares.abs() + bias.abs()
        if (relative_error(sums, logits, total, tolerance) <= 1).all():
            return True
        pooled = pooled if self.frozen is None else self.frozen.pooled
        if pooled is None or any(branch.pooling in ("linear", "other") for branch in self.branches):
            return False
        change = pooled[0].to(shares) - shares
        allowed = torch.cat([branch.rounding_of_pooled() for branch in self.branches])
        error = relative_error(sums + weight @ change, logits, total, tolerance)
        return bool((change.abs() <= allowed).all() and (error <= 1).all())

    def contributions(self, classes: Sequence[int]) -> Tensor:
        """Compute what each cell adds to the logits of some classes: (len(classes), h, w)."""
        if len(self.values) == len(self.bias):
            return self.values[list(classes)]
        maps = []
        for branch, columns in zip(self.branches, self.weight(classes).split(self.head.widths, 1), strict=True):
            derivative = None if branch.derivative is None else branch.derivative[None]
            maps.append(position_contributions(branch.pooling, branch.feature_maps[None], columns, derivative)[0])
        laid = self.head.lay_on_finest_grid(maps)
        return sum(laid[1:], start=laid[0])

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
            parts.append(shares * per_value)
        return torch.cat(self.head.lay_on_finest_grid(parts))

    def scores(self, classes: Sequence[int]) -> Tensor:
        """Compute the score of each cell as if it alone were pooled, for a head with one branch that is not "flatten".

        Returns:
            Tensor (len(classes), h, w) in logits, without the bias.
        """
        (branch,) = self.branches
        return position_scores(branch.feature_maps[None], self.weight(classes))[0]


def _find_differences(values: Tensor, bias: Tensor, logits: Tensor, tolerance: float) -> tuple[float, list[int]]:
    """Compare the sums of class maps (K, h, w) with logits (K,), as `compare_sums` does."""
    if logits.device.type == "cpu":
        # NumPy takes half the time of torch, and wakes no threads.
        arrays = [one.numpy(force=True) for one in (values, bias, logits)]
        return compare_sums(arrays[0], arrays[1], arrays[2], tolerance)
    cells = values.flatten(1)
    sums, total = cells.sum(1) + bias, cells.abs().sum(1) + bias.abs()
    differs = (relative_error(sums, logits, total, tolerance) <= 1).logical_not()
    return float((sums - logits).abs().max()), differs.nonzero()[:, 0].tolist()


def decompose(
    network: nn.Module, head: Head, inputs: Tensor, captured: CapturedPass, with_values: bool = True
) -> list[Decomposition]:
    """Decompose the logits of each image of a batch.

    Args:
        network: the classifier's network.
        head: its head.
        inputs: normalized images (N, channels, H, W).
        captured: what was captured for these images. Without a recording, a head without a weight runs the network
            again for each image.
        with_values: False computes no class maps where they can be computed later, class by class: see `contributions`.

    Returns:
        N decompositions.
    """
    with torch.no_grad():
        if head.weight is not None:
            return _decompose_with_fixed_weight(head, captured, with_values)
        function = head.head_function(network, inputs)
        return [_decompose_with_own_weight(head, function, captured, n) for n in range(len(inputs))]


def _decompose_with_fixed_weight(head: Head, captured: CapturedPass, with_values: bool) -> list[Decomposition]:
    poolings, bias = captured.poolings, head.affine[1]
    if bias.device != captured.logits.device:
        raise NetworkError(
            f"The network runs on {captured.logits.device}, but its head was read on {bias.device}. Use the classifier "
            "that Classifier.to returned, or make a new one of the network."
        )
    values = captured.class_maps
    if not with_values:
        values = widen(poolings[0].feature_maps)[:, :0]
    elif values is None:
        values = _compute_maps(head, poolings)
    images = zip(values.unbind(), _compute_biases(head, poolings, len(values)), strict=True)
    return [
        Decomposition(*image, select_image(head, poolings, n), head, head.verdict) for n, image in enumerate(images)
    ]


def _compute_maps(head: Head, poolings: Sequence[CapturedPooling]) -> Tensor:
    """Compute the class maps (N, K, h, w)."""
    maps = []
    for branch, pooling, columns in zip(head.branches, poolings, head.affine[0].split(head.widths, 1), strict=True):
        derivative = None if pooling.derivative is None else widen(pooling.derivative)
        columns_or_none = None if head.per_class else columns
        feature_maps = widen(pooling.feature_maps)
        maps.append(position_contributions(branch.pooling, feature_maps, columns_or_none, derivative))
    laid = head.lay_on_finest_grid(maps)
    return sum(laid[1:], start=laid[0])


def _compute_biases(head: Head, poolings: Sequence[CapturedPooling], images: int) -> Sequence[Tensor]:
    """Return the bias (K,) of each image. A constant that a linear pooling adds belongs to no cell."""
    weight, bias = head.affine
    if not head.needs_derivative:
        return [bias] * images
    biases = bias.expand(images, -1)
    for branch, pooling, columns in zip(head.branches, poolings, weight.split(head.widths, 1), strict=True):
        if branch.pooling == "linear":
            derivative = None if pooling.derivative is None else widen(pooling.derivative)
            shares = position_shares("linear", widen(pooling.feature_maps), derivative)
            biases = biases + (pooling.pooled_values - shares.sum((2, 3))) @ columns.T
    return biases.unbind()


def _decompose_with_own_weight(head: Head, function: HeadFunction, captured: CapturedPass, n: int) -> Decomposition:
    """Decompose image n by the head as it was recorded on another image.

    If that gives other logits than the network, it is recorded again on noise, with the pooled values of this image:
    the network may have been changed, or its code may depend on the pooled values. If the logits differ then too, more
    of the image than its pooled values reaches them, and the sums are not the logits.
    """
    branches = select_image(head, captured.poolings, n)
    pooled = widen(torch.cat([one.pooled_values[n : n + 1] for one in captured.poolings], 1))
    rows = _CellRows.of(branches, pooled)
    if function.recorded is not None:
        split = _split_by_rows(head, function, branches, rows)
        if function.recorded.ops is None or split.compare_with_logits(captured.logits[n])[1]:
            return split
    renewed, _ = function.record(pooled)
    split = _split_by_rows(head, renewed, branches, rows)
    if function.recorded is None or split.compare_with_logits(captured.logits[n])[1]:
        head.recording.current = renewed.recorded
    return split


@dataclass(frozen=True, eq=False)
class _CellRows:
    """The shares of all cells as rows of pooled values, zero in the pooled values of other branches.

    The shares of two branches with cells a1, a2 and b1 are the rows of

        a1  0
        a2  0
        0   b1
    """

    pooled: Tensor  # (1, P), the network's
    cells: Tensor  # (number of cells of all branches, P)
    rest: Tensor  # (1, P): what belongs to no cell, as linear and other poolings may add

    @staticmethod
    def of(branches: Sequence[BranchInput], pooled: Tensor) -> "_CellRows":
        shares = [stack_position_rows(branch.pooling, branch.shares()) for branch in branches]  # (h * w, width) each
        rest = [
            values - cells.sum(0, keepdim=True) if branch.pooling in ("linear", "other") else torch.zeros_like(values)
            for branch, cells, values in zip(
                branches, shares, pooled.split([branch.width for branch in branches], 1), strict=True
            )
        ]
        return _CellRows(pooled, torch.block_diag(*shares), torch.cat(rest, 1))


def _split_by_rows(
    head: Head, function: HeadFunction, branches: tuple[BranchInput, ...], rows: _CellRows
) -> Decomposition:
    """Split the logits that a head function gives for the pooled values of one image."""
    verdict, found = head.verdict, None
    if head.moved is not None:
        moved = move_channel_function(function, head.moved, branches[0].feature_maps, rows.pooled)
        if moved is None:
            verdict = "not unique"
        else:
            function, similarities, pooled = moved
            branches = (replace(branches[0], feature_maps=similarities),)
            rows = _CellRows.of(branches, pooled)
    frozen = function.freeze(rows.pooled)
    if verdict == "exact for this image":
        found = _split_exactly(frozen, rows, head.tolerance)
        if found is None and not is_locally_affine(function, rows.pooled.to(find_widest(rows.pooled.device))):
            verdict = "not unique"
    bias, contributions = _split_to_first_order(frozen, rows) if found is None else found
    numbers = [branch.feature_maps[0].numel() for branch in branches]
    maps = [
        cells.T.unflatten(1, branch.feature_maps.shape[1:])
        for branch, cells in zip(branches, contributions.split(numbers), strict=True)
    ]
    laid = head.lay_on_finest_grid(maps)
    return Decomposition(sum(laid[1:], start=laid[0]), bias, branches, head, verdict, frozen)


def _split_exactly(frozen: FrozenHead, rows: _CellRows, tolerance: float) -> tuple[Tensor, Tensor] | None:
    """Return the bias (K,) and what each cell adds, (cells, K); None if the frozen head is not affine.

    An affine function g takes a cell's share s to g(s) = g(0) + weight s, and their sum, the pooled values, to the sum.
    """
    total = rows.rest + rows.cells.sum(0, keepdim=True)
    # A share is small beside the bias. So that little is lost to rounding, its row is as long as the pooled values.
    lengths = rows.cells.norm(dim=1, keepdim=True)
    factors = torch.where(lengths > 0, total.norm() / lengths, 1)
    trials = torch.cat([rows.rest, total, rows.rest + factors * rows.cells])
    try:
        logits = torch.cat([frozen.logits(chunk) for chunk in trials.split(_CHUNK)])
    except NetworkError:
        return None
    bias, whole, contributions = logits[0], logits[1], (logits[2:] - logits[0]) / factors
    sums, totals = bias + contributions.sum(0), bias.abs() + contributions.abs().sum(0)
    return (bias, contributions) if (relative_error(sums, whole, totals, tolerance) <= 1).all() else None


def _split_to_first_order(frozen: FrozenHead, rows: _CellRows) -> tuple[Tensor, Tensor]:
    """Return the bias (K,) and what each cell adds, (cells, K), to first order around the pooled values."""
    changes = torch.cat([rows.cells.sum(0, keepdim=True), rows.cells])
    products = torch.cat([frozen.products(chunk) for chunk in changes.split(_CHUNK)])
    return frozen.logits(rows.pooled)[0] - products[0], products[1:]
