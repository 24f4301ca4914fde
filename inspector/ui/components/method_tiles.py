"""Maps of several attribution methods as a grid of pictures with text below."""

from collections.abc import Sequence
from dataclasses import dataclass

from inspector.ui.components.assets import render_fragment
from inspector.ui.components.html import make_data_url


@dataclass(frozen=True)
class MethodTile:
    """One method; all its texts are plain text."""

    name: str
    picture: bytes | str  # an encoded image, or a text in its place
    lines: tuple[str, ...] = ()
    reference: str = ""  # the paper, in italics

    @property
    def url(self) -> str | None:
        """The image as a data URL; None if there is a text in its place."""
        return make_data_url(self.picture) if isinstance(self.picture, bytes) else None


def make_method_grid(tiles: Sequence[MethodTile], min_width: str) -> str:
    """Return the tiles as HTML, as many in a row as are at least `min_width` wide."""
    return render_fragment("method_tiles.html", tiles=tiles, min_width=min_width)
