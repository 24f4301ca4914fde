"""The color maps: one table for overlays, figures, reports and the browser. Imports neither torch nor matplotlib.

A color map has 255 levels, for values from -1 to 1 in parts of the scale. Zero, the middle level, is transparent over a
photo. Signed color maps draw evidence for and against a class; the others draw the positive part only.
"""

import base64
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.images.decode import Pixels

LEVELS = 255  # odd, so that zero is the middle level
FOR, AGAINST = (200, 20, 40), (20, 70, 200)  # red and blue, which color-blind readers can distinguish
# Equally spaced colors of matplotlib's color maps (from ColorBrewer), from evidence against to evidence for.
_ANCHORS = {
    "PuOr_r": "2d004b 542788 8073ac b2abd2 d8daeb f7f7f7 fee0b6 fdb863 e08214 b35806 7f3b08",
    "RdBu_r": "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f",
    "BrBG_r": "003c30 01665e 35978f 80cdc1 c7eae5 f5f5f5 f6e8c3 dfc27d bf812d 8c510a 543005",
}
_POSITIVE = {"turbo": cv2.COLORMAP_TURBO, "inferno": cv2.COLORMAP_INFERNO}
_POSITIVE_DENSITY, _FULL_AT = 0.8, 0.3  # over a photo: largest density, and the value from which it is used


@dataclass(frozen=True, eq=False)
class ColorMap:
    """The colors of the 255 levels of a map."""

    colors: Pixels  # (255, 3), opaque: for bare grids
    hues: NDArray[np.float64]  # (255, 3), 0-255: over a photo
    density: NDArray[np.float64]  # (255, 1), 0-1: how much of the hue is drawn over a photo at opacity 1


@dataclass(frozen=True)
class ColorWords:
    """A color map in words."""

    title: str
    high: str  # the color of evidence for a class
    low: str | None  # the color of evidence against it; None: the color map draws the positive part only

    @property
    def lowest(self) -> int:
        """Where a color bar begins, in parts of the scale: -1, or 0 if only the positive part is drawn."""
        return 0 if self.low is None else -1

    def describe(self) -> str:
        """Return what the colors mean, as a sentence."""
        if self.low is None:
            return f"Positive part only: {self.high} is evidence for the class, evidence against it is not drawn."
        return f"{self.high.capitalize()} is evidence for the class, {self.low} against it."


COLORMAPS = {
    "inspector": ColorWords("blue-white-red", "red", "blue"),
    "PuOr_r": ColorWords("purple-white-orange, safe for color-blind eyes", "orange", "purple"),
    "RdBu_r": ColorWords("RdBu", "red", "blue"),
    "BrBG_r": ColorWords("BrBG", "brown", "teal"),
    "turbo": ColorWords("turbo, positive part", "red", None),
    "inferno": ColorWords("inferno, positive part", "yellow", None),
}


@cache
def find_colormap(name: str = "inspector") -> ColorMap:
    """Return a color map by its name in COLORMAPS."""
    if name in _POSITIVE:
        return _make_positive(_POSITIVE[name])
    if name != "inspector":
        return make_signed(_interpolate(_ANCHORS[name]))
    density, hues = np.abs(_list_values()), np.where(_list_values() < 0, AGAINST, FOR).astype(float)
    return ColorMap((255 * (1 - density) + hues * density).round().astype(np.uint8), hues, density)


def list_bar_colors(name: str) -> Pixels:
    """Return the opaque colors of a color bar, (n, 3), from the lowest value that is drawn to the highest."""
    return find_colormap(name).colors[LEVELS // 2 if COLORMAPS[name].low is None else 0 :]


def make_signed(colors: Pixels) -> ColorMap:
    """Make a color map of 255 RGB colors (255, 3), from the lowest value to the highest; zero is in the middle."""
    return ColorMap(colors, colors.astype(float), np.abs(_list_values()))


def encode_colors(name: str) -> str:
    """Encode a color map for the browser: for each level red, green, blue and density as one byte each, in base64."""
    colors = find_colormap(name)
    table = np.concatenate([colors.hues, 255 * colors.density], 1)
    return base64.b64encode(table.round().astype(np.uint8).tobytes()).decode()


def _list_values() -> NDArray[np.float64]:
    """Return the value of each level, (255, 1), from -1 to 1."""
    return np.linspace(-1, 1, LEVELS)[:, None]


def _interpolate(anchors: str) -> Pixels:
    colors = np.array([list(bytes.fromhex(color)) for color in anchors.split()])
    # Give the same colors as matplotlib, which interpolates a table of 256 colors; 255 of them are used here.
    places = np.minimum(np.linspace(0, 1, LEVELS) * 256, 255).astype(int) / 255 * (len(colors) - 1)
    table: Pixels = np.stack([np.interp(places, range(len(colors)), channel) for channel in colors.T], 1).round()
    return table.astype(np.uint8)


def _make_positive(number: int) -> ColorMap:
    """Make a color map of one of OpenCV's. Negative values have the color of zero, which is transparent."""
    value = np.maximum(_list_values(), 0)
    levels = (255 * value).round().astype(np.uint8)
    colors = np.asarray(cv2.cvtColor(cv2.applyColorMap(levels, number), cv2.COLOR_BGR2RGB), np.uint8)[:, 0]
    return ColorMap(colors, colors.astype(float), _POSITIVE_DENSITY * np.minimum(value / _FULL_AT, 1))
