// A viewer of class maps: the photo beside the map on the photo, the predictions and the chosen cell. It draws every
// change at once from the numbers that inspector/output/viewer.py describes. The app, reports, notebooks and published
// pages use it; what differs between them is the `host` of mountViewer.

import {
  convertCell, describeCell, drawBox, drawCell, drawCenter, drawReceptiveField, findCell, handleKey, isSameCell, keepOnGrid,
  toggleCell,
} from "./cells.js";
import { connectSearch, setNames } from "./class_search.js";
import { makeElement } from "./elements.js";
import { hasModifier } from "./list_keys.js";
import { decodeColors, paintBar, paintGray, paintMap, putPixels } from "./map_drawing.js";
import { formatSigned } from "./numbers.js";
import {
  canFindWinners, canMask, describeChosenCell, findWinners, listClasses, maskAtHead,
} from "./viewer_answers.js";
import { showBoxes } from "./viewer_boxes.js";
import { showCell, showMasked, showPredictions, showSum } from "./viewer_cards.js";
import { showControls } from "./viewer_controls.js";
import { VIEWER_HTML } from "./viewer_html.js";
import {
  decodeChannels, decodeClasses, describeCells, findCellsAbove, findScale, FIRST, makeFrame, MEAN, nameContrast, readMap,
} from "./viewer_maps.js";
import { paintWinners } from "./winners.js";

const REPORT_DELAY = 120; // milliseconds to wait, so that a key held down reports only the last choice
const OTHERS = ["nothing", "mean of all classes"]; // what a class can be contrasted with, before the classes
const HINT = "Point at a cell for its value. Click it for more, or focus the map and use the arrow keys.";
const OUTSIDE = "The network does not see this part of the photo.";
const KEYS = "Arrow keys choose a cell, Escape clears the choice";
let viewerCount = 0;

/** Draw the photo on a canvas of the size of the drawing, in gray or in color; white for a map that is on no photo. */
function drawPhoto(canvas, image, [height, width], gray, bare) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (bare) {
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    return;
  }
  context.drawImage(image, 0, 0, width, height);
  if (!gray) return;
  const pixels = context.getImageData(0, 0, width, height);
  context.putImageData(new ImageData(paintGray(pixels.data), width, height), 0, 0);
}

/**
 * Draw a viewer of class maps, or draw it again with other data.
 *
 * root: an element with the class "inspector-viewer"; the viewer is drawn in it, and keeps its choices there.
 * data: ViewerData.to_json() of inspector/output/viewer.py. Maps may be typed arrays instead of their base64. Besides:
 *   subject: a text; another one makes the viewer forget its choices, as another photo does;
 *   state: what is shown at first, as far as it differs from FIRST with the top class;
 *   channels, masked_at_head: see viewer_answers.js; without them, what needs them is not shown;
 *   card, masked_outcome, winners, located, refused, names_id: answers of a host.
 * host: what the home of the viewer can do, all of it optional:
 *   offers: which answers it gives, in the data of the next call after a report: "classes" (the maps of the chosen
 *     class), "cell", "mask", "winners", "finer", "boxes", "pin". What neither the host nor the data offer is not shown;
 *   report(state): takes the state after every change, with the `subject` and the factor of its `grid`;
 *   drawn(state): is called after every drawing;
 *   openChannel(channel), linkChannel(channel): open a channel, and return the address that does so.
 * Returns { change(values) }, which changes the state.
 */
