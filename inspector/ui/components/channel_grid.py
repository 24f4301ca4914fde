"""Feature maps as a grid of small pictures: clicked, or walked with the arrow keys, in the browser.

One image holds all of a page's maps, and the browser cuts it up: hundreds of channels cost one message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import streamlit as st
from numpy.typing import NDArray

from inspector.ui.components import html

if TYPE_CHECKING:
    from torch import Tensor

    from inspector.analysis.channels import PhotoChannels
    from inspector.explain.tracing.receptive_field import ReceptiveField
    from inspector.images.preprocessing import View

_COLUMNS = 8  # of the mosaic; on the page as many as fit stand side by side
_SIDE = 64  # pixels of a picture at most: no more than that is seen of it

_HTML = '<div class="inspector-channels" role="listbox"></div>'

_CSS = """
.inspector-channels {
  display: grid; gap: .45rem; grid-template-columns: repeat(auto-fill, minmax(clamp(4.1rem, 4vw, 6.5rem), 1fr));
}
.inspector-channels button {
  all: unset; box-sizing: border-box; cursor: pointer; padding: 2px; border: 2px solid transparent;
  border-radius: .3rem; color: var(--st-text-color); font-size: .75rem; line-height: 1.25; text-align: center;
  font-variant-numeric: tabular-nums; min-width: 0;
}
.inspector-channels button:hover { border-color: var(--st-border-color) }
.inspector-channels button[aria-selected=true] { border-color: var(--st-primary-color); font-weight: 600 }
.inspector-channels button:focus-visible { outline: 3px solid var(--st-primary-color); outline-offset: 1px }
.inspector-channels canvas {
  display: block; width: 100%; image-rendering: pixelated; border-radius: .15rem;
  outline: 1px solid rgba(128, 128, 128, .35); outline-offset: -1px;
}
.inspector-channels .dead canvas { opacity: .3 }
.inspector-channels .line { display: block; opacity: .75; white-space: nowrap; overflow: hidden }
.inspector-channels .mark { color: var(--st-primary-color); opacity: 1 }
"""

_JS = """
const STEPS = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

export default function ({ data, parentElement, setTriggerValue }) {
  const grid = parentElement.querySelector(".inspector-channels");
  const { channels, lines, marks, labels, tile: [height, width], columns } = data;
  grid.setAttribute("aria-label", data.label);
  while (grid.children.length > channels.length) grid.lastChild.remove();
  while (grid.children.length < channels.length) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("role", "option");
    button.append(document.createElement("canvas"), document.createElement("span"), document.createElement("span"));
    grid.append(button);
  }
  const buttons = [...grid.children];
  const choose = (i, delay) => {
    mark(channels[i]);
    buttons[i].focus();
    // Where it is small it is drawn large at once.
    document.dispatchEvent(new CustomEvent("inspector-channel", { detail: String(channels[i]) }));
    clearTimeout(grid.wait);
    // A key that is held down reports where it comes to rest.
    grid.wait = setTimeout(() => setTriggerValue("chosen", channels[i]), delay);
  };
  const mark = channel => {
    const known = channels.includes(channel);
    buttons.forEach((button, i) => {
      const chosen = channels[i] === channel;
      button.setAttribute("aria-selected", chosen);
      // One stop of the Tab key for all of them.
      button.tabIndex = chosen || (!known && i === 0) ? 0 : -1;
    });
  };
  buttons.forEach((button, i) => {
    const [canvas, number, line] = button.children;
    button.className = marks[i] === "dead" ? "dead" : "";
    button.setAttribute("aria-label", labels[i]);
    button.title = labels[i];
    number.textContent = channels[i];
    line.className = marks[i] ? "line mark" : "line";
    line.textContent = marks[i] || lines[i];
    button.onclick = () => choose(i, 0);
    button.onkeydown = event => {
      let to = null;
      const across = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
      if (event.key in STEPS) to = i + STEPS[event.key];
      else if (event.key === "ArrowUp") to = i - across;
      else if (event.key === "ArrowDown") to = i + across;
      else return;
      event.preventDefault();
      event.stopPropagation();
      choose(Math.min(Math.max(to, 0), channels.length - 1), 120);
    };
  });
  mark(data.chosen);
  if (grid.drawn === data.image) return;
  grid.drawn = data.image;
  const mosaic = new Image();
  mosaic.onload = () => {
    // A later run's picture may have come first.
    if (grid.drawn !== data.image) return;
    buttons.forEach((button, i) => {
      const canvas = button.firstChild;
      canvas.width = width;
      canvas.height = height;
      const [x, y] = [(i % columns) * width, Math.floor(i / columns) * height];
      canvas.getContext("2d").drawImage(mosaic, x, y, width, height, 0, 0, width, height);
    });
  };
  mosaic.src = data.image;
}
"""

_grid = st.components.v2.component("inspector.channels", html=_HTML, css=_CSS, js=_JS, isolate_styles=False)


@dataclass(frozen=True)
class Tile:
    """What stands under a channel's map."""

    channel: int
    line: str
    mark: str  # in place of the line where the channel is dead or saturated
    label: str  # all of it, for those who hear the page and those who point


