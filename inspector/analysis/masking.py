"""What if positions were not there? Masked exactly at the head, and in the photo with the network run on it.

At the head nothing but the masked positions changes. With p the pooled values and M the masked positions,

    average   p'[c] = p[c] - sum over M of  F[c, y, x] / (h * w)      (set to zero; the divisor stays)
    max       p'[c] = the maximum of F[c, y, x] over the positions outside M

and what follows the pooling gives the new logits: with a weight, logits + weight @ (p' - p); where it bends, by itself.
In the photo the pixels under M change, and with them every position whose receptive field reaches them: what the
network does is the cause, but what stands in their place is something that it sees, too.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMap, ClassMaps
from inspector.explain.decomposition import BranchInput
from inspector.explain.grid import nearest_cells
from inspector.explain.tracing.forward import forward
from inspector.images.photo import Pixels
from inspector.images.preprocessing import View

PixelChange = Literal["blur", "grey"]


@dataclass(frozen=True, eq=False)
class MaskedOutcome:
    """What the network would say."""

    logits: Tensor  # (K,)
    probabilities: Tensor  # (K,)
    pixels: Pixels | None = None  # what it was shown, where it was run anew: (H, W, 3), or (H, W) of grey


def make_mask(maps: ClassMaps, cells: Iterable[tuple[int, int]]) -> Tensor:
    """Positions (row, column) as a mask: (h, w), true there."""
    mask = torch.zeros(maps.values.shape[1:], dtype=torch.bool)
    for row, column in cells:
        mask[row, column] = True
    return mask


def find_cells_above(class_map: ClassMap, share: float) -> Tensor:
    """The positions whose value is above a share, 0-1, of the map's highest value: (h, w), true there.

    None where no value is positive.
    """
    highest = float(class_map.values.max())
    return (class_map.values > max(share * highest, 0)) & (highest > 0)


def mask_at_head(maps: ClassMaps, mask: Tensor) -> MaskedOutcome:
    """The logits with some positions masked at the head, (h, w) and true where masked: exact, and nothing is run anew.

    Where what follows the pooling is not affine, it is asked itself. InspectorError for a pooling that cannot go
    without positions, for poolings of different grids, and for max pooling with every position masked.
    """
    assert mask.shape == maps.values.shape[1:]
    decomposition, head = maps.decomposition, maps.classifier.head
    change = torch.cat([_compute_change(branch, mask) for branch in decomposition.branches])
    with torch.no_grad():
        if head.weight is not None:
            logits = maps.logits + head.weight @ change
        else:
            assert decomposition.head_function is not None
            assert decomposition.pooled is not None
            logits = decomposition.head_function.logits(decomposition.pooled + change)[0]
    return _make_outcome(maps, logits)


def _make_outcome(maps: ClassMaps, logits: Tensor, pixels: Pixels | None = None) -> MaskedOutcome:
    return MaskedOutcome(logits, maps.classifier.probabilities(logits), pixels)


def _compute_change(branch: BranchInput, mask: Tensor) -> Tensor:
    """What masking changes of the pooled values: (P,)."""
    feature_maps = branch.feature_maps
    mask = mask.to(feature_maps.device)
    if feature_maps.shape[1:] != mask.shape:
        own, finest = (" x ".join(map(str, grid)) for grid in (feature_maps.shape[1:], mask.shape))
        raise InspectorError(
            f"One pooling takes a grid of {own} positions and another one of {finest}: masked positions would have to "
            "be the same in both."
        )
    if branch.pooling == "other":
        raise InspectorError(
            "The pooling of this head is neither average nor max nor a weighted sum: what it would give without some "
            "positions is not known exactly. A network with one of those would do."
        )
    if branch.pooling == "max":
        if mask.all():
            raise InspectorError(
                "All positions are masked, and max pooling has none left to take the maximum of: leave one or more."
            )
        return feature_maps.masked_fill(mask, -math.inf).amax((1, 2)) - feature_maps.amax((1, 2))
    removed = -branch.shares() * mask
    return removed.flatten() if branch.pooling == "flatten" else removed.sum((1, 2))


def mask_in_photo(maps: ClassMaps, mask: Tensor, change: PixelChange) -> MaskedOutcome:
    """The logits of the network run on the photo with the cells of some positions, (h, w), blurred or greyed."""
    view = make_masked_view(maps, mask, change)
    return _make_outcome(maps, forward(maps.classifier.network, maps.classifier.inputs(view))[0], view.pixels)


def make_masked_view(maps: ClassMaps, mask: Tensor, change: PixelChange) -> View:
    """What the network is shown in place of the photo: the pixels nearest to masked positions changed.

    Blurred by a Gaussian whose standard deviation is a cell's width, so that what stood in a cell cannot be told; or as
    grey as the mean that the network subtracts, so that its input is zero there.
    """
    assert maps.view is not None, "an input without a photo has no pixels to change"
    pixels, region = maps.view.pixels, find_masked_pixels(maps, mask)
    field = maps.classifier.receptive_field
    if change == "blur":
        deviation = min(field.x.stride, field.y.stride)
        replacement = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(deviation)))
    else:
        mean = np.asarray(maps.classifier.preprocessing.mean) * 255
        replacement = np.broadcast_to(mean.round().astype(np.uint8).reshape(pixels.shape[2:]), pixels.shape)
    changed: Pixels = np.where(region.reshape(*region.shape, *[1] * (pixels.ndim - 2)), replacement, pixels)
    return replace(maps.view, pixels=changed)


def find_masked_pixels(maps: ClassMaps, mask: Tensor) -> NDArray[np.bool_]:
    """The pixels of the network's input that lie nearest to masked positions: (H, W), true there."""
    assert maps.view is not None, "an input without a photo has no pixels to change"
    (height, width), (rows, columns) = maps.view.pixels.shape[:2], mask.shape
    field, chosen = maps.classifier.receptive_field, mask.numpy(force=True)
    down, across = nearest_cells(field.y, rows, height), nearest_cells(field.x, columns, width)
    region: NDArray[np.bool_] = chosen[down][:, across]
    return region
