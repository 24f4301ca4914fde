// Keys open, close and walk the tree of modules.

import assert from "node:assert/strict";
import test from "node:test";

import { listAncestors, listVisible, moveInTree } from "../../inspector/ui/components/frontend/tree_keys.js";

// stem, blocks > (0 > (conv, relu), 1), head
const NODES = [["stem", 0], ["blocks", 0], ["blocks.0", 1], ["conv", 2], ["relu", 2], ["blocks.1", 1], ["head", 0]]
  .map(([label, level]) => ({ label, level }));
const CLOSED = new Set(), OPEN = new Set(["blocks"]), ALL = new Set(["blocks", "blocks.0"]);

test("only nodes in open groups are visible, also if a group inside a closed one is open", () => {
  assert.deepEqual(listVisible(NODES, CLOSED), [0, 1, 6]);
  assert.deepEqual(listVisible(NODES, OPEN), [0, 1, 2, 5, 6]);
  assert.deepEqual(listVisible(NODES, ALL), [0, 1, 2, 3, 4, 5, 6]);
  assert.deepEqual(listVisible(NODES, new Set(["blocks.0"])), [0, 1, 6]);
});

test("the ancestors of a node are all groups that have to be open to show it", () => {
  assert.deepEqual(listAncestors(NODES, 4), [2, 1]);
  assert.deepEqual(listAncestors(NODES, 6), []);
});

test("up, down, home and end move through visible nodes only", () => {
  assert.deepEqual(moveInTree("ArrowDown", 1, NODES, CLOSED), { move: 6 });
  assert.deepEqual(moveInTree("ArrowDown", 1, NODES, OPEN), { move: 2 });
  assert.deepEqual(moveInTree("ArrowUp", 5, NODES, OPEN), { move: 2 });
  assert.deepEqual(moveInTree("End", 0, NODES, CLOSED), { move: 6 });
  assert.deepEqual(moveInTree("Home", 4, NODES, ALL), { move: 0 });
  assert.equal(moveInTree("ArrowUp", 0, NODES, CLOSED), null);
  assert.equal(moveInTree("ArrowDown", 6, NODES, CLOSED), null);
});

test("right opens a group, then enters it; left leaves a node, then closes its group", () => {
  assert.deepEqual(moveInTree("ArrowRight", 1, NODES, CLOSED), { toggle: 1 });
  assert.deepEqual(moveInTree("ArrowRight", 1, NODES, OPEN), { move: 2 });
  assert.equal(moveInTree("ArrowRight", 0, NODES, CLOSED), null);
  assert.deepEqual(moveInTree("ArrowLeft", 4, NODES, ALL), { move: 2 });
  assert.deepEqual(moveInTree("ArrowLeft", 2, NODES, ALL), { toggle: 2 });
  assert.equal(moveInTree("ArrowLeft", 0, NODES, ALL), null);
  assert.equal(moveInTree("a", 0, NODES, ALL), null);
});
