"""Maps over photos, put together in the browser: the server sends the photo, and of each map no more than its grid.

A grid of 7 x 7 takes 0.1 kB where an encoded overlay takes 100, and the browser draws it within a frame.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st
from numpy.typing import ArrayLike

from inspector.ui.components import html

if TYPE_CHECKING:
    from inspector.explain.tracing.receptive_field import ReceptiveField
    from inspector.images.preprocessing import View

DRAW = (Path(__file__).parent / "frontend" / "drawing.js").read_text()
_CELL = 32767  # what the densest colour is in 16 bits

_HTML = '<div class="inspector-drawings"></div>'

_CSS = """
.inspector-drawings { display: grid; gap: .8rem }
.inspector-drawings figure { margin: 0 }
.inspector-drawings div { position: relative; border-radius: .3rem; overflow: hidden }
.inspector-drawings img { display: block; width: 100% }
.inspector-drawings canvas { position: absolute; inset: 0; width: 100%; height: 100% }
.inspector-drawings figcaption { font-size: .85rem; line-height: 1.3; color: var(--st-text-color) }
.inspector-drawings figcaption i { font-style: normal }
.inspector-drawings figcaption span { display: block; opacity: .7 }
"""

_JS = """
export default function ({ data, parentElement }) {
  const all = parentElement.querySelector(".inspector-drawings");
  all.style.gridTemplateColumns = `repeat(auto-fit, minmax(${data.narrowest}, 1fr))`;
  while (all.children.length > data.drawings.length) all.lastChild.remove();
  while (all.children.length < data.drawings.length) {
    const figure = document.createElement("figure");
    figure.innerHTML = "<div><img alt=''><canvas role='img'></canvas></div><figcaption><b></b> <i></i><span></span>"
      + "</figcaption>";
    all.append(figure);
  }
  const paint = (figure, drawing) => {
    const image = figure.querySelector("img"), canvas = figure.querySelector("canvas");
    if (image.getAttribute("src") !== data.photo) image.src = data.photo;
    canvas.setAttribute("aria-label", drawing.alt);
    draw(canvas, data.frame, drawing.cells);
    figure.querySelector("figcaption").hidden = !drawing.name && !drawing.line;
    figure.querySelector("b").textContent = drawing.name;
    figure.querySelector("i").textContent = drawing.note;
    figure.querySelector("span").textContent = drawing.line;
  };
  data.drawings.forEach((drawing, n) => paint(all.children[n], drawing));
  // Of one run only: those before it would draw their own maps first.
  document.removeEventListener("inspector-channel", all.follow);
  all.follow = ({ detail }) => { if (detail in data.ahead) paint(all.firstChild, data.ahead[detail]); };
  document.addEventListener("inspector-channel", all.follow);
  return () => document.removeEventListener("inspector-channel", all.follow);
}
"""

_drawings = st.components.v2.component("inspector.drawings", html=_HTML, css=_CSS, js=DRAW + _JS, isolate_styles=False)


@dataclass(frozen=True)
class Frame:
    """How the browser draws maps of one grid over one photo."""

    size: tuple[int, int]  # height, width of the drawing, in pixels
    grid: tuple[int, int]
    down: Sequence[float]  # grid.AxisPlacement of the rows, and of the columns
    across: Sequence[float]
    smooth: bool
    opacity: float


@dataclass(frozen=True)
class MapDrawing:
    """A map over the photo, with what stands below it, all plain text."""

    cells: str  # from cells()
    alt: str
    name: str = ""
    note: str = ""
    line: str = ""


def make_frame(
    grid: Sequence[int], view: "View", field: "ReceptiveField", side: int, smooth: bool, opacity: float = 0.85
) -> Frame:
    """Of maps on a grid (h, w) over the photo, its longer side drawn with `side` pixels."""
    from inspector.explain.grid import axis_placements, fit_size

    down, across = axis_placements(view.crop, field)
    return Frame(fit_size(view.photo.size, side), (grid[0], grid[1]), astuple(down), astuple(across), smooth, opacity)


def encode_cells(values: ArrayLike, scale: float) -> str:
    """A map (h, w) as the browser reads it: 16 bits a cell, row by row, in base64; `scale` is the densest colour."""
    parts = np.clip(np.asarray(values, np.float32) / np.float32(scale or 1.0), -1, 1)
    return base64.b64encode(np.rint(parts * _CELL).astype("<i2").tobytes()).decode()


@lru_cache(maxsize=32)
def make_photo_url(view: "View", side: int) -> str:
    """What the maps are drawn on, its longer side with `side` pixels."""
    from inspector.output.overlay import dimmed_photo, needs_lossless

    return html.make_data_url(
        html.encode_image(dimmed_photo(view.photo, view.crop, side), needs_lossless(view.photo.size))
    )


def show_maps(
    key: str,
    view: "View",
    frame: Frame,
    drawn: Sequence[MapDrawing],
    narrowest: str = "10rem",
    ahead: Mapping[int, MapDrawing] | None = None,
) -> None:
    """Maps over one photo side by side, as many in a row as are at least `narrowest` wide.

    Where a channel of `ahead` is clicked on the page, the browser draws it in place of the first at once.
    """
    data: dict[str, Any] = {
        "photo": make_photo_url(view, max(frame.size)),
        "frame": asdict(frame),
        "drawings": [asdict(one) for one in drawn],
        "narrowest": narrowest,
        "ahead": {str(channel): asdict(one) for channel, one in (ahead or {}).items()},
    }
    _drawings(key=key, data=data)
