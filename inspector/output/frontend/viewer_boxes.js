// Boxes around the evidence of a map, as the server found them at every threshold: chosen, drawn and listed.

import { drawBox } from "./cells.js";
import { makeElement } from "./elements.js";
import { formatFixed } from "./numbers.js";

const MAX_ROWS = 6; // of the list; further boxes are counted only

/** Whether boxes are shown: those of the class map. */
export const hasBoxes = ({ boxes, view }) => boxes !== "none" && view === "class map";

/**
 * What is shown at the chosen threshold: a list of { k, color, boxes, points, reason }, one for each class.
 *
 * null while the boxes of the map that is shown have not arrived. A box is [x, y, width, height, share of the
 * evidence], a point [x, y, value], in pixels of the photo.
 */
export function chooseBoxes(located, state) {
  const { k, against, number, threshold, boxes, points } = state;
  if (!located || JSON.stringify(located.of) !== JSON.stringify([k, against, number])) return null;
  return located.classes.map(({ k: of, color, at }) => {
    const found = at[located.thresholds.indexOf(threshold)];
    const shown = boxes === "largest" ? found.boxes.slice(0, 1) : found.boxes;
    return { k: of, color, boxes: shown, points: points ? found.points : [], reason: found.reason };
  });
}

/** SVG path of boxes. */
export const drawBoxes = boxes => boxes.map(([x, y, width, height]) => drawBox(x, y, x + width, y + height)).join("");

/** SVG path of points: lines without length, whose round ends make dots. */
export const drawPoints = points => points.map(([x, y]) => `M${x} ${y}h0`).join("");

/** A box as the cells of the list: x, y, width and height in pixels of the photo, and its share of the evidence. */
export const describeBox = ([x, y, width, height, share]) =>
  [...[x, y, width, height].map(value => formatFixed(value, 0)), `${formatFixed(100 * share, 1)} %`];

function drawMarks(group, chosen) {
  const paths = chosen.flatMap(({ color, boxes, points }) => [
    ["box-halo", drawBoxes(boxes)], ["point-halo", drawPoints(points)],
    ["box", drawBoxes(boxes), color], ["point", drawPoints(points), color],
  ]);
  group.replaceChildren(...paths.filter(([, path]) => path).map(([name, path, color]) => {
    const element = document.createElementNS(group.namespaceURI, "path");
    element.setAttribute("class", name);
    element.setAttribute("d", path);
    if (color) element.style.stroke = color;
    return element;
  }));
}

function makeBoxRow(tag, texts, color) {
  const cells = texts.map((text, i) => makeElement(i ? tag : "th", {}, text));
  if (color) {
    const patch = makeElement("i");
    patch.style.background = color;
    cells[0].prepend(patch);
  }
  return makeElement("tr", {}, ...cells);
}

/** Draw the boxes over both pictures, and list them below the map. */
export function showBoxes(root, data, state) {
  const place = root.querySelector(".found"), groups = root.querySelectorAll("svg .located");
  const isOn = hasBoxes(state), chosen = isOn ? chooseBoxes(data.located, state) : [];
  groups.forEach(group => drawMarks(group, chosen ?? []));
  place.hidden = !isOn;
  if (!isOn) return;
  if (!chosen) return place.replaceChildren(makeElement("p", {}, "Locating the evidence ..."));
  if (data.located.error) return place.replaceChildren(makeElement("p", { role: "alert" }, data.located.error));
  const rows = chosen.flatMap(({ k, color, boxes }) => boxes.map(box => makeBoxRow("td", [data.names[k], ...describeBox(box)], color)));
  const head = makeBoxRow("th", ["Box, in pixels of the photo", "x", "y", "width", "height", "evidence inside"]);
  const more = rows.length - MAX_ROWS;
  place.replaceChildren(
    ...(rows.length ? [makeElement("table", {}, head, ...rows.slice(0, MAX_ROWS))] : []),
    ...(more > 0 ? [makeElement("p", {}, `and ${more} more`)] : []),
    ...chosen.filter(({ boxes }) => !boxes.length).map(({ k, reason }) => makeElement("p", {}, `${data.names[k]}: ${reason}`)),
  );
}
