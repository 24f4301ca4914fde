"""From a class map to pixels: the only place that scales or colours a map.

Zero is transparent, evidence for a class is red and evidence against it is blue; the further from zero, the denser.
Maps that are compared share one scale. Cells are drawn around the centres of their receptive fields and mapped back
through crop and resize onto the photo as it was uploaded; outside what the network saw the photo is dimmed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspector.explain.tracing.receptive_field import Axis, ReceptiveField
from inspector.images.photo import Photo, Pixels
from inspector.images.preprocessing import View

_LEVELS = 255  # odd, so that there is a middle
_FOR, _AGAINST = (200, 20, 40), (20, 70, 200)  # red and blue, told apart by all kinds of colour vision


@dataclass(frozen=True)
class AxisPlacement:
    """Where along one side of a photo, from 0 to 1, the cells of a grid lie: at s is position slope * s + offset."""

    slope: float
    offset: float
    start: float  # the part of the side that the network saw
    end: float


def diverging_colormap() -> Pixels:
    """The colour map, (255, 3): from against over white, which is zero, to for."""
    density, hues = _density_and_hues()
    return _pixels((255 * (1 - density) + hues * density).round().astype(np.uint8))


def common_scale(maps: Sequence[ArrayLike]) -> float:
    """The value at both ends of the colour map for maps that are compared: their largest absolute value, in logits."""
    return max((float(np.abs(np.asarray(values)).max()) for values in maps), default=0.0)


def robust_scale(values: ArrayLike, part: float = 0.99) -> float:
    """What this part of a map's absolute values stay below: a few pixels of a gradient outshine all others."""
    sizes = np.abs(np.asarray(values))
    return float(np.quantile(sizes, part)) or float(sizes.max())


def dimmed_photo(view: View, side: int = 800) -> Pixels:
    """The whole photo with its longer side at `side` pixels, dimmed where the network did not look."""
    photo = view.photo
    height, width = fit_size(photo, side)
    # Enlarged pixels stay pixels: nothing is invented between those of a small image.
    interpolation = cv2.INTER_AREA if side < max(photo.size) else cv2.INTER_NEAREST
    canvas = _pixels(cv2.resize(photo.pixels, (width, height), interpolation=interpolation))
    # By axis: of a very thin photo one factor for both would round the box to nothing.
    across, down = width / photo.size[1], height / photo.size[0]
    left, right = (round(edge * across) for edge in view.box[0::2])
    top, bottom = (round(edge * down) for edge in view.box[1::2])
    dimmed = _pixels(cv2.addWeighted(canvas, 0.35, np.full_like(canvas, 128), 0.25, 0))
    inside = np.s_[max(top, 0) : bottom, max(left, 0) : right]
    dimmed[inside] = canvas[inside]
    return dimmed


def fit_size(photo: Photo, side: int) -> tuple[int, int]:
    """The (height, width) of a drawing of the photo whose longer side has `side` pixels."""
    factor = side / max(photo.size)
    height, width = (max(1, round(length * factor)) for length in photo.size)
    return height, width


def resample_on_photo(
    values: ArrayLike,
    view: View,
    field: ReceptiveField,
    size: tuple[int, int],
    smooth: bool,
) -> NDArray[np.float32]:
    """A map (h, w) drawn over the whole photo at a size (H, W): zero where the network did not look.

    Cells stand at the centres of their receptive fields; between centres it is interpolated (smooth), or every pixel
    takes its nearest cell's value.
    """
    grid = np.asarray(values, np.float32)
    down, across = (
        _weights(placing, cells, length, smooth)
        for placing, cells, length in zip(axis_placements(view, field), grid.shape, size, strict=True)
    )
    drawn: NDArray[np.float32] = (down @ grid @ across.T).astype(np.float32, copy=False)
    return drawn


def axis_placements(view: View, field: ReceptiveField) -> tuple[AxisPlacement, AxisPlacement]:
    """Where the cells' rows and columns lie on the photo, down and across it."""
    left, top, right, bottom = view.box
    photo, seen = view.photo.size, view.pixels.shape
    return _placing(field.y, (top, bottom), seen[0], photo[0]), _placing(field.x, (left, right), seen[1], photo[1])