export function mountViewer(root, data, host = {}) {
  if (!root.firstElementChild) root.innerHTML = VIEWER_HTML;
  const find = selector => root.querySelector(selector);
  const photo = find(".inspector-photo"), image = find(".seen img"), line = find(".inspector-line");
  const base = find("canvas.base"), canvas = find("canvas.map"), svg = photo.querySelector("svg");
  const [height, width] = data.photo_size;
  const { rows, columns } = data, classes = decodeClasses(data.classes), channels = decodeChannels(data.channels);
  const can = new Set(host.offers), canSearchAll = can.has("classes"), known = listClasses(classes);
  const choosable = canSearchAll ? data.names.map((_, k) => k) : known;
  const views = ["class map"];
  if (can.has("winners") || canFindWinners(data, classes)) views.push("winning class");
  if (can.has("mask") || canMask(data)) views.push("what if");
  const here = { ...host, can, views };
  // The choices made in this browser outlast the runs of the page, until the data are of another photo or network.
  const mine = (root.inspector ??= { state: null, hovered: null, timer: 0, drawn: {}, id: `inspector-${viewerCount++}` });
  if (!mine.state || mine.subject !== data.subject) {
    const first = { ...FIRST, k: data.top[0], finer: data.factor, ...data.state };
    Object.assign(mine, { subject: data.subject, state: first, hovered: null, grid: data.factor, refusal: null });
    clearTimeout(mine.timer);
  }
  if (data.refused) mine.refusal = data.refused.sentence;
  if (data.refused?.finer === mine.state.finer) mine.state = { ...mine.state, finer: 1 };
  mine.state.cell = convertCell(mine.state.cell, mine.grid, data.factor);
  mine.grid = data.factor;
  const state = () => mine.state;
  const isMasking = () => state().view === "what if" && data.factor === 1; // only the network's own cells are masked
  mine.state.cell = keepOnGrid(mine.state.cell, rows, columns);
  mine.hovered = keepOnGrid(mine.hovered, rows, columns);
  let found = null;
  const readWinners = () => (can.has("winners") ? data.winners : (found ??= findWinners(data, classes)));
  const readLines = () => {
    const { cell, k } = state();
    if (!can.has("cell")) return describeChosenCell(data, channels, state());
    return data.card && isSameCell(data.card.cell, cell) && data.card.k === k ? data.card.lines : null;
  };
  const readOutcome = () => {
    const { masked, change: how } = state(), asked = JSON.stringify([masked, how]), outcome = data.masked_outcome;
    if (!can.has("mask")) return maskAtHead(data, classes, state());
    return outcome && JSON.stringify(outcome.of) === asked ? outcome : null;
  };

  const report = delay => {
    clearTimeout(mine.timer);
    const send = () => host.report?.({ ...state(), subject: data.subject, grid: mine.grid });
    mine.timer = setTimeout(send, delay);
  };
  const change = (values, held = false) => {
    if ("finer" in values || "view" in values) mine.refusal = null;
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
    const { top: [best] } = data, before = { ...FIRST, k: best, ...data.state };
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
    photo.setAttribute("aria-label", `${alt}. ${KEYS}${view === "what if" ? ", Enter masks the cell." : "."}`);
    const frame = makeFrame(data, smooth, opacity), winners = isWinners ? readWinners() : null;
    const shown = isWinners ? winners : [colors, scale, state().k, against, number, data.subject];
    const drawn = JSON.stringify([frame, shown]);
    // Most changes concern the marks only, so draw the map only if it is another one than before.
    if (mine.drawn.map !== drawn && !(isWinners && !winners)) {
      const pixels = winners ? paintWinners(frame, winners) : paintMap(frame, map.values, table, scale);
      putPixels(canvas, pixels, ...data.draw_size);
      mine.drawn.map = photo.classList.contains("waiting") ? null : drawn;
    }
    showBar(table, scale, isWinners, winners);
    const isGray = gray && !bare, key = `${isGray} ${bare} ${data.photo}`;
    if (mine.drawn.base !== key && image.complete && image.naturalWidth) {
      drawPhoto(base, image, data.draw_size, isGray, bare);
      mine.drawn.base = key;
    } else if (mine.drawn.base !== key) {
      base.width = 1; // no map of a new photo on the photo before
    }
    mine.values = winners ? winners.values : map.values;
  };
  const showBar = (table, scale, isWinners, winners) => {
    const { colors, opacity, against, k, number } = state(), { lowest, title } = data.colormaps[colors];
    find(".bar").hidden = isWinners;
    find(".meaning").hidden = false;
    const legend = find(".legend");
    legend.hidden = !isWinners;
    if (isWinners) {
      legend.replaceChildren(...(winners?.legend ?? []).map(({ name, color, count }) => {
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
    const { cell: chosen, masked, view } = state(), { hovered } = mine, masking = isMasking();
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
    const described = hovered || chosen, { notes, note_of: noteOf } = (view === "winning class" && readWinners()) || data;
    const texts = { columns, values: mine.values, unit: data.units, notes, note_of: noteOf, masking };
    line.textContent = described ? describeCell(described, texts, masked) : HINT;
  };
  const show = () => {
    const { k, against } = state(), names = data.names, named = choosable.map(i => names[i]);
    const other = against === null ? OTHERS[0] : against === MEAN ? OTHERS[1] : names[against];
    find("h2").setAttribute("aria-label", `Why ${names[k]} rather than ${other}`);
    const isPart = choosable.length < names.length, part = find(".part");
    const [some, all] = [choosable.length, names.length].map(count => count.toLocaleString("en"));
    part.hidden = !isPart;
    part.textContent = isPart ? `The maps of ${some} of ${all} classes are here: the top ones and those chosen before.` : "";
    const chooseNamed = i => chooseClass(choosable[i]);
    connectSearch(find("input.class"), names[k], chooseNamed);
    const chooseOther = i => change({ against: i === 0 ? null : i === 1 ? MEAN : choosable[i - OTHERS.length] });
    connectSearch(find("input.against"), other, chooseOther);
    connectSearch(find("input.any"), `any of ${some} classes \u2026`, chooseNamed);
    const list = data.names_id ?? mine.id;
    setNames(find("input.class"), named, `${list} class`);
    setNames(find("input.any"), named, `${list} any`);
    setNames(find("input.against"), [...OTHERS, ...named], `${list} against`);
    paint();
    mark();
    showPredictions(root, data, classes, k, chooseClass);
    showSum(root, data, mine.map, state(), mine.refusal);
    if (can.has("boxes")) showBoxes(root, data, state());
    showCell(root, data, classes, state(), change, here, state().cell && readLines());
    const masking = () => (isMasking() ? findCellsAbove(mine.map.values, state().above, columns.length) : state().masked);
    const isAsked = state().view === "what if" && state().masked.length;
    showMasked(root, state(), change, here, isAsked ? readOutcome() : null, masking);
    // Controls outlast the runs of the page, so they call the function of the last one, which draws the last numbers.
    mine.change = change;
    showControls(find(".controls"), data, state(), (...values) => mine.change(...values), here);
    const pin = find("input.pin");
    pin.checked = state().pinned;
    pin.onchange = () => change({ pinned: pin.checked });
    pin.parentElement.hidden = !can.has("pin");
    host.drawn?.(state());
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
    if (!cell) line.textContent = OUTSIDE;
  };
  photo.onpointerleave = () => {
    mine.hovered = null;
    mark();
  };
  photo.onclick = event => {
    const cell = cellUnder(event);
    if (!cell) return;
    change({ cell, ...(isMasking() ? { masked: toggleCell(state().masked, cell) } : {}) });
  };
  photo.onkeydown = event => {
    if (hasModifier(event)) return;
    const { cell: chosen, masked } = state();
    const grid = { rows, columns, values: mine.values, masking: isMasking() };
    const next = handleKey(event.key, { chosen, masked }, grid);
    if (!next) return;
    event.preventDefault();
    event.stopPropagation();
    mine.hovered = null;
    change({ cell: next.chosen, masked: next.masked }, true);
  };
  show();
  return { change: values => ("k" in values ? chooseClass(values.k) : change(values)) };
}
