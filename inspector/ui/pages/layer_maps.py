"""Part of the page Layers: the network as a tree, and the feature maps of any layer, channel by channel."""

from collections.abc import Sequence

import streamlit as st

from inspector.analysis.layers import LayerMaps, compute_channel_statistics, find_layer, find_pooled_layer
from inspector.explain.class_maps import ClassMaps
from inspector.explain.tracing.layer_trace import Layer
from inspector.output.overlay import common_scale
from inspector.ui.components import html
from inspector.ui.components.channel_grid import show_channel_grid
from inspector.ui.components.controls import WIDE_TEXT, choose_segment, search_option, show_errors, show_table, switch
from inspector.ui.components.markdown import plain
from inspector.ui.pages import layer_maps_panels as panels
from inspector.ui.pages.layer_maps_panels import CONTRIBUTION, HIGHEST, INDEX, MEAN, LayerSelection, ShownLayer
from inspector.ui.state import cache, keys
from inspector.ui.state.selection import choose_channel, choose_class, choose_interpolation
from inspector.ui.state.sidebar import NetworkChoice, SidebarSelection
from inspector.ui.state.streamlit_fixes import fragment

PAGE = 64  # channels per page of the grid


@fragment
@show_errors()
def show(chosen: SidebarSelection) -> None:
    """Draw this part of the page."""
    network, maps = chosen.network, chosen.maps
    with st.spinner(f"Reading the layers of {plain(network.name)} ..."):
        layers = cache.list_network_layers(network.key, network.load)
    selection = _choose(maps, layers)
    _show_tree(network, layers, selection.layer)
    with st.spinner(f"Running {plain(network.name)} up to {plain(selection.layer.label)} ..."):
        layer_maps = cache.compute_layer_maps(chosen.key, selection.layer.label, maps, selection.layer)
    _show_channels(chosen.key, maps, layer_maps, selection)


def _choose(maps: ClassMaps, layers: tuple[Layer, ...]) -> LayerSelection:
    """Show the controls. Return the choices."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        label = _choose_layer(layers, find_pooled_layer(maps.classifier, layers).label)
        order = choose_segment(
            "Sort channels by",
            [INDEX, MEAN, HIGHEST, CONTRIBUTION],
            default=MEAN,
            key=keys.CHANNEL_ORDER,
            help="Mean: the mean activation over all cells. Highest: the activation of the strongest cell. "
            "Contribution: what the channel adds to the logit of a class; exact for the maps that are pooled, a "
            "first-order approximation elsewhere.",
        )
        k = choose_class(maps) if order == CONTRIBUTION else None
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        text = "Off: all channels share one scale, so that they can be compared. On: weak channels are visible too."
        own_scales = switch("One scale per channel", text, key=keys.CHANNEL_SCALES)
        smooth = choose_interpolation()
    return LayerSelection(find_layer(layers, label), order, k, own_scales, smooth)


def _choose_layer(layers: tuple[Layer, ...], pooled: str) -> str:
    """Show a box for a layer, and buttons for the layers before and after it.

    Returns:
        The label of the chosen layer; while the box is empty, `pooled`.
    """
    labels = [layer.label for layer in layers if layer.size is not None]
    if st.session_state.get(keys.LAYER) not in (None, *labels):
        st.session_state[keys.LAYER] = None  # the label belongs to another network

    def step(by: int) -> None:
        _select_layer(labels[labels.index(st.session_state[keys.LAYER] or pooled) + by])

    text = (
        "Type to search. A layer is any module that returns feature maps, also a block of several. A module that runs "
        "several times in a forward pass is listed once per run."
    )
    placeholder = f"{pooled} (input of the pooling)"
    chosen = search_option("Layer", labels, placeholder, key=keys.LAYER, on_change=_clear_channel, width=300, help=text)
    label = chosen or pooled
    at_first, at_last = label == labels[0], label == labels[-1]
    st.button("Previous layer", icon=":material/arrow_upward:", on_click=step, args=(-1,), disabled=at_first)
    st.button("Next layer", icon=":material/arrow_downward:", on_click=step, args=(1,), disabled=at_last)
    return label


def _select_layer(label: str) -> None:
    st.session_state[keys.LAYER] = label
    _clear_channel()


def _clear_channel() -> None:
    """Clear the chosen channel, because equal channel numbers of two layers are unrelated."""
    st.session_state[keys.CHANNEL] = None


def _show_tree(network: NetworkChoice, layers: tuple[Layer, ...], chosen: Layer) -> None:
    """List all modules in the order in which they start. A click on a row with feature maps chooses this layer."""

    def select(row: int) -> None:
        if layers[row].size is not None:
            _select_layer(layers[row].label)

    text = (
        "Height x width, in pixels of the network's input: what one cell of the maps can depend on. It may extend "
        "beyond the input."
    )
    with st.expander("Modules of the network, in the order in which they run", expanded=True):
        show_table(
            [_make_row(layer, layer is chosen) for layer in layers],
            "The modules in the order in which they run, with the shapes of their outputs",
            {"layer": WIDE_TEXT, "receptive field": st.column_config.TextColumn(help=text)},
            select,
            key=f"tree of {network.key}",
            height=214,
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
    """Show the channels of a layer as a grid, and the chosen channel large."""
    label, contributions = layer_maps.layer.label, None
    if selection.k is not None:
        name = maps.classifier.class_names[selection.k]
        with st.spinner(f"Computing the contributions of {plain(label)} to the logit of {plain(name)} ..."):
            contributions = cache.compute_contributions(key, label, selection.k, maps, layer_maps)
    scale = None if selection.own_scales else common_scale([layer_maps.maps.numpy(force=True)])
    shown = ShownLayer(key, maps, layer_maps, selection, compute_channel_statistics(layer_maps), contributions, scale)
    order = _sort_channels(shown)
    wide, narrow = st.columns([3, 2], gap="large")
    with wide:
        st.subheader(plain(label), anchor=False)
        st.caption(panels.describe_layer(shown))
        with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
            channel = choose_channel(len(order), order[0])
            page = _choose_page(order, channel, (key, label, selection.order, selection.k))
    on_page = order[(page - 1) * PAGE : page * PAGE]
    # Draw the chosen channel before the grid, because the user waits for it.
    with narrow:
        panels.show_channel(shown, channel, on_page)
        panels.show_depth(layer_maps, selection.smooth)
    with wide:
        tiles = [panels.make_tile(shown, c) for c in on_page]
        show_channel_grid(layer_maps.maps[on_page], tiles, scale, channel, f"Feature maps of {label}")
        if scale is not None:
            st.html(html.make_activation_bar(scale, layer_maps.has_negatives))


def _sort_channels(shown: ShownLayer) -> list[int]:
    """Return the channels sorted by number, or with the highest values of the chosen order first."""
    order = shown.selection.order
    if order == INDEX:
        return list(range(len(shown.statistics.mean)))
    values = shown.statistics.highest if order == HIGHEST else shown.statistics.mean
    values = shown.contributions.values if shown.contributions is not None else values
    channels: list[int] = values.argsort(descending=True, stable=True).tolist()
    return channels


def _choose_page(order: Sequence[int], channel: int, sorted_by: object) -> int:
    """Show the choice of pages. Return the page; after a new channel or order, the page that contains the channel."""
    pages = -(-len(order) // PAGE)
    if pages == 1:
        return 1
    place = order.index(channel) // PAGE + 1
    return st.pagination(pages, default=place, key=f"page of {channel} {sorted_by}", max_visible_pages=5)
