"""Maps of several attribution methods as a grid of pictures with text below."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from inspector.ui.components.html import make_data_url

_STYLE = """<style>
.methods { display: grid; gap: 1rem }
.methods figure { margin: 0 }
.methods img { width: 100%; display: block }
.methods figure > div { aspect-ratio: 3 / 2; display: grid; place-items: center; text-align: center;
  border: 1px dashed rgba(128, 128, 128, .6); padding: .5rem; font-size: .85rem; box-sizing: border-box }
.methods figcaption { font-size: .85rem; line-height: 1.35; margin-top: .3rem; overflow-wrap: anywhere }
.methods span { opacity: .75 }
</style>"""


@dataclass(frozen=True)
class MethodTile:
    """One method; all its texts are plain text."""

    name: str
    picture: bytes | str  # an encoded image, or a text in its place
    lines: tuple[str, ...] = ()
    reference: str = ""  # the paper, in italics


def make_method_grid(tiles: Sequence[MethodTile], min_width: str) -> str:
    """Return the tiles as HTML, as many in a row as are at least `min_width` wide."""
    columns = f"repeat(auto-fill, minmax(min({min_width}, 100%), 1fr))"
    figures = "".join(map(_make_figure, tiles))
    return f'{_STYLE}<div class="methods" style="grid-template-columns: {columns}">{figures}</div>'


def _make_figure(tile: MethodTile) -> str:
    name = escape(tile.name)
    if isinstance(tile.picture, bytes):
        picture = f'<img src="{make_data_url(tile.picture)}" alt="{name} over the photo">'
    else:
        picture = f"<div>{escape(tile.picture)}</div>"
    reference = f" <i>{escape(tile.reference)}</i>" if tile.reference else ""
    lines = "<br>".join(map(escape, tile.lines)) + reference
    return f"<figure>{picture}<figcaption><b>{name}</b><br><span>{lines}</span></figcaption></figure>"
