// The controls of a viewer below its pictures. Each change is drawn at once, before the server receives it.

import { findFocused, makeElement } from "./elements.js";
import { moveInList } from "./list_keys.js";
import { hasBoxes } from "./viewer_boxes.js";

const VIEWS = [["class map", "map"], ["winning class", "top class per cell"], ["what if", "mask cells"]];
const CELLS = [[1, "own"], [2, "2x"], [4, "4x"]];
const BOXES = [["none", "none"], ["all", "all"], ["largest", "largest"]];

function makeSegments(name, label, options, chosen, change) {
  const group = makeElement("div", { role: "radiogroup", "aria-label": label }), all = [];
  options.forEach(([value, text], i) => {
    const on = value === chosen, state = { "aria-checked": on, tabindex: on ? 0 : -1 };
    const button = makeElement("button", { type: "button", role: "radio", ...state }, text);
    button.onclick = () => change({ [name]: value });
    button.onkeydown = event => {
      const next = moveInList(event.key, i, options.length, 1);
      if (next === null || next === i) return;
      event.preventDefault();
      event.stopPropagation();
      change({ [name]: options[next][0] });
      group.parentElement.parentElement.querySelector(`[data-name=${name}] [aria-checked=true]`)?.focus();
    };
    all.push(button);
  });
  group.append(...all);
  return makeElement("div", { class: "segments", "data-name": name }, label, group);
}

function makeSelect(name, label, options, chosen, change) {
  const select = makeElement("select", {}, ...options.map(([value, text]) => makeElement("option", { value }, text)));
  select.value = chosen;
  select.onchange = () => change({ [name]: select.value });
  return makeElement("label", { "data-name": name }, label, select);
}

function makeCheck(name, label, on, change) {
  const box = makeElement("input", { type: "checkbox" });
  box.checked = on;
  box.onchange = () => change({ [name]: box.checked });
  return makeElement("label", { "data-name": name }, box, label);
}

function makeRange(name, label, value, change, [min, max] = [0, 1]) {
  const range = makeElement("input", { type: "range", min, max, step: 0.05 });
  range.value = value;
  range.oninput = () => change({ [name]: Number(range.value) }, true);
  return makeElement("label", { "data-name": name }, label, range, makeElement("output"));
}

/** Show the values of the sliders. The one that is in use stays as it is. */
function updateRanges(place, state) {
  place.querySelectorAll("input[type=range]").forEach(range => {
    const { name } = range.parentElement.dataset;
    if (findFocused(range) !== range) range.value = state[name];
    if (name === "threshold") range.nextSibling.textContent = `${Math.round(100 * state[name])} % of the highest value`;
  });
}

/**
 * Show the controls of a viewer that have an effect here.
 *
 * change: takes new values; called with `true` in the second place if more of them may follow at once.
 * host: { can: Set of what its host answers, views: the views that can be shown }.
 */
export function showControls(place, data, state, change, host) {
  const hasScores = Object.values(data.classes).every(one => one.scores) && data.pooling === "max";
  const { view, number, colors, gray, smooth, finer, boxes, points } = state;
  const choices = [view, number, colors, gray, smooth, finer, boxes, points];
  const shown = JSON.stringify([hasScores, data.words, Object.keys(data.colormaps), host.views, ...choices]);
  // A control that is in use stays as it is: only the sliders change without any other control.
  if (place.shown === shown) {
    updateRanges(place, state);
    return;
  }
  const active = findFocused(place), hadFocus = place.contains(active);
  const focused = active?.closest?.("[data-name]")?.dataset.name;
  place.shown = shown;
  const isMap = view === "class map", views = VIEWS.filter(([name]) => host.views.includes(name));
  const words = data.words, maps = Object.entries(data.colormaps).map(([name, { title }]) => [name, title]);
  place.replaceChildren(
    ...(views.length > 1 ? [makeSegments("view", "View", views, state.view, change)] : []),
    makeSegments("gray", "Photo", [[true, "gray"], [false, "color"]], state.gray, change),
    makeSelect("colors", "Colors", maps, state.colors, change),
    ...(hasScores ? [makeSelect("number", "Number", Object.entries(words), state.number, change)] : []),
    makeCheck("raw", "Raw grid", !state.smooth, ({ raw }) => change({ smooth: !raw })),
    ...(isMap && host.can.has("finer") ? [makeSegments("finer", "Cells", CELLS, finer, change)] : []),
    makeRange("opacity", "Opacity", state.opacity, change),
    ...(isMap && host.can.has("boxes") ? [makeSegments("boxes", "Boxes", BOXES, boxes, change)] : []),
    ...(hasBoxes(state) ? [
      makeRange("threshold", "above", state.threshold, change, [0.05, 0.95]),
      makeCheck("points", "Local maxima", points, change),
    ] : []),
  );
  updateRanges(place, state);
  if (hadFocus && focused) {
    place.querySelector(`[data-name=${focused}] :is([aria-checked=true], select, input)`)?.focus();
  }
}
