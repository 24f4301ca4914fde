// The numbers of Python: the file that $INSPECTOR_EXPECTED names, in which arrays are base64.

import { readFileSync } from "node:fs";

const file = process.env.INSPECTOR_EXPECTED;

export const readExpected = () => file ? JSON.parse(readFileSync(file, "utf-8")) : {};

export const readBytes = text => new Uint8Array(Buffer.from(text, "base64"));

export const readFloats = text => new Float32Array(readBytes(text).buffer);

/** RGB bytes of Python -> RGBA bytes of the browser. */
export function makeOpaque(rgb) {
  const pixels = new Uint8ClampedArray(rgb.length / 3 * 4).fill(255);
  for (let i = 0; i < rgb.length / 3; i++) pixels.set(rgb.subarray(i * 3, i * 3 + 3), i * 4);
  return pixels;
}
