"""The photo with its class map as one thing: it is hovered, clicked and walked with the arrow keys in the browser.

The server sends the photo, the grids' numbers and where the cells lie; the browser draws the map and the marks, and
reports the chosen position, and the masked ones. The maps of the other listed classes are there too: where one is
chosen in the list of classes, it is drawn at once, before the server has been asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from inspector.ui.components.map_canvas import DRAW, Frame

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from inspector.explain.grid import CellExtent

_HTML = """
<div class="inspector-photo" tabindex="0" role="application">
  <img><canvas></canvas>
  <svg aria-hidden="true" preserveAspectRatio="none">
    <path class="masked"/><path class="halo"/><path class="sees"/><path class="hovered"/><path class="cell"/>
    <path class="centre-halo"/><path class="centre"/>
  </svg>
</div>
<div class="inspector-line" role="status"></div>
"""

_CSS = """
.inspector-photo {
  position: relative; max-width: 100%; cursor: crosshair; border-radius: .3rem; touch-action: manipulation;
  -webkit-tap-highlight-color: transparent;
}
.inspector-photo:focus { outline: none }
.inspector-photo:focus-visible { outline: 3px solid var(--st-primary-color); outline-offset: 3px }
.inspector-photo img, .inspector-photo canvas {
  position: absolute; inset: 0; width: 100%; height: 100%; border-radius: .3rem;
}
.inspector-photo svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: hidden; pointer-events: none }
.inspector-photo path { fill: none; vector-effect: non-scaling-stroke }
.inspector-photo .masked { fill: rgba(0, 0, 0, .78); stroke: rgba(255, 255, 255, .8); stroke-width: 1 }
.inspector-photo .halo { stroke: rgba(0, 0, 0, .55); stroke-width: 5 }
.inspector-photo .cell { stroke: #fff; stroke-width: 2.5 }
.inspector-photo .sees { stroke: #fff; stroke-width: 2; stroke-dasharray: 7 5 }
.inspector-photo .hovered { stroke: rgba(255, 255, 255, .9); stroke-width: 1.5 }
.inspector-photo .centre-halo { stroke: rgba(0, 0, 0, .7); stroke-width: 9; stroke-linecap: round }
.inspector-photo .centre { stroke: #fff; stroke-width: 5; stroke-linecap: round }
.inspector-line {
  font-size: .875rem; line-height: 1.4; margin-top: .4rem; min-height: 1.4em; color: var(--st-text-color);
  font-variant-numeric: tabular-nums; max-width: 56rem;
}
@media (max-width: 40rem) { .inspector-line { min-height: 2.8em } }
"""

_JS = """
const number = value =>
  (value > 0 ? "+" : "") + String(Number(value.toPrecision(3))).replace("-", "\\u2212");
const box = (left, top, right, bottom) => `M${left} ${top}H${right}V${bottom}H${left}Z`;
const same = (a, b) => Boolean(a && b) && a[0] === b[0] && a[1] === b[1];

export default function ({ data, parentElement, setStateValue }) {
  const photo = parentElement.querySelector(".inspector-photo");
  const line = parentElement.querySelector(".inspector-line");
  const image = photo.querySelector("img"), canvas = photo.querySelector("canvas"), svg = photo.querySelector("svg");
  const { rows, columns, height, width } = data;
  // What this browser chose stays through all runs of the page; a new revision is the server's word on the mask.
  const state = (photo.inspector ??=
    { chosen: data.start, masked: [], revision: null, hovered: null, wait: 0, was: null, ahead: null });
  if (state.revision !== data.revision) {
    state.revision = data.revision;
    state.masked = data.masked;
  }
  const [lastRow, lastColumn] = [rows.length - 1, columns.length - 1];
  const outside = cell => cell && (cell[0] > lastRow || cell[1] > lastColumn);
  if (outside(state.chosen)) state.chosen = null;
  if (outside(state.hovered)) state.hovered = null;

  // The class that is shown ahead of the server, until the server shows another than before.
  if (state.was !== data.class) {
    state.was = data.class;
    state.ahead = null;
  }
  const map = () => data.maps[state.ahead] ?? data.maps[data.class];
  const paint = () => {
    const { alt, values, cells } = map();
    data.values = values;
    photo.setAttribute("aria-label", `${alt}. ${data.keys}`);
    // What is named, and so heard, is what carries the map.
    image.alt = cells ? "" : alt;
    canvas.hidden = !cells;
    canvas.setAttribute("aria-label", alt);
    // Nothing is drawn again that is there already: the marks change far more often.
    const drawn = cells && JSON.stringify([cells, data.frame]);
    if (cells && state.drawn !== drawn) draw(canvas, data.frame, cells);
    state.drawn = drawn;
  };
  if (image.getAttribute("src") !== data.image) image.src = data.image;
  photo.style.width = `${data.shown}px`;
  photo.style.aspectRatio = `${width} / ${height}`;
  canvas.setAttribute("role", "img");
  paint();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);

  const cellBox = ([y, x]) => box(columns[x][0], rows[y][0], columns[x][1], rows[y][1]);
  const told = ([y, x]) => {
    const i = y * columns.length + x, note = data.notes.length ? data.notes[data.note_of[i]] : "";
    const gone = data.masking && state.masked.some(cell => same(cell, [y, x])) ? ", masked" : "";
    return `Row ${y}, column ${x}: ${number(data.values[i])} ${data.unit}${note}${gone}`;
  };
  const mark = () => {
    const set = (name, path) => svg.querySelector("." + name).setAttribute("d", path);
    const { chosen, hovered } = state;
    let sees = "", dot = "", cell = "";
    if (chosen) {
      const [row, column] = [rows[chosen[0]], columns[chosen[1]]];
      sees = box(column[3], row[3], column[4], row[4]);
      dot = `M${column[2]} ${row[2]}h0`;
      cell = cellBox(chosen);
    }
    set("masked", data.masking ? state.masked.map(cellBox).join("") : "");
    set("sees", sees);
    set("cell", cell);
    set("halo", sees + cell);
    set("centre", dot);
    set("centre-halo", dot);
    set("hovered", hovered && !same(hovered, chosen) ? cellBox(hovered) : "");
    const shown = hovered || chosen;
    line.textContent = shown ? told(shown) : data.hint;
  };
  const report = delay => {
    clearTimeout(state.wait);
    const chosen = { cell: state.chosen, revision: state.revision, masked: state.masked };
    state.wait = setTimeout(() => setStateValue("chosen", chosen), delay);
  };
  const toggle = cell => {
    if (!data.masking) return;
    const others = state.masked.filter(one => !same(one, cell));
    state.masked = others.length < state.masked.length ? others : [...others, cell];
  };
  const at = event => {
    const frame = photo.getBoundingClientRect();
    const x = (event.clientX - frame.left) * width / frame.width;
    const y = (event.clientY - frame.top) * height / frame.height;
    const row = rows.findIndex(([start, end]) => start <= y && y < end);
    const column = columns.findIndex(([start, end]) => start <= x && x < end);
    return row < 0 || column < 0 ? null : [row, column];
  };
  const highest = () => {
    const i = data.values.indexOf(data.values.reduce((a, b) => Math.max(a, b)));
    return [Math.floor(i / columns.length), i % columns.length];
  };
  const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  photo.onpointermove = event => {
    if (event.pointerType === "touch") return;
    const cell = at(event);
    if (same(cell, state.hovered)) return;
    state.hovered = cell;
    mark();
    if (!cell) line.textContent = data.unseen;
  };
  photo.onpointerleave = () => { state.hovered = null; mark(); };
  photo.onclick = event => {
    const cell = at(event);
    if (!cell) return;
    state.chosen = cell;
    toggle(cell);
    mark();
    report(0);
  };
  photo.onkeydown = event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = STEPS[event.key];
    if (step) {
      const clip = (value, last) => Math.min(Math.max(value, 0), last);
      const [y, x] = state.chosen ?? [null, null];
      state.chosen = y === null ? highest() : [clip(y + step[0], lastRow), clip(x + step[1], lastColumn)];
    } else if (event.key === "Escape" && state.chosen) {
      state.chosen = null;
    } else if ((event.key === "Enter" || event.key === " ") && state.chosen && data.masking) {
      toggle(state.chosen);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    state.hovered = null;
    mark();
    // A key that is held down reports where it comes to rest.
    report(120);
  };
  mark();
  // Of one run only: those before it would draw their own maps first.
  document.removeEventListener("inspector-class", state.follow);
  state.follow = ({ detail }) => {
    state.ahead = detail in data.maps ? detail : null;
    paint();
    mark();
  };
  document.addEventListener("inspector-class", state.follow);
  return () => document.removeEventListener("inspector-class", state.follow);
}
"""

_photo = st.components.v2.component("inspector.photo", html=_HTML, css=_CSS, js=DRAW + _JS, isolate_styles=False)


@dataclass(frozen=True, eq=False)
class Map:
    """What a position adds, in numbers."""

    alt: str  # of the picture that shows it
    values: "ArrayLike"  # (h, w)
    cells: str | None  # from drawing.cells; None: the image shows it


@dataclass(frozen=True, eq=False)
class Picture:
    """What the browser draws and tells."""

    image: str  # a data URL: the photo, or all there is to see
    maps: "Mapping[int, Map]"  # that of each listed class; of one class where the image shows all
    k: int  # the class shown
    frame: Frame | None  # how its map is drawn; None: the image shows all there is to see
    figure_content: int  # its width in CSS pixels, where there is room
    height: int  # of the photo, in its pixels: what all places below count in
    width: int
    rows: "Sequence[CellExtent]"
    columns: "Sequence[CellExtent]"
    unit: str  # what follows a value
    notes: Sequence[str] = ()  # what follows the unit at some positions
    note_of: Sequence[int] = field(default=())  # which of the notes, a position
    masking: bool = False  # clicks mask positions
    hint: str = "Point at a position for its value, click it for more; or focus the photo and use the arrow keys."
    unseen: str = "The network did not look here."


@dataclass(frozen=True)
class Chosen:
    """What the user did with it."""

    cell: tuple[int, int] | None  # row, column
    masked: tuple[tuple[int, int], ...]


def show_photo(
    picture: Picture, start: tuple[int, int] | None, revision: str, masked: Sequence[tuple[int, int]]
) -> Chosen:
    """Draw it; `start` is chosen when it first appears, and `masked` is masked when the revision is a new one."""
    data = asdict(replace(picture, maps={})) | {
        "class": str(picture.k),
        "maps": {str(k): _told(one) for k, one in picture.maps.items()},
        "rows": [_rounded(line) for line in picture.rows],
        "columns": [_rounded(line) for line in picture.columns],
        "keys": "Arrow keys choose a position, Escape clears" + (", Enter masks it." if picture.masking else "."),
        "start": start,
        "revision": revision,
        "masked": masked,
    }
    result = _photo(key="the photo", data=data, default={"chosen": None}, on_chosen_change=lambda: None)
    return _checked(result.chosen, picture, start, revision, masked)


def _told(one: Map) -> dict[str, Any]:
    values = np.asarray(one.values, np.float32).flatten().tolist()
    return {"alt": one.alt, "values": [float(f"{value:.4g}") for value in values], "cells": one.cells}


def _rounded(line: "CellExtent") -> list[float]:
    return [round(place, 2) for place in astuple(line)]


def _checked(
    told: Any, picture: Picture, start: tuple[int, int] | None, revision: str, masked: Sequence[tuple[int, int]]
) -> Chosen:
    """What the browser told, as far as it fits this photo's grid: what it says may be older than the picture."""

    def on_grid(cell: Any) -> tuple[int, int] | None:
        y, x = cell if cell is not None else (-1, -1)
        return (int(y), int(x)) if 0 <= y < len(picture.rows) and 0 <= x < len(picture.columns) else None

    if not told:
        return Chosen(on_grid(start), tuple(masked))
    cells = told["masked"] if told["revision"] == revision else masked
    return Chosen(on_grid(told["cell"]), tuple(cell for one in cells if (cell := on_grid(one)) is not None))
