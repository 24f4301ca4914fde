// Make what the viewer draws of one photo, as inspector/output/viewer.py does in Python.

import { checkSums, computeProbabilities, computeScores, computeShares, findMaxima, findTop } from "./evidence.js";
import { findExtents, fitSize, placeAxes } from "./placement.js";

const MEAN = -1; // stands for the mean of all classes, where a class has its index
const TOP = 5; // classes that are listed

/** Return the mean of the rows of an array (n, length). */
function average(values, count) {
  const length = values.length / count, mean = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    let sum = 0;
    for (let k = 0; k < count; k++) sum += values[k * length + i];
    mean[i] = sum / count;
  }
  return mean;
}

function* listRows(values, count) {
  const length = values.length / count;
  for (let k = 0; k < count; k++) yield [k, values.subarray(k * length, (k + 1) * length)];
  yield [MEAN, average(values, count)];
}

/** Return the classes by index: { k, logit, probability, bias, contributions, scores }, and the mean of all of them. */
function listClasses(outcome, network) {
  const { logits, maps } = outcome, { bias } = network.head, count = logits.length;
  const probabilities = computeProbabilities(network.activation, logits);
  const scores = network.shows_scores ? computeScores(outcome, network.head, count) : null;
  const scoreOf = scores && Object.fromEntries(listRows(scores, count));
  const [meanLogit, meanBias] = [average(logits, count)[0], average(bias, count)[0]];
  return Object.fromEntries([...listRows(maps, count)].map(([k, contributions]) => [k, {
    k,
    logit: k === MEAN ? meanLogit : logits[k],
    probability: k === MEAN || !probabilities ? null : probabilities[k],
    bias: k === MEAN ? meanBias : bias[k],
    contributions,
    scores: scoreOf && scoreOf[k],
  }]));
}

/** Return the notes on the cells of max pooling, and the index of each cell's note. */
function noteMaxima({ features, grid: [h, w] }, pooling) {
  if (pooling !== "max") return { notes: [], note_of: [] };
  const counts = new Array(h * w).fill(0);
  findMaxima(features, h * w).forEach(cell => { if (cell >= 0) counts[cell] += 1; });
  const name = (_, count) => `, maximum of ${count} channel${count === 1 ? "" : "s"}`;
  return { notes: Array.from({ length: Math.max(...counts) + 1 }, name), note_of: counts };
}

/**
 * Make the data of the viewer, but for what is the same for every photo: `viewer` of network.json, and the weights by
 * class.
 *
 * @param network network.json, with the weight of the head
 * @param outcome what the network returned for the photo, see evidence.js
 * @param photo { url, name, gray: its mean brightness }
 * @param crop where the network's input lies on the photo
 * @param side longer side of the drawing, in pixels
 */
export function makeViewerData(network, outcome, photo, crop, side) {
  const { head, receptive_field: field } = network, { grid } = outcome, isPlaced = field.misplaced === null;
  const [down, across] = isPlaced ? placeAxes(crop, field) : grid.map(cells => [cells, -0.5, 0, 1]);
  const [rows, columns] = findExtents(grid, crop, field), { residual, verdict } = checkSums(outcome, head);
  return {
    photo: photo.url,
    photo_name: photo.name,
    photo_gray: isPlaced ? photo.gray : 255,
    photo_size: crop.photo_size,
    crop: crop.box,
    draw_size: fitSize(crop.photo_size, side),
    grid,
    down,
    across,
    rows,
    columns,
    top: findTop(outcome.logits, TOP),
    classes: listClasses(outcome, network),
    shares: computeShares(outcome, head.pooling),
    ...noteMaxima(outcome, head.pooling),
    residual,
    verdict,
    ...network.verdicts[verdict],
  };
}
