// Read the pixels of an image file as inspector/images/photo.py does: upright, the first frame, without conversion of
// colors, transparent parts on white.

import { MAX_PIXELS } from "./preprocessing.js";

const MAX_BYTES = 50_000_000;
const STRIP = 1_000_000; // pixels that are drawn at a time: canvases of some browsers are small
// How to turn an image upright, by its EXIF orientation: transpose it first, then flip rows, then columns.
const TURNS = {
  2: [false, false, true], 3: [false, true, true], 4: [false, true, false], 5: [true, false, false],
  6: [true, false, true], 7: [true, true, true], 8: [true, true, false],
};

const readText = (bytes, start, length) => String.fromCharCode(...bytes.subarray(start, start + length));

const isWebp = bytes => readText(bytes, 0, 4) === "RIFF" && readText(bytes, 8, 4) === "WEBP";

/** Whether a file begins as an image of a format that browsers read. */
const isKnown = bytes => isWebp(bytes) || readText(bytes, 4, 8) === "ftypavif"
  || ["\x89PNG", "\xff\xd8\xff", "GIF8", "BM"].some(start => readText(bytes, 0, start.length) === start);

/** Return the orientation in the EXIF chunk of a WebP file, 1 to 8. Browsers do not agree on whether they follow it. */
export function readWebpOrientation(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 12; at + 8 <= bytes.length;) {
    const length = view.getUint32(at + 4, true);
    if (readText(bytes, at, 4) === "EXIF" && at + 8 + length <= bytes.length) {
      const skip = readText(bytes, at + 8, 6) === "Exif\0\0" ? 6 : 0;
      return readOrientation(new DataView(view.buffer, view.byteOffset + at + 8 + skip, length - skip));
    }
    at += 8 + length + length % 2;
  }
  return 1;
}

/** Return the orientation in a block of EXIF (TIFF), 1 to 8; 1 if it is broken. */
function readOrientation(view) {
  try {
    const little = view.getUint16(0) === 0x4949, start = view.getUint32(4, little);
    for (let i = 0; i < view.getUint16(start, little); i++) {
      const entry = start + 2 + i * 12;
      if (view.getUint16(entry, little) === 0x0112) {
        const orientation = view.getUint16(entry + 8, little);
        return orientation in TURNS ? orientation : 1;
      }
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // the block ends too early
  }
  return 1;
}

/** Turn RGBA pixels upright. */
export function turnUpright(pixels, [height, width], orientation) {
  if (!(orientation in TURNS)) return { pixels, size: [height, width] };
  const [transposed, flipRows, flipColumns] = TURNS[orientation], size = transposed ? [width, height] : [height, width];
  const source = new Uint32Array(pixels.buffer), turned = new Uint32Array(source.length);
  for (let y = 0, at = 0; y < size[0]; y++) {
    for (let x = 0; x < size[1]; x++, at++) {
      const row = flipRows ? size[0] - 1 - y : y, column = flipColumns ? size[1] - 1 - x : x;
      turned[at] = source[transposed ? column * width + row : row * width + column];
    }
  }
  return { pixels: new Uint8ClampedArray(turned.buffer), size };
}

/** Refuse what cannot be decoded well, before the browser tries: throw an Error with one sentence. */
export function checkFile(bytes, name) {
  const limit = MAX_BYTES / 1e6;
  if (bytes.length === 0) throw new Error(`${name} is empty (0 bytes). Choose a photo, for example a JPEG or a PNG.`);
  if (bytes.length > MAX_BYTES) {
    throw new Error(`${name} has ${(bytes.length / 1e6).toFixed(0)} MB; at most ${limit} MB are read.`);
  }
  if (readText(bytes, 1, 3) === "PNG" && bytes.length > 24) {
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    checkPixels(name, view.getUint32(16), view.getUint32(20));
    if (bytes[24] === 16) {
      throw new Error(`${name} has 16 bits per channel, and this page reads 8. Save it with 8, or use Inspector itself.`);
    }
  }
}

function checkPixels(name, width, height) {
  if (width * height > MAX_PIXELS) {
    throw new Error(`${name} has ${width} x ${height} pixels; at most ${MAX_PIXELS / 1e6} megapixels are read.`);
  }
}

/** Read an image file. Return { pixels: RGBA, size: [height, width], name }. */
export async function readPhoto(file, name) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  checkFile(bytes, name);
  const webp = isWebp(bytes), imageOrientation = webp ? "none" : "from-image";
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation });
  } catch {
    const problem = isKnown(bytes) ? "is broken or cut off. Save it again or choose another"
      : "is not an image that this page can read. JPEG, PNG, WebP, GIF, BMP and AVIF can";
    throw new Error(`${name} ${problem}.`);
  }
  checkPixels(name, bitmap.width, bitmap.height);
  const photo = readBitmap(bitmap, name);
  return webp ? { ...photo, ...turnUpright(photo.pixels, photo.size, readWebpOrientation(bytes)) } : photo;
}

/** Read the pixels of a bitmap, on white, strip by strip. The bitmap is closed. */
export function readBitmap(bitmap, name) {
  const { width, height } = bitmap, pixels = new Uint8ClampedArray(width * height * 4);
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP / width)));
  const canvas = new OffscreenCanvas(width, rows), context = canvas.getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < height; top += rows) {
    // On white no digit of a transparent pixel is lost: its part of the color is rounded once, and white adds an integer.
    context.fillStyle = "white";
    context.fillRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -top);
    const count = Math.min(rows, height - top);
    pixels.set(context.getImageData(0, 0, width, count).data, top * width * 4);
  }
  bitmap.close();
  return { pixels, size: [height, width], name };
}
