// What the viewer computes without a server is what Python computes. The numbers of Python come in the file that
// $INSPECTOR_EXPECTED names, which tests/ui/test_frontend.py writes.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { formatFixed, formatSignedFixed } from "../../inspector/output/frontend/numbers.js";
import {
  canFindWinners, canMask, describeChosenCell, findStrongest, findWinners, maskAtHead,
} from "../../inspector/output/frontend/viewer_answers.js";
import { decodeChannels, decodeClasses, FIRST } from "../../inspector/output/frontend/viewer_maps.js";

const file = process.env.INSPECTOR_EXPECTED;
const { viewers: expected, state } = file ? JSON.parse(readFileSync(file, "utf8")) : {};
const skip = file ? false : "run by tests/ui/test_frontend.py, which has the numbers of Python";

test("the strongest channels of a cell are those of Python, with the same numbers", { skip }, () => {
  for (const { data, cell, k, channels, rest } of expected) {
    const decoded = decodeChannels(data.channels), count = data.grid[0] * data.grid[1];
    const found = findStrongest(decoded, k, cell[0] * data.grid[1] + cell[1], count);
    assert.deepEqual(found.channels.map(([c]) => c), channels.map(([c]) => c));
    found.channels.forEach(([, value], i) => assert.ok(Math.abs(value - channels[i][1]) < 1e-6));
    assert.ok(Math.abs(found.rest - rest) < 1e-5);
    const [line] = describeChosenCell(data, decoded, { k, cell });
    const text = line.map(part => part.text ?? part).join("");
    for (const [c, value] of channels) assert.ok(text.includes(`${c} (${formatSignedFixed(value, 3)})`), text);
    assert.equal(findStrongest(decoded, -5, 0, count), null);
  }
});

test("the logits without masked cells are those of Python", { skip }, () => {
  for (const { data, k, masked, without } of expected) {
    assert.ok(canMask(data));
    const { head, rows } = maskAtHead(data, decodeClasses(data.classes), { k, masked });
    assert.deepEqual(head, ["logit", "original", "head"]);
    assert.deepEqual(rows[0], [data.names[k], formatFixed(data.classes[k].logit, 3), formatFixed(without[k], 3)]);
    for (const [name, , logit] of rows) assert.equal(logit, formatFixed(without[data.names.indexOf(name)], 3));
    const best = without.indexOf(Math.max(...without));
    assert.ok(rows.some(([name]) => name === data.names[best]));
    assert.equal(canMask({ ...data, factor: 2 }), false);
  }
});

test("a viewer begins as the app does", { skip }, () => {
  assert.deepEqual({ k: 7, ...FIRST }, state);
});

test("max pooling needs a cell that is not masked", { skip }, () => {
  const { data, k } = expected.find(one => one.data.masked_at_head === "maximum");
  const masked = Array.from({ length: data.grid[0] * data.grid[1] }, (_, i) => [Math.floor(i / data.grid[1]), i % data.grid[1]]);
  assert.match(maskAtHead(data, decodeClasses(data.classes), { k, masked }).error, /Leave one cell unmasked/);
});

test("the winning classes are those of Python", { skip }, () => {
  for (const { data, winners } of expected) {
    const classes = decodeClasses(data.classes), found = findWinners(data, classes);
    assert.ok(canFindWinners(data, classes));
    assert.deepEqual({ ...found, values: null }, { ...winners, values: null });
    found.values.forEach((value, i) => assert.ok(Math.abs(value - winners.values[i]) < 1e-5));
    delete classes[0];
    assert.equal(canFindWinners(data, classes), false);
  }
});

test("in a tie of all classes no class wins", () => {
  const classes = { 0: { contributions: [1, 0] }, 1: { contributions: [1, 2] } };
  const data = { names: ["a", "b"], grid: [1, 2], pooling: "average", winner_colors: ["#000001", "#0000ff"] };
  const { cells, notes, note_of: noteOf, legend } = findWinners(data, classes);
  assert.deepEqual(cells, [-1, 0]);
  assert.deepEqual(noteOf.map(i => notes[i]), [": no class wins", " for b"]);
  assert.deepEqual(legend, [{ name: "b", color: "#000001", count: 1 }]);
});
