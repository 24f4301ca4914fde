"""The page Layers: the network as a tree, and the feature maps of any layer on the photo, channel by channel."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from inspector.analysis.layers import (
    Contributions,
    Facts,
    Layer,
    LayerMaps,
    facts,
    find_layer,
    pooled_layer,
)
from inspector.explain.class_maps import ClassMaps
from inspector.output.overlay import common_scale
from inspector.output.text import format_number
from inspector.ui.components import html
from inspector.ui.components.channel_grid import Tile, activation_bar, show_channel_grid
from inspector.ui.components.map_canvas import MapDrawing, encode_cells, make_frame, show_maps
from inspector.ui.components.messages import show_errors
from inspector.ui.state import cache, keys
from inspector.ui.state.selection import choose_channel, choose_class
from inspector.ui.state.sidebar import NetworkChoice, SidebarSelection
from inspector.ui.state.streamlit_fixes import fragment

PAGE = 64  # channels shown at once
_SMALL = 28 * 28  # cells: larger maps of a whole page of channels make a slow message
_SIDE, _DEPTH_SIDE = 640, 360  # longer sides of the drawn maps, in pixels
INDEX, MEAN, HIGHEST, CONTRIBUTION = "number", "mean", "highest", "contribution"  # values in links


@dataclass(frozen=True)
class LayerSelection:
    """What the controls of the page choose."""

    layer: Layer
    order: str  # by what the channels are sorted
    k: int | None  # the class of the contributions
    own_scales: bool  # each channel on its own scale
    smooth: bool  # interpolated, or the raw grid


@dataclass(frozen=True, eq=False)
class ShownLayer:
    """What the page shows of a layer."""

    key: cache.MapsKey
    maps: ClassMaps
    layer_maps: LayerMaps
    selection: LayerSelection
    statistics: Facts
    contributions: Contributions | None  # to the logit of the chosen class
    scale: float | None  # of all channels; None: each its own

    @property
    def class_name(self) -> str:
        """Name of the class of the contributions, as Markdown."""
        assert self.selection.k is not None, "there is a class where there are contributions"
        return html.plain_text(self.maps.classifier.class_names[self.selection.k])


def show(selection: SidebarSelection) -> None:
    """Draw the page."""
    network = selection.network
    with st.spinner(f"Reading the layers of {network.name} ..."):
        layers = cache.layers_of(network.key, network.load)
    _show_page(network, selection.key, selection.maps, layers)


@fragment
def _show_page(network: NetworkChoice, key: cache.MapsKey, maps: ClassMaps, layers: tuple[Layer, ...]) -> None:
    with show_errors():
        selection = _choose(maps, layers)
        _show_tree(network, layers, selection.layer)
        with st.spinner(f"Running {network.name} up to {selection.layer.label} ..."):
            layer_maps = cache.layer_maps_of(key, selection.layer.label, maps, selection.layer)
        _show_channels(key, maps, layer_maps, selection)


def _choose(maps: ClassMaps, layers: tuple[Layer, ...]) -> LayerSelection:
    """Show the controls."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        label = _choose_layer(layers, pooled_layer(maps.classifier, layers).label)
        order = st.segmented_control(
            "Sort channels by",
            [INDEX, MEAN, HIGHEST, CONTRIBUTION],
            default=MEAN,
            required=True,
            key=keys.CHANNEL_ORDER,
            bind="query-params",
            help="Mean: the mean activation over all cells. Highest: the activation of the strongest cell. "
            "Contribution: what the channel adds to the logit of a class; exact for the maps that are pooled, a "
            "first-order approximation elsewhere.",
        )
        k = choose_class(maps) if order == CONTRIBUTION else None
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        own_scales = st.toggle(
            "One scale per channel",
            key=keys.CHANNEL_SCALES,
            bind="query-params",
            help="Off: all channels share one scale, so that they can be compared. On: weak channels are visible too.",
        )
        raw = st.toggle(
            "Raw grid", key=keys.RAW_GRID, bind="query-params", help="Show the cells without interpolation."
        )
    return LayerSelection(find_layer(layers, label), order, k, own_scales, not raw)


def _choose_layer(layers: tuple[Layer, ...], pooled: str) -> str:
    """Show a box for a layer, and buttons for its neighbors. Return its label; `pooled` while the box is empty."""
    labels = [layer.label for layer in layers if layer.size is not None]
    if st.session_state.get(keys.LAYER) not in (None, *labels):
        st.session_state[keys.LAYER] = None  # a layer of another network

    def step(by: int) -> None:
        _select_layer(labels[labels.index(st.session_state[keys.LAYER] or pooled) + by])

    label: str = (
        st.selectbox(
            "Layer",
            labels,
            index=None,
            placeholder=f"{pooled} (input of the pooling)",
            key=keys.LAYER,
            bind="query-params",
            on_change=_clear_channel,
            width=300,
            help="Type to search. A layer is any module that returns feature maps, also a block of several. A module "
            "that runs several times in a forward pass is listed once per run.",
        )
        or pooled
    )
    for name, icon, by, end in (
        ("Previous layer", "upward", -1, labels[0]),
        ("Next layer", "downward", 1, labels[-1]),
    ):
        st.button(name, icon=f":material/arrow_{icon}:", on_click=step, args=(by,), disabled=label == end)
    return label


