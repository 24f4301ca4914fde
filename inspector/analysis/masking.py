"""Mask cells and compute the new logits: exactly at the head, or in the photo with a new forward pass.

At the head, only the values of the masked cells M change. With p for the pooled values:

    average   p'[c] = p[c] - sum over M of  F[c, y, x] / (h * w)      (masked cells are 0; the divisor is unchanged)
    max       p'[c] = maximum of F[c, y, x] over the cells outside M

An affine head gives logits + weight @ (p' - p); any other head is run on p'. In the photo, the pixels of the masked
cells change, and with them every cell whose receptive field contains these pixels. This shows what the network really
does, but the network also sees the pixels that replace the masked ones.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from inspector.errors import InspectorError
from inspector.explain.branch_input import BranchInput
from inspector.explain.class_maps import ClassMap, ClassMaps
from inspector.explain.grid import nearest_cells, require_place
from inspector.explain.kinds import PixelChange
from inspector.explain.tracing.forward import forward
from inspector.images.decode import Pixels
from inspector.images.preprocessing import View


@dataclass(frozen=True, eq=False)
class MaskedOutcome:
    """Logits and probabilities with some cells masked."""

    logits: Tensor  # (K,)
    probabilities: Tensor  # (K,)
    pixels: Pixels | None = None  # masked input (H, W, 3), or (H, W) if gray; None if masked at the head


def make_mask(maps: ClassMaps, cells: Iterable[tuple[int, int]]) -> Tensor:
    """Return a mask (h, w) that is true at the given cells (row, column)."""
    mask = torch.zeros(maps.values.shape[1:], dtype=torch.bool)
    for row, column in cells:
        mask[row, column] = True
    return mask


def find_cells_above(class_map: ClassMap, share: float) -> Tensor:
    """Find the cells whose value is above a share (0-1) of the highest value of the map.

    Returns:
        Mask (h, w); all false if no value is positive.
    """
    highest = float(class_map.values.max())
    found: Tensor = (class_map.values > max(share * highest, 0)) & (highest > 0)
    return found


def mask_at_head(maps: ClassMaps, mask: Tensor) -> MaskedOutcome:
    """Compute the logits with some cells masked at the head. This is exact, and needs no forward pass of the network.

    Args:
        maps: class maps of one image.
        mask: (h, w), true at the masked cells.

    Returns:
        Logits and probabilities (K,).

    Raises:
        InspectorError: the mask has another grid than the maps; the pooling is neither average nor max nor a weighted
            sum; the network has several poolings with different grids; or all cells are masked before a max pooling.
    """
    if mask.shape != maps.values.shape[1:]:
        raise InspectorError(f"Expected a mask of {tuple(maps.values.shape[1:])} cells, got {tuple(mask.shape)}.")
    decomposition, head = maps.decomposition, maps.classifier.head
    change = torch.cat([_compute_change(branch, mask) for branch in decomposition.branches])
    with torch.no_grad():
        if head.weight is not None:
            logits = maps.logits + head.weight @ change
        else:
            frozen = decomposition.frozen
            assert frozen is not None
            logits = frozen.function.widened_logits(frozen.pooled + change)[0]
    return _make_outcome(maps, logits)


def _make_outcome(maps: ClassMaps, logits: Tensor, pixels: Pixels | None = None) -> MaskedOutcome:
    return MaskedOutcome(logits, maps.classifier.probabilities(logits), pixels)


def _compute_change(branch: BranchInput, mask: Tensor) -> Tensor:
    """Compute the new pooled values minus the old ones when cells are masked, (P,)."""
    feature_maps = branch.feature_maps
    mask = mask.to(feature_maps.device)
    if feature_maps.shape[1:] != mask.shape:
        own, finest = (" x ".join(map(str, grid)) for grid in (feature_maps.shape[1:], mask.shape))
        raise InspectorError(
            f"The poolings have different grids, {own} and {finest} cells. Masking at the head needs a network whose "
            "poolings have the same grid."
        )
    if branch.pooling == "other":
        raise InspectorError(
            "The pooling of this head is neither average nor max nor a weighted sum, so its value without some cells "
            "is not known exactly. Use a network with one of these."
        )
    if branch.pooling == "max":
        if mask.all():
            raise InspectorError("All cells are masked, and max pooling needs at least one. Leave one cell unmasked.")
        return feature_maps.masked_fill(mask, -math.inf).amax((1, 2)) - feature_maps.amax((1, 2))
    removed = -branch.shares() * mask
    return removed.flatten() if branch.pooling == "flatten" else removed.sum((1, 2))


def mask_in_photo(maps: ClassMaps, mask: Tensor, change: PixelChange) -> MaskedOutcome:
    """Run the network on the photo with the pixels of some cells blurred or gray.

    Args:
        maps: class maps of one photo.
        mask: (h, w), true at the masked cells.
        change: "blur", or "grey" for the mean color of the preprocessing.

    Returns:
        Logits and probabilities (K,), and the pixels that the network got.
    """
    view = make_masked_view(maps, mask, change)
    return _make_outcome(maps, forward(maps.classifier.network, maps.classifier.inputs(view))[0], view.pixels)


def make_masked_view(maps: ClassMaps, mask: Tensor, change: PixelChange) -> View:
    """Return the view of the photo with the pixels of the masked cells changed.

    "blur" is a Gaussian whose standard deviation is the width of a cell (the smaller side), so that the content
    of a cell cannot be recognized. "grey" is the mean that the preprocessing subtracts, so the input is zero there.
    """
    view, region = maps.view, find_masked_pixels(maps, mask)
    deviation = min(maps.classifier.receptive_field.x.stride, maps.classifier.receptive_field.y.stride)
    mean = np.asarray(maps.classifier.preprocessing.mean, np.float32)
    pixels, values = view.pixels, view.values
    if change == "blur":
        replacement = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(deviation)))
    else:
        color = mean * 255 if mean.size == math.prod(pixels.shape[2:]) else np.full(pixels.shape[2:], 128)
        replacement = np.broadcast_to(color.round().astype(np.uint8).reshape(pixels.shape[2:]), pixels.shape)
    changed: Pixels = np.where(region.reshape(*region.shape, *[1] * (pixels.ndim - 2)), replacement, pixels)
    if values is not None:
        from skimage.filters import gaussian  # here, because it takes long to import and few networks need it

        filled = gaussian(values, deviation, channel_axis=2) if change == "blur" else mean
        values = np.where(region[..., None], filled, values)
    return replace(view, pixels=changed, values=values)


def find_masked_pixels(maps: ClassMaps, mask: Tensor) -> NDArray[np.bool_]:
    """Find the pixels of the network's input whose nearest cell is masked: (H, W) bool.

    Raises:
        PlaceError: the place of the cells is unknown.
    """
    require_place(maps.classifier.receptive_field)
    (height, width), (rows, columns) = maps.view.pixels.shape[:2], mask.shape
    field, chosen = maps.classifier.receptive_field, np.asarray(mask.cpu(), np.bool_)
    return chosen[np.ix_(nearest_cells(field.y, rows, height), nearest_cells(field.x, columns, width))]
