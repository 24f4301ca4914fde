// Photos of the visitor and examples as small pictures. Files that are dropped anywhere or pasted go to the uploader.

import { makeElement, setChildCount } from "../../../output/frontend/elements.js";
import { hasModifier, moveInList } from "../../../output/frontend/list_keys.js";
import { keepOneEntryPerPage } from "./page_history.js";
import { findFiles, keepTab } from "./photo_files.js";

const KEY_DELAY = 120; // milliseconds to wait, so that a key held down reports only the last choice
const UPLOADER = ".st-key-uploader input[type=file]";

const makeItem = () => makeElement(
  "div", { class: "item" },
  makeElement("button", { type: "button", role: "radio" }, makeElement("img", { alt: "" }), makeElement("span")),
  makeElement("button", { type: "button", class: "remove" }),
);

// Give files to the uploader of the page, as if they had been chosen there. Streamlit checks and sends them.
function upload(files) {
  const input = document.querySelector(UPLOADER);
  if (!input || input.disabled) return;
  const transfer = new DataTransfer();
  files.forEach(file => transfer.items.add(file));
  input.files = transfer.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}

function listen() {
  const cover = makeElement("div", { class: "inspector-drop" });
  cover.textContent = "Drop photos anywhere";
  const show = event => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    if (!cover.isConnected) document.body.append(cover);
  };
  const hide = event => { if (!event.relatedTarget) cover.remove(); };
  const drop = event => {
    cover.remove();
    // An uploader takes what is dropped on it by itself, such as the weights of a network.
    if (event.target.closest?.("[data-testid=stFileUploaderDropzone]")) return;
    const files = findFiles(event.dataTransfer);
    if (!files.length) return;
    event.preventDefault();
    upload(files);
  };
  const paste = event => {
    const files = findFiles(event.clipboardData);
    if (!files.length) return;
    event.preventDefault();
    upload(files);
  };
  const handlers = { dragover: show, dragleave: hide, drop, paste };
  for (const [name, handler] of Object.entries(handlers)) document.addEventListener(name, handler);
  return () => {
    cover.remove();
    for (const [name, handler] of Object.entries(handlers)) document.removeEventListener(name, handler);
  };
}

export default function ({ data: [data], parentElement, setTriggerValue, setStateValue }) {
  const list = parentElement.querySelector("[role=radiogroup]"), { items } = data;
  keepOneEntryPerPage(window);
  const known = keepTab(sessionStorage, data.tab);
  // After a reload, report the name of the tab, so that its photos come back; also where a link names a photo.
  if (list.reported !== known && (known !== data.tab || data.asked)) setStateValue("tab", list.reported = known);

  setChildCount(list, items.length, makeItem);
  const buttons = [...list.children].map(item => item.firstChild);
  const mark = chosen => buttons.forEach((button, i) => {
    button.setAttribute("aria-checked", i === chosen);
    button.tabIndex = i === chosen || (chosen < 0 && i === 0) ? 0 : -1;
  });
  const choose = (i, delay) => {
    mark(i);
    buttons[i].focus();
    clearTimeout(list.timer);
    list.timer = setTimeout(() => setTriggerValue("chosen", items[i].id), delay);
  };
  buttons.forEach((button, i) => {
    const { id, name, picture, own } = items[i], remove = button.nextSibling;
    const [image, text] = button.children;
    if (image.getAttribute("src") !== picture) image.setAttribute("src", picture);
    text.textContent = picture ? "" : name;
    button.title = name;
    button.setAttribute("aria-label", own ? `your photo ${name}` : `example ${name}`);
    button.onclick = () => choose(i, 0);
    button.onkeydown = event => {
      const next = moveInList(event.key, i, items.length, 1);
      if (next === null || hasModifier(event)) return;
      event.preventDefault();
      event.stopPropagation();
      choose(next, KEY_DELAY);
    };
    remove.hidden = !own;
    remove.textContent = "\u00d7";
    remove.setAttribute("aria-label", `remove ${name}`);
    remove.title = `Remove ${name}`;
    remove.onclick = () => setTriggerValue("removed", id);
  });
  const chosen = items.findIndex(item => item.id === data.chosen);
  mark(chosen);
  if (list.shown !== data.chosen) buttons[chosen]?.scrollIntoView({ block: "nearest", inline: "nearest" });
  list.shown = data.chosen;

  document.inspectorFiles?.();
  const stop = document.inspectorFiles = listen();
  return () => stop();
}
