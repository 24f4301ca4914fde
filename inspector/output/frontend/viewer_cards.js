// The right column of a viewer: predictions, the sum, the chosen cell, and the logits without the masked cells.

import { describeFiner, describeSum, MEAN, readMap } from "./viewer_maps.js";
import { findFocused, makeElement, setChildCount } from "./elements.js";
import { convertCell, isSameCell } from "./cells.js";
import { hasModifier, moveInList } from "./list_keys.js";
import { formatFixed, formatPercent, formatSignedFixed } from "./numbers.js";

const MARKS = { exact: "\u2713", "exact for this image": "\u2713", "not unique": "\u2248", "not exact": "\u2717" };

const makeRow = () => makeElement(
  "button", { type: "button", role: "radio" }, makeElement("span", { class: "name" }),
  makeElement("span", { class: "bar" }, makeElement("i"), makeElement("em")), makeElement("b"),
);

const makeText = (tag, text, attributes = {}) => {
  const element = makeElement(tag, attributes);
  element.textContent = text;
  return element;
};

const makeTable = rows => makeElement("table", {}, ...rows.map(([name, ...cells]) => makeElement(
  "tr", {}, makeText("th", name, { scope: "row" }), ...cells.map(cell => makeText("td", cell)),
)));

/** Show the top classes and the chosen one. A click or the arrow keys choose a class. */
export function showPredictions(root, data, classes, chosen, choose) {
  const list = root.querySelector(".inspector-classes [role=radiogroup]");
  const rows = data.top.includes(chosen) || !classes[chosen] ? data.top : [...data.top, chosen];
  const [, probabilities, numbers] = root.querySelectorAll(".inspector-classes .head span");
  const hasProbabilities = rows.some(k => classes[k].probability !== null);
  probabilities.textContent = hasProbabilities ? "probability" : "";
  numbers.textContent = data.quantity;
  setChildCount(list, rows.length, makeRow);
  [...list.children].forEach((button, i) => {
    const { probability, logit } = classes[rows[i]], name = data.names[rows[i]];
    const percent = hasProbabilities ? formatPercent(probability ?? NaN) : "", number = formatFixed(logit, 3);
    button.setAttribute("aria-checked", rows[i] === chosen);
    button.tabIndex = rows[i] === chosen ? 0 : -1;
    button.querySelector(".name").textContent = name;
    button.querySelector(".bar").style.visibility = hasProbabilities ? "" : "hidden";
    button.querySelector("i").style.setProperty("--part", percent || "0");
    button.querySelector("em").textContent = percent;
    button.querySelector("b").textContent = number;
    button.setAttribute("aria-label", `${name}, ${percent && `probability ${percent}, `}${data.quantity} ${number}`);
    const take = (index, held) => {
      choose(rows[index], held);
      list.children[index].focus();
    };
    button.onclick = () => take(i, false);
    button.onkeydown = event => {
      const next = moveInList(event.key, i, rows.length, 1);
      if (next === null || hasModifier(event)) return;
      event.preventDefault();
      event.stopPropagation();
      take(next, true);
    };
  });
}

/** Show how the map sums to the logit, and whether the sum was verified. */
export function showSum(root, data, map, state, refusal) {
  const { equation, note } = describeSum(data, map, state);
  root.querySelector(".equation").replaceChildren(makeText("b", equation));
  const verdict = root.querySelector(".verdict"), finer = root.querySelector(".finer");
  const isAwaited = state.view === "class map" && state.finer !== data.factor;
  finer.textContent = isAwaited ? `Computing the map ${state.finer}x finer ...` : refusal ?? describeFiner(data, state);
  finer.hidden = !finer.textContent;
  verdict.title = data.verdict_sentence;
  verdict.replaceChildren(
    makeText("b", `${MARKS[data.verdict] ?? ""} ${data.verdict}`, { class: data.verdict_color }), `: ${note}`,
  );
}

/** Make a line of texts and channels, which are links if the host can open a channel. */
function makeLine(parts, { openChannel, linkChannel }) {
  return makeElement("p", { class: "small" }, ...parts.map(part => {
    if (typeof part === "string") return part;
    if (!openChannel) return part.text;
    const link = makeText("a", part.text, { href: linkChannel(part.channel) });
    link.title = `Open channel ${part.channel} on the page Layers`;
    link.onclick = event => {
      if (hasModifier(event)) return; // opens another tab
      event.preventDefault();
      openChannel(part.channel);
    };
    return link;
  }));
}

