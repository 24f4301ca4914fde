// Draws a class map over a photo in the browser, with the same colors as inspector/output/overlay.py.

const LEVELS = 127; // color levels on each side of zero
const LARGEST = 32767; // encoded value of a cell that has the strongest color

const decodeBytes = text => Uint8Array.from(atob(text), character => character.charCodeAt(0));

/** The color map from inspector/output/colormaps.py: red, green, blue and density of each of the 255 levels. */
export const decodeColors = decodeBytes;

/** Decode the cells of a map, row by row, from base64 of 16-bit integers. */
export function decodeCells(cells) {
  return new Int16Array(decodeBytes(cells).buffer);
}

/** Decode the values of a map, row by row, from base64 of 32-bit floats. */
export function decodeValues(values) {
  return new Float32Array(decodeBytes(values).buffer);
}

/** The color level of a value, from 0 to 254; 127 is zero. `scale` is the |value| that has the strongest color. */
export function findLevel(value, scale) {
  return LEVELS + Math.max(-LEVELS, Math.min(LEVELS, Math.round(value / (scale || 1) * LEVELS)));
}

/**
 * Find, for each pixel along one side of the drawing, the two cells that it lies between.
 *
 * placement: [slope, offset, start, end]. The place s (0 to 1 along the side) lies at cell slope * s + offset. The
 * network saw the places from start to end.
 * Returns [first of the two cells, weight of the second] for each pixel; null for a pixel that the network did not see.
 */
export function interpolate([slope, offset, start, end], cells, length, smooth) {
  return Array.from({ length }, (_, pixel) => {
    const place = (pixel + 0.5) / length;
    if (place < start || place > end) return null;
    let position = Math.min(Math.max(slope * place + offset, 0), cells - 1);
    if (!smooth) position = Math.round(position);
    const cell = Math.min(Math.floor(position), Math.max(cells - 2, 0));
    return [cell, position - cell];
  });
}

/**
 * RGBA pixels (height * width * 4) of a map. Zero is transparent.
 *
 * colors: from decodeColors. scale: the |value| that has the strongest color.
 */
export function paintMap(frame, values, colors, scale) {
  const { size: [height, width], grid: [h, w], down, across, smooth, opacity } = frame;
  const pixels = new Uint8ClampedArray(4 * height * width), words = new Uint32Array(pixels.buffer); // a word per pixel
  const palette = new Uint32Array(setOpacity(colors, opacity).buffer), row = new Float32Array(w + 1);
  const columns = interpolate(across, w, width, smooth), start = columns.findIndex(Boolean);
  const seen = columns.filter(Boolean), lefts = Int32Array.from(seen, ([left]) => left);
  const rights = Float64Array.from(seen, ([, right]) => right);
  interpolate(down, h, height, smooth).forEach((place, y) => {
    if (!place) return;
    const [cell, below] = place, first = cell * w, second = h > 1 ? first + w : first;
    for (let x = 0; x < w; x++) row[x] = values[first + x] * (1 - below) + values[second + x] * below;
    const begin = y * width + start;
    for (let x = 0; x < lefts.length; x++) {
      const left = lefts[x], right = rights[x];
      words[begin + x] = palette[findLevel(row[left] * (1 - right) + row[left + 1] * right, scale)];
    }
  });
  return pixels;
}

/** The colors from decodeColors with an opacity: red, green, blue and alpha of each level. */
function setOpacity(colors, opacity) {
  return Uint8ClampedArray.from(colors, (part, i) => (i % 4 === 3 ? Math.round(opacity * part) : part));
}

/** RGBA pixels (height * width * 4) of a photo in gray: luma of ITU-R BT.601, as OpenCV computes it. */
export function paintGray(pixels) {
  const gray = new Uint8ClampedArray(pixels.length);
  for (let i = 0; i < pixels.length; i += 4) {
    const luma = Math.round(0.299 * pixels[i] + 0.587 * pixels[i + 1] + 0.114 * pixels[i + 2]);
    gray[i] = gray[i + 1] = gray[i + 2] = luma;
    gray[i + 3] = pixels[i + 3];
  }
  return gray;
}

/** RGBA pixels (height * width * 4) of a color bar: from the lowest value to the highest, over one gray of a photo. */
export function paintBar(height, width, colors, lowest, opacity, gray) {
  const pixels = new Uint8ClampedArray(4 * height * width);
  for (let x = 0; x < width; x++) {
    const level = 4 * findLevel(lowest + (1 - lowest) * x / (width - 1), 1), alpha = opacity * colors[level + 3] / 255;
    const mixed = [0, 1, 2].map(channel => Math.round(gray * (1 - alpha) + colors[level + channel] * alpha));
    for (let y = 0; y < height; y++) pixels.set([...mixed, 255], 4 * (y * width + x));
  }
  return pixels;
}

/** Put RGBA pixels on a canvas. */
export function putPixels(canvas, pixels, height, width) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
}

/** Draw an encoded map on a canvas. */
export function drawMap(canvas, frame, cells) {
  const pixels = paintMap(frame, decodeCells(cells), decodeColors(frame.colors), LARGEST);
  putPixels(canvas, pixels, ...frame.size);
}
