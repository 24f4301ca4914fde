// Clicks and keys choose cells; a cell has its place on the photo and its line of text.

import assert from "node:assert/strict";
import test from "node:test";

import {
  describeCell, drawCell, drawCenter, drawReceptiveField, findCell, findHighestCell, handleKey, isSameCell, keepOnGrid,
  moveCell, toggleCell,
} from "../../inspector/output/frontend/cells.js";

// Start, end, center, first and last pixel seen: two rows and three columns of 10 pixels, after a margin of 5.
const rows = [[5, 15, 10, 0, 25], [15, 25, 20, 5, 30]];
const columns = [[5, 15, 10, 0, 25], [15, 25, 20, 5, 35], [25, 35, 30, 15, 40]];
const grid = { rows, columns, values: [0, 1, -2, 3, 0.5, 3], masking: true };

test("a place on the photo is in the cell that is drawn there", () => {
  assert.deepEqual(findCell(5, 5, rows, columns), [0, 0]);
  assert.deepEqual(findCell(14.9, 15, rows, columns), [1, 0]);
  assert.deepEqual(findCell(34, 24, rows, columns), [1, 2]);
});

test("outside of what the network saw there is no cell", () => {
  for (const [x, y] of [[4.9, 10], [35, 10], [10, 4], [10, 25]]) assert.equal(findCell(x, y, rows, columns), null);
});

test("a cell of a larger grid is dropped", () => {
  assert.deepEqual(keepOnGrid([1, 2], rows, columns), [1, 2]);
  assert.equal(keepOnGrid([2, 0], rows, columns), null);
  assert.equal(keepOnGrid([0, 3], rows, columns), null);
  assert.equal(keepOnGrid(null, rows, columns), null);
});

test("no cell is the same as none", () => {
  assert.ok(isSameCell([0, 1], [0, 1]));
  assert.ok(!isSameCell([0, 1], [1, 0]));
  assert.ok(!isSameCell(null, null));
});

test("arrow keys move by one cell and stop at the edges", () => {
  assert.deepEqual(moveCell([0, 1], "ArrowDown", rows, columns), [1, 1]);
  assert.deepEqual(moveCell([1, 1], "ArrowDown", rows, columns), [1, 1]);
  assert.deepEqual(moveCell([0, 0], "ArrowLeft", rows, columns), [0, 0]);
  assert.deepEqual(moveCell([0, 1], "ArrowRight", rows, columns), [0, 2]);
  assert.deepEqual(moveCell([1, 0], "ArrowUp", rows, columns), [0, 0]);
  assert.equal(moveCell([0, 0], "a", rows, columns), null);
});

test("the first arrow key chooses the cell with the highest value, the first of equals", () => {
  assert.deepEqual(findHighestCell(grid.values, 3), [1, 0]);
  assert.deepEqual(handleKey("ArrowUp", { chosen: null, masked: [] }, grid), { chosen: [1, 0], masked: [] });
});

test("escape clears the chosen cell and keeps the masked ones", () => {
  assert.deepEqual(handleKey("Escape", { chosen: [0, 0], masked: [[1, 1]] }, grid), { chosen: null, masked: [[1, 1]] });
  assert.equal(handleKey("Escape", { chosen: null, masked: [] }, grid), null);
});

test("enter and space mask the chosen cell, and a second time unmask it", () => {
  for (const key of ["Enter", " "]) {
    const once = handleKey(key, { chosen: [0, 2], masked: [[1, 1]] }, grid);
    assert.deepEqual(once, { chosen: [0, 2], masked: [[1, 1], [0, 2]] });
    assert.deepEqual(handleKey(key, once, grid), { chosen: [0, 2], masked: [[1, 1]] });
  }
});

test("enter means nothing without a chosen cell, or where nothing is masked", () => {
  assert.equal(handleKey("Enter", { chosen: null, masked: [] }, grid), null);
  assert.equal(handleKey("Enter", { chosen: [0, 0], masked: [] }, { ...grid, masking: false }), null);
  assert.equal(handleKey("Tab", { chosen: [0, 0], masked: [] }, grid), null);
});

test("toggling leaves the list that it was given alone", () => {
  const masked = [[0, 0]];
  assert.deepEqual(toggleCell(masked, [0, 0]), []);
  assert.deepEqual(masked, [[0, 0]]);
});

test("marks are drawn around the cell, its receptive field and its center", () => {
  assert.equal(drawCell([1, 2], rows, columns), "M25 15H35V25H25Z");
  assert.equal(drawReceptiveField([1, 2], rows, columns), "M15 5H40V30H15Z");
  assert.equal(drawCenter([1, 2], rows, columns), "M30 20h0");
});

test("a cell is described by row, column, value, note and mask", () => {
  const data = { ...grid, unit: "logits", notes: [" for cat", ": no class wins"], note_of: [0, 0, 1, 0, 0, 0] };
  assert.equal(describeCell([0, 1], data, []), "Row 0, column 1: +1 logits for cat");
  assert.equal(describeCell([0, 2], data, []), "Row 0, column 2: \u22122 logits: no class wins");
  assert.equal(describeCell([1, 1], { ...data, notes: [] }, [[1, 1]]), "Row 1, column 1: +0.5 logits, masked");
  assert.equal(describeCell([1, 1], { ...data, notes: [], masking: false }, [[1, 1]]), "Row 1, column 1: +0.5 logits");
});
