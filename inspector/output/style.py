"""How a figure looks: panels, size, fonts and colormap. Imports neither torch nor matplotlib."""

from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np

from inspector.errors import InspectorError
from inspector.images.decode import Pixels
from inspector.printable import make_printable

MM = 1 / 25.4  # inches
LEVELS = 255  # number of colors in a colormap; odd, so that zero is the middle color
FOR, AGAINST = (200, 20, 40), (20, 70, 200)  # red and blue, which color-blind readers can distinguish
# Okabe and Ito's palette for color-blind readers. The last color, yellow, is hard to see on white.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
GRAY = "#8C8C8C"  # can be read on white and on black

Panels = Literal["photo", "classes", "contrast", "all"]
PANELS: tuple[Panels, ...] = get_args(Panels)
# Colormap name -> words for the colors of evidence for and against a class. Zero is in the middle, the warm end is
# evidence for the class, and color-blind readers can distinguish the ends.
COLORMAPS = {
    "inspector": ("red", "blue"),
    "PuOr_r": ("orange", "purple"),
    "RdBu_r": ("red", "blue"),
    "BrBG_r": ("brown", "teal"),
}
# Equally spaced colors of matplotlib's colormaps (from ColorBrewer), from evidence against to evidence for.
_ANCHORS = {
    "PuOr_r": "2d004b 542788 8073ac b2abd2 d8daeb f7f7f7 fee0b6 fdb863 e08214 b35806 7f3b08",
    "RdBu_r": "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f",
    "BrBG_r": "003c30 01665e 35978f 80cdc1 c7eae5 f5f5f5 f6e8c3 dfc27d bf812d 8c510a 543005",
}


@dataclass(frozen=True)
class FigureStyle:
    """How a figure looks. Style, FigureContent, photo and network are enough to draw the figure again."""

    # Any of "photo", "classes" (the classes shown), "contrast" (the first class shown against the second; if only one
    # is shown, against the best other class) and "all" (every class map as its raw grid).
    panels: tuple[Panels, ...] = ("photo", "classes")
    columns: int | None = None  # None: three, or fewer if there are fewer panels
    width: float | None = None  # width of the figure in inches; None: 2.6 per column
    dpi: int = 200  # resolution of a PNG, and of the photo in PDF and SVG
    font_size: float = 9  # panel titles, in points; small print is a ninth smaller, the figure title a ninth larger
    colours: str = "inspector"  # one of COLORMAPS
    dark: bool = False
    title: str | None = None  # None: name of the network and meaning of the values; "": no title
    colour_bar: bool = True
    equations: bool = True  # print the sum of each map as an equation, and the verdict

    def __post_init__(self) -> None:
        if self.title is not None:
            object.__setattr__(self, "title", make_printable(self.title))
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
        """RGB colormap (255, 3), uint8, from evidence against the class (first row) to evidence for it (last row)."""
        return diverging_colormap(self.colours)


DEFAULT_STYLE = FigureStyle()


@cache
def diverging_colormap(name: str = "inspector") -> Pixels:
    """Return a colormap by its name in COLORMAPS, (255, 3): evidence against, zero (nearly white), evidence for."""
    if name == "inspector":
        density, hues = np.abs(signed_levels()), inspector_hues()
        table = 255 * (1 - density) + hues * density
    else:
        anchors = np.array([list(bytes.fromhex(color)) for color in _ANCHORS[name].split()])
        # Give the same colors as matplotlib, which interpolates a table of 256 colors; 255 of them are used here.
        places = np.minimum(np.linspace(0, 1, LEVELS) * 256, 255).astype(int) / 255 * (len(anchors) - 1)
        table = np.stack([np.interp(places, range(len(anchors)), channel) for channel in anchors.T], 1)
    colormap: Pixels = table.round().astype(np.uint8)
    return colormap


def signed_levels() -> np.ndarray:
    """Return the value that each color of a colormap stands for, (255, 1), from -1 to 1."""
    return np.linspace(-1, 1, LEVELS)[:, None]


def inspector_hues() -> np.ndarray:
    """Return each color of the "inspector" colormap at full density (blue or red), (255, 3), 0-255."""
    return np.where(signed_levels() < 0, AGAINST, FOR).astype(float)
