"""Feature maps as a grid of small pictures. A click or the arrow keys choose one of them.

All maps are sent as one image, a mosaic, which the browser cuts into pictures: one message is enough for all channels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from torch import Tensor

from inspector.output.overlay import MOSAIC_COLUMNS, draw_mosaic
from inspector.ui.components import html
from inspector.ui.components.assets import make_component
from inspector.ui.state import keys

_show = make_component("channel_grid")


@dataclass(frozen=True)
class ChannelTile:
    """The text below the map of a channel."""

    channel: int
    line: str
    mark: str  # below the line, if the channel is dead or saturated; else ""
    label: str  # the full text, for screen readers and the tooltip


@dataclass(frozen=True)
class ChannelGrid:
    """A page of the channels of a layer."""

    tiles: Sequence[ChannelTile]
    chosen: int  # the channel that is marked as chosen
    label: str  # name of the whole grid, for screen readers
    before: int | None  # the last channel of the page before; None on the first page
    after: int | None  # the first channel of the next page; None on the last page


def show_channel_grid(maps: Tensor, scale: float | None, grid: ChannelGrid) -> None:
    """Show feature maps as a grid; a click or the arrow keys choose the channel, also across the ends of the page.

    Args:
        maps: the feature maps (n, h, w), one per tile.
        scale: the |value| with the strongest color; None: each map has its own scale.
        grid: the texts and the chosen channel.
    """
    image, size = make_mosaic(maps.numpy(force=True), scale)
    data = asdict(grid) | {"image": html.make_data_url(image), "tile_size": size, "columns": MOSAIC_COLUMNS}

    def choose_channel() -> None:
        st.session_state[keys.CHANNEL] = st.session_state[keys.CHANNEL_GRID]["chosen"]

    _show(key=keys.CHANNEL_GRID, data=data, on_chosen_change=choose_channel)


def make_mosaic(maps: NDArray[np.float32], scale: float | None) -> tuple[bytes, tuple[int, int]]:
    """Draw maps (n, h, w) side by side in one PNG. Return the PNG, and (height, width) of a map in it."""
    canvas, tile = draw_mosaic(maps, scale)
    return html.encode_image(canvas, exact=True), tile
