// Draws a map over a photo, pixel by pixel as render.py's spread and overlay do; a browser test holds them together.
const AGAINST = [20, 70, 200], FOR = [200, 20, 40], LEVELS = 127;

const read = cells => {
  const bytes = Uint8Array.from(atob(cells), character => character.charCodeAt(0));
  return new Int16Array(bytes.buffer);
};

// Of every pixel along one side the cell before it, and how far on the way to the next it is; null: unseen.
const places = ([slope, offset, start, end], cells, length, smooth) =>
  Array.from({ length }, (_, i) => {
    const place = (i + 0.5) / length;
    if (place < start || place > end) return null;
    let position = Math.min(Math.max(slope * place + offset, 0), cells - 1);
    if (!smooth) position = Math.round(position);
    const cell = Math.min(Math.floor(position), Math.max(cells - 2, 0));
    return [cell, position - cell];
  });

function draw(canvas, { size: [height, width], grid: [h, w], down, across, smooth, opacity }, cells) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height), pixels = image.data;
  const values = read(cells), columns = places(across, w, width, smooth), line = new Float32Array(w);
  places(down, h, height, smooth).forEach((row, y) => {
    if (!row) return;
    const [cell, part] = row, first = cell * w, next = h > 1 ? first + w : first;
    for (let x = 0; x < w; x++) line[x] = values[first + x] * (1 - part) + values[next + x] * part;
    for (let x = 0; x < width; x++) {
      if (!columns[x]) continue;
      const [left, way] = columns[x];
      const value = line[left] * (1 - way) + (w > 1 ? line[left + 1] * way : 0);
      const level = Math.round(value / 32767 * LEVELS), hue = level < 0 ? AGAINST : FOR;
      const i = 4 * (y * width + x);
      pixels[i] = hue[0];
      pixels[i + 1] = hue[1];
      pixels[i + 2] = hue[2];
      pixels[i + 3] = Math.round(255 * opacity * Math.abs(level) / LEVELS);
    }
  });
  context.putImageData(image, 0, 0);
}
