"""Change the pixels that a network sees: paste a part of one photo into another, or remove a region.

Both work on views, whose pixels have the size of the network's input, so a pasted part has the size for the network
that it had in its own photo. This module does not import torch.
"""

from dataclasses import replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.errors import InspectorError
from inspector.explain.grid import find_surroundings
from inspector.explain.receptive_field import ReceptiveField
from inspector.images.decode import Pixels
from inspector.images.preprocessing import View

Removal = Literal["inpaint", "blur"]

_FEATHER = 0.15  # of a pasted part's sides, over which it fades out
_RADIUS = 5  # pixels around a removed one that inpainting looks at


def find_patch(
    field: ReceptiveField, cell: tuple[int, int], size: tuple[int, int], cells: int = 3
) -> tuple[slice, slice]:
    """Return the rows and columns of the network's input (H, W) that lie around a cell: `cells` cells on each side.

    They are moved where they would exceed the input, and are no more than the cell's receptive field.
    """
    found = []
    for axis, place, length in zip((field.y, field.x), cell, size, strict=True):
        first, last = find_surroundings(axis, place, 0, length, cells)
        side = max(1, round(last - first))
        start = min(round(first), length - side)
        found.append(slice(start, start + side))
    rows, columns = found
    return rows, columns


def paste(view: View, patch: Pixels, top: int, left: int) -> View:
    """Return a view with a patch pasted into it, faded out towards its sides.

    Args:
        view: the view of a photo.
        patch: pixels (h, w, ...) of another view, not larger than this one.
        top: first row of the patch in the view.
        left: first column.

    Raises:
        InspectorError: the network gets other values than pixels of 8 bits.
    """
    _require_pixels(view)
    height, width = patch.shape[:2]
    down, across = (_fade(length) for length in (height, width))
    weights = (down[:, None] * across).reshape(height, width, *[1] * (patch.ndim - 2))
    pixels = view.pixels.copy()
    place = (slice(top, top + height), slice(left, left + width))
    pixels[place] = (weights * patch + (1 - weights) * pixels[place]).round().astype(np.uint8)
    return replace(view, pixels=pixels)


def remove(view: View, region: NDArray[np.bool_], how: Removal = "inpaint") -> View:
    """Return a view without what is in a region.

    Args:
        view: the view of a photo.
        region: (H, W) of the view, true where pixels are replaced.
        how: "inpaint" continues what is around the region (Telea, J. Graphics Tools 2004); "blur" is a Gaussian as wide
            as the region.

    Raises:
        InspectorError: the network gets other values than pixels of 8 bits.
    """
    _require_pixels(view)
    if how == "inpaint":
        pixels = cv2.inpaint(view.pixels, region.astype(np.uint8), _RADIUS, cv2.INPAINT_TELEA)
    else:
        deviation = max(np.sqrt(float(region.sum())) / 2, 1)
        blurred = cv2.GaussianBlur(view.pixels, (0, 0), deviation)
        pixels = np.where(region.reshape(*region.shape, *[1] * (view.pixels.ndim - 2)), blurred, view.pixels)
    return replace(view, pixels=np.asarray(pixels, np.uint8))


def _fade(length: int) -> NDArray[np.float64]:
    """Return weights (length,) that rise from 0 at the sides to 1."""
    distance = np.minimum(np.arange(length) + 0.5, length - np.arange(length) - 0.5)
    return np.asarray(np.clip(distance / max(_FEATHER * length, 1), 0, 1))


def _require_pixels(view: View) -> None:
    if view.values is not None:
        raise InspectorError(
            "This network gets other values than pixels of 8 bits, so parts of photos cannot be pasted."
        )
