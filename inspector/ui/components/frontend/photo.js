// The photo with its class map. The mouse or the arrow keys choose a cell.

import {
  describeCell, drawCell, drawCenter, drawReceptiveField, findCell, handleKey, isSameCell, keepOnGrid, toggleCell,
} from "./cells.js";
import { drawMap } from "./map_drawing.js";

const KEY_DELAY = 120; // milliseconds to wait, so that a key held down reports only the last choice

export default function ({ data, parentElement, setStateValue }) {
  const photo = parentElement.querySelector(".inspector-photo");
  const line = parentElement.querySelector(".inspector-line");
  const image = photo.querySelector("img"), canvas = photo.querySelector("canvas"), svg = photo.querySelector("svg");
  const { rows, columns, height, width } = data;
  // The choices made in this browser outlast the runs of the page. Only a new revision replaces the mask.
  const state = (photo.inspector ??= {
    chosen: data.start, masked: [], revision: null, hovered: null, timer: 0, serverClass: null, previewClass: null,
    drawn: null, preview: null,
  });
  if (state.revision !== data.revision) {
    state.revision = data.revision;
    state.masked = data.masked;
  }
  state.chosen = keepOnGrid(state.chosen, rows, columns);
  state.hovered = keepOnGrid(state.hovered, rows, columns);
  // A class chosen in the list is shown at once. This preview ends when the server sends another class than before.
  if (state.serverClass !== data.class) {
    state.serverClass = data.class;
    state.previewClass = null;
  }

  const paint = () => {
    const { alt, values, cells } = data.maps[state.previewClass] ?? data.maps[data.class];
    data.values = values;
    photo.setAttribute("aria-label", `${alt}. ${data.keys}`);
    // Only the element that shows the map gets the text, so that screen readers read it once.
    image.alt = cells ? "" : alt;
    canvas.hidden = !cells;
    canvas.setAttribute("aria-label", alt);
    // Most runs of the page change only the marks, so draw the map only if it is another one than before.
    const drawn = cells && JSON.stringify([cells, data.frame]);
    if (cells && state.drawn !== drawn) drawMap(canvas, data.frame, cells);
    state.drawn = drawn;
  };
  const mark = () => {
    const setPath = (name, path) => svg.querySelector(`.${name}`).setAttribute("d", path);
    const { chosen, hovered, masked } = state;
    const field = chosen ? drawReceptiveField(chosen, rows, columns) : "";
    const cell = chosen ? drawCell(chosen, rows, columns) : "";
    const center = chosen ? drawCenter(chosen, rows, columns) : "";
    setPath("masked", data.masking ? masked.map(one => drawCell(one, rows, columns)).join("") : "");
    setPath("field", field);
    setPath("cell", cell);
    setPath("halo", field + cell);
    setPath("center", center);
    setPath("center-halo", center);
    setPath("hovered", hovered && !isSameCell(hovered, chosen) ? drawCell(hovered, rows, columns) : "");
    const described = hovered || chosen;
    line.textContent = described ? describeCell(described, data, masked) : data.hint;
  };
  const report = delay => {
    clearTimeout(state.timer);
    const chosen = { cell: state.chosen, revision: state.revision, masked: state.masked };
    state.timer = setTimeout(() => setStateValue("chosen", chosen), delay);
  };
  const cellUnder = event => {
    const frame = photo.getBoundingClientRect();
    const x = (event.clientX - frame.left) * width / frame.width;
    const y = (event.clientY - frame.top) * height / frame.height;
    return findCell(x, y, rows, columns);
  };

  if (image.getAttribute("src") !== data.image) image.src = data.image;
  photo.style.width = `${data.css_width}px`;
  photo.style.aspectRatio = `${width} / ${height}`;
  canvas.setAttribute("role", "img");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);

  photo.onpointermove = event => {
    if (event.pointerType === "touch") return;
    const cell = cellUnder(event);
    if (isSameCell(cell, state.hovered)) return;
    state.hovered = cell;
    mark();
    if (!cell) line.textContent = data.outside;
  };
  photo.onpointerleave = () => {
    state.hovered = null;
    mark();
  };
  photo.onclick = event => {
    const cell = cellUnder(event);
    if (!cell) return;
    state.chosen = cell;
    if (data.masking) state.masked = toggleCell(state.masked, cell);
    mark();
    report(0);
  };
  photo.onkeydown = event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const next = handleKey(event.key, state, data);
    if (!next) return;
    event.preventDefault();
    event.stopPropagation();
    Object.assign(state, next, { hovered: null });
    mark();
    report(KEY_DELAY);
  };
  paint();
  mark();

  // Remove the handler of the run before, because it would draw its own, older maps.
  document.removeEventListener("inspector-class", state.preview);
  state.preview = ({ detail }) => {
    state.previewClass = detail in data.maps ? detail : null;
    paint();
    mark();
  };
  document.addEventListener("inspector-class", state.preview);
  return () => document.removeEventListener("inspector-class", state.preview);
}
