// The top classes as a list. A click or the arrow keys choose a class.

import { makeElement, setChildCount } from "./elements.js";
import { moveInList } from "./list_keys.js";
import { formatPercent } from "./numbers.js";

const KEY_DELAY = 120; // milliseconds to wait, so that a key held down reports only the last choice

const makeRow = () => makeElement(
  "button", { type: "button", role: "radio" }, makeElement("span", { class: "name" }),
  makeElement("span", { class: "bar" }, makeElement("i"), makeElement("em")), makeElement("b"),
);

export default function ({ data, parentElement, setTriggerValue }) {
  const list = parentElement.querySelector("[role=radiogroup]"), { rows, quantity } = data;
  const [, probabilities, numbers] = parentElement.querySelectorAll(".head span");
  // A network that returns other values, as in regression, has no probabilities.
  const hasProbabilities = rows.some(row => row.probability !== null);
  probabilities.textContent = hasProbabilities ? "probability" : "";
  numbers.textContent = quantity;
  setChildCount(list, rows.length, makeRow);
  const buttons = [...list.children];
  const mark = chosen => buttons.forEach((button, i) => {
    button.setAttribute("aria-checked", i === chosen);
    button.tabIndex = i === chosen ? 0 : -1;
  });
  const choose = (i, delay) => {
    mark(i);
    buttons[i].focus();
    // photo.js listens and draws the map of the class at once, before the server answers.
    document.dispatchEvent(new CustomEvent("inspector-class", { detail: String(rows[i].k) }));
    clearTimeout(list.timer);
    list.timer = setTimeout(() => setTriggerValue("chosen", rows[i].k), delay);
  };
  buttons.forEach((button, i) => {
    const { name, probability, logit } = rows[i];
    const percent = hasProbabilities ? formatPercent(probability) : "";
    button.querySelector(".name").textContent = name;
    button.querySelector(".bar").style.visibility = hasProbabilities ? "" : "hidden";
    button.querySelector("i").style.setProperty("--part", percent || "0");
    button.querySelector("em").textContent = percent;
    button.querySelector("b").textContent = logit;
    button.setAttribute("aria-label", `${name}, ${percent && `probability ${percent}, `}${quantity} ${logit}`);
    button.onclick = () => choose(i, 0);
    button.onkeydown = event => {
      const next = moveInList(event.key, i, rows.length, 1);
      if (next === null || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      choose(next, KEY_DELAY);
    };
  });
  mark(rows.findIndex(row => row.k === data.chosen));
}
