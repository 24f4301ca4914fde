// The controls of a viewer below its pictures. Each change is drawn at once, before the server receives it.

import { makeElement } from "./elements.js";
import { moveInList } from "./list_keys.js";

const VIEWS = [["class map", "map"], ["winning class", "top class per cell"], ["what if", "mask cells"]];

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

function makeRange(name, label, value, change) {
  const range = makeElement("input", { type: "range", min: 0, max: 1, step: 0.05 });
  range.value = value;
  range.oninput = () => change({ [name]: Number(range.value) }, true);
  return makeElement("label", { "data-name": name }, label, range);
}

/** Show the controls of a viewer. `change(values, held)` takes new values; held: more of them may follow at once. */
export function showControls(place, data, state, change) {
  const hasScores = Object.values(data.classes).every(one => one.scores) && data.pooling === "max";
  const { view, number, colors, gray, smooth } = state;
  const shown = JSON.stringify([hasScores, data.words, view, number, colors, gray, smooth]);
  // A control that is in use stays as it is: only the slider changes without any other control.
  if (place.shown === shown) {
    const range = place.querySelector("input[type=range]");
    if (document.activeElement !== range) range.value = state.opacity;
    return;
  }
  const focused = document.activeElement?.closest?.("[data-name]")?.dataset.name;
  const hadFocus = place.contains(document.activeElement);
  place.shown = shown;
  const words = data.words, maps = Object.entries(data.colormaps).map(([name, { title }]) => [name, title]);
  place.replaceChildren(
    makeSegments("view", "View", VIEWS, state.view, change),
    makeSegments("gray", "Photo", [[true, "gray"], [false, "color"]], state.gray, change),
    makeSelect("colors", "Colors", maps, state.colors, change),
    ...(hasScores ? [makeSelect("number", "Number", Object.entries(words), state.number, change)] : []),
    makeCheck("raw", "Raw grid", !state.smooth, ({ raw }) => change({ smooth: !raw })),
    makeRange("opacity", "Opacity", state.opacity, change),
  );
  if (hadFocus && focused) {
    place.querySelector(`[data-name=${focused}] :is([aria-checked=true], select, input)`)?.focus();
  }
}
