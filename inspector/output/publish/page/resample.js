// Resize 8-bit pixels exactly as Pillow does (src/libImaging/Resample.c): two passes, columns first, with weights in
// fixed point. And as OpenCV's INTER_AREA and INTER_NEAREST do, for the drawing of the photo.
//
// Pixels are RGBA, as the browser has them; the fourth value is not read, and becomes 255.

const PRECISION = 22; // bits behind the point of a weight
const ONE = 2 ** PRECISION;

const triangle = x => Math.max(1 - Math.abs(x), 0);

function cubic(x) {
  const a = -0.5, z = Math.abs(x);
  if (z < 1) return ((a + 2) * z - (a + 3)) * z * z + 1;
  return z < 2 ? (((z - 5) * z + 8) * z - 4) * a : 0;
}

const FILTERS = { bilinear: { weigh: triangle, support: 1 }, bicubic: { weigh: cubic, support: 2 } };

/** Return, for some pixels of a side that is resized, where its taps begin and their weights in fixed point. */
export function findTaps(inLength, outLength, start, count, interpolation) {
  const { weigh, support: reach } = FILTERS[interpolation];
  const scale = inLength / outLength, spread = Math.max(scale, 1), support = reach * spread, inverse = 1 / spread;
  const size = Math.ceil(support) * 2 + 1;
  const firsts = new Int32Array(count), lengths = new Int32Array(count), weights = new Int32Array(count * size);
  for (let i = 0; i < count; i++) {
    const center = (start + i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const length = Math.min(Math.trunc(center + support + 0.5), inLength) - first;
    const values = new Float64Array(length);
    let sum = 0;
    for (let x = 0; x < length; x++) sum += values[x] = weigh((x + first - center + 0.5) * inverse);
    for (let x = 0; x < length; x++) {
      const value = sum === 0 ? values[x] : values[x] / sum;
      weights[i * size + x] = Math.trunc(value * ONE + (value < 0 ? -0.5 : 0.5));
    }
    firsts[i] = first;
    lengths[i] = length;
  }
  return { firsts, lengths, weights, size };
}

/** Return the taps of OpenCV's INTER_AREA for a side that is reduced: the parts of the pixels that are covered. */
export function findAreaTaps(inLength, outLength) {
  const scale = inLength / outLength, size = Math.ceil(scale) + 1;
  const firsts = new Int32Array(outLength), lengths = new Int32Array(outLength);
  const weights = new Int32Array(outLength * size);
  for (let i = 0; i < outLength; i++) {
    const start = i * scale, end = Math.min((i + 1) * scale, inLength), first = Math.floor(start);
    const last = Math.min(Math.ceil(end - 1e-9), inLength);
    for (let x = first; x < last; x++) {
      const covered = Math.min(x + 1, end) - Math.max(x, start);
      weights[i * size + x - first] = Math.round(covered / (end - start) * ONE);
    }
    firsts[i] = first;
    lengths[i] = last - first;
  }
  return { firsts, lengths, weights, size };
}

const clip = sum => {
  const value = sum >> PRECISION;
  return value < 0 ? 0 : value > 255 ? 255 : value;
};

/** Pack three sums into the four bytes of a pixel. */
const pack = (red, green, blue) => clip(red) | (clip(green) << 8) | (clip(blue) << 16) | 0xff000000;

/** Resize along x: rows `top` to `bottom` of packed pixels, to one column for each of the taps. */
function resizeColumns(pixels, width, top, bottom, { firsts, lengths, weights, size }) {
  const columns = firsts.length, result = new Uint32Array(columns * (bottom - top));
  for (let y = top, at = 0; y < bottom; y++) {
    for (let i = 0; i < columns; i++, at++) {
      let red = ONE / 2, green = ONE / 2, blue = ONE / 2;
      let from = y * width + firsts[i];
      for (let x = i * size, end = x + lengths[i]; x < end; x++, from++) {
        const weight = weights[x], pixel = pixels[from];
        red = (red + Math.imul(pixel & 255, weight)) | 0;
        green = (green + Math.imul((pixel >> 8) & 255, weight)) | 0;
        blue = (blue + Math.imul((pixel >> 16) & 255, weight)) | 0;
      }
      result[at] = pack(red, green, blue);
    }
  }
  return result;
}

/** Resize along y, to one row for each of the taps. `top` is the row of the photo that the pixels begin with. */
function resizeRows(pixels, width, top, { firsts, lengths, weights, size }) {
  const rows = firsts.length, result = new Uint32Array(rows * width);
  for (let i = 0, at = 0; i < rows; i++) {
    for (let column = 0; column < width; column++, at++) {
      let red = ONE / 2, green = ONE / 2, blue = ONE / 2;
      let from = (firsts[i] - top) * width + column;
      for (let y = i * size, end = y + lengths[i]; y < end; y++, from += width) {
        const weight = weights[y], pixel = pixels[from];
        red = (red + Math.imul(pixel & 255, weight)) | 0;
        green = (green + Math.imul((pixel >> 8) & 255, weight)) | 0;
        blue = (blue + Math.imul((pixel >> 16) & 255, weight)) | 0;
      }
      result[at] = pack(red, green, blue);
    }
  }
  return result;
}

/** Copy a part of packed pixels. */
function crop(pixels, width, left, top, outWidth, outHeight) {
  const result = new Uint32Array(outWidth * outHeight);
  for (let y = 0; y < outHeight; y++) {
    const from = (top + y) * width + left;
    result.set(pixels.subarray(from, from + outWidth), y * outWidth);
  }
  return result;
}

// The bytes of a pixel as one number, red lowest: every browser's machine is little-endian, as WebAssembly is.
const packPixels = pixels => new Uint32Array(pixels.buffer, pixels.byteOffset, pixels.length / 4);
const unpackPixels = pixels => new Uint8ClampedArray(pixels.buffer);

function resizeByTaps(pixels, width, across, down) {
  // Only the rows that the second pass reads are computed in the first.
  let top = Infinity, bottom = 0;
  for (let i = 0; i < down.firsts.length; i++) {
    top = Math.min(top, down.firsts[i]);
    bottom = Math.max(bottom, down.firsts[i] + down.lengths[i]);
  }
  return resizeRows(resizeColumns(pixels, width, top, bottom, across), across.firsts.length, top, down);
}

const keepSide = (start, count) => ({
  firsts: Int32Array.from({ length: count }, (_, i) => start + i), lengths: new Int32Array(count).fill(1),
  weights: new Int32Array(count).fill(ONE), size: 1,
});

/**
 * Resize a photo as Pillow does, and return a part of the result. Only that part is computed.
 *
 * @param pixels RGBA of the photo
 * @param size [height, width] of the photo
 * @param resized [height, width] to which the photo is resized
 * @param box [left, top, width, height] of the part, inside what is resized
 * @param interpolation "bilinear" or "bicubic"
 * @returns RGBA of the part
 */
export function resizeAsPillow(pixels, [height, width], [newHeight, newWidth], box, interpolation) {
  const [left, top, outWidth, outHeight] = box, packed = packPixels(pixels);
  if (height === newHeight && width === newWidth) return unpackPixels(crop(packed, width, ...box));
  // Pillow leaves out the pass along a side that keeps its length.
  const find = (length, outLength, start, count) => length === outLength
    ? keepSide(start, count) : findTaps(length, outLength, start, count, interpolation);
  const across = find(width, newWidth, left, outWidth), down = find(height, newHeight, top, outHeight);
  return unpackPixels(resizeByTaps(packed, width, across, down));
}

/** Reduce a photo for its drawing, by the mean of the covered pixels; or enlarge it, by its nearest pixels. */
export function resizeForDrawing(pixels, [height, width], [newHeight, newWidth], reduce) {
  const source = packPixels(pixels);
  if (reduce) {
    return unpackPixels(resizeByTaps(source, width, findAreaTaps(width, newWidth), findAreaTaps(height, newHeight)));
  }
  const target = new Uint32Array(newHeight * newWidth);
  for (let y = 0; y < newHeight; y++) {
    const row = Math.min(Math.floor(y * height / newHeight), height - 1) * width;
    for (let x = 0; x < newWidth; x++) {
      target[y * newWidth + x] = source[row + Math.min(Math.floor(x * width / newWidth), width - 1)];
    }
  }
  return unpackPixels(target);
}
