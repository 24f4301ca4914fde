// Draw the photo below the maps, as inspector/output/overlay.py does: reduced, and dimmed outside the network's crop.

import { paintGray } from "../../frontend/map_drawing.js";
import { fitSize } from "./placement.js";
import { roundHalfEven } from "./preprocessing.js";
import { resizeForDrawing } from "./resample.js";

const DIMMED = Uint8ClampedArray.from({ length: 256 }, (_, value) => roundHalfEven(value * 0.35 + 32));

/** Return { pixels: RGBA, size } of the whole photo, its longer side with `side` pixels. */
export function dimPhoto(photo, crop, side) {
  const size = fitSize(photo.size, side), [height, width] = size;
  const pixels = resizeForDrawing(photo.pixels, photo.size, size, side < Math.max(...photo.size));
  const across = width / photo.size[1], down = height / photo.size[0];
  const [left, right] = [crop.box[0], crop.box[2]].map(edge => roundHalfEven(edge * across));
  const [top, bottom] = [crop.box[1], crop.box[3]].map(edge => roundHalfEven(edge * down));
  for (let y = 0, at = 0; y < height; y++) {
    const isBeside = y < top || y >= bottom;
    for (let x = 0; x < width; x++, at += 4) {
      if (!isBeside && x >= left && x < right) continue;
      for (let c = at; c < at + 3; c++) pixels[c] = DIMMED[pixels[c]];
    }
  }
  return { pixels, size };
}

/** Return a picture as a file that any browser opens, a BMP: writing a PNG would take as long as a small network. */
export function makePicture({ pixels, size: [height, width] }) {
  const header = new DataView(new ArrayBuffer(54)), body = new Uint32Array(pixels.buffer.slice(0));
  header.setUint16(0, 0x424d); // "BM"
  header.setUint32(2, 54 + pixels.length, true);
  header.setUint32(10, 54, true); // where the pixels begin
  header.setUint32(14, 40, true);
  header.setInt32(18, width, true);
  header.setInt32(22, -height, true); // from the top
  header.setUint16(26, 1, true);
  header.setUint16(28, 32, true); // bits per pixel: blue, green, red
  for (let i = 0; i < body.length; i++) {
    const pixel = body[i];
    body[i] = (pixel & 0xff00ff00) | ((pixel & 0xff) << 16) | ((pixel >> 16) & 0xff);
  }
  return new Blob([header, body], { type: "image/bmp" });
}

/** Return the mean brightness (0-255) of what the network sees of a photo. */
export function findGray({ pixels, size: [, width] }, { box }) {
  const [left, top, right, bottom] = box.map(edge => Math.max(0, roundHalfEven(edge)));
  const [height, photoWidth] = [pixels.length / 4 / width, width];
  const [endX, endY] = [Math.min(Math.max(right, left + 1), photoWidth), Math.min(Math.max(bottom, top + 1), height)];
  const step = Math.max(1, Math.floor(Math.min(endY - top, endX - left) / 100)); // a large photo need not be read as a whole
  const seen = [];
  for (let y = top; y < endY; y += step) {
    for (let x = left; x < endX; x += step) seen.push(...pixels.subarray((y * width + x) * 4, (y * width + x) * 4 + 4));
  }
  const gray = paintGray(Uint8ClampedArray.from(seen));
  let sum = 0;
  for (let i = 0; i < gray.length; i += 4) sum += gray[i];
  return roundHalfEven(sum / (gray.length / 4));
}
