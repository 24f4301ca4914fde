// Keys walk the list of classes and the grid of channels.

import assert from "node:assert/strict";
import test from "node:test";

import { moveInList } from "../../inspector/output/frontend/list_keys.js";

test("in a list all arrow keys move by one", () => {
  assert.deepEqual(["ArrowUp", "ArrowLeft", "ArrowDown", "ArrowRight"].map(key => moveInList(key, 2, 5, 1)), [1, 1, 3, 3]);
});

test("in a grid, up and down move by a row", () => {
  assert.equal(moveInList("ArrowUp", 9, 20, 8), 1);
  assert.equal(moveInList("ArrowDown", 9, 20, 8), 17);
});

test("moves stop at the first and the last item", () => {
  assert.equal(moveInList("ArrowUp", 3, 20, 8), 0);
  assert.equal(moveInList("ArrowDown", 17, 20, 8), 19);
  assert.equal(moveInList("Home", 7, 20, 8), 0);
  assert.equal(moveInList("End", 7, 20, 8), 19);
});

test("other keys move nothing", () => {
  for (const key of ["Enter", "a", "Tab", "toString"]) assert.equal(moveInList(key, 1, 5, 1), null);
});
