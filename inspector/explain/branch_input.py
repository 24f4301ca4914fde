"""The input of one pooling for one image, and what its cells add to the pooled values."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inspector.explain.head import Head
from inspector.explain.kinds import Pooling
from inspector.explain.pooling import position_shares
from inspector.explain.precision import find_widest, widen
from inspector.explain.tracing.forward import CapturedPooling

# Number of values that torch processes on one thread of the CPU. For more it wakes others, which then busy-wait for
# longer than a fast network runs.
_ONE_THREAD = 32_000


def count_rows(length: int, device: torch.device) -> int:
    """Return how many rows of a length to process at once: on the CPU as many as one thread does, elsewhere all."""
    return max(1, _ONE_THREAD // length) if device.type == "cpu" else sys.maxsize


@dataclass(frozen=True, eq=False)
class BranchInput:
    """The input of one pooling for one image."""

    pooling: Pooling
    width: int  # number of pooled values
    feature_maps: Tensor  # (C, h, w), in float32 or better
    epsilon: float  # relative rounding of one number, in the type of the network
    derivative: Tensor | None  # d pooled / d feature maps, (C, h, w), of linear and other poolings

    def shares(self) -> Tensor:
        """Compute what each cell adds to each pooled value: (C, h, w)."""
        derivative = None if self.derivative is None else self.derivative[None]
        return position_shares(self.pooling, self.feature_maps[None], derivative)[0]

    def summed_shares(self) -> Tensor:
        """Compute the pooled values (P,) as the sums of the shares of all cells, in the widest type."""
        device = self.feature_maps.device
        wide, channels = find_widest(device), count_rows(self.feature_maps[0].numel(), device)
        maps = self.feature_maps[None].split(channels, 1)
        derivatives = [None] * len(maps) if self.derivative is None else self.derivative[None].split(channels, 1)
        sums = []
        for some, derivative in zip(maps, derivatives, strict=True):
            shares = position_shares(self.pooling, some, derivative)[0].to(wide)
            sums.append(shares.flatten() if self.pooling == "flatten" else shares.sum((1, 2)))
        return torch.cat(sums)

    def rounding_of_pooled(self) -> Tensor:
        """Return the largest error of the network's pooled values (P,) that rounding explains."""
        maps = self.feature_maps.to(find_widest(self.feature_maps.device)).abs().flatten(1)
        if self.pooling == "flatten":
            return maps.flatten() * 0
        # A sum of n numbers, one after the other, has an error of at most n / 2 units in the last place of its terms.
        terms = maps.shape[1] if self.pooling == "average" else 0
        return (terms / 2 + 1) * self.epsilon * maps.mean(1) if terms else maps[:, 0] * 0


def select_image(head: Head, poolings: Sequence[CapturedPooling], n: int) -> tuple[BranchInput, ...]:
    """Return the inputs of all poolings for image n of a batch."""
    inputs = []
    for branch, captured in zip(head.branches, poolings, strict=True):
        derivative = None if captured.derivative is None else widen(captured.derivative[n])
        epsilon = torch.finfo(captured.feature_maps.dtype).eps
        inputs.append(BranchInput(branch.pooling, branch.width, widen(captured.feature_maps[n]), epsilon, derivative))
    return tuple(inputs)
