// The modules of a network as a tree. A click or the arrow keys choose a layer.

import { makeElement, setChildCount } from "../../../output/frontend/elements.js";
import { hasModifier } from "../../../output/frontend/list_keys.js";
import { hasChildren, listAncestors, listVisible, moveInTree } from "./tree_keys.js";

const KEY_DELAY = 250; // milliseconds to wait, so that a key held down reports only the last choice

const makeRow = () => makeElement(
  "div", { role: "treeitem" }, makeElement("i", { "aria-hidden": "true" }), makeElement("span"), makeElement("small"),
  makeElement("em"),
);

export default function ({ data: [data], parentElement, setTriggerValue }) {
  const tree = parentElement.querySelector("[role=tree]"), { nodes, network } = data;
  if (tree.network !== network) Object.assign(tree, { network, open: new Set(), chosen: null });
  setChildCount(tree, nodes.length, makeRow);
  const rows = [...tree.children], { open } = tree;
  const find = label => nodes.findIndex(node => node.label === label);

  const showOpen = () => {
    const visible = new Set(listVisible(nodes, open));
    rows.forEach((row, i) => {
      row.hidden = !visible.has(i);
      if (hasChildren(nodes, i)) row.setAttribute("aria-expanded", open.has(nodes[i].label));
      else row.removeAttribute("aria-expanded");
    });
  };
  const toggle = i => {
    const { label } = nodes[i];
    if (!open.delete(label)) open.add(label);
    showOpen();
  };
  // The Tab key reaches only one row; the arrow keys reach the others.
  const setTabStop = i => rows.forEach((row, j) => { row.tabIndex = j === i ? 0 : -1; });
  const mark = chosen => rows.forEach((row, i) => row.setAttribute("aria-selected", i === chosen));
  const scrollTo = i => {
    // Not scrollIntoView, because it scrolls the page, too.
    const { offsetTop: top, offsetHeight: height } = rows[i];
    if (top < tree.scrollTop || top + height > tree.scrollTop + tree.clientHeight) {
      tree.scrollTop = top - (tree.clientHeight - height) / 2;
    }
  };
  const choose = (i, delay) => {
    setTabStop(i);
    rows[i].focus({ preventScroll: true });
    scrollTo(i);
    clearTimeout(tree.timer);
    if (!nodes[i].selectable) return;
    mark(i);
    tree.chosen = nodes[i].label;
    tree.timer = setTimeout(() => setTriggerValue("chosen", nodes[i].label), delay);
  };

  rows.forEach((row, i) => {
    const { name, kind, size, note, level, selectable } = nodes[i], [mark, title, type, shape] = row.children;
    row.setAttribute("aria-level", level + 1);
    row.setAttribute("aria-label", [name, kind, size].filter(Boolean).join(", "));
    row.style.setProperty("--level", level);
    row.className = selectable ? "" : "group";
    row.title = note;
    [title.textContent, type.textContent, shape.textContent] = [name, kind, size];
    row.onclick = event => {
      if (hasChildren(nodes, i) && (event.target === mark || !selectable)) toggle(i);
      if (event.target !== mark) choose(i, 0);
    };
    row.onkeydown = event => {
      if (hasModifier(event)) return;
      const opens = !selectable && (event.key === "Enter" || event.key === " ");
      const action = opens ? { toggle: i } : moveInTree(event.key, i, nodes, open);
      if (action === null) return;
      event.preventDefault();
      event.stopPropagation();
      if ("toggle" in action) toggle(action.toggle);
      else choose(action.move, KEY_DELAY);
    };
  });
  const chosen = find(data.chosen), isNew = tree.chosen !== data.chosen;
  if (isNew && chosen >= 0) listAncestors(nodes, chosen).forEach(i => open.add(nodes[i].label));
  tree.chosen = data.chosen;
  showOpen();
  mark(chosen);
  setTabStop(Math.max(chosen, 0));
  if (isNew && chosen >= 0) scrollTo(chosen);
}
