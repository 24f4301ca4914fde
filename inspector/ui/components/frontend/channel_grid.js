// Feature maps as a grid of small pictures, cut from one image. A click or the arrow keys choose a channel.

import { makeElement, setChildCount } from "../../../output/frontend/elements.js";
import { moveInList } from "../../../output/frontend/list_keys.js";

const KEY_DELAY = 120; // milliseconds to wait, so that a key held down reports only the last choice

const makeTile = () => makeElement(
  "button", { type: "button", role: "option" }, makeElement("canvas"), makeElement("span"), makeElement("span"),
  makeElement("span", { class: "mark" }),
);

export default function ({ data: [data], parentElement, setTriggerValue }) {
  const grid = parentElement.querySelector(".inspector-channels");
  const { tiles, tile_size: [height, width], columns } = data;
  grid.setAttribute("aria-label", data.label);
  setChildCount(grid, tiles.length, makeTile);
  const buttons = [...grid.children];
  const mark = channel => {
    const known = tiles.some(tile => tile.channel === channel);
    buttons.forEach((button, i) => {
      const chosen = tiles[i].channel === channel;
      button.setAttribute("aria-selected", chosen);
      // The Tab key reaches only one button of the grid; the arrow keys reach the others.
      button.tabIndex = chosen || (!known && i === 0) ? 0 : -1;
    });
  };
  const choose = (i, delay) => {
    const { channel } = tiles[i];
    mark(channel);
    buttons[i].focus();
    // map_canvas.js listens and draws the large map of the channel at once, before the server answers.
    document.dispatchEvent(new CustomEvent("inspector-channel", { detail: String(channel) }));
    clearTimeout(grid.timer);
    grid.timer = setTimeout(() => setTriggerValue("chosen", channel), delay);
  };
  // The arrow keys go on to the next page of channels at the last tile, and back at the first one.
  const findBeyond = key => ({ ArrowLeft: data.before, ArrowRight: data.after })[key] ?? null;
  const leavePage = channel => {
    grid.awaited = channel;
    clearTimeout(grid.timer);
    setTriggerValue("chosen", channel);
  };
  buttons.forEach((button, i) => {
    const { channel, line, mark: warning, label } = tiles[i], [, number, text, extra] = button.children;
    button.className = warning === "dead" ? "dead" : "";
    button.setAttribute("aria-label", label);
    button.title = label;
    number.textContent = channel;
    text.className = "line";
    text.textContent = line;
    extra.textContent = warning;
    button.onclick = () => choose(i, 0);
    button.onkeydown = event => {
      const across = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
      const next = moveInList(event.key, i, tiles.length, across);
      if (next === null) return;
      event.preventDefault();
      event.stopPropagation();
      const beyond = next === i ? findBeyond(event.key) : null;
      if (beyond === null) choose(next, KEY_DELAY);
      else leavePage(beyond);
    };
  });
  mark(data.chosen);
  const awaited = tiles.findIndex(tile => tile.channel === grid.awaited);
  if (awaited >= 0) {
    grid.awaited = null;
    buttons[awaited].focus();
  }
  if (grid.drawn === data.image) return;
  grid.drawn = data.image;
  const mosaic = new Image();
  mosaic.onload = () => {
    // Ignore this image if a later run of the page has sent another one.
    if (grid.drawn !== data.image) return;
    buttons.forEach((button, i) => {
      const canvas = button.firstChild;
      canvas.width = width;
      canvas.height = height;
      const x = (i % columns) * width, y = Math.floor(i / columns) * height;
      canvas.getContext("2d").drawImage(mosaic, x, y, width, height, 0, 0, width, height);
    });
  };
  mosaic.src = data.image;
}
