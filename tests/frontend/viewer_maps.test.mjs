// The maps of a viewer, and the words for them.

import assert from "node:assert/strict";
import test from "node:test";

import {
  decodeClasses, describeCells, describeSum, findCellsAbove, findName, findScale, isDark, MEAN, mixWithWhite, nameContrast, readMap,
} from "../../inspector/output/frontend/viewer_maps.js";
import { paintWinners } from "../../inspector/output/frontend/winners.js";

const CLASSES = {
  0: { logit: 7, bias: 1, contributions: [1, 2, 3], scores: [3, 6, 9] },
  1: { logit: -2, bias: 0, contributions: [0, -2, 0], scores: null },
  [MEAN]: { logit: 2.5, bias: 0.5, contributions: [0.5, 0, 1.5], scores: null },
};

test("a contrast is the difference of maps, biases and logits", () => {
  const map = readMap(CLASSES, 0, 1, "contributions");
  assert.deepEqual(map, { values: [1, 4, 3], bias: 1, total: 9, sum: 8 });
  assert.equal(map.sum + map.bias, map.total);
  assert.deepEqual(readMap(CLASSES, 0, MEAN, "contributions").values, [0.5, 2, 1.5]);
  assert.deepEqual(readMap(CLASSES, 0, null, "scores").values, [3, 6, 9]);
});

test("a map whose numbers were not sent is missing", () => {
  assert.equal(readMap(CLASSES, 5, null, "contributions"), null);
  assert.equal(readMap(CLASSES, 0, 5, "contributions"), null);
  assert.equal(readMap(CLASSES, 1, null, "scores"), null);
});

test("the scale is the largest absolute value of all maps", () => {
  assert.equal(findScale([{ values: [1, -4] }, null, { values: [2] }]), 4);
  assert.equal(findScale([]), 0);
});

test("cells above a threshold, and none where no value is positive", () => {
  assert.deepEqual(findCellsAbove([1, 4, 2, 3], 50, 2), [[0, 1], [1, 1]]);
  assert.deepEqual(findCellsAbove([-1, 0], 0, 2), []);
});

test("a name is found by its text, its beginning or a part of it", () => {
  const names = ["house cat", "Cat", "cattle", "dog"];
  assert.deepEqual(["cat", "catt", "house", "e c", "Cat", " dog ", "x", ""].map(text => findName(names, text)), [1, 2, 0, 0, 1, 3, -1, -1]);
});

test("the sum says what it is the sum of", () => {
  const data = { quantity: "logit", difference: "difference of logits", units: "logits", residual: 7.4e-7 };
  const map = { values: [-2.786], sum: -2.786, bias: -0.024, total: -2.81 };
  const state = { against: 1, number: "contributions" };
  assert.deepEqual(describeSum(data, map, state), {
    equation: "Difference of logits \u22122.810 = map \u22122.786 + bias \u22120.024",
    note: "map + bias = difference of logits (residual 7e\u22127 logits)",
  });
  assert.match(describeSum(data, map, { ...state, against: null }).equation, /^Logit \u22122\.810 = /);
  assert.match(describeSum(data, map, { ...state, number: "scores" }).equation, /^highest score \u22122\.786$/);
});

test("a cell of a contrast adds to a difference", () => {
  const data = { words: { contributions: "to the logit", scores: "class scores" }, contrast_words: "to the difference" };
  const describe = (against, number) => describeCells(data, { against, number });
  assert.equal(describe(null, "contributions"), "to the logit");
  assert.equal(describe(1, "contributions"), "to the difference");
  assert.equal(describe(-1, "contributions"), "to the difference");
  assert.equal(describe(1, "scores"), "class scores");
});

test("the rounded numbers of nearly every sum add up as they are written", () => {
  const data = { quantity: "logit", units: "logits", residual: 0 }, state = { against: null, number: "contributions" };
  const wrong = Array.from({ length: 500 }, (_, i) => {
    const sum = 20 * Math.sin(i * 7.1), bias = Math.cos(i * 3.3) / 9;
    const { equation } = describeSum(data, { values: [], sum, bias, total: sum + bias }, state);
    const [total, map, rest] = equation.replaceAll("\u2212", "-").match(/-?\d+\.\d+/g).map(Number);
    return Math.abs(map + rest - total) > 1e-9;
  }).filter(Boolean);
  assert.ok(wrong.length <= 12, `${wrong.length} of 500`);
});

test("a contrast is named by both classes", () => {
  assert.equal(nameContrast(["a", "b"], { k: 0, against: null }), "a");
  assert.equal(nameContrast(["a", "b"], { k: 0, against: 1 }), "a rather than b");
  assert.equal(nameContrast(["a", "b"], { k: 0, against: MEAN }), "a rather than the mean of all classes");
});

test("text on a dark color is white", () => {
  const colors = [0, 0, 200, 255, 0, 0, 200, 0];
  assert.deepEqual([mixWithWhite(colors, 0), mixWithWhite(colors, 1)], ["rgb(0, 0, 200)", "rgb(255, 255, 255)"]);
  assert.deepEqual([isDark(colors, 0), isDark(colors, 1)], [true, false]);
});

test("each cell has the color of its class, and a cell without a winner none", () => {
  const frame = { size: [1, 3], grid: [1, 3], down: [1, 0, 0, 1], across: [3, -0.5, 0, 1], opacity: 0.5 };
  const painted = paintWinners(frame, { colors: [[1, 2, 3], [4, 5, 6]], cells: [1, -1, 0] });
  assert.deepEqual([...painted], [4, 5, 6, 77, 0, 0, 0, 0, 1, 2, 3, 77]);
});

test("a number that JSON has no word for is NaN, never zero", () => {
  const classes = decodeClasses({ 0: { logit: null, bias: 1, contributions: [2, 3], scores: null } });
  const map = readMap(classes, 0, null, "contributions"), data = { quantity: "logit", units: "logits", residual: null };
  const state = { against: null, number: "contributions" };
  assert.equal(describeSum(data, map, state).equation, "Logit NaN = map 5.000 + bias 1.000");
  assert.equal(describeSum(data, map, state).note, "map + bias = logit (residual NaN logits)");
});