def _select_layer(label: str) -> None:
    st.session_state[keys.LAYER] = label
    _clear_channel()


def _clear_channel() -> None:
    """Forget the channel: the channels of two layers are unrelated."""
    st.session_state[keys.CHANNEL] = None


def _show_tree(network: NetworkChoice, layers: tuple[Layer, ...], chosen: Layer) -> None:
    """List all modules in the order in which they start. Selecting a row with feature maps selects its layer."""
    key = f"tree of {network.key}"

    def follow() -> None:
        rows = st.session_state[key].selection.rows
        if rows and layers[rows[0]].size is not None:
            _select_layer(layers[rows[0]].label)

    with st.expander("Modules of the network, in the order in which they run", expanded=True):
        st.dataframe(
            [_make_row(layer, layer is chosen) for layer in layers],
            key=key,
            on_select=follow,
            selection_mode="single-row",
            hide_index=True,
            height=214,
            column_config={
                "layer": st.column_config.TextColumn(width="medium"),
                "receptive field": st.column_config.TextColumn(
                    help="Height x width, in pixels of the network's input: what one cell of the maps can depend on. "
                    "It may extend beyond the input."
                ),
            },
            alt="The modules in the order in which they run, with the shapes of their outputs",
        )


def _make_row(layer: Layer, is_chosen: bool) -> dict[str, str]:
    mark = " \N{BLACK LEFT-POINTING TRIANGLE}" if is_chosen else ""
    return {
        "layer": "\N{EM SPACE}" * layer.depth + layer.label + mark,
        "kind": layer.kind,
        "output": " x ".join(map(str, layer.shape)) if layer.shape else "",
        "receptive field": _describe_field(layer),
    }


def _describe_field(layer: Layer) -> str:
    if layer.size is None:
        return ""
    if layer.field is None or layer.field.y.size == float("inf"):
        return "whole input"
    return f"{layer.field.y.size:.0f} x {layer.field.x.size:.0f}"


@fragment
def _show_channels(key: cache.MapsKey, maps: ClassMaps, layer_maps: LayerMaps, selection: LayerSelection) -> None:
    """Show the channels of a layer as a grid, and one of them large."""
    label, contributions = layer_maps.layer.label, None
    if selection.k is not None:
        name = maps.classifier.class_names[selection.k]
        with st.spinner(f"Computing the contributions of {label} to the logit of {name} ..."):
            contributions = cache.contributions_of(key, label, selection.k, maps, layer_maps)
    scale = None if selection.own_scales else common_scale([layer_maps.maps.numpy(force=True)])
    shown = ShownLayer(key, maps, layer_maps, selection, facts(layer_maps), contributions, scale)
    order = _sort_channels(shown)
    wide, narrow = st.columns([3, 2], gap="large")
    with wide:
        st.subheader(label, anchor=False)
        st.caption(_describe(shown))
        with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
            channel = choose_channel(len(order), order[0])
            page = _choose_page(order, channel, (key, label, selection.order, selection.k))
    on_page = order[(page - 1) * PAGE : page * PAGE]
    # Draw what the user clicked for first.
    with narrow:
        _show_channel(shown, channel, on_page)
        _show_depth(layer_maps, selection.smooth)
    with wide:
        tiles = [_make_tile(shown, c) for c in on_page]
        show_channel_grid(layer_maps.maps[on_page], tiles, scale, channel, f"Feature maps of {label}")
        if scale is not None:
            st.html(activation_bar(scale, layer_maps.signed))


def _sort_channels(shown: ShownLayer) -> list[int]:
    """Return the channels in the chosen order, highest values first."""
    order = shown.selection.order
    if order == INDEX:
        return list(range(len(shown.statistics.mean)))
    values = shown.statistics.highest if order == HIGHEST else shown.statistics.mean
    values = shown.contributions.values if shown.contributions is not None else values
    channels: list[int] = values.argsort(descending=True, stable=True).tolist()
    return channels