def overlay_map(
    canvas: Pixels, values: NDArray[np.float32], scale: float, opacity: float = 0.8, palette: Pixels | None = None
) -> Pixels:
    """A map (H, W) in logits over a canvas (H, W, 3) of the same size; `scale` is the value of the densest colour.

    `palette` is another colour map, (255, 3) from against to for; at zero it is transparent too.
    """
    colours, remains = _tables(opacity, None if palette is None else palette.tobytes())
    levels = _levels(values, scale)
    photo = cv2.multiply(canvas, cv2.applyColorMap(levels, remains), scale=1 / 255)
    return _pixels(cv2.add(photo, cv2.applyColorMap(levels, colours)))


def grid_image(values: ArrayLike, scale: float, palette: Pixels | None = None) -> Pixels:
    """A map (h, w) as an image (h, w, 3), one pixel a cell, opaque: zero is nearly white."""
    table = np.concatenate([diverging_colormap() if palette is None else palette, np.zeros((1, 3), np.uint8)])
    return _pixels(table[_levels(np.asarray(values, np.float32), scale)])


def paint_classes(canvas: Pixels, numbers: ArrayLike, colours: ArrayLike, opacity: float) -> Pixels:
    """A canvas (H, W, 3) with pixels painted by number: (H, W) into colours (n, 3), 0-255; below 0 it stays."""
    chosen, table = np.asarray(numbers), np.asarray(colours, np.uint8)
    layer = _pixels(cv2.addWeighted(canvas, 1 - opacity, table[np.maximum(chosen, 0)], opacity, 0))
    return np.where((chosen >= 0)[..., None], layer, canvas)


def _pixels(image: Any) -> Pixels:
    """OpenCV's stubs know no dtypes: uint8 in, uint8 out."""
    return np.asarray(image, np.uint8)


def _levels(values: NDArray[np.float32], scale: float) -> Pixels:
    middle = _LEVELS // 2
    # A map of zeros has no scale of its own. Half a level is added and cut off with the rest: that rounds.
    levels = values * np.float32(middle / (scale or 1.0)) + np.float32(middle + 0.5)
    return _pixels(np.clip(levels, 0, _LEVELS - 1, out=levels).astype(np.uint8))


def _density_and_hues() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How dense each level's colour is, (255, 1) in 0-1, and its hue, (255, 3)."""
    signed = np.linspace(-1, 1, _LEVELS)[:, None]
    return np.abs(signed), np.where(signed < 0, _AGAINST, _FOR).astype(float)


@lru_cache(maxsize=64)
def _tables(opacity: float, palette: bytes | None) -> tuple[Pixels, Pixels]:
    """For each level the colour to add and what is left of the photo in 255ths, both (256, 1, 3)."""
    density, hues = _density_and_hues()
    if palette is not None:
        hues = np.frombuffer(palette, np.uint8).reshape(_LEVELS, 3).astype(float)
    alpha = opacity * density
    tables = (hues * alpha, np.broadcast_to(255 * (1 - alpha), hues.shape))
    colours, remains = (np.pad(table.round().astype(np.uint8), ((0, 1), (0, 0)))[:, None] for table in tables)
    return colours, remains


def _placing(axis: Axis, edges: tuple[float, float], input_length: int, photo_length: int) -> AxisPlacement:
    start, end = edges
    # From a part of the side to pixels of the network's input, and on to cells.
    scale = input_length / (end - start)
    slope, offset = photo_length * scale, -start * scale
    return AxisPlacement(
        slope / axis.stride, (offset - axis.centre) / axis.stride, start / photo_length, end / photo_length
    )


def _weights(placing: AxisPlacement, cells: int, length: int, smooth: bool) -> NDArray[np.float32]:
    """How much of each cell every drawn pixel along one side takes: (length, cells)."""
    places = (np.arange(length) + 0.5) / length
    position = np.clip(placing.slope * places + placing.offset, 0, cells - 1)
    if not smooth:
        position = np.rint(position)
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells)))
    inside = (places >= placing.start) & (places <= placing.end)
    inside_only: NDArray[np.float32] = (weights * inside[:, None]).astype(np.float32)
    return inside_only
