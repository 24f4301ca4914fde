// The maps of a viewer, without the DOM. Their numbers come from inspector/output/viewer.py.

import { decodeValues } from "./map_drawing.js";
import { formatFixed } from "./numbers.js";

export const MEAN = -1; // stands for the mean of all classes, where a class has its index

// What a viewer shows at first, with the top class: the defaults of ViewState in inspector/ui/state/view_state.py.
export const FIRST = {
  against: null, view: "class map", number: "contributions", colors: "inspector", gray: true, smooth: true, opacity: 0.85,
  cell: null, masked: [], change: "blur", above: 50, pinned: false, by_logit: false, finer: 1, boxes: "none",
  threshold: 0.3, points: false,
};

const decode = values => (typeof values === "string" ? decodeValues(values) : values);

/** The classes of a viewer with decoded maps: class -> { logit, probability, bias, contributions, scores }. JSON has null for NaN. */
export function decodeClasses(classes) {
  return Object.fromEntries(Object.entries(classes).map(([k, one]) => [k, {
    ...one, logit: one.logit ?? NaN, contributions: decode(one.contributions), scores: one.scores && decode(one.scores),
  }]));
}

/** The channels of a viewer with decoded numbers: { shares, weights by class }; null if they were not sent. */
export function decodeChannels(channels) {
  if (!channels) return null;
  const weights = Object.entries(channels.weights).map(([k, weight]) => [k, decode(weight)]);
  return { shares: decode(channels.shares), weights: Object.fromEntries(weights) };
}

const sumValues = values => values.reduce((sum, value) => sum + value, 0);

/**
 * The map of class k, or of its contrast with another class or the mean of all; null if its numbers were not sent.
 *
 * number: "contributions", which sum to the total less the bias, or "scores".
 */
export function readMap(classes, k, against, number) {
  const one = classes[k], other = against === null ? null : classes[against];
  if (!one || other === undefined || !one[number]) return null;
  const values = other ? one[number].map((value, i) => value - other[number][i]) : one[number];
  const bias = one.bias - (other ? other.bias : 0), total = one.logit - (other ? other.logit : 0);
  return { values, bias, total, sum: sumValues(values) };
}

/** The |value| with the strongest color in all of some maps; null for those that were not sent. */
export function findScale(maps) {
  return maps.reduce((scale, map) => (map ? map.values.reduce((a, b) => Math.max(a, Math.abs(b)), scale) : scale), 0);
}

/** The cells whose value is more than so many percent of the highest; none if no value is positive. */
export function findCellsAbove(values, percent, columnCount) {
  const highest = values.reduce((a, b) => Math.max(a, b), -Infinity), cells = [];
  if (highest <= 0) return cells;
  values.forEach((value, i) => {
    if (value > highest * percent / 100) cells.push([Math.floor(i / columnCount), i % columnCount]);
  });
  return cells;
}

const mixChannels = (colors, level) => {
  const density = colors[4 * level + 3] / 255;
  return [0, 1, 2].map(channel => Math.round(255 * (1 - density) + colors[4 * level + channel] * density));
};

/** The opaque color of a level over white, as a CSS color. */
export function mixWithWhite(colors, level) {
  return `rgb(${mixChannels(colors, level).join(", ")})`;
}

/** Whether white text is easier to read than black text on a level over white. */
export function isDark(colors, level) {
  const [red, green, blue] = mixChannels(colors, level).map(part => (part / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.18;
}

/** The index of the name that a text means: the same name, else the first that begins with it, else that holds it. */
export function findName(names, text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return -1;
  const lower = names.map(name => name.toLowerCase());
  const exact = names.indexOf(text.trim());
  if (exact >= 0) return exact;
  const tests = [name => name === wanted, name => name.startsWith(wanted), name => name.includes(wanted)];
  return tests.reduce((found, test) => (found >= 0 ? found : lower.findIndex(test)), -1);
}

/** How a viewer draws its maps, for paintMap. Where the place of the cells is unknown, the bare grid is drawn. */
export function makeFrame({ draw_size: size, grid, down, across, misplaced }, smooth, opacity) {
  return { size, grid, down, across, smooth: smooth && misplaced === null, opacity };
}

/** The values of the network's own cells on a grid that is so many times finer; all others are replaced. */
export function keepOwnCells(values, columnCount, factor, other) {
  const isOwn = i => Math.floor(i / columnCount) % factor === 0 && (i % columnCount) % factor === 0;
  return values.map((value, i) => (isOwn(i) ? value : other));
}

const formatParts = ({ sum, bias, total }, cells) => {
  // As many decimals as let the rounded numbers add up, too: nobody should have to think about rounding here.
  const addsUp = digits => {
    const [all, map, rest] = [total, sum, bias].map(value => Math.round(value * 10 ** digits));
    return map + rest === all;
  };
  const digits = [3, 4, 5, 6].find(addsUp) ?? 3, [all, map, rest] = [total, sum, bias].map(x => formatFixed(x, digits));
  return `${all} = ${cells} ${map} + bias ${rest}`;
};

/** What the value of a cell is: a contribution to a value or to a difference, or a class score. */
export const describeCells = ({ words, contrast_words: contrast }, { against, number }) =>
  number === "contributions" && against !== null ? contrast : words[number];

const formatResidual = (residual, units) =>
  `residual ${(residual ?? NaN).toExponential(0)} ${units}`.replaceAll("e-", "e\u2212").replace("e+0", "");

/** The sum of a map as { equation, note }, in words that fit the network. */
export function describeSum({ quantity, difference, units, residual, finer, factor, grid }, map, { against, number }) {
  const what = against === null ? quantity : difference, cells = finer ? "own cells" : "map";
  const note = `${cells} + bias = ${what} (${formatResidual(residual, units)})`;
  if (number === "scores") {
    const highest = map.values.reduce((a, b) => Math.max(a, b), -Infinity);
    const exact = `contributions sum: ${note}. Class scores do not.`;
    return { equation: `highest score ${formatFixed(highest, 3)}`, note: exact };
  }
  const shown = finer ? { ...map, sum: sumValues(keepOwnCells(map.values, grid[1], factor, 0)) } : map;
  return { equation: `${what[0].toUpperCase()}${what.slice(1)} ${formatParts(shown, cells)}`, note };
}

/** What a finer grid is: the mean of all its cells, and how they were computed; "" on the network's own grid. */
export function describeFiner({ quantity, difference, units, finer, factor, grid }, { k, against, number }) {
  if (!finer) return "";
  const means = finer.mean_logits, mean = (means[k] ?? NaN) - (against === null ? 0 : means[against] ?? NaN);
  const what = against === null ? quantity : difference, residual = formatResidual(finer.residual, units);
  const all = `All ${grid[0]} x ${grid[1]} cells average over ${factor ** 2} shifts of the photo`;
  const sum = `, whose mean ${what} is ${formatFixed(mean, 3)} (${finer.verdict}, ${residual})`;
  return `${all}${number === "scores" || Number.isNaN(mean) ? "" : sum}. ${finer.description}`;
}

/** The title of a map: "tiger cat", "tiger cat rather than tabby". */
export function nameContrast(names, { k, against }) {
  if (against === null) return names[k];
  return `${names[k]} rather than ${against === MEAN ? "the mean of all classes" : names[against]}`;
}
