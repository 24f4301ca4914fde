// The input of the network, against the numbers that tests/output/test_publish_modules.py makes in Python.

import assert from "node:assert/strict";
import test from "node:test";

import { makeView, normalize, roundHalfEven } from "../../../inspector/output/publish/page/preprocessing.js";
import { resizeForDrawing } from "../../../inspector/output/publish/page/resample.js";
import { makeOpaque, readBytes, readExpected, readFloats } from "./expected.mjs";

const { views = [], drawings = [], thin } = readExpected();

const takeChannels = (pixels, channels) => pixels.filter((_, i) => i % 4 < channels);

test("halves are rounded to the even number, as in Python", () => {
  assert.deepEqual([-1.5, -0.5, 0.5, 1.5, 2.5, 2.49, 2.51].map(roundHalfEven), [-2, 0, 0, 2, 2, 2, 3]);
});

test("every pixel of the input equals Pillow's, and the crop lies at the same place", () => {
  assert.ok(views.length > 0);
  for (const { photo, size, preprocessing, pixels, box } of views) {
    const view = makeView({ pixels: makeOpaque(readBytes(photo)), size, name: "photo" }, preprocessing);
    const what = JSON.stringify({ size, preprocessing });
    assert.deepEqual(takeChannels(view.pixels, preprocessing.mean.length), new Uint8ClampedArray(readBytes(pixels)), what);
    assert.deepEqual(view.crop, { photo_size: size, box, input_size: preprocessing.size }, what);
  }
});

test("normalized inputs equal Python's to the last bit", () => {
  for (const { photo, size, preprocessing, input } of views) {
    const view = makeView({ pixels: makeOpaque(readBytes(photo)), size, name: "photo" }, preprocessing);
    assert.deepEqual(normalize(view.pixels, preprocessing), readFloats(input));
  }
});

test("a photo that is too thin is refused with the sentence of Python", () => {
  const photo = { pixels: new Uint8ClampedArray(4 * thin.size[0] * thin.size[1]), size: thin.size, name: "thin.png" };
  assert.throws(() => makeView(photo, thin.preprocessing), { message: thin.message });
});

test("a photo is drawn as OpenCV draws it, at most one level apart", () => {
  assert.ok(drawings.length > 0);
  for (const { photo, size, side, drawn } of drawings) {
    const reduce = Math.max(...size) > Math.max(...side);
    const pixels = takeChannels(resizeForDrawing(makeOpaque(readBytes(photo)), size, side, reduce), 3);
    const expected = readBytes(drawn);
    assert.equal(pixels.length, expected.length);
    pixels.forEach((value, i) => assert.ok(Math.abs(value - expected[i]) <= 1, `${size} ${side} ${i}`));
  }
});
