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

const START_OF_FRAME = [0xc0, 0xc1, 0xc2, 0xc3, 0xc5, 0xc6, 0xc7, 0xc9, 0xca, 0xcb, 0xcd, 0xce, 0xcf]; // JPEG markers

/** Return the format of an image file by its first bytes: "png", "jpeg", ...; null if browsers read no such files. */
function findFormat(bytes) {
  const begins = (text, start = 0) => readText(bytes, start, text.length) === text;
  if (begins("RIFF") && begins("WEBP", 8)) return "webp";
  if (begins("ftypavif", 4)) return "avif";
  return { "\x89P": "png", "\xff\xd8": "jpeg", GI: "gif", BM: "bmp" }[readText(bytes, 0, 2)] ?? null;
}

/** Return { width, height, bits, channels, isPart } as far as the header of an image file says them; {} if it says nothing. */
export function readHeader(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    return HEADERS[findFormat(bytes)]?.(view, bytes) ?? {};
  } catch (error) {
    if (error instanceof RangeError) return {}; // the file ends too early, which its decoder will say
    throw error;
  }
}

const HEADERS = {
  png: view => ({ width: view.getUint32(16), height: view.getUint32(20), bits: view.getUint8(24) }),
  gif: view => {
    const read = at => view.getUint16(at, true), [width, height, flags] = [read(6), read(8), view.getUint8(10)];
    let at = 13 + (flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0);
    while (view.getUint8(at) === 0x21) { // extensions, each of blocks that begin with their length
      for (at += 2; view.getUint8(at); at += 1 + view.getUint8(at));
      at += 1;
    }
    const isWhole = read(at + 1) === 0 && read(at + 3) === 0 && read(at + 5) >= width && read(at + 7) >= height;
    return { width, height, isPart: !isWhole };
  },
  bmp: view => (view.getUint32(14, true) === 12 // the header of OS/2
    ? { width: view.getUint16(18, true), height: view.getUint16(20, true) }
    : { width: view.getInt32(18, true), height: Math.abs(view.getInt32(22, true)) }),
  webp: (view, bytes) => {
    const kind = readText(bytes, 12, 4), read24 = at => (view.getUint32(at, true) & 0xffffff) + 1;
    if (kind === "VP8X") return { width: read24(24), height: read24(27) };
    if (kind === "VP8 ") return { width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff };
    const packed = view.getUint32(21, true);
    return { width: (packed & 0x3fff) + 1, height: ((packed >> 14) & 0x3fff) + 1 };
  },
  jpeg: view => {
    for (let at = 2; ; at += 2 + view.getUint16(at + 2)) {
      while (view.getUint8(at + 1) === 0xff) at += 1; // fill bytes
      if (!START_OF_FRAME.includes(view.getUint8(at + 1))) continue;
      const [height, width] = [view.getUint16(at + 5), view.getUint16(at + 7)];
      return { width, height, bits: view.getUint8(at + 4), channels: view.getUint8(at + 9) };
    }
  },
};

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
  const { width, height, bits, channels, isPart } = readHeader(bytes);
  checkPixels(name, width, height);
  if (bits > 8) {
    throw new Error(`${name} has ${bits} bits per channel, and this page reads 8. Save it with 8, or use Inspector itself.`);
  }
  if (isPart) { // Pillow fills the rest with a color of the file, browsers leave it transparent
    throw new Error(`${name} is a GIF whose first picture does not fill it, and nothing says with what. Save it as PNG.`);
  }
  if (channels === 4) throw new Error(`${name} has the colors of a print, CMYK, and this page reads RGB. Save it as RGB.`);
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
  const format = findFormat(bytes), webp = format === "webp", imageOrientation = webp ? "none" : "from-image";
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation });
  } catch {
    const problem = format ? "is broken or cut off. Save it again or choose another"
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
