// A viewer of class maps: the photo beside the map on the photo, the predictions and the chosen cell. It draws every
// change at once from the numbers that inspector/output/viewer.py describes, and then reports its state.

import {
  describeCell, drawBox, drawCell, drawCenter, drawReceptiveField, findCell, handleKey, isSameCell, keepOnGrid,
  toggleCell,
} from "./cells.js";
import { connectSearch, setNames } from "./class_search.js";
import { makeElement } from "./elements.js";
import { hasModifier } from "./list_keys.js";
import { decodeColors, paintBar, paintGray, paintMap, putPixels } from "./map_drawing.js";
import { formatSigned } from "./numbers.js";
import { showCell, showMasked, showPredictions, showSum } from "./viewer_cards.js";
import { showControls } from "./viewer_controls.js";
import {
  decodeClasses, describeCells, findCellsAbove, findScale, makeFrame, MEAN, nameContrast, readMap,
} from "./viewer_maps.js";
import { paintWinners } from "./winners.js";

const REPORT_DELAY = 120; // milliseconds to wait, so that a key held down reports only the last choice
const OTHERS = ["nothing", "mean of all classes"]; // what a class can be contrasted with, before the classes

/** Draw the photo on a canvas of the size of the drawing, in gray or in color. */
function drawPhoto(canvas, image, [height, width], gray) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  if (!gray) return;
  const pixels = context.getImageData(0, 0, width, height);
  context.putImageData(new ImageData(paintGray(pixels.data), width, height), 0, 0);
}

