// A text field that finds one of many names. The browser's own list of suggestions is used, so that it is quick with
// thousands of names and works with keyboards and screen readers.

import { findFocused, makeElement } from "./elements.js";
import { findName } from "./viewer_maps.js";

/** Give a text field its names. `lists`: names -> id of their list; a list is made once for each set of names. */
export function setNames(input, names, id) {
  const list = input.nextElementSibling;
  input.names = names;
  if (list.id === id) return;
  list.id = id;
  input.setAttribute("list", id);
  list.replaceChildren(...names.map(value => makeElement("option", { value })));
}

/** Show a name in a text field that has not the focus, and call `choose` with the index of the name that is chosen. */
export function connectSearch(input, shown, choose) {
  input.shown = shown;
  input.placeholder = shown;
  if (findFocused(input) !== input) input.value = input.dataset.empty === undefined ? shown : "";
  const width = Math.min(Math.max(shown.length, 7), 26);
  if (input.dataset.empty === undefined) input.style.width = `calc(${width}ch + 1.8rem)`;
  const restore = () => {
    input.value = input.dataset.empty === undefined ? input.shown : "";
  };
  const commit = () => {
    const found = findName(input.names, input.value);
    if (found >= 0) {
      input.shown = input.names[found];
      choose(found);
    }
    input.blur();
  };
  // An empty field offers all names.
  input.onfocus = () => { input.value = ""; };
  input.onblur = restore;
  input.oninput = event => {
    // A suggestion that is clicked replaces the whole text.
    if (!event.inputType || event.inputType === "insertReplacementText") commit();
  };
  input.onkeydown = event => {
    event.stopPropagation();
    if (event.key === "Enter") commit();
    if (event.key === "Escape") input.blur();
  };
}
