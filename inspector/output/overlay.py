"""Turn class maps into colors. Only this module scales or colors a map.

Zero is transparent. In the default color map evidence for a class is red and evidence against it blue, and the
further a value is from zero, the denser is its color; colormaps.py has the others. Maps that are compared share one
scale. The photo is dimmed outside the network's crop, and may be drawn in gray.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspector.explain.grid import fit_size, resample_on_photo
from inspector.explain.receptive_field import ReceptiveField
from inspector.images.decode import Pixels
from inspector.images.photo import Photo
from inspector.images.preprocessing import Box, Crop
from inspector.output.colormaps import COLORMAPS, LEVELS, ColorMap, find_colormap, make_signed

OPACITY = 0.85
MOSAIC_COLUMNS = 8  # columns of a mosaic of maps
_MOSAIC_SIDE = 64  # longer side of a map in a mosaic, in pixels


def common_scale(maps: Sequence[ArrayLike]) -> float:
    """Return the shared scale of maps that are compared: the largest absolute value in all maps; 0 without maps."""
    return max((float(np.abs(np.asarray(values)).max()) for values in maps), default=0.0)


def robust_scale(values: ArrayLike, part: float = 0.99) -> float:
    """Return a scale that ignores outliers: the quantile `part` of a map's absolute values.

    It is for gradients, where a few pixels are far above all others. If the quantile is 0, return the largest value.
    """
    sizes = np.abs(np.asarray(values))
    return float(np.quantile(sizes, part)) or float(sizes.max())


def find_scale(values: ArrayLike, grid: Literal["cells", "pixels"]) -> float:
    """Return the scale of one map: its largest absolute value; if it has one value per pixel, `robust_scale`."""
    return common_scale([values]) if grid == "cells" else robust_scale(values)


def dimmed_photo(photo: Photo, crop: Crop, side: int = 800, gray: bool = False) -> Pixels:
    """Draw the whole photo, dimmed outside the network's crop.

    Args:
        photo: the photo.
        crop: the part that the network sees.
        side: longer side of the drawing, in pixels.
        gray: draw the photo in gray, so that the colors of a map are seen on any photo.
    """
    height, width = fit_size(photo.size, side)
    # Enlarge a small image without interpolation, so that its real pixels stay visible.
    interpolation = cv2.INTER_AREA if side < max(photo.size) else cv2.INTER_NEAREST
    canvas = _as_pixels(cv2.resize(photo.pixels, (width, height), interpolation=interpolation))
    # One factor per axis: with the same factor for both, the box of a very thin photo would round to nothing.
    across, down = width / photo.size[1], height / photo.size[0]
    left, right = (round(edge * across) for edge in crop.box[0::2])
    top, bottom = (round(edge * down) for edge in crop.box[1::2])
    dimmed = _as_pixels(cv2.addWeighted(canvas, 0.35, np.full_like(canvas, 128), 0.25, 0))
    inside = np.s_[max(top, 0) : bottom, max(left, 0) : right]
    dimmed[inside] = canvas[inside]
    return make_gray(dimmed) if gray else dimmed


def make_gray(pixels: Pixels) -> Pixels:
    """Return an image (H, W, 3) in gray, with three equal channels (luma of ITU-R BT.601)."""
    return _as_pixels(cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))


def needs_lossless(photo_size: tuple[int, int]) -> bool:
    """Return whether a photo is so small that its drawing shows single pixels, which JPEG would blur."""
    return max(photo_size) < 100


def draw_map_on_photo(
    canvas: Pixels,
    crop: Crop,
    values: ArrayLike,
    field: ReceptiveField,
    scale: float,
    smooth: bool = True,
    opacity: float = OPACITY,
    colormap: str | Pixels = "inspector",
) -> Pixels:
    """Draw a map over the whole photo; each cell is centered on its receptive field.

    Args:
        canvas: the photo (H, W, 3) at any size, from `dimmed_photo`.
        crop: where the network's input lies on the photo; the map is not drawn outside the crop.
        values: map (h, w), in logits.
        field: receptive fields of the map's cells.
        scale: absolute value that gets the densest color.
        smooth: interpolate between the cell centers; otherwise draw the raw grid.
        opacity: opacity of the densest color, 0-1.
        colormap: one of COLORMAPS, or a table of 255 RGB colors (255, 3).

    Returns:
        A new image with the size of the canvas. If the place of the cells is unknown, it shows the bare grid of the
        map and not the photo.
    """
    if field.misplaced is not None:
        grid = grid_image(values, scale, colormap)
        return _as_pixels(cv2.resize(grid, (canvas.shape[1], canvas.shape[0]), interpolation=cv2.INTER_NEAREST))
    drawn = resample_on_photo(values, crop, field, (canvas.shape[0], canvas.shape[1]), smooth)
    return overlay_map(canvas, drawn, scale, opacity, colormap)


def overlay_map(
    canvas: Pixels,
    values: NDArray[np.float32],
    scale: float,
    opacity: float = 0.8,
    colormap: str | Pixels = "inspector",
) -> Pixels:
    """Blend a map (H, W) over a canvas (H, W, 3) of the same size; zero is transparent in every colormap.

    `colormap` is one of COLORMAPS, or a table of 255 RGB colors (255, 3) from the lowest value to the highest.
    """
    if isinstance(colormap, str):
        colors, remains = _make_named_tables(opacity, colormap)
    else:
        colors, remains = _make_tables(opacity, make_signed(colormap))
    levels = _find_levels(values, scale)
    photo = cv2.multiply(canvas, cv2.applyColorMap(levels, remains), scale=1 / 255)
    return _as_pixels(cv2.add(photo, cv2.applyColorMap(levels, colors)))


def grid_image(values: ArrayLike, scale: float, colormap: str | Pixels = "inspector") -> Pixels:
    """Color a map (h, w) as an opaque image (h, w, 3) with one pixel per cell; zero is nearly white.

    `colormap` is one of COLORMAPS, or a table of 255 RGB colors (255, 3).
    """
    colors = find_colormap(colormap).colors if isinstance(colormap, str) else colormap
    return _as_pixels(colors[_find_levels(np.asarray(values, np.float32), scale)])


def draw_mosaic(maps: NDArray[np.float32], scale: float | None) -> tuple[Pixels, tuple[int, int]]:
    """Draw maps (n, h, w) side by side, eight in a row.

    Args:
        maps: the maps.
        scale: the |value| with the strongest color; None: each map has its own scale.

    Returns:
        The image (H, W, 3), and (height, width) of a map in it.
    """
    height, width = maps.shape[1:]
    factor = min(1.0, _MOSAIC_SIDE / max(height, width))
    tile = max(1, round(height * factor)), max(1, round(width * factor))
    rows = -(-len(maps) // MOSAIC_COLUMNS)
    canvas = np.zeros((rows * tile[0], MOSAIC_COLUMNS * tile[1], 3), np.uint8)
    for i, values in enumerate(maps):
        drawn = values if factor == 1 else cv2.resize(values, tile[::-1], interpolation=cv2.INTER_AREA)
        y, x = i // MOSAIC_COLUMNS * tile[0], i % MOSAIC_COLUMNS * tile[1]
        canvas[y : y + tile[0], x : x + tile[1]] = grid_image(drawn, common_scale([values]) if scale is None else scale)
    return canvas, tile


def paint_classes(canvas: Pixels, numbers: ArrayLike, colors: ArrayLike, opacity: float) -> Pixels:
    """Paint each pixel of a canvas (H, W, 3) in the color with its number.

    `numbers` (H, W) is each pixel's index into `colors` (n, 3), 0-255. Pixels with a number below 0 keep their color.
    """
    chosen, table = np.asarray(numbers), np.asarray(colors, np.uint8)
    layer = _as_pixels(cv2.addWeighted(canvas, 1 - opacity, table[np.maximum(chosen, 0)], opacity, 0))
    return np.where((chosen >= 0)[..., None], layer, canvas)


def _as_pixels(image: Any) -> Pixels:
    """Tell the type checker that OpenCV's result is uint8, because OpenCV's type stubs have no dtypes."""
    return np.asarray(image, np.uint8)


def _find_levels(values: NDArray[np.float32], scale: float) -> Pixels:
    middle = LEVELS // 2
    # The scale of a map of zeros is 0; use 1. Adding 0.5 before the cast to uint8 rounds.
    levels = values * np.float32(middle / (scale or 1.0)) + np.float32(middle + 0.5)
    return _as_pixels(np.clip(levels, 0, LEVELS - 1, out=levels).astype(np.uint8))


@lru_cache(maxsize=64)
def _make_named_tables(opacity: float, colormap: str) -> tuple[Pixels, Pixels]:
    return _make_tables(opacity, find_colormap(colormap))


def _make_tables(opacity: float, colormap: ColorMap) -> tuple[Pixels, Pixels]:
    """Return for each level the color to add, and which part of the photo remains (0-255); both are (256, 1, 3)."""
    alpha = opacity * colormap.density
    tables = (colormap.hues * alpha, np.broadcast_to(255 * (1 - alpha), colormap.hues.shape))
    colors, remains = (np.pad(table.round().astype(np.uint8), ((0, 1), (0, 0)))[:, None] for table in tables)
    return colors, remains


def draw_boxes(
    pixels: Pixels,
    photo_size: tuple[int, int],
    boxes: Sequence[Box],
    color: tuple[int, int, int],
    points: Sequence[tuple[float, float]] = (),
) -> Pixels:
    """Draw boxes and points over a picture of a photo.

    Args:
        pixels: picture (H, W, 3) of the whole photo, at any size.
        photo_size: (height, width) of the photo.
        boxes: (left, top, right, bottom) in pixels of the photo.
        color: red, green and blue, 0-255. A dark line around it keeps it visible on any photo.
        points: (x, y) in pixels of the photo.

    Returns:
        A new image.
    """
    drawn, (height, width) = pixels.copy(), pixels.shape[:2]
    across, down, thick = width / photo_size[1], height / photo_size[0], max(1, round(max(height, width) / 300))
    for shade, line in (((0, 0, 0), thick + 2), (color, thick)):
        for left, top, right, bottom in boxes:
            first, last = (round(left * across), round(top * down)), (round(right * across), round(bottom * down))
            cv2.rectangle(drawn, first, (last[0] - 1, last[1] - 1), shade, line)
        for x, y in points:
            cv2.circle(drawn, (round(x * across), round(y * down)), thick + line, shade, cv2.FILLED)
    return drawn


def draw_bar(colormap: str, opacity: float, gray: int, length: int = 512, height: int = 24) -> Pixels:
    """Draw the color bar of maps over a photo: from the lowest value (left) to the highest, (height, length, 3).

    Args:
        colormap: one of COLORMAPS. If it draws the positive part only, the bar begins at zero.
        opacity: opacity of the densest color, 0-1.
        gray: brightness of the photo below the colors, 0-255; see `find_gray`.
        length: width of the bar in pixels.
        height: height of the bar in pixels.
    """
    values = np.linspace(COLORMAPS[colormap].lowest, 1, length, dtype=np.float32)
    canvas = np.full((height, length, 3), gray, np.uint8)
    return overlay_map(canvas, np.broadcast_to(values, (height, length)).copy(), 1.0, opacity, colormap)


def find_gray(photo: Photo, crop: Crop) -> int:
    """Return the mean brightness (0-255) of what the network sees: the gray on which a color bar is drawn."""
    left, top, right, bottom = (max(0, round(edge)) for edge in crop.box)
    seen = photo.pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
    step = max(1, min(seen.shape[:2]) // 100)  # a large photo need not be read as a whole
    return round(float(make_gray(np.ascontiguousarray(seen[::step, ::step])).mean()))