def _choose_page(order: Sequence[int], channel: int, sorted_by: object) -> int:
    """Show the choice of pages. A newly chosen channel, or a new order, opens the page of the channel."""
    pages = -(-len(order) // PAGE)
    if pages == 1:
        return 1
    place = order.index(channel) // PAGE + 1
    return st.pagination(pages, default=place, key=f"page of {channel} {sorted_by}", max_visible_pages=5)


def _describe(shown: ShownLayer) -> str:
    """Return a few sentences on the layer and its channels on this photo."""
    layer, statistics = shown.layer_maps.layer, shown.statistics
    channels, height, width = shown.layer_maps.maps.shape
    sentences = [f"{layer.kind}: {channels} feature maps of {height} x {width} cells."]
    if (field := layer.field) is not None and field.y.size != float("inf"):
        sentences.append(
            f"A cell sees {field.y.size:.0f} x {field.x.size:.0f} pixels of the network's input; the stride is "
            f"{field.y.stride:.0f} pixels."
        )
    if dead := int(statistics.dead.sum()):
        sentences.append(f"{dead} channels are dead on this photo: 0 in every cell.")
    if saturated := int((statistics.saturated > 0).sum()):
        ceiling = format_number(layer.ceiling or 0)
        sentences.append(f"{saturated} channels are saturated in some cells, at the maximum of {ceiling}.")
    if shown.contributions is not None:
        if shown.contributions.how == "first order":
            sentences.append(
                f"Contributions to the logit of {shown.class_name} are gradient x activation: a first-order "
                "approximation, which does not sum to the logit."
            )
        else:
            sentences.append(
                f"Contributions to the logit of {shown.class_name} are {shown.contributions.how}: these maps are "
                "pooled, and the contributions sum to the logit minus the bias."
            )
    return " ".join(sentences)


def _make_tile(shown: ShownLayer, channel: int) -> Tile:
    statistics, order = shown.statistics, shown.selection.order
    if order == CONTRIBUTION and shown.contributions is not None:
        value = format_number(float(shown.contributions.values[channel]), "+.2g")
    else:
        value = format_number(float((statistics.highest if order == HIGHEST else statistics.mean)[channel]))
    saturated = float(statistics.saturated[channel])
    mark = ""
    if statistics.dead[channel]:
        mark = "dead"
    elif saturated:
        mark = f"{saturated:.0%} at {format_number(shown.layer_maps.layer.ceiling or 0)}"
    label = f"channel {channel}, {order if order != INDEX else MEAN} {value}"
    return Tile(channel, value, mark, label + (f", {mark}" if mark else ""))


def _show_channel(shown: ShownLayer, channel: int, on_page: Sequence[int]) -> None:
    """Show one channel large over the photo, with its statistics."""
    layer_maps = shown.layer_maps
    grids = layer_maps.maps.numpy(force=True)

    def draw(c: int) -> MapDrawing:
        scale = common_scale([grids[c]]) if shown.scale is None else shown.scale
        return MapDrawing(encode_cells(grids[c], scale), f"channel {c} of {layer_maps.layer.label}")

    st.subheader(f"Channel {channel}", anchor=False)
    frame = make_frame(
        grids[channel].shape, layer_maps.view, layer_maps.receptive_field, _SIDE, shown.selection.smooth
    )
    ahead = {c: draw(c) for c in on_page} if grids[channel].size <= _SMALL else {}
    show_maps(keys.CHANNEL_MAP, layer_maps.view, frame, [draw(channel)], ahead=ahead)
    scale = common_scale([grids[channel]]) if shown.scale is None else shown.scale
    st.html(activation_bar(scale, layer_maps.signed))
    st.markdown(", ".join(_list_statistics(shown, channel)))


def _list_statistics(shown: ShownLayer, channel: int) -> list[str]:
    """Return what is known of a channel, as phrases in Markdown."""
    statistics, ceiling = shown.statistics, shown.layer_maps.layer.ceiling
    phrases = [
        f"mean **{format_number(float(statistics.mean[channel]))}**",
        f"highest **{format_number(float(statistics.highest[channel]))}**",
        "**dead**: 0 in every cell"
        if statistics.dead[channel]
        else f"0 in **{float(statistics.zeros[channel]):.0%}** of the cells",
    ]
    if ceiling is not None:
        phrases.append(
            f"saturated at {format_number(ceiling)} in **{float(statistics.saturated[channel]):.0%}** of the cells"
        )
    if shown.contributions is not None:
        contribution = format_number(float(shown.contributions.values[channel]), "+.4f")
        phrases.append(f"adds **{contribution}** logits to {shown.class_name} ({shown.contributions.how})")
    return phrases


def _show_depth(layer_maps: LayerMaps, smooth: bool) -> None:
    """Show all channels as one map: their mean, and their maximum."""
    st.markdown(
        "**All channels in one map**",
        help="Depth pooling: the mean, or the maximum, over all channels in each cell. It shows where the layer is "
        "active, for whatever class.",
    )
    frame = make_frame(layer_maps.maps.shape[1:], layer_maps.view, layer_maps.receptive_field, _DEPTH_SIDE, smooth)
    drawings = []
    for name, values in (("mean", layer_maps.depth("average")), ("highest", layer_maps.depth("max"))):
        # The scale starts at the lowest value: the maximum of many channels is far from zero everywhere.
        low, high = float(values.min()), float(values.max())
        line = f"{name} over the channels: from {format_number(low)} (clear) to {format_number(high)} (red)"
        alt = f"{name} over all channels of {layer_maps.layer.label}"
        drawings.append(MapDrawing(encode_cells(values - low, high - low), alt, line=line))
    show_maps(keys.DEPTH_MAPS, layer_maps.view, frame, drawings, "8rem")
