"""Maps over photos and raw grids as they are saved: as a picture, and as the lines of Python that make it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from inspector.explain.receptive_field import ReceptiveField
from inspector.images.preprocessing import Crop, View
from inspector.output.colormaps import find_colormap
from inspector.output.overlay import OPACITY, dimmed_photo, draw_map_on_photo, grid_image
from inspector.output.picture import ColorBar, Picture
from inspector.output.text import format_number
from inspector.ui.components.save import PictureToSave

_SIDE = 1280  # longer side of a saved picture, in pixels: twice that of the largest map on the screen


@dataclass(frozen=True)
class SavedStyle:
    """How a map over its photo is drawn."""

    scale: float  # the |value| with the strongest color
    meaning: str  # small print below the name, such as what the colors mean
    smooth: bool = True  # interpolate between the cells
    colors: str = "inspector"  # one of COLORMAPS


def make_map_to_save(
    name: str,
    values: Tensor,
    view: View,
    field: ReceptiveField,
    style: SavedStyle,
    python: Sequence[str],
    crop: Crop | None = None,
) -> PictureToSave:
    """Return a map over its photo, to be saved.

    Args:
        name: name of the picture.
        values: the map (h, w).
        view: the photo, and the part that the network sees.
        field: receptive field of the cells.
        style: how the map is drawn.
        python: lines that compute `maps`, the class maps of the photo, `values` and their receptive `field`.
        crop: the part of the photo that the map covers, if it is not that which the network sees; the lines compute
            it as `crop`.
    """
    settings = (style.scale, style.smooth, OPACITY, style.colors)

    def draw() -> Picture:
        canvas = dimmed_photo(view.photo, crop or view.crop, _SIDE, gray=True)
        pixels = draw_map_on_photo(canvas, crop or view.crop, values.numpy(force=True), field, *settings)
        return Picture(pixels, name, (view.photo.name, style.meaning))

    place = "maps.view.crop" if crop is None else "crop"
    colormap = "" if style.colors == "inspector" else f", colormap={style.colors!r}"
    lines = [
        "from inspector.output.overlay import OPACITY, dimmed_photo, draw_map_on_photo",
        *python,
        f"canvas = dimmed_photo(maps.view.photo, {place}, {_SIDE}, gray=True)",
        f"pixels = draw_map_on_photo(canvas, {place}, values, field, {style.scale!r}, smooth={style.smooth}{colormap})",
    ]
    return PictureToSave(name, draw, "\n".join(lines))


def make_grid_to_save(
    name: str, values: ArrayLike, scale: float, meaning: str, python: Sequence[str], lines: Sequence[str] = ()
) -> PictureToSave:
    """Return a map as its raw grid, with a color bar, to be saved.

    Args:
        name: name of the picture.
        values: the map (h, w).
        scale: the |value| with the strongest color.
        meaning: what the value of a cell is, below the color bar.
        python: lines that compute the map as `values`.
        lines: small print below the name.
    """

    def draw() -> Picture:
        cells = grid_image(values, scale)
        factor = max(1, _SIDE // (2 * max(cells.shape[:2])))
        colors = np.repeat(find_colormap().colors[None], 22, 0)
        ticks = ((0.0, format_number(-scale, "+.3g")), (0.5, "0"), (1.0, format_number(scale, "+.3g")))
        return Picture(enlarge(cells, factor), name, tuple(lines), ColorBar(colors, ticks, meaning))

    code = ["from inspector.output.overlay import grid_image", *python]
    code.append(f"pixels = grid_image(values, {scale!r})  # one pixel per cell")
    return PictureToSave(name, draw, "\n".join(code))


def enlarge(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) with each pixel as a square of factor x factor pixels."""
    return pixels.repeat(factor, 0).repeat(factor, 1)
