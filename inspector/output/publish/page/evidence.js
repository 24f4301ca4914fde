// What follows from the outputs of the network: probabilities, class scores, shares of the channels, the check of the sums.
//
//     logits[k] = bias[k] + sum over y, x of  maps[k, y, x]
//
// An outcome is { logits (K), maps (K, h, w), features (C, h, w), grid: [h, w] }, in flat arrays. A head is
// { pooling, bias (K), weight (K, P), tolerance, verdict }; the weight is null if each feature map is a class map.

/** Compute class probabilities (K) from logits as the network does; null where there are none. */
export function computeProbabilities(activation, logits) {
  if (activation === "softmax") {
    const highest = logits.reduce((a, b) => Math.max(a, b)), powers = Array.from(logits, value => Math.exp(value - highest));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map(value => value / sum);
  }
  if (activation === "sigmoid") return Array.from(logits, value => 0.5 * (1 + Math.tanh(value / 2)));
  return activation === "identity" ? Array.from(logits) : null;
}

/** Return the indices of the classes with the highest logits; of equal ones, the lower index first. */
export const findTop = (logits, count) => Array.from(logits.keys())
  .sort((a, b) => logits[b] - logits[a] || a - b).slice(0, count);

/** Return for each channel the first cell, row by row, with its maximum; -1 if the maximum is 0. */
export function findMaxima(features, area) {
  return Array.from({ length: features.length / area }, (_, c) => {
    let best = c * area;
    for (let i = best + 1; i < (c + 1) * area; i++) if (features[i] > features[best]) best = i;
    return features[best] === 0 ? -1 : best - c * area;
  });
}

/** Return what each cell adds to each pooled value, (C, h, w). Flattened feature maps are the pooled values themselves. */
export function computeShares({ features, grid: [h, w] }, pooling) {
  if (pooling === "flatten") return features;
  if (pooling === "average") return features.map(value => value / (h * w));
  const shares = new Float32Array(features.length);
  findMaxima(features, h * w).forEach((cell, c) => {
    if (cell >= 0) shares[c * h * w + cell] = features[c * h * w + cell];
  });
  return shares;
}

/** Return the class scores before pooling, (K, h, w), of average or max pooling. */
export function computeScores({ maps, features, grid: [h, w] }, { pooling, weight }, classes) {
  const area = h * w;
  if (pooling === "average") return maps.map(value => value * area);
  if (weight === null) return features;
  const scores = new Float32Array(classes * area), channels = features.length / area;
  for (let k = 0; k < classes; k++) {
    for (let c = 0; c < channels; c++) {
      const factor = weight[k * channels + c];
      for (let i = 0; i < area; i++) scores[k * area + i] += factor * features[c * area + i];
    }
  }
  return scores;
}

/**
 * Check that the maps sum to the network's own logits, class by class.
 *
 * @returns { residual: the largest difference in logits, verdict: that of the head, or "not exact" }
 */
export function checkSums(outcome, head) {
  const { logits, maps, grid: [h, w] } = outcome, area = h * w, doubtful = [];
  let residual = 0;
  for (let k = 0; k < logits.length; k++) {
    let sum = head.bias[k], total = Math.abs(sum);
    for (let i = k * area; i < (k + 1) * area; i++) {
      sum += maps[i];
      total += Math.abs(maps[i]);
    }
    const error = Math.abs(sum - logits[k]);
    residual = error <= residual || Number.isNaN(residual) ? residual : error; // NaN is the largest error
    if (!(error <= head.tolerance * total)) doubtful.push([k, error]);
  }
  const isExact = doubtful.length === 0 || isRounding(outcome, head, doubtful);
  return { residual, verdict: isExact ? head.verdict : "not exact" };
}

/** Tell whether rounding explains the errors of some classes: their channels may cancel in each cell. */
function isRounding(outcome, head, doubtful) {
  const area = outcome.grid[0] * outcome.grid[1], shares = computeShares(outcome, head.pooling);
  const isFlat = head.pooling === "flatten", width = isFlat ? shares.length : shares.length / area;
  const pooled = isFlat ? shares : Float64Array.from({ length: width }, (_, c) => {
    let sum = 0;
    for (let i = c * area; i < (c + 1) * area; i++) sum += shares[i];
    return sum;
  });
  return doubtful.every(([k, error]) => {
    let total = Math.abs(head.bias[k]);
    for (let p = 0; p < width; p++) {
      const weight = head.weight === null ? Number(p === k) : head.weight[k * width + p];
      total += Math.abs(weight * pooled[p]);
    }
    return error <= head.tolerance * total;
  });
}
