"""How a figure looks: panels, size, fonts and colormap. Imports neither torch nor matplotlib."""

from dataclasses import dataclass
from typing import Literal, get_args

from inspector.errors import InspectorError
from inspector.images.decode import Pixels
from inspector.output.colormaps import COLORMAPS, find_colormap
from inspector.printable import make_printable

MM = 1 / 25.4  # inches
# Okabe and Ito's palette for color-blind readers. The last color, yellow, is hard to see on white.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
GRAY = "#8C8C8C"  # can be read on white and on black

Panels = Literal["photo", "classes", "contrast", "all"]
PANELS: tuple[Panels, ...] = get_args(Panels)


MAX_PANELS = 60  # of a figure


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
    gray: bool = True  # draw maps over the photo in gray; the panel "photo" keeps its colors

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
        return find_colormap(self.colours).colors


DEFAULT_STYLE = FigureStyle()
