"""The likeliest classes as a list that is clicked or walked with the arrow keys; the photo follows in the browser.

A table of Streamlit's waits 150 ms before it reports a row, and draws on a canvas that no screen reader can read.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import streamlit as st

_HTML = """
<div class="inspector-classes">
  <div class="head" aria-hidden="true"><span>class</span><span>probability</span><span>logit</span></div>
  <div role="radiogroup" aria-label="The likeliest classes with their probabilities and logits"></div>
</div>
"""

_CSS = """
.inspector-classes { font-size: .875rem; color: var(--st-text-color); font-variant-numeric: tabular-nums }
.inspector-classes .head, .inspector-classes button {
  display: grid; grid-template-columns: minmax(5rem, 3fr) minmax(5.2rem, 2fr) 3.6rem; gap: .7rem; align-items: center;
}
.inspector-classes .head { opacity: .65; padding: .15rem .6rem; font-size: .8rem }
.inspector-classes .head span:last-child, .inspector-classes button b { text-align: right; font-weight: inherit }
.inspector-classes button {
  all: unset; box-sizing: border-box; display: grid; width: 100%; padding: .42rem .6rem; cursor: pointer;
  grid-template-columns: minmax(5rem, 3fr) minmax(5.2rem, 2fr) 3.6rem; gap: .7rem; align-items: center;
  border-top: 1px solid var(--st-border-color); border-left: 3px solid transparent;
}
.inspector-classes button:hover { background: var(--st-secondary-background-color) }
.inspector-classes button[aria-checked=true] {
  border-left-color: var(--st-primary-color); background: var(--st-secondary-background-color); font-weight: 600;
}
.inspector-classes button:focus-visible { outline: 3px solid var(--st-primary-color); outline-offset: -2px }
.inspector-classes .name { overflow-wrap: anywhere }
.inspector-classes .bar { display: grid; grid-template-columns: 1fr 3.2rem; gap: .5rem; align-items: center }
.inspector-classes .bar i {
  height: .45rem; border-radius: .25rem; background: var(--st-border-color); overflow: hidden;
}
.inspector-classes .bar i::before {
  content: ""; display: block; height: 100%; width: var(--part); background: var(--st-primary-color);
}
.inspector-classes .bar em { font-style: normal; text-align: right }
"""

_JS = """
const STEPS = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, Home: -Infinity, End: Infinity };
const part = value => (100 * value).toFixed(1) + "%";

export default function ({ data, parentElement, setTriggerValue }) {
  const list = parentElement.querySelector("[role=radiogroup]"), { rows } = data;
  while (list.children.length > rows.length) list.lastChild.remove();
  while (list.children.length < rows.length) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("role", "radio");
    button.innerHTML = "<span class=name></span><span class=bar><i></i><em></em></span><b></b>";
    list.append(button);
  }
  const buttons = [...list.children];
  const mark = i => buttons.forEach((button, j) => {
    button.setAttribute("aria-checked", i === j);
    button.tabIndex = i === j ? 0 : -1;
  });
  const choose = (i, delay) => {
    mark(i);
    buttons[i].focus();
    // The photo draws it at once; a key that is held down reports where it comes to rest.
    document.dispatchEvent(new CustomEvent("inspector-class", { detail: String(rows[i].k) }));
    clearTimeout(list.wait);
    list.wait = setTimeout(() => setTriggerValue("chosen", rows[i].k), delay);
  };
  buttons.forEach((button, i) => {
    const { name, probability, logit } = rows[i];
    button.querySelector(".name").textContent = name;
    button.querySelector("i").style.setProperty("--part", part(probability));
    button.querySelector("em").textContent = part(probability);
    button.querySelector("b").textContent = logit;
    button.setAttribute("aria-label", `${name}, probability ${part(probability)}, logit ${logit}`);
    button.onclick = () => choose(i, 0);
    button.onkeydown = event => {
      if (!(event.key in STEPS) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      choose(Math.min(Math.max(i + STEPS[event.key], 0), rows.length - 1), 120);
    };
  });
  mark(rows.findIndex(row => row.k === data.chosen));
}
"""

_list = st.components.v2.component("inspector.classes", html=_HTML, css=_CSS, js=_JS, isolate_styles=False)


@dataclass(frozen=True)
class Row:
    """One class."""

    k: int
    name: str
    probability: float
    logit: str


def show_class_list(rows: Sequence[Row], chosen: int, on_chosen: Callable[[int], None]) -> None:
    """Draw the list; `on_chosen` hears of the class that the user takes before the page runs."""
    data: dict[str, Any] = {"rows": [asdict(row) for row in rows], "chosen": chosen}
    listed = {row.k for row in rows}

    def follow() -> None:
        # What the browser tells may be older than the list.
        if (k := st.session_state["the classes"]["chosen"]) in listed:
            on_chosen(k)

    _list(key="the classes", data=data, on_chosen_change=follow)
