// What the page reads in the headers of image files, against Pillow; and how it turns photos upright.

import assert from "node:assert/strict";
import test from "node:test";

import { checkFile, readHeader, readWebpOrientation, turnUpright } from "../../../inspector/output/publish/page/decode.js";
import { readBytes, readExpected } from "./expected.mjs";

const { files = [], turns = [] } = readExpected();

test("the size in the header of a file is Pillow's", () => {
  assert.ok(files.length > 0);
  for (const { name, content, width, height } of files) {
    const header = readHeader(readBytes(content));
    assert.deepEqual([header.width, header.height], [width, height], name);
  }
});

test("files that the page does not decode as Python does are refused", () => {
  const refused = files.filter(({ message }) => message);
  assert.ok(refused.length > 0);
  for (const { name, content, message } of refused) assert.throws(() => checkFile(readBytes(content), name), { message });
  for (const { name, content, message } of files) if (!message) checkFile(readBytes(content), name);
});

test("a file that ends in its header is left to its decoder", () => {
  for (const { content } of files.filter(({ message }) => !message)) {
    const bytes = readBytes(content);
    for (let length = 1; length < Math.min(bytes.length, 40); length++) checkFile(bytes.slice(0, length), "cut");
  }
});

test("photos are turned as their EXIF data say", () => {
  assert.equal(turns.length, 8);
  for (const { orientation, photo, size, webp, upright, upright_size: expected } of turns) {
    assert.equal(readWebpOrientation(readBytes(webp)), orientation);
    const turned = turnUpright(new Uint8ClampedArray(readBytes(photo)), size, orientation);
    assert.deepEqual(turned.size, expected);
    assert.deepEqual(turned.pixels, new Uint8ClampedArray(readBytes(upright)));
  }
});

test("a broken block of EXIF turns nothing", () => {
  const { webp } = turns.find(({ orientation }) => orientation === 6), bytes = readBytes(webp);
  const at = Buffer.from(bytes).indexOf("EXIF");
  for (let cut = at; cut < bytes.length; cut++) assert.ok([1, 6].includes(readWebpOrientation(bytes.slice(0, cut))));
  bytes.fill(255, at + 8);
  assert.equal(readWebpOrientation(bytes), 1);
});
