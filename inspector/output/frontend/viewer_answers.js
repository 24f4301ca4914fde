// What a viewer computes by itself where no server answers: the winning classes, the strongest channels of a cell, and
// the logits without masked cells. Without the DOM, by the same formulas as inspector/analysis.

import { isSameCell } from "./cells.js";
import { formatFixed, formatSignedFixed } from "./numbers.js";
import { MEAN } from "./viewer_maps.js";

const LISTED_CHANNELS = 5;

/** The indices of the classes whose maps are there, without the mean of all. */
export const listClasses = classes => Object.keys(classes).map(Number).filter(k => k !== MEAN).sort((a, b) => a - b);

const hasAll = (data, classes) => listClasses(classes).length === data.names.length;

/** Whether the winning classes can be found: the maps of all classes are there, on the network's own grid. */
export const canFindWinners = (data, classes) => data.factor === 1 && hasAll(data, classes);

/**
 * The class with the highest value in each cell, as inspector/analysis/positions.py finds it: what paintWinners paints,
 * notes on the cells, and the legend. The first classes have colors of their own; all others share the last color.
 */
export function findWinners({ names, grid: [h, w], pooling, winner_colors: hexes }, classes) {
  // Most cells of max pooling contribute to no logit, so their class scores are compared.
  const read = ({ scores, contributions }) => (pooling === "max" ? scores : contributions);
  const maps = names.map((_, k) => read(classes[k])), size = h * w;
  const values = new Float32Array(size), winner = new Int32Array(size);
  for (let i = 0; i < size; i++) {
    let best = 0, lowest = maps[0][i];
    for (let k = 1; k < maps.length; k++) {
      if (maps[k][i] > maps[best][i]) best = k;
      if (maps[k][i] < lowest) lowest = maps[k][i];
    }
    values[i] = maps[best][i];
    winner[i] = maps.length > 1 && values[i] === lowest ? -1 : best;
  }
  const counts = new Map();
  winner.forEach(k => k >= 0 && counts.set(k, (counts.get(k) ?? 0) + 1));
  const order = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || a - b), last = hexes.length - 1;
  const place = new Map(order.map((k, i) => [k, i]));
  const legend = order.slice(0, last).map((k, i) => ({ name: names[k], color: hexes[i], count: counts.get(k) }));
  const rest = order.slice(last);
  if (rest.length) {
    const count = rest.reduce((sum, k) => sum + counts.get(k), 0);
    legend.push({ name: `${rest.length} other class${rest.length > 1 ? "es" : ""}`, color: hexes[last], count });
  }
  return {
    cells: Array.from(winner, k => (k < 0 ? -1 : Math.min(place.get(k), last))),
    colors: hexes.map(color => [1, 3, 5].map(i => parseInt(color.slice(i, i + 2), 16))),
    values,
    // The last note is for cells in which all classes have the same value.
    notes: [...order.map(k => ` for ${names[k]}`), ": no class wins"],
    note_of: Array.from(winner, k => (k < 0 ? order.length : place.get(k))),
    legend,
  };
}

/**
 * The channels that add most to the logit of class k in cell i: { channels: [[channel, logits]], rest }.
 *
 * channels: { shares, weights }: what each cell adds to each pooled value, (C, h, w), and by class the weights of the
 * pooled values, one for each channel, or for each value of `shares` if the network flattens them. null if the weights
 * of this class are not there.
 */
export function findStrongest({ shares, weights }, k, i, cellCount) {
  const weight = weights[k];
  if (!weight) return null;
  const count = shares.length / cellCount, isFlat = weight.length !== count;
  const parts = Array.from({ length: count }, (_, c) => shares[c * cellCount + i] * weight[isFlat ? c * cellCount + i : c]);
  const order = parts.map((_, c) => c).sort((a, b) => Math.abs(parts[b]) - Math.abs(parts[a]) || a - b);
  const rest = order.slice(LISTED_CHANNELS).reduce((sum, c) => sum + parts[c], 0);
  const channels = order.slice(0, LISTED_CHANNELS).filter(c => parts[c] !== 0).map(c => [c, parts[c]]);
  return { channels, rest, others: count - channels.length };
}

