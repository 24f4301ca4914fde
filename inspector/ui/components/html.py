"""Pictures and other HTML fragments for the browser. They adapt to the width of the window."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspector.explain.receptive_field import ReceptiveField
from inspector.images.decode import Pixels
from inspector.images.photo import Photo
from inspector.images.preprocessing import Crop
from inspector.output import overlay
from inspector.output.colormaps import COLORMAPS, LEVELS, find_colormap, list_bar_colors
from inspector.output.overlay import common_scale, dimmed_photo, grid_image, needs_lossless
from inspector.output.picture import encode_png
from inspector.output.style import GRAY, OKABE_ITO
from inspector.output.text import format_number
from inspector.ui.components.assets import render_fragment

_WINNER_COLORS = (*OKABE_ITO, GRAY)  # all classes after the first seven are gray
_RAW_GRID = "image-rendering: pixelated; border: 1px solid rgba(128, 128, 128, .5)"
_TOP_GRID = "image-rendering: pixelated; border: 3px solid #c81428"
_BAR_STEPS = 32  # a color bar is drawn as a gradient with this many steps


@dataclass(frozen=True)
class Tile:
    """A small picture with a caption. All texts are plain text, not HTML."""

    image: bytes
    name: str
    lines: Sequence[str]  # below the name
    alt: str
    note: str = ""  # follows the name
    style: str = ""  # CSS style of the picture

    @property
    def url(self) -> str:
        """The picture as a data URL."""
        return make_data_url(self.image)


@dataclass(frozen=True)
class MethodTile:
    """The map of one attribution method. All texts are plain text, not HTML."""

    name: str
    picture: bytes | str  # an encoded image, or a text that is shown instead
    numbers: tuple[tuple[str, str], ...] = ()  # (name, value), in one row below the picture
    lines: tuple[str, ...] = ()
    summary: str = ""  # shown when the user opens "About"
    reference: str = ""  # the paper of the method, shown in italics behind the summary

    @property
    def url(self) -> str | None:
        """The image as a data URL; None if `picture` is a text."""
        return make_data_url(self.picture) if isinstance(self.picture, bytes) else None


def encode_image(pixels: Pixels, exact: bool) -> bytes:
    """Encode pixels as PNG if `exact`, else as JPEG, which is ten times as fast."""
    if exact:
        return encode_png(pixels)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
    return data.tobytes()


def make_data_url(image: bytes) -> str:
    """Return a PNG or a JPEG as a data URL."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def encode_map_on_photo(
    values: ArrayLike,
    photo: Photo,
    crop: Crop,
    field: ReceptiveField,
    side: int,
    scale: float,
    smooth: bool = True,
    colormap: str = "inspector",
) -> bytes:
    """Draw a map over the whole photo, in gray, and encode it.

    Args:
        values: the map (h, w).
        photo: the photo.
        crop: the part of the photo that the network saw.
        field: receptive field of the map's cells.
        side: longer side of the picture, in pixels.
        scale: the |value| with the strongest color.
        smooth: interpolate between the cells; False: draw the raw grid.
        colormap: one of COLORMAPS.
    """
    canvas = dimmed_photo(photo, crop, side, gray=True)
    image = overlay.draw_map_on_photo(canvas, crop, values, field, scale, smooth, colormap=colormap)
    return encode_image(image, needs_lossless(photo.size))


def make_color_bar(scale: float, unit: str, colormap: str = "inspector", gray: int | None = None) -> str:
    """Return the color bar of a map as HTML, from -`scale`, or 0 if only the positive part is drawn, to `scale`.

    Args:
        scale: absolute value with the strongest color.
        unit: what a value means.
        colormap: one of COLORMAPS.
        gray: brightness of the photo below the map, 0-255, see `find_gray`; None: the map is drawn on no photo.
    """
    words = COLORMAPS[colormap]
    ticks = [format_number(tick * scale, "+.3g") for tick in np.linspace(words.lowest, 1, 5)]
    label = f"color bar from {words.lowest * scale:.3g} to {scale:.3g} {unit}"
    colors = list_bar_colors(colormap) if gray is None else _draw_bar_colors(colormap, gray)
    return _make_bar(colors, ticks, label, f"{unit}. {words.describe()}", "46rem")


