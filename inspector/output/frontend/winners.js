// The class with the highest value in each cell, painted in its color.

import { interpolate } from "./map_drawing.js";

/** RGBA pixels (height * width * 4): each cell in the color of its class. A cell without a winner is transparent. */
export function paintWinners({ size: [height, width], grid: [h, w], down, across, opacity }, { colors, cells }) {
  const pixels = new Uint8ClampedArray(4 * height * width), columns = interpolate(across, w, width, false);
  interpolate(down, h, height, false).forEach((place, y) => {
    if (!place) return;
    const row = Math.round(place[0] + place[1]) * w;
    for (let x = 0; x < width; x++) {
      const color = columns[x] && colors[cells[row + Math.round(columns[x][0] + columns[x][1])]];
      // Every cell is painted, so the color is less opaque than in a class map: the photo has to stay visible.
      if (color) pixels.set([...color, Math.round(255 * 0.6 * opacity)], 4 * (y * width + x));
    }
  });
  return pixels;
}