/** What the chosen cell sees and its strongest channels, as lines of texts and channels. */
export function describeChosenCell(data, channels, { k, cell }) {
  const [row, column] = cell, lines = [], name = data.names[k];
  const found = channels && findStrongest(channels, k, row * data.grid[1] + column, data.grid[0] * data.grid[1]);
  if (found) {
    const listed = found.channels.flatMap(([c, value], i) => [
      ...(i ? [" \u00b7 "] : []), { channel: c, text: String(c) }, ` (${formatSignedFixed(value, 3)})`,
    ]);
    const ending = `; ${found.others} others ${formatSignedFixed(found.rest, 3)} together.`;
    lines.push([`Strongest channels for ${name}: `, ...(listed.length ? listed : ["none"]), ending]);
  } else if (channels) {
    lines.push([`The channels are here for ${listClasses(channels.weights).map(one => data.names[one]).join(", ")} only.`]);
  }
  return [...lines, [describeExtent(data, cell)]];
}

/** Which pixels of the photo a cell sees. */
function describeExtent({ rows, columns, misplaced }, [row, column]) {
  if (misplaced !== null) return "It lies somewhere in the photo: its place is unknown.";
  const [, , y, top, bottom] = rows[row], [, , x, left, right] = columns[column], round = value => formatFixed(value, 0);
  return `It sees the pixels x ${round(left)} to ${round(right)}, y ${round(top)} to ${round(bottom)} of the photo (dashed`
    + ` frame, its receptive field), centered at (${round(x)}, ${round(y)}).`;
}

/** Whether the logits without masked cells follow from the maps. */
export const canMask = ({ masked_at_head: rule, factor }) => Boolean(rule) && factor === 1;

/**
 * The logits without the masked cells, as inspector/analysis/masking.py computes them at the head: a table.
 *
 * data.masked_at_head: "subtract": each logit is its map plus the bias, so the masked cells are subtracted. "maximum":
 * each feature map is the score of one class, of which max pooling takes the highest one that is not masked.
 */
export function maskAtHead(data, classes, { k, masked }) {
  const [, w] = data.grid, isMasked = i => masked.some(cell => isSameCell(cell, [Math.floor(i / w), i % w]));
  if (data.masked_at_head === "maximum" && masked.length === data.grid[0] * w) {
    const error = "All cells are masked, and max pooling needs at least one. Leave one cell unmasked.";
    return { head: ["", ""], rows: [], note: "", error };
  }
  const without = ({ logit, contributions, scores }) => {
    if (data.masked_at_head === "subtract") return contributions.reduce((sum, value, i) => (isMasked(i) ? sum - value : sum), logit);
    const highest = keep => scores.reduce((best, value, i) => (keep(i) ? Math.max(best, value) : best), -Infinity);
    return logit + highest(i => !isMasked(i)) - highest(() => true);
  };
  const known = listClasses(classes), logits = Object.fromEntries(known.map(one => [one, without(classes[one])]));
  const best = read => known.reduce((a, b) => (read(b) > read(a) ? b : a));
  const listed = new Set([...data.top, k, best(one => classes[one].logit), best(one => logits[one])]);
  const rows = [...listed].map(one => [data.names[one], classes[one].logit, logits[one]]);
  const part = hasAll(data, classes) ? "" : ` Compared are the ${known.length} classes whose maps are here.`;
  return {
    head: [data.quantity, "original", "head"],
    rows: rows.map(([name, ...numbers]) => [name, ...numbers.map(number => formatFixed(number, 3))]),
    note: `Head: the masked cells are left out of the pooling, and nothing else changes; this is exact.${part}`,
    error: "",
  };
}