export default function ({ data: [data], parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement.querySelector(".inspector-viewer"), find = selector => root.querySelector(selector);
  const photo = find(".inspector-photo"), image = find(".seen img"), line = find(".inspector-line");
  const base = find("canvas.base"), canvas = find("canvas.map"), svg = photo.querySelector("svg");
  const [height, width] = data.photo_size;
  const { rows, columns } = data, classes = decodeClasses(data.classes);
  // The choices made in this browser outlast the runs of the page, until the server sends another photo or network.
  const mine = (root.inspector ??= { subject: null, state: null, hovered: null, timer: 0, drawn: {} });
  if (mine.subject !== data.subject) {
    Object.assign(mine, { subject: data.subject, state: data.state, hovered: null });
    clearTimeout(mine.timer);
  }
  const state = () => mine.state;
  mine.state.cell = keepOnGrid(mine.state.cell, rows, columns);
  mine.hovered = keepOnGrid(mine.hovered, rows, columns);

  const report = delay => {
    clearTimeout(mine.timer);
    const send = () => setStateValue("state", { ...state(), subject: data.subject });
    mine.timer = setTimeout(send, delay);
  };
  const change = (values, held = false) => {
    mine.state = { ...state(), ...values };
    show();
    report(held ? REPORT_DELAY : 0);
  };
  const chooseClass = (k, held = false) => {
    const own = k === state().against ? { k, against: null } : { k };
    change(own, held);
  };

  /** The map that is shown; until the numbers of the chosen class arrive, that of the class before. */
  const findMap = () => {
    const { k, against, number } = state(), map = readMap(classes, k, against, number);
    photo.classList.toggle("waiting", !map);
    const { state: before, top: [best] } = data;
    return map ?? readMap(classes, before.k, before.against, before.number) ?? readMap(classes, best, null, number);
  };
  const paint = () => {
    const { against, number, colors, gray, smooth, opacity, view } = state(), map = findMap();
    mine.map = map;
    // A contrast of two classes has its own scale: the difference of two similar classes is seen, too.
    const others = against === null || against === MEAN ? [...data.top, state().k] : [];
    const listed = others.map(k => readMap(classes, k, against, number));
    const scale = findScale([map, ...listed]), table = decodeColors(data.colormaps[colors].colors);
    const bare = data.misplaced !== null, isWinners = view === "winning class";
    photo.classList.toggle("bare", bare);
    const title = nameContrast(data.names, state());
    const alt = isWinners ? "top class per cell" : `class map: ${title}`;
    canvas.setAttribute("aria-label", alt);
    photo.setAttribute("aria-label", `${alt}. ${data.keys}${view === "what if" ? ", Enter masks the cell." : "."}`);
    const frame = makeFrame(data, smooth, opacity), winners = isWinners ? data.winners : null;
    const shown = isWinners ? winners : [colors, scale, state().k, against, number, data.subject];
    const drawn = JSON.stringify([frame, shown]);
    // Most changes concern the marks only, so draw the map only if it is another one than before.
    if (mine.drawn.map !== drawn && !(isWinners && !winners)) {
      const pixels = winners ? paintWinners(frame, winners) : paintMap(frame, map.values, table, scale);
      putPixels(canvas, pixels, ...data.draw_size);
      mine.drawn.map = photo.classList.contains("waiting") ? null : drawn;
    }
    showBar(table, scale, isWinners);
    const isGray = gray && !bare, key = `${isGray} ${data.photo}`;
    if (mine.drawn.base !== key && image.complete && image.naturalWidth) {
      drawPhoto(base, image, data.draw_size, isGray);
      mine.drawn.base = key;
    } else if (mine.drawn.base !== key) {
      base.width = 1; // no map of a new photo on the photo before
    }
    data.values = winners ? winners.values : map.values;
  };
  const showBar = (table, scale, isWinners) => {
    const { colors, opacity, against, k, number } = state(), { lowest, title } = data.colormaps[colors];
    find(".bar").hidden = isWinners;
    find(".meaning").hidden = false;
    const legend = find(".legend");
    legend.hidden = !isWinners;
    if (isWinners) {
      legend.replaceChildren(...(data.winners?.legend ?? []).map(({ name, color, count }) => {
        const patch = makeElement("i");
        patch.style.background = color;
        return makeElement("span", { role: "listitem" }, patch, `${name} ${count}`);
      }));
      find(".meaning").textContent = "The class to which each cell adds most, without the bias, and in how many cells.";
      return;
    }
    const bar = find(".bar canvas"), names = data.names;
    putPixels(bar, paintBar(18, 512, table, lowest, opacity, data.photo_gray), 18, 512);
    const isPair = against !== null && against !== MEAN, low = lowest ? formatSigned(-scale) : "0";
    const ends = [
      lowest ? `${low}${isPair ? ` for ${names[against]}` : ""}` : "0 and below", lowest ? "0" : "",
      `${isPair ? `for ${names[k]} ` : ""}${formatSigned(scale)}`,
    ];
    [...find(".ticks").children].forEach((tick, i) => { tick.textContent = ends[i]; });
    bar.setAttribute("aria-label", `color bar from ${low} to ${formatSigned(scale)} ${data.units}`);
    find(".meaning").textContent = `${describeCells(data, state())}${lowest ? "" : `; ${title}`}`;
  };
  const mark = () => {
    const setPath = (name, path) => svg.querySelector(`.${name}`).setAttribute("d", path);
    const { cell: chosen, masked, view } = state(), { hovered } = mine, masking = view === "what if";
    const field = chosen ? drawReceptiveField(chosen, rows, columns) : "";
    const cell = chosen ? drawCell(chosen, rows, columns) : "";
    const center = chosen ? drawCenter(chosen, rows, columns) : "";
    setPath("masked", masking ? masked.map(one => drawCell(one, rows, columns)).join("") : "");
    setPath("field", field);
    setPath("cell", cell);
    setPath("halo", field + cell);
    setPath("center", center);
    setPath("center-halo", center);
    setPath("hovered", hovered && !isSameCell(hovered, chosen) ? drawCell(hovered, rows, columns) : "");
    const described = hovered || chosen, { notes, note_of: noteOf } = (view === "winning class" && data.winners) || data;
    const texts = { columns, values: data.values, unit: data.units, notes, note_of: noteOf, masking };
    line.textContent = described ? describeCell(described, texts, masked) : data.hint;
  };
  const show = () => {
    const { k, against } = state(), names = data.names, others = [...OTHERS, ...names];
    const other = against === null ? OTHERS[0] : against === MEAN ? OTHERS[1] : names[against];
    find("h2").setAttribute("aria-label", `Why ${names[k]} rather than ${other}`);
    connectSearch(find("input.class"), names[k], chooseClass);
    const chooseOther = i => change({ against: i === 0 ? null : i === 1 ? MEAN : i - OTHERS.length });
    connectSearch(find("input.against"), other, chooseOther);
    connectSearch(find("input.any"), `any of ${names.length.toLocaleString("en")} classes \u2026`, chooseClass);
    setNames(find("input.class"), names, `${data.names_id} class`);
    setNames(find("input.any"), names, `${data.names_id} any`);
    setNames(find("input.against"), others, `${data.names_id} against`);
    paint();
    mark();
    showPredictions(root, data, classes, k, chooseClass);
    showSum(root, data, mine.map, state());
    showCell(root, data, classes, state(), change, channel => setTriggerValue("channel", channel));
    const masking = () => findCellsAbove(mine.map.values, state().above, columns.length);
    showMasked(root, data, mine.map, state(), change, masking);
    showControls(find(".controls"), data, state(), change);
    const pin = find("input.pin");
    pin.checked = state().pinned;
    pin.onchange = () => change({ pinned: pin.checked });
    // class_strip.js listens, and draws its maps in the same way.
    document.dispatchEvent(new CustomEvent("inspector-view", { detail: state() }));
  };

  find(".layout").style.setProperty("--aspect", width / height);
  find(".pictures").classList.toggle("wide", width > 2 * height);
  find(".seen svg").setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  root.querySelectorAll(".picture").forEach(picture => { picture.style.aspectRatio = `${width} / ${height}`; });
  const [left, top, right, bottom] = data.crop;
  const crop = drawBox(Math.max(left, 0), Math.max(top, 0), Math.min(right, width), Math.min(bottom, height));
  find(".seen .crop").setAttribute("d", crop);
  find(".seen .halo").setAttribute("d", crop);
  image.alt = `photo ${data.photo_name}`;
  image.onload = paint;
  if (image.getAttribute("src") !== data.photo) image.src = data.photo;

  const cellUnder = event => {
    const frame = photo.getBoundingClientRect();
    const x = (event.clientX - frame.left) * width / frame.width;
    const y = (event.clientY - frame.top) * height / frame.height;
    return findCell(x, y, rows, columns);
  };
  photo.onpointermove = event => {
    if (event.pointerType === "touch") return;
    const cell = cellUnder(event);
    if (isSameCell(cell, mine.hovered)) return;
    mine.hovered = cell;
    mark();
    if (!cell) line.textContent = data.outside;
  };
  photo.onpointerleave = () => {
    mine.hovered = null;
    mark();
  };
  photo.onclick = event => {
    const cell = cellUnder(event);
    if (!cell) return;
    change({ cell, ...(state().view === "what if" ? { masked: toggleCell(state().masked, cell) } : {}) });
  };
  photo.onkeydown = event => {
    if (hasModifier(event)) return;
    const { cell: chosen, masked, view } = state();
    const grid = { rows, columns, values: data.values, masking: view === "what if" };
    const next = handleKey(event.key, { chosen, masked }, grid);
    if (!next) return;
    event.preventDefault();
    event.stopPropagation();
    mine.hovered = null;
    change({ cell: next.chosen, masked: next.masked }, true);
  };
  show();

  // Remove the handler of the run before, because it would draw its own, older maps.
  document.removeEventListener("inspector-change", mine.listen);
  mine.listen = ({ detail }) => ("k" in detail ? chooseClass(detail.k) : change(detail));
  document.addEventListener("inspector-change", mine.listen);
  return () => document.removeEventListener("inspector-change", mine.listen);
}
