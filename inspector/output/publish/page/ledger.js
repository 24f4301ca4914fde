// The logit of a class as a sum over the channels, with the weights of the head.

import { makeElement } from "../../frontend/elements.js";
import { formatFixed, formatSignedFixed } from "../../frontend/numbers.js";

const LISTED_PARTS = 8;

/**
 * Split the logit of class k over the channels.
 *
 * @param shares what each cell adds to each pooled value, (C, h, w)
 * @param weight of the class: one number for each channel, or for each value of `shares` if they are flattened
 * @returns [[channel, value], ...] by decreasing size; with the bias they sum to the logit
 */
export function splitLogit(shares, weight, area) {
  const count = shares.length / area, isFlat = weight.length !== count;
  const parts = Array.from({ length: count }, (_, c) => {
    let sum = 0;
    for (let i = c * area; i < (c + 1) * area; i++) sum += shares[i] * weight[isFlat ? i : c];
    return [c, sum];
  });
  return parts.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]) || a[0] - b[0]);
}

/** Show the strongest channels of class k, all others together, and the bias: they sum to the logit. */
export function showLedger(section, data, k) {
  const { logit, bias } = data.classes[k], { shares, weights } = data.channels;
  const parts = splitLogit(shares, weights[k], data.grid[0] * data.grid[1]);
  const listed = parts.slice(0, LISTED_PARTS).filter(([, value]) => value !== 0);
  const rest = parts.slice(listed.length).reduce((sum, [, value]) => sum + value, 0);
  const rows = listed.map(([channel, value]) => [`channel ${channel}`, formatSignedFixed(value, 3)]);
  const others = parts.length - listed.length;
  if (others) rows.push([`${others} other channel${others > 1 ? "s" : ""}`, formatSignedFixed(rest, 3)]);
  rows.push(["bias", formatSignedFixed(bias, 3)], [`${data.quantity} of the network`, formatFixed(logit, 3)]);
  const cell = (tag, text, attributes = {}) => {
    const element = makeElement(tag, attributes);
    element.textContent = text;
    return element;
  };
  section.querySelector("h2").textContent = `Channels of ${data.names[k]}`;
  section.querySelector(".table").replaceChildren(makeElement("table", {}, ...rows.map(([name, number]) => makeElement(
    "tr", {}, cell("th", name, { scope: "row" }), cell("td", number),
  ))));
  section.hidden = false;
}
