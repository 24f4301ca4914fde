"""Check by measurement that the cells of a head's feature maps lie where they are said to lie.

A few pairs of random images are tried. If the cells respond at their places to one of them, they lie there; chance
would not order them. If they do for none, their place is unknown, with the reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inspector.errors import NetworkError
from inspector.explain.receptive_field import ReceptiveField
from inspector.explain.response import explain_misplacement, make_probes, measure_response, prefers_no_part
from inspector.explain.tracing.forward import PoolingNotReachedError, forward_logits
from inspector.explain.tracing.pooling_calls import PoolingCall, PoolingCallDetector

TRIALS = ((0, False), (1, True), (2, False))  # seed of the images, and if they are smooth

Capture = Callable[[Tensor], Sequence[Tensor]]  # input (1, channels, H, W) -> feature maps (1, C, h, w) in question


@dataclass(frozen=True)
class PlaceCheck:
    """The outcome of the measurement for one set of feature maps."""

    misplaced: str | None  # why the place of the cells is unknown; None if they respond at their places
    sees_more: bool = False  # whether cells respond to pixels outside of their receptive fields
    order: float = 1.0  # how well the cells' responses are ordered as their places, -1 to 1, along the worse axis
    prefers_no_part: bool = False  # whether cells respond to no part of the image, or to all parts alike


def check_places(
    capture: Capture, example: Tensor, fields: Sequence[ReceptiveField], trials: Sequence[tuple[int, bool]] = TRIALS
) -> list[PlaceCheck]:
    """Measure if the cells of feature maps respond at the places that their receptive fields say.

    Args:
        capture: runs the network on one image and returns the feature maps, laid out as assumed. Several layouts of the
            same tensor can be compared: each is one entry.
        example: an input (1, channels, H, W), which gives size, dtype and device.
        fields: the assumed receptive fields of each entry.
        trials: seed of the images and whether they are smooth, tried one after the other.

    Returns:
        One outcome per entry: that of the first trial in which the cells respond at their places, or of the trial with
        the best order.
    """
    best: list[PlaceCheck | None] = [None] * len(fields)
    for seed, smooth in trials:
        probes = make_probes(example, seed, smooth)
        captured = [[maps[0] for maps in capture(image)] for image in probes.images]
        for n, field in enumerate(fields):
            earlier = best[n]
            if earlier is not None and earlier.misplaced is None:
                continue
            response = measure_response([maps[n] for maps in captured], probes, field)
            order = -1.0 if response is None else min(axis.order for axis in response)
            sees_more = response is None or any(axis.sees_more for axis in response)
            misplaced = explain_misplacement(response, field.certain)
            found = PlaceCheck(misplaced, sees_more, order, prefers_no_part(response))
            if earlier is None or found.misplaced is None or order > earlier.order:
                best[n] = found
        if all(one is not None and one.misplaced is None for one in best):
            break
    return [one for one in best if one is not None]


def capture_feature_maps(network: nn.Module, image: Tensor, calls: Sequence[int]) -> list[Tensor]:
    """Return the feature maps (1, C, h, w) of some pooling calls, also if what follows them does not take this size.

    Raises:
        NetworkError: a pooling is not reached.
    """
    captured: dict[int, Tensor] = {}

    def note(call: PoolingCall) -> Tensor:
        if call.index in calls:
            captured[call.index] = call.feature_maps()
        return call.result

    try:
        with torch.no_grad():
            forward_logits(network, image, PoolingCallDetector(note))
    except NetworkError:
        if len(captured) < len(calls):
            raise
    if len(captured) < len(calls):
        raise PoolingNotReachedError(image)
    return [captured[index] for index in calls]
