"""One picture with its title and color bar, as it is saved. Imports neither torch nor matplotlib."""

from dataclasses import dataclass

from inspector.images.decode import Pixels


@dataclass(frozen=True, eq=False)
class ColorBar:
    """The colors of a picture and what they mean."""

    colors: Pixels  # (rows, n, 3), from the left end to the right end
    ticks: tuple[tuple[float, str], ...]  # (place from 0, the left end, to 1, the right end; text)
    label: str


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to save."""

    pixels: Pixels  # (H, W, 3), at twice the size on the screen
    title: str
    lines: tuple[str, ...] = ()  # small print below the title
    bar: ColorBar | None = None
