// The browser draws a map as Python does. The numbers of Python come in the file that $INSPECTOR_EXPECTED names, which
// tests/ui/test_frontend.py writes.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import {
  COLOR_AGAINST, COLOR_FOR, decodeCells, interpolate, paintMap,
} from "../../inspector/ui/components/frontend/map_drawing.js";

const file = process.env.INSPECTOR_EXPECTED;
const expected = file ? JSON.parse(readFileSync(file, "utf8")) : null;
const skip = expected ? false : "run by tests/ui/test_frontend.py, which has the numbers of Python";

test("between two centers the weight of the next cell grows evenly", () => {
  // Two cells, their centers at a quarter and three quarters of four pixels.
  const placement = [2, -0.5, 0, 1];
  assert.deepEqual(interpolate(placement, 2, 4, true), [[0, 0], [0, 0.25], [0, 0.75], [0, 1]]);
  assert.deepEqual(interpolate(placement, 2, 4, false), [[0, 0], [0, 0], [0, 1], [0, 1]]);
});

test("a single cell covers its side", () => {
  assert.deepEqual(interpolate([1, -0.5, 0, 1], 1, 3, true), [[0, 0], [0, 0], [0, 0]]);
});

test("outside of what the network saw nothing is drawn", () => {
  assert.deepEqual(interpolate([1, 0, 0.25, 0.75], 1, 4, true), [null, [0, 0], [0, 0], null]);
});

test("evidence for a class is red, against it blue, and zero is transparent", () => {
  const frame = { size: [1, 3], grid: [1, 3], down: [1, 0, 0, 1], across: [3, -0.5, 0, 1], smooth: false, opacity: 0.8 };
  assert.deepEqual(
    [...paintMap(frame, [32767, 0, -32767])],
    [...COLOR_FOR, 204, ...COLOR_FOR, 0, ...COLOR_AGAINST, 204],
  );
});

test("the strongest colors are those of Python", { skip }, () => {
  assert.deepEqual({ for: COLOR_FOR, against: COLOR_AGAINST }, expected.colors);
});

test("cells are decoded as Python encodes them", { skip }, () => {
  assert.deepEqual([...decodeCells(expected.encoded.cells)], expected.encoded.values);
});

test("pixels interpolate the cells with the weights of Python", { skip }, () => {
  assert.ok(expected.axes.length > 10);
  for (const { placement, cells, length, smooth, weights } of expected.axes) {
    interpolate(placement, cells, length, smooth).forEach((place, pixel) => {
      const row = new Array(cells).fill(0);
      if (place) {
        const [cell, next] = place;
        row[cell] += 1 - next;
        if (next) row[cell + 1] += next;
      }
      row.forEach((weight, i) => assert.ok(Math.abs(weight - weights[pixel][i]) < 1e-9, `pixel ${pixel}, cell ${i}`));
    });
  }
});

test("a map over a photo has the pixels of Python's overlay", { skip }, () => {
  for (const { frame, cells, canvas, overlay } of expected.drawings) {
    const pixels = paintMap(frame, decodeCells(cells));
    canvas.forEach((background, i) => {
      const pixel = Math.floor(i / 3), alpha = pixels[4 * pixel + 3] / 255;
      const drawn = background * (1 - alpha) + pixels[4 * pixel + (i % 3)] * alpha;
      // Python rounds twice, and a value between two color levels may take either.
      assert.ok(Math.abs(drawn - overlay[i]) <= 4, `pixel ${pixel}: ${drawn} instead of ${overlay[i]}`);
    });
  }
});
