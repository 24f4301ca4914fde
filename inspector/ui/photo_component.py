"""The photo with its class map as one thing: it is hovered, clicked and walked with the arrow keys in the browser.

The server sends the picture, the grid's numbers and where the cells lie; the browser draws the marks and reports the
chosen position, and the masked ones.
"""

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import TYPE_CHECKING, Any

import streamlit as st

if TYPE_CHECKING:
    from inspector.positions import Line

_HTML = """
<div class="inspector-photo" tabindex="0" role="application">
  <img>
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
.inspector-photo img { position: absolute; inset: 0; width: 100%; height: 100%; border-radius: .3rem }
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
  const image = photo.querySelector("img"), svg = photo.querySelector("svg");
  const { rows, columns, height, width } = data;
  // What this browser chose stays through all runs of the page; a new revision is the server's word on the mask.
  const state = (photo.inspector ??= { chosen: data.start, masked: [], revision: null, hovered: null, wait: 0 });
  if (state.revision !== data.revision) {
    state.revision = data.revision;
    state.masked = data.masked;
  }
  const [lastRow, lastColumn] = [rows.length - 1, columns.length - 1];
  const outside = cell => cell && (cell[0] > lastRow || cell[1] > lastColumn);
  if (outside(state.chosen)) state.chosen = null;
  if (outside(state.hovered)) state.hovered = null;

  if (image.getAttribute("src") !== data.image) image.src = data.image;
  image.alt = data.alt;
  photo.style.width = `${data.shown}px`;
  photo.style.aspectRatio = `${width} / ${height}`;
  photo.setAttribute("aria-label", data.label);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);

  const cellBox = ([y, x]) => box(columns[x][0], rows[y][0], columns[x][1], rows[y][1]);
  const told = ([y, x]) => {
    const i = y * columns.length + x, note = data.notes.length ? data.notes[data.note_of[i]] : "";
    const gone = data.masking && state.masked.some(cell => same(cell, [y, x])) ? ", masked" : "";
    return `Row ${y}, column ${x}: ${number(data.values[i])} ${data.unit}${note}${gone}`;
  };
  const draw = () => {
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
    draw();
    if (!cell) line.textContent = data.unseen;
  };
  photo.onpointerleave = () => { state.hovered = null; draw(); };
  photo.onclick = event => {
    const cell = at(event);
    if (!cell) return;
    state.chosen = cell;
    toggle(cell);
    draw();
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
    draw();
    // A key that is held down reports where it comes to rest.
    report(120);
  };
  draw();
}
"""

_photo = st.components.v2.component("inspector.photo", html=_HTML, css=_CSS, js=_JS, isolate_styles=False)


@dataclass(frozen=True)
class Picture:
    """What the browser draws and tells."""

    image: str  # a data URL
    alt: str
    shown: int  # its width in CSS pixels, where there is room
    height: int  # of the photo, in its pixels: what all places below count in
    width: int
    rows: "Sequence[Line]"
    columns: "Sequence[Line]"
    values: Sequence[float]  # a position, row by row
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


def photo(picture: Picture, start: tuple[int, int] | None, revision: str, masked: Sequence[tuple[int, int]]) -> Chosen:
    """Draw it; `start` is chosen when it first appears, and `masked` is masked when the revision is a new one."""
    data = asdict(picture) | {
        "rows": [_rounded(line) for line in picture.rows],
        "columns": [_rounded(line) for line in picture.columns],
        "values": [float(f"{value:.4g}") for value in picture.values],
        "label": f"{picture.alt}. Arrow keys choose a position, Escape clears"
        + (", Enter masks it." if picture.masking else "."),
        "start": start,
        "revision": revision,
        "masked": masked,
    }
    result = _photo(key="the photo", data=data, default={"chosen": None}, on_chosen_change=lambda: None)
    return _checked(result.chosen, picture, start, revision, masked)


def _rounded(line: "Line") -> list[float]:
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