/** Show what the chosen cell adds to each listed class, and its `lines`; no lines while the host computes them. */
export function showCell(root, data, classes, state, change, host, lines) {
  const card = root.querySelector(".chosen"), { cell, number } = state;
  if (!cell) {
    card.replaceChildren();
    return;
  }
  const [row, column] = cell, i = row * data.grid[1] + column;
  const listed = [...new Set([...data.top, state.k, state.against])].filter(k => readMap(classes, k, null, number));
  const rows = listed.filter(k => k !== MEAN).map(k => [
    data.names[k], formatSignedFixed(classes[k][number][i], 3),
  ]);
  const own = convertCell(cell, data.factor, 1), isOwn = isSameCell(convertCell(own, 1, data.factor), cell);
  const masked = state.masked.some(one => isSameCell(one, own));
  const kind = data.factor === 1 ? "" : isOwn ? ", the network's own" : ", between the network's own";
  const adds = isOwn ? "what it adds" : "what it adds in its shifted pass";
  const mask = host.can.has("mask") ? "Mask this cell and run again" : "Mask this cell";
  const button = makeText("button", masked ? "Unmask this cell" : mask, { type: "button" });
  button.onclick = () => change({
    masked: masked ? state.masked.filter(one => !isSameCell(one, own)) : [...state.masked, own], view: "what if",
  });
  card.replaceChildren(
    makeText("p", `Cell (${row}, ${column})${kind}: ${number === "scores" ? "its class score" : adds}`),
    makeTable(rows),
    ...(lines ?? [["Reading its channels ..."]]).map(line => makeLine(line, host)),
    ...(isOwn && host.views.includes("what if") ? [button] : []),
  );
}

/** Show the logits without the masked cells, with the controls of the mask; no outcome while the host computes it. */
export function showMasked(root, state, change, host, outcome, findCells) {
  const card = root.querySelector(".without");
  if (state.view !== "what if") {
    card.replaceChildren();
    return;
  }
  if (!card.firstChild) {
    card.append(
      makeElement("div", { class: "answer" }),
      makeElement("div", { class: "row" },
        makeElement("label", {}, "Cells above ", makeElement("input", { type: "number", min: 0, max: 99 }), " %"),
        makeText("button", "Mask these cells", { type: "button" }), makeText("button", "Clear", { type: "button" })),
      makeElement("p", { class: "small" }),
    );
    card.querySelector(".row").append(makeElement("label", { class: "how" }, "In the photo, masked cells are ",
      makeElement("select", {}, ...["blurred", "gray"].map(name => makeText("option", name)))));
  }
  const answer = card.querySelector(".answer"), above = card.querySelector("input"), how = card.querySelector("select");
  const [mask, clear] = card.querySelectorAll("button");
  if (findFocused(card) !== above) above.value = state.above;
  how.value = state.change === "grey" ? "gray" : "blurred";
  how.parentElement.hidden = !host.can.has("mask");
  above.onchange = () => change({ above: Math.min(Math.max(Math.round(Number(above.value) || 0), 0), 99) });
  how.onchange = () => change({ change: how.value === "gray" ? "grey" : "blur" });
  mask.onclick = () => change({ masked: findCells() });
  clear.onclick = () => change({ masked: [] });
  clear.disabled = !state.masked.length;
  const count = state.masked.length, without = `without ${count} cell${count > 1 ? "s" : ""}`;
  card.lastChild.textContent = "";
  if (!count) {
    const hint = "Click cells on the photo to mask them, or choose one with the arrow keys and press Enter.";
    answer.replaceChildren(makeText("p", hint));
  } else if (!outcome) {
    answer.replaceChildren(makeText("p", `Running the network ${without} ...`));
  } else {
    const { picture, error, head, rows, note } = outcome;
    const title = `${without[0].toUpperCase()}${without.slice(1)}`;
    answer.replaceChildren(
      ...(rows.length ? [makeTable([[`${title}: ${head[0]}`, ...head.slice(1)], ...rows])] : []),
      ...(picture ? [makeElement("img", { src: picture, alt: "masked input of the network" })] : []),
      ...(error ? [makeText("p", error, { role: "alert" })] : []),
    );
    card.lastChild.textContent = note;
    answer.querySelector("table")?.classList.add("what-if");
  }
}
