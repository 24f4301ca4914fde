// Draws a class map over a photo in the browser, with the same colors as inspector/output/overlay.py.

export const COLOR_AGAINST = [20, 70, 200], COLOR_FOR = [200, 20, 40];
const LEVELS = 127; // color levels on each side of zero
const LARGEST = 32767; // encoded value of a cell that has the strongest color

/** Decode the cells of a map, row by row, from base64 of 16-bit integers. */
export function decodeCells(cells) {
  const bytes = Uint8Array.from(atob(cells), character => character.charCodeAt(0));
  return new Int16Array(bytes.buffer);
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

/** RGBA pixels (height * width * 4) of a map. Values farther from zero are more opaque. */
export function paintMap({ size: [height, width], grid: [h, w], down, across, smooth, opacity }, values) {
  const pixels = new Uint8ClampedArray(4 * height * width);
  const columns = interpolate(across, w, width, smooth), row = new Float32Array(w);
  interpolate(down, h, height, smooth).forEach((place, y) => {
    if (!place) return;
    const [cell, below] = place, first = cell * w, second = h > 1 ? first + w : first;
    for (let x = 0; x < w; x++) row[x] = values[first + x] * (1 - below) + values[second + x] * below;
    for (let x = 0; x < width; x++) {
      if (!columns[x]) continue;
      const [left, right] = columns[x];
      const value = row[left] * (1 - right) + (w > 1 ? row[left + 1] * right : 0);
      const level = Math.round(value / LARGEST * LEVELS), color = level < 0 ? COLOR_AGAINST : COLOR_FOR;
      const i = 4 * (y * width + x);
      pixels[i] = color[0];
      pixels[i + 1] = color[1];
      pixels[i + 2] = color[2];
      pixels[i + 3] = Math.round(255 * opacity * Math.abs(level) / LEVELS);
    }
  });
  return pixels;
}

/** Draw an encoded map on a canvas. */
export function drawMap(canvas, frame, cells) {
  const [height, width] = frame.size;
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(paintMap(frame, decodeCells(cells)), width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
}
