// Class maps side by side on one scale: all of a network with few classes as numbers, and the top classes on the photo.

import { makeElement, setChildCount } from "../../../output/frontend/elements.js";
import { decodeColors, findLevel, paintGray, paintMap } from "../../../output/frontend/map_drawing.js";
import { formatFixed, formatPercent } from "../../../output/frontend/numbers.js";
import {
  decodeClasses, describeCells, describeSum, findScale, isDark, keepOwnCells, makeFrame, mixWithWhite, nameContrast, readMap,
} from "../../../output/frontend/viewer_maps.js";

const MAX_NUMBERED = 9; // columns; with more, a number does not fit into a cell
const CLICK = "Click a class to show it.";

const makeTile = () => makeElement("button", { type: "button", class: "tile" });
const makeText = (tag, text, attributes) => {
  const element = makeElement(tag, attributes);
  element.textContent = text;
  return element;
};
/** Let the viewer change its state: the class, or the order of all maps. */
const change = detail => document.dispatchEvent(new CustomEvent("inspector-change", { detail }));

export default function ({ data: [data], parentElement }) {
  const root = parentElement.querySelector(".inspector-class-maps"), classes = decodeClasses(data.classes);
  const { words, grid: [h, w], draw_size: [height, width] } = data;
  const mine = (root.inspector ??= { state: null, subject: null });
  if (mine.subject !== data.subject) Object.assign(mine, { subject: data.subject, state: data.state });
  const outcome = k => (classes[k].probability === null ? "" : ` ${formatPercent(classes[k].probability)}`);

  const showAll = () => {
    if (!data.all.length) return root.querySelector(".all")?.remove();
    const number = classes[data.all[0]].scores ? "scores" : "contributions";
    const place = root.querySelector(".all") ?? makeElement("section", { class: "all" });
    if (!place.isConnected) root.prepend(place);
    const order = mine.state.by_logit ? data.all.toSorted((a, b) => classes[b].logit - classes[a].logit) : data.all;
    const scale = findScale(data.all.map(k => readMap(classes, k, null, number)));
    const colors = decodeColors(data.colormaps[mine.state.colors].colors);
    const of = data.factor > 1 ? " of the network's own cells" : "";
    const framed = data.per_class ? `; the maximum${of}, which max pooling reads, is framed` : `; the highest${of} is framed`;
    const marked = data.pooling === "max" ? framed : "";
    if (!place.firstChild) {
      const box = makeElement("input", { type: "checkbox" });
      box.onchange = () => change({ by_logit: box.checked });
      const sorting = makeElement("label", {}, box, "sort by logit");
      place.append(makeElement("h2"), makeElement("p"), sorting, makeElement("div", { class: "tiles" }));
    }
    place.querySelector("input").checked = mine.state.by_logit;
    const limits = `\u00b1${scale.toPrecision(3)}`;
    place.children[0].textContent = "All class maps before pooling";
    place.children[1].textContent = `${words[number]}, on one scale (${limits})${marked}. ${CLICK}`;
    const tiles = place.children[3];
    tiles.style.setProperty("--widest", w <= 4 ? "calc(50% - .4rem)" : "100%"); // two side by side on a small screen
    setChildCount(tiles, order.length, makeTile);
    [...tiles.children].forEach((tile, i) => {
      const k = order[i], { logit } = classes[k], values = classes[k][number], name = data.names[k];
      // Max pooling reads the network's own cells only.
      const read = keepOwnCells(values, w, data.factor, -Infinity);
      const highest = data.pooling === "max" ? read.indexOf(read.reduce((a, b) => Math.max(a, b))) : -1;
      const cells = makeElement("span", { class: "cells", "aria-hidden": true });
      cells.style.gridTemplateColumns = `repeat(${w}, 1fr)`;
      cells.style.setProperty("--grid", `${w} / ${h}`);
      cells.style.setProperty("--size", `${w <= 4 ? 0.95 : 0.68}rem`);
      values.forEach((value, j) => {
        const level = findLevel(value, scale), cell = makeElement("span");
        cell.style.background = mixWithWhite(colors, level);
        if (isDark(colors, level)) cell.classList.add("dark");
        if (j === highest) cell.classList.add("maximum");
        // Three characters fit into a narrow cell, four into a wide one.
        if (w <= MAX_NUMBERED) cell.textContent = formatFixed(value, (w > 6 ? 1 : 2) - (Math.abs(value) < 9.95 ? 0 : 1));
        cells.append(cell);
      });
      const text = `${data.quantity} ${formatFixed(logit, 3)}${outcome(k)}`;
      const title = makeText("span", name, { class: "name" });
      tile.replaceChildren(cells, title, makeText("span", text, { class: "number" }));
      tile.setAttribute("aria-pressed", k === mine.state.k);
      tile.setAttribute("aria-label", `class map of ${name}, ${text}`);
      tile.onclick = () => change({ k });
    });
  };
  const showTop = () => {
    const { against, number, colors, gray, smooth, opacity } = mine.state;
    const place = root.querySelector(".top") ?? root.appendChild(makeElement("section", { class: "top" }));
    const maps = data.top.map(k => readMap(classes, k, against, number) ?? readMap(classes, k, null, number));
    const isGray = gray && data.misplaced === null, scale = findScale(maps);
    if (!place.firstChild) place.append(makeElement("h2"), makeElement("p"), makeElement("div", { class: "tiles" }));
    place.children[0].textContent = `The top ${data.top.length} classes on one scale`;
    const strongest = `strongest color at \u00b1${scale.toPrecision(3)} ${data.units}`;
    place.children[1].textContent = `${describeCells(data, mine.state)}, ${strongest}. ${CLICK}`;
    const tiles = place.children[2], table = decodeColors(data.colormaps[colors].colors);
    setChildCount(tiles, data.top.length, makeTile);
    const frame = makeFrame(data, smooth, opacity);
    [...tiles.children].forEach((tile, i) => {
      const k = data.top[i], name = nameContrast(data.names, { k, against });
      if (!tile.firstChild) {
        const picture = makeElement("span", { class: "picture" }, makeElement("canvas"));
        tile.append(picture, makeElement("span", { class: "name" }), makeElement("span", { class: "number" }));
      }
      const [picture, title, sum] = tile.children, canvas = picture.firstChild;
      picture.style.aspectRatio = `${width} / ${height}`;
      title.textContent = `${data.names[k]}${outcome(k)}`;
      sum.textContent = k === against ? "the others are compared with it" : describeSum(data, maps[i], mine.state).equation;
      tile.setAttribute("aria-pressed", k === mine.state.k);
      tile.setAttribute("aria-label", `${name}${outcome(k)}, ${sum.textContent}`);
      tile.onclick = () => change({ k });
      const drawn = JSON.stringify([frame, colors, gray, scale, k, against, number, data.subject, Boolean(mine.image)]);
      if (canvas.drawn === drawn) return;
      canvas.drawn = drawn;
      drawTile(canvas, frame, maps[i].values, table, scale, isGray);
    });
  };
  /** The photo below the maps, drawn once for all of them. */
  const drawPhoto = gray => {
    const key = `${gray} ${width} ${height} ${data.photo}`;
    if (mine.photo?.key === key) return mine.photo.canvas;
    const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(mine.image, 0, 0, width, height);
    if (gray) {
      const pixels = context.getImageData(0, 0, width, height);
      context.putImageData(new ImageData(paintGray(pixels.data), width, height), 0, 0);
    }
    mine.photo = { key, canvas };
    return canvas;
  };
  const drawTile = (canvas, frame, values, table, scale, gray) => {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d"), layer = new OffscreenCanvas(width, height);
    if (mine.image) context.drawImage(drawPhoto(gray), 0, 0);
    layer.getContext("2d").putImageData(new ImageData(paintMap(frame, values, table, scale), width, height), 0, 0);
    context.drawImage(layer, 0, 0);
  };
  mine.show = () => {
    showAll();
    showTop();
  };
  if (mine.source !== data.photo) {
    mine.source = data.photo;
    mine.image = null;
    const image = new Image();
    image.onload = () => {
      if (mine.source !== data.photo) return;
      mine.image = image;
      mine.show();
    };
    image.src = data.photo;
  }
  mine.show();

  document.removeEventListener("inspector-view", mine.listen);
  mine.listen = ({ detail }) => {
    mine.state = detail;
    // Draw after the browser has shown the viewer's own picture, for which the user waits.
    cancelAnimationFrame(mine.frame);
    mine.frame = requestAnimationFrame(() => setTimeout(() => mine.show()));
  };
  document.addEventListener("inspector-view", mine.listen);
  return () => document.removeEventListener("inspector-view", mine.listen);
}