def make_activation_bar(scale: float, signed: bool, gray: int | None = None) -> str:
    """Return the color bar of feature maps as HTML: from 0 to `scale`, or from -`scale` to `scale` if `signed`.

    `gray` is the brightness of the photo below the maps, as in `make_color_bar`.
    """
    if not scale:
        return render_fragment("no_color_bar.html", caption="activation: 0 in every cell")
    meaning = "red is positive, blue negative" if signed else "the stronger the red, the higher"
    values = [-scale, 0, scale] if signed else [0, scale]
    colors = find_colormap().colors if gray is None else _draw_bar_colors("inspector", gray)
    colors = colors if signed else colors[len(colors) // 2 :]
    label = f"color bar from {values[0]:.3g} to {scale:.3g}: {meaning}"
    return _make_bar(colors, [format_number(value) for value in values], label, f"activation: {meaning}", "24rem")


def _draw_bar_colors(colormap: str, gray: int) -> Pixels:
    bar: Pixels = overlay.draw_bar(colormap, overlay.OPACITY, gray, LEVELS, height=1)[0]
    return bar


def _make_bar(colors: Pixels, ticks: Sequence[str], label: str, caption: str, max_width: str) -> str:
    chosen = np.linspace(0, len(colors) - 1, _BAR_STEPS + 1).round().astype(int)
    stops = [f"rgb({r}, {g}, {b})" for r, g, b in colors[chosen]]
    texts = {"ticks": ticks, "label": label, "caption": caption}
    return render_fragment("color_bar.html", colors=stops, max_width=max_width, **texts)


def stack(*fragments: str) -> str:
    """Join HTML fragments, one below the other."""
    return "".join(f'<div style="margin-bottom: 1rem">{fragment}</div>' for fragment in fragments)


def make_tiles(tiles: Iterable[Tile], min_width: str = "9rem") -> str:
    """Return small pictures side by side as HTML, each at least `min_width` wide (a CSS length)."""
    return render_fragment("tiles.html", tiles=list(tiles), min_width=min_width)


def make_crops(crops: Iterable[tuple[bytes, str]]) -> str:
    """Return square parts of photos, each with what it shows, as HTML: in rows of equal length if there are twelve."""
    return render_fragment("crops.html", crops=[{"url": make_data_url(image), "text": text} for image, text in crops])


def make_ordered_list(lines: Sequence[str]) -> str:
    """Return plain texts as a numbered list in HTML."""
    return render_fragment("ordered_list.html", lines=lines)


def make_grouped_table(groups: Sequence[str], columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a table as HTML with the same columns below each group heading. Its texts wrap in narrow windows.

    Args:
        groups: group headings, in the first line.
        columns: column headings, in the second line below each group heading.
        rows: (name, cells) of each row; there are ``len(groups) * len(columns)`` cells.
    """
    return render_fragment("grouped_table.html", groups=groups, columns=columns, rows=rows)


def make_method_grid(tiles: Sequence[MethodTile], min_width: str) -> str:
    """Return maps of attribution methods side by side as HTML, each at least `min_width` wide (a CSS length)."""
    return render_fragment("method_tiles.html", tiles=tiles, min_width=min_width)


def make_value_list(values: Sequence[tuple[str, str]]) -> str:
    """Return (name, value) pairs as HTML. As many as fit stand side by side."""
    return render_fragment("values.html", values=values)


def draw_average_maps(maps: Mapping[str, tuple[NDArray[Any], int]]) -> str:
    """Return HTML with the raw grid of one average class map of each run.

    Args:
        maps: label of the run -> (its average class maps (K, h, w), index of the class to draw). All classes of a run
            share one scale. The caller says what the values are.
    """
    tiles = []
    for label, (values, k) in maps.items():
        scale, total = common_scale([values]), format_number(float(values[k].sum()), "+.3g")
        image = encode_image(grid_image(values[k], scale), exact=True)
        lines = [f"strongest color at \N{PLUS-MINUS SIGN}{scale:.3g}", f"sum {total}"]
        tiles.append(Tile(image, label, lines, f"class map of {label}", style=_RAW_GRID))
    return make_tiles(tiles, "8.5rem")
