// The browser draws a map as Python does. The numbers of Python come in the file that $INSPECTOR_EXPECTED names, which
// tests/ui/test_frontend.py writes.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import {
  decodeCells, decodeColors, decodeValues, findLevel, interpolate, paintBar, paintGray, paintMap,
} from "../../inspector/output/frontend/map_drawing.js";

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

test("a value takes the color and the density of its level, and zero is transparent", () => {
  const frame = { size: [1, 3], grid: [1, 3], down: [1, 0, 0, 1], across: [3, -0.5, 0, 1], smooth: false, opacity: 0.8 };
  const colors = new Uint8Array(4 * 255);
  colors.set([1, 2, 3, 255], 0);
  colors.set([4, 5, 6, 0], 4 * 127);
  colors.set([7, 8, 9, 128], 4 * 254);
  assert.deepEqual([...paintMap(frame, [2, 0, -9], colors, 2)], [7, 8, 9, 102, 4, 5, 6, 0, 1, 2, 3, 204]);
  assert.deepEqual([...paintMap(frame, [0, 0, 0], colors, 0)], [4, 5, 6, 0, 4, 5, 6, 0, 4, 5, 6, 0]);
});

test("values beyond the scale have the strongest color", () => {
  assert.deepEqual([-5, -1, 0, 0.5, 1, 7].map(value => findLevel(value, 1)), [0, 0, 127, 191, 254, 254]);
});

test("cells are decoded as Python encodes them", { skip }, () => {
  assert.deepEqual([...decodeCells(expected.encoded.cells)], expected.encoded.values);
});

test("values are decoded as Python encodes them", { skip }, () => {
  assert.deepEqual([...decodeValues(expected.values.encoded)], expected.values.values);
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
  assert.ok(expected.drawings.length > 10);
  for (const { frame, values, scale, canvas, overlay } of expected.drawings) {
    const pixels = paintMap(frame, decodeValues(values), decodeColors(frame.colors), scale);
    canvas.forEach((background, i) => {
      const pixel = Math.floor(i / 3), alpha = pixels[4 * pixel + 3] / 255;
      const drawn = background * (1 - alpha) + pixels[4 * pixel + (i % 3)] * alpha;
      // Python rounds twice, and a value between two color levels may take either.
      assert.ok(Math.abs(drawn - overlay[i]) <= 4, `pixel ${pixel}: ${drawn} instead of ${overlay[i]}`);
    });
  }
});

test("the color bar has the pixels of Python's", { skip }, () => {
  for (const { colors, lowest, opacity, gray, size: [height, width], pixels } of expected.bars) {
    const drawn = paintBar(height, width, decodeColors(colors), lowest, opacity, gray);
    // Python rounds twice, and a value between two color levels may take either.
    pixels.forEach((value, i) => assert.ok(Math.abs(drawn[4 * Math.floor(i / 3) + (i % 3)] - value) <= 4, `value ${i}`));
  }
});

test("the photo in gray has the pixels of Python's", { skip }, () => {
  const drawn = paintGray(new Uint8ClampedArray(expected.gray.photo));
  expected.gray.gray.forEach((value, pixel) => assert.ok(Math.abs(drawn[4 * pixel] - value) <= 1, `pixel ${pixel}`));
});
