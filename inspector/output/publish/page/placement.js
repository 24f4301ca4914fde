// Where the cells of a map lie on the photo, as in inspector/explain/grid.py.
//
// A field is { y, x, misplaced } with axes { centre, stride, size } in pixels of the network's input; a size of null is
// infinite, as JSON has no infinity. A crop is { photo_size, box, input_size }, as makeView returns it.

import { roundHalfEven } from "./preprocessing.js";

const listSides = ({ box: [left, top, right, bottom], input_size, photo_size }, { y, x }) => [
  [y, top, bottom, input_size[0], photo_size[0]], [x, left, right, input_size[1], photo_size[1]],
];

/** Return, for rows and columns, [slope, offset, start, end]: where the cells lie along the sides of the photo. */
export function placeAxes(crop, field) {
  return listSides(crop, field).map(([axis, start, end, inputLength, photoLength]) => {
    const scale = inputLength / (end - start), slope = photoLength * scale, offset = -start * scale;
    return [slope / axis.stride, (offset - axis.centre) / axis.stride, start / photoLength, end / photoLength];
  });
}

/** Return the rows and the columns of cells: each [start, end, center, first, last] in pixels of the photo. */
export function findExtents(grid, crop, field) {
  if (field.misplaced !== null) {
    const [height, width] = crop.photo_size;
    const even = crop.input_size.map((pixels, i) => {
      const stride = pixels / grid[i];
      return { centre: stride / 2, stride, size: null };
    });
    [crop, field] = [{ ...crop, box: [0, 0, width, height] }, { y: even[0], x: even[1] }];
  }
  return listSides(crop, field).map((side, i) => findSideExtents(grid[i], ...side));
}

function findSideExtents(cells, axis, first, last, length, photo) {
  const scale = (last - first) / length, size = axis.size ?? Infinity;
  const limit = (value, high) => Math.min(Math.max(value, 0), high);
  const onPhoto = place => limit(first + limit(place, length) * scale, photo);
  return Array.from({ length: cells }, (_, i) => {
    const center = axis.centre + i * axis.stride;
    // The first and the last cell extend to the edges of the crop.
    const start = i ? center - axis.stride / 2 : -Infinity, end = i < cells - 1 ? center + axis.stride / 2 : Infinity;
    const seen = [onPhoto(center - size / 2), onPhoto(center + size / 2)];
    return [onPhoto(start), onPhoto(end), first + center * scale, ...seen];
  });
}

/** Return the [height, width] of a drawing of the photo whose longer side has `side` pixels. */
export function fitSize(photoSize, side) {
  const factor = side / Math.max(...photoSize);
  return photoSize.map(length => Math.max(1, roundHalfEven(length * factor)));
}
