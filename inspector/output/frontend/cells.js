// Functions for the cells of a class map and their places on the photo, without the DOM. A cell is [row, column].
// `rows` has one entry per row, and `columns` one per column: [start, end, center, first pixel seen, last pixel seen],
// in pixels of the photo.

import { formatSigned } from "./numbers.js";

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** Whether a and b are the same cell; false if one of them is null. */
export function isSameCell(a, b) {
  return Boolean(a && b) && a[0] === b[0] && a[1] === b[1];
}

/** The cell, or null if it lies outside the grid. */
export function keepOnGrid(cell, rows, columns) {
  return cell && cell[0] < rows.length && cell[1] < columns.length ? cell : null;
}

/** The cell of one grid that lies where a cell of another does; the factors say how many times finer they are. */
export function convertCell(cell, factor, other) {
  return cell && cell.map(index => Math.floor(index * other / factor));
}

/** The cell at a place (x, y) of the photo; null outside the part that the network saw. */
export function findCell(x, y, rows, columns) {
  const row = rows.findIndex(([start, end]) => start <= y && y < end);
  const column = columns.findIndex(([start, end]) => start <= x && x < end);
  return row < 0 || column < 0 ? null : [row, column];
}

/** The cell with the highest value; if several cells have it, the first one, row by row. */
export function findHighestCell(values, columnCount) {
  const i = values.indexOf(values.reduce((a, b) => Math.max(a, b)));
  return [Math.floor(i / columnCount), i % columnCount];
}

/** The cell that an arrow key moves to, limited to the grid; null for any other key. */
export function moveCell([row, column], key, rows, columns) {
  if (!Object.hasOwn(STEPS, key)) return null;
  const step = STEPS[key];
  const clip = (value, count) => Math.min(Math.max(value, 0), count - 1);
  return [clip(row + step[0], rows.length), clip(column + step[1], columns.length)];
}

/** A copy of the list of cells: without the cell if it was in the list, else with it. */
export function toggleCell(cells, cell) {
  const others = cells.filter(one => !isSameCell(one, cell));
  return others.length < cells.length ? others : [...cells, cell];
}

/** The chosen cell and the masked cells after a key is pressed; null for a key that has no effect. */
export function handleKey(key, { chosen, masked }, { rows, columns, values, masking }) {
  if (Object.hasOwn(STEPS, key)) {
    const next = chosen ? moveCell(chosen, key, rows, columns) : findHighestCell(values, columns.length);
    return { chosen: next, masked };
  }
  if (key === "Escape" && chosen) return { chosen: null, masked };
  if ((key === "Enter" || key === " ") && chosen && masking) return { chosen, masked: toggleCell(masked, chosen) };
  return null;
}

/** SVG path of a rectangle. */
export const drawBox = (left, top, right, bottom) => `M${left} ${top}H${right}V${bottom}H${left}Z`;

/** SVG path of a cell's outline. */
export function drawCell([row, column], rows, columns) {
  return drawBox(columns[column][0], rows[row][0], columns[column][1], rows[row][1]);
}

/** SVG path of a cell's receptive field, limited to the part of the photo that the network saw. */
export function drawReceptiveField([row, column], rows, columns) {
  return drawBox(columns[column][3], rows[row][3], columns[column][4], rows[row][4]);
}

/** SVG path of a cell's center: a line without length, whose round ends make a dot. */
export function drawCenter([row, column], rows, columns) {
  return `M${columns[column][2]} ${rows[row][2]}h0`;
}

/** A cell as text: row, column, value, its note, and whether it is masked. */
export function describeCell([row, column], { columns, values, unit, notes, note_of: noteOf, masking }, masked) {
  const i = row * columns.length + column, note = notes.length ? notes[noteOf[i]] : "";
  const suffix = masking && masked.some(cell => isSameCell(cell, [row, column])) ? ", masked" : "";
  return `Row ${row}, column ${column}: ${formatSigned(values[i])} ${unit}${note}${suffix}`;
}