def show_channel_grid(maps: "Tensor", tiles: Sequence[Tile], scale: float | None, chosen: int, label: str) -> None:
    """Draw the maps (n, h, w) of these channels, on one scale, or each on its own; a click becomes the channel."""
    image, tile = mosaic(maps.numpy(force=True), scale)
    data: dict[str, Any] = {
        "image": html.make_data_url(image),
        "tile": tile,
        "columns": _COLUMNS,
        "channels": [tile.channel for tile in tiles],
        "lines": [tile.line for tile in tiles],
        "marks": [tile.mark for tile in tiles],
        "labels": [tile.label for tile in tiles],
        "chosen": chosen,
        "label": label,
    }

    def follow() -> None:
        st.session_state["channel"] = st.session_state["channels"]["chosen"]

    _grid(key="channels", data=data, on_chosen_change=follow)


def mosaic(maps: NDArray[np.float32], scale: float | None) -> tuple[bytes, tuple[int, int]]:
    """Maps (n, h, w) side by side in one PNG, and the (height, width) of each in it."""
    from inspector.output.overlay import common_scale, grid_image

    height, width = maps.shape[1:]
    factor = min(1.0, _SIDE / max(height, width))
    tile = max(1, round(height * factor)), max(1, round(width * factor))
    rows = -(-len(maps) // _COLUMNS)
    canvas = np.zeros((rows * tile[0], _COLUMNS * tile[1], 3), np.uint8)
    for i, one in enumerate(maps):
        drawn = one if factor == 1 else cv2.resize(one, tile[::-1], interpolation=cv2.INTER_AREA)
        y, x = i // _COLUMNS * tile[0], i % _COLUMNS * tile[1]
        canvas[y : y + tile[0], x : x + tile[1]] = grid_image(drawn, common_scale([one]) if scale is None else scale)
    return html.encode_image(canvas, exact=True), tile


def over_photo(values: "Tensor", view: "View", field: "ReceptiveField", side: int, scale: float, smooth: bool) -> bytes:
    """A map (h, w) over the whole photo, its longer side `side` pixels, its cells where their receptive fields lie."""
    from inspector.output.overlay import dimmed_photo, draw_map_on_photo, needs_lossless

    canvas = dimmed_photo(view.photo, view.crop, side)
    image = draw_map_on_photo(canvas, view.crop, values.numpy(force=True), field, scale, smooth)
    return html.encode_image(image, needs_lossless(view.photo.size))


def activation_bar(scale: float, signed: bool) -> str:
    """The colour bar of feature maps: from zero, or with zero in the middle where some are negative."""
    if not scale:
        return (
            '<div style="font-size: .8rem; opacity: .7">activation: 0 everywhere, so there is nothing to colour</div>'
        )
    from inspector.output.style import diverging_colormap

    colours = diverging_colormap()[0 if signed else len(diverging_colormap()) // 2 :: 42 if signed else 21]
    stops = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in colours)
    ends = [-scale, 0, scale] if signed else [0, scale]
    ticks = "".join(f"<span>{number(tick)}</span>" for tick in ends)
    words = "red is positive, blue negative" if signed else "the redder, the higher"
    return f"""
    <div role="img" aria-label="colour bar from {ends[0]:.3g} to {scale:.3g}: {words}" style="max-width: 24rem">
      <div style="height: .6rem; border-radius: .2rem; background: linear-gradient(to right, {stops})"></div>
      <div style="display: flex; justify-content: space-between; font-size: .8rem; opacity: .85">{ticks}</div>
      <div style="font-size: .8rem; opacity: .7">activation: {words}</div>
    </div>"""


def number(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def photo_tiles(heard: "Sequence[PhotoChannels]", channel: int, field: "ReceptiveField") -> str:
    """One channel's map on several photos, on one scale, with the pooled values."""
    from inspector.output.overlay import common_scale

    maps = [one.feature_maps[channel].float() for one in heard]
    scale = common_scale([values.numpy(force=True) for values in maps])
    pictured = [
        (
            over_photo(values, one.view, field, 240, scale, True),
            one.name,
            f"pooled value {number(float(one.pooled[channel]))}",
            f"channel {channel} on {one.name}",
        )
        for one, values in zip(heard, maps, strict=True)
    ]
    signed = any(bool((values < 0).any()) for values in maps)
    return f'{html.tiles(pictured)}<div style="margin-top: 1rem">{activation_bar(scale, signed)}</div>'
