"""Move functions of single channels from a head to its max pooling.

Some heads first apply a function g to each pooled value alone. ProtoPNet takes the smallest distance d of a prototype
from all cells, and its similarity log((d + 1) / (d + eps)), before a linear layer. If g is monotonic, the similarity of
the smallest distance is the largest similarity:

    g(max over cells of F[c])  =  max over cells of g(F[c])        (or of the smallest, if g decreases)

so the network pools the maps g(F) by their maximum, and what follows g is affine. Every channel then passes on the
value of one cell, as with max pooling, and its whole contribution belongs to that cell.

Chen et al., "This looks like that" (NeurIPS 2019), for ProtoPNet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inspector.errors import NetworkError
from inspector.explain.branches import TrialPass
from inspector.explain.head_checks import find_affine
from inspector.explain.head_function import HeadFunction, RecordedHead
from inspector.explain.pooling import identify_pooling
from inspector.explain.precision import call_widened, widen

_MASKS = 6  # random choices of channels that are changed to see whether others change too


@dataclass(frozen=True, eq=False)
class ChannelFunction:
    """What a head does to each pooled value alone, and the rest of the head."""

    function: HeadFunction  # pooled values -> results of g, both (R, C)
    rest: HeadFunction  # results of g -> logits

    def apply(self, pooled: Tensor) -> Tensor:
        """Compute g of pooled values (R, C)."""
        with torch.no_grad():
            assert self.function.recorded is not None
            assert self.function.recorded.ops is not None
            (call,) = self.function.calls
            result: Tensor = self.function.recorded.ops.replay({call: pooled}, call_widened)
        if len(result) != len(pooled) or result.numel() != pooled.numel():
            raise NetworkError("The head does not take each channel alone.")
        return result.flatten(1)

    def apply_to_maps(self, feature_maps: Tensor) -> Tensor:
        """Compute g in each cell of feature maps (C, h, w)."""
        return self.apply(feature_maps.flatten(1).T).T.reshape(feature_maps.shape)


def find_channel_function(function: HeadFunction, passes: Sequence[TrialPass], tolerance: float) -> int | None:
    """Find a function of single channels after which a head is affine, and the maps of which are pooled by maximum.

    Args:
        function: the head, with a single pooling.
        passes: of several images.
        tolerance: residual that rounding explains in the network's logits.

    Returns:
        The number, in the recording, of the result of that function; None if there is none.
    """
    if function.recorded is None or function.recorded.ops is None or not function.recorded.takes_rows:
        return None
    if len(function.calls) != 1:
        return None
    for number in reversed(function.recorded.ops.numbers):
        found = split_at(function, number)
        if found is not None and _is_max_pooling(found, passes) and _follows_affine(found, passes, tolerance):
            return number
    return None


def split_at(function: HeadFunction, number: int) -> ChannelFunction | None:
    """Split a head at a tensor of its recording; None if what follows needs other tensors too."""
    ops = None if function.recorded is None else function.recorded.ops
    parts = None if ops is None else ops.split(number)
    if parts is None:
        return None
    first, rest = (replace(function, recorded=RecordedHead(one, takes_rows=True)) for one in parts)
    return ChannelFunction(first, rest)


def move_channel_function(
    function: HeadFunction, number: int, feature_maps: Tensor, pooled: Tensor
) -> tuple[HeadFunction, Tensor, Tensor] | None:
    """Move a function of single channels from a head to its max pooling, for one image.

    Args:
        function: the head.
        number: what `find_channel_function` returned.
        feature_maps: (C, h, w).
        pooled: (1, C).

    Returns:
        The rest of the head, the maps (C, h, w) and their maxima (1, C); None if these are not what the head computes,
        as for a function that both increases and decreases.
    """
    found = split_at(function, number)
    if found is None:
        return None
    maps, maxima = found.apply_to_maps(feature_maps), found.apply(pooled)
    return (found.rest, maps, maxima) if "max" in identify_pooling(maps[None], maxima) else None


def _is_max_pooling(found: ChannelFunction, passes: Sequence[TrialPass]) -> bool:
    """Tell whether the results of g are the maxima of g of the feature maps, each channel on its own."""
    try:
        for one in passes:
            (captured,) = one.poolings
            pooled, results = widen(one.pooled), found.apply(widen(one.pooled))
            maps = found.apply_to_maps(widen(captured.feature_maps[0]))[None]
            if not maps.isfinite().all() or "max" not in identify_pooling(maps, results):
                return False
        generator = torch.Generator().manual_seed(0)
        masks = torch.rand(_MASKS, pooled.shape[1], generator=generator).to(pooled) < 0.5
        other = widen(passes[0].pooled)
        mixed = found.apply(torch.where(masks, other, pooled))
        expected = torch.where(masks, found.apply(other), results)
        return torch.allclose(mixed, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    except (NetworkError, RuntimeError, IndexError):
        return False


def _follows_affine(found: ChannelFunction, passes: Sequence[TrialPass], tolerance: float) -> bool:
    results = [found.apply(widen(one.pooled)) for one in passes]
    return find_affine(found.rest, found.rest, results, [one.logits for one in passes], tolerance) is not None
