"""How a figure looks: panels, size, fonts and colormap. Imports neither torch nor matplotlib."""

from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np

from inspector.errors import InspectorError
from inspector.images.photo import Pixels

MM = 1 / 25.4  # inches
LEVELS = 255  # of a colormap; odd, so that there is a middle
FOR, AGAINST = (200, 20, 40), (20, 70, 200)  # red and blue, which color-blind readers tell apart
# Okabe and Ito's palette for color-blind readers; yellow, the last, is faint on white.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
GRAY = "#8C8C8C"  # readable on white and on black

Panels = Literal["photo", "classes", "contrast", "all"]
PANELS: tuple[Panels, ...] = get_args(Panels)
# Colormaps with zero in the middle, whose ends color-blind readers tell apart; evidence for a class has the warm end.
# Name -> the words for the colors of evidence for and against.
COLORMAPS = {
    "inspector": ("red", "blue"),
    "PuOr_r": ("orange", "purple"),
    "RdBu_r": ("red", "blue"),
    "BrBG_r": ("brown", "teal"),
}
# The colors of matplotlib's (ColorBrewer's) from against to for, at equal distances.
_ANCHORS = {
    "PuOr_r": "2d004b 542788 8073ac b2abd2 d8daeb f7f7f7 fee0b6 fdb863 e08214 b35806 7f3b08",
    "RdBu_r": "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f",
    "BrBG_r": "003c30 01665e 35978f 80cdc1 c7eae5 f5f5f5 f6e8c3 dfc27d bf812d 8c510a 543005",
}


@dataclass(frozen=True)
class FigureStyle:
    """How a figure looks; with its FigureContent, the photo and the network enough to draw it again."""

    # Of "photo", "classes" (those shown), "contrast" (the first of them against the second, or against the other top
    # class) and "all" (every class map as its raw grid).
    panels: tuple[Panels, ...] = ("photo", "classes")
    columns: int | None = None  # None: three, or fewer
    width: float | None = None  # inches; None: 2.6 per column
    dpi: int = 200  # of a PNG, and of the photo in PDF and SVG
    font_size: float = 9  # points, of the panel titles: small print is a ninth less, the figure title a ninth more
    colours: str = "inspector"  # one of COLORMAPS
    dark: bool = False
    title: str | None = None  # None: the network and how to read its maps; "": no title
    colour_bar: bool = True
    equations: bool = True  # how each map adds up, and the verdict

    def __post_init__(self) -> None:
        if not self.panels or not set(self.panels) <= set(PANELS):
            got = ", ".join(map(str, self.panels)) or "none"
            raise InspectorError(f"A figure has panels, some of {', '.join(PANELS)}; got {got}.")
        if self.colours not in COLORMAPS:
            raise InspectorError(f"No colormap {self.colours!r}. Use one of {', '.join(COLORMAPS)}.")
        for what, value, least, most in (
            ("columns", self.columns, 1, 12),
            ("a width in mm", None if self.width is None else self.width / MM, 20, 1500),
            ("a resolution in dpi", self.dpi, 30, 1200),
            ("a font size in points", self.font_size, 3, 40),
        ):
            if value is not None and not least <= value <= most:
                raise InspectorError(f"A figure has {what} from {least} to {most}; got {value:g}.")

    @property
    def palette(self) -> Pixels:
        """RGB colormap, (255, 3) uint8, from evidence against the class (first) to evidence for it (last)."""
        return diverging_colormap(self.colours)


DEFAULT_STYLE = FigureStyle()


@cache
def diverging_colormap(name: str = "inspector") -> Pixels:
    """Return the colormap of one of COLORMAPS: (255, 3), from against over nearly white, which is zero, to for."""
    if name == "inspector":
        density, hues = np.abs(signed_levels()), inspector_hues()
        table = 255 * (1 - density) + hues * density
    else:
        anchors = np.array([list(bytes.fromhex(color)) for color in _ANCHORS[name].split()])
        # As matplotlib makes them: a table of 256 colors, of which 255 are looked up.
        places = np.minimum(np.linspace(0, 1, LEVELS) * 256, 255).astype(int) / 255 * (len(anchors) - 1)
        table = np.stack([np.interp(places, range(len(anchors)), channel) for channel in anchors.T], 1)
    colormap: Pixels = table.round().astype(np.uint8)
    return colormap


def signed_levels() -> np.ndarray:
    """Return the value of each level of a colormap, (255, 1), from -1 to 1."""
    return np.linspace(-1, 1, LEVELS)[:, None]


def inspector_hues() -> np.ndarray:
    """Return the hue of each level of our own colormap at full density, (255, 3) in 0-255."""
    return np.where(signed_levels() < 0, AGAINST, FOR).astype(float)
