// Boxes around the evidence, and cells of finer grids.

import assert from "node:assert/strict";
import test from "node:test";

import { convertCell } from "../../inspector/output/frontend/cells.js";
import {
  chooseBoxes, describeBox, drawBoxes, drawPoints, hasBoxes,
} from "../../inspector/output/frontend/viewer_boxes.js";
import { describeFiner, describeSum, keepOwnCells } from "../../inspector/output/frontend/viewer_maps.js";

const AT = [
  { boxes: [[1, 2, 30, 40, 0.9], [5, 6, 7, 8, 0.05]], points: [[3, 4, 1.5]], reason: null },
  { boxes: [[1, 2, 20, 20, 0.5]], points: [], reason: null },
];
const LOCATED = { of: [0, null, "contributions"], thresholds: [0.3, 0.35], classes: [{ k: 0, color: "#fff", at: AT }] };
const STATE = { k: 0, against: null, number: "contributions", threshold: 0.3, boxes: "all", points: false };

test("the boxes of the chosen threshold are shown: all, or the largest", () => {
  const choose = values => chooseBoxes(LOCATED, { ...STATE, ...values })[0];
  assert.deepEqual(choose({}), { k: 0, color: "#fff", boxes: AT[0].boxes, points: [], reason: null });
  assert.deepEqual(choose({ boxes: "largest", points: true }).boxes, [AT[0].boxes[0]]);
  assert.deepEqual(choose({ points: true }).points, AT[0].points);
  assert.deepEqual(choose({ threshold: 0.35 }).boxes, AT[1].boxes);
});

test("boxes of another map are not shown", () => {
  assert.equal(chooseBoxes(LOCATED, { ...STATE, k: 1 }), null);
  assert.equal(chooseBoxes(LOCATED, { ...STATE, against: -1 }), null);
  assert.equal(chooseBoxes(null, STATE), null);
  assert.equal(hasBoxes({ boxes: "all", view: "what if" }), false);
  assert.equal(hasBoxes({ boxes: "none", view: "class map" }), false);
});

test("a box is drawn and described in pixels of the photo", () => {
  assert.equal(drawBoxes(AT[0].boxes), "M1 2H31V42H1ZM5 6H12V14H5Z");
  assert.equal(drawPoints(AT[0].points), "M3 4h0");
  assert.deepEqual(describeBox(AT[0].boxes[0]), ["1", "2", "30", "40", "90.0 %"]);
});

test("a cell is found on a finer grid and back", () => {
  assert.deepEqual(convertCell([1, 3], 1, 4), [4, 12]);
  assert.deepEqual(convertCell([5, 3], 2, 1), [2, 1]);
  assert.equal(convertCell(null, 1, 2), null);
});

test("on a finer grid only the network's own cells sum to the logit, and the mean of all is named", () => {
  const values = [1, 50, 2, 50, 50, 50, 50, 50]; // 2 rows of 4; the network has 1 row of 2
  assert.deepEqual(keepOwnCells(values, 4, 2, 0), [1, 0, 2, 0, 0, 0, 0, 0]);
  const finer = { description: "By two passes.", verdict: "exact", residual: 2e-6, mean_logits: { 0: 5, 1: 3 } };
  const data = { quantity: "logit", difference: "difference", units: "logits", residual: 0, finer, factor: 2, grid: [2, 4] };
  const map = { values, bias: 0.5, total: 3.5, sum: 303 }, state = { k: 0, against: null, number: "contributions" };
  assert.equal(describeSum(data, map, state).equation, "Logit 3.500 = own cells 3.000 + bias 0.500");
  assert.match(describeSum(data, map, state).note, /^own cells \+ bias = logit /);
  const sentence = "All 2 x 4 cells average over 4 shifts of the photo, whose mean";
  assert.equal(
    describeFiner(data, state), `${sentence} logit is 5.000 (exact, residual 2e\u22126 logits). By two passes.`,
  );
  assert.match(describeFiner(data, { ...state, against: 1 }), /mean difference is 2\.000/);
  assert.equal(describeFiner({ ...data, finer: null }, state), "");
});
