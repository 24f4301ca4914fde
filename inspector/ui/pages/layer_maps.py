"""Part of the page Layers: the network as a tree, and the feature maps of any layer, channel by channel."""

from collections.abc import Sequence

import streamlit as st

from inspector.analysis.layers import LayerMaps, compute_channel_statistics, find_layer, find_pooled_layer
from inspector.explain.class_maps import ClassMaps
from inspector.output.overlay import common_scale
from inspector.ui.components import html
from inspector.ui.components.channel_grid import ChannelGrid, show_channel_grid
from inspector.ui.components.controls import choose_segment, search_option, show_errors, switch
from inspector.ui.components.layer_tree import show_layer_tree
from inspector.ui.components.markdown import plain
from inspector.ui.pages import layer_maps_panels as panels
from inspector.ui.pages.layer_maps_panels import CONTRIBUTION, HIGHEST, INDEX, MEAN, LayerSelection, ShownLayer
from inspector.ui.state import cache, keys
from inspector.ui.state.handover import hand_on, take_over
from inspector.ui.state.selection import choose_channel, choose_class, choose_interpolation
from inspector.ui.state.streamlit_fixes import fragment
from inspector.ui.state.top_bar import PageSelection

PAGE = 64  # channels per page of the grid


@fragment
@show_errors()
def show(chosen: PageSelection) -> None:
    """Draw this part of the page."""
    network, maps = chosen.network, chosen.maps
    # All that takes time comes before anything is drawn, so that the browser draws all changes of a new layer at once.
    with st.spinner(f"Running {plain(network.name)} ..."):
        layers = cache.list_network_layers(network.key, network.load)
        labels = [layer.label for layer in layers if layer.size is not None]
        if (known := st.session_state.get(keys.LAYER)) in labels:
            cache.compute_layer_maps(chosen.key, known, maps, find_layer(layers, known))
    take_over(chosen, "layers", (keys.RAW_GRID, keys.CLASS))
    order, k, own_scales, smooth = _choose(maps)
    hand_on(chosen, smooth=smooth, **({} if k is None else {"k": k}))
    narrow, wide = st.columns([2, 5], gap="medium")
    with narrow:
        label = _choose_layer(labels, find_pooled_layer(maps.classifier, layers).label)
    selection = LayerSelection(find_layer(layers, label), order, k, own_scales, smooth)
    with wide:
        layer_maps = cache.compute_layer_maps(chosen.key, label, maps, selection.layer)
        _show_channels(chosen.key, maps, layer_maps, selection)
    # The tree comes last, because the user waits for the maps; its own marks move in the browser.
    with narrow:
        show_layer_tree(network.key, layers, label, _select_layer)


def _choose(maps: ClassMaps) -> tuple[str, int | None, bool, bool]:
    """Show the controls. Return the fields of LayerSelection that follow the layer."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
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
        text = "Off: all channels share one scale, so that they can be compared. On: weak channels are visible too."
        own_scales = switch("One scale per channel", text, key=keys.CHANNEL_SCALES)
        smooth = choose_interpolation()
    return order, k, own_scales, smooth


def _choose_layer(labels: Sequence[str], pooled: str) -> str:
    """Show a box for a layer.

    Returns:
        The label of the chosen layer; while the box is empty, `pooled`.
    """
    if st.session_state.get(keys.LAYER) not in (None, *labels):
        st.session_state[keys.LAYER] = None  # the label belongs to another network
    text = (
        "Type to search, or choose a module in the tree: click it, or walk with the arrow keys. A module that runs "
        "several times in a forward pass is listed once per run."
    )
    placeholder = f"{pooled} (input of the pooling)"
    settings = {"on_change": _clear_channel, "width": "stretch", "help": text}
    return search_option("Layer", labels, placeholder, key=keys.LAYER, **settings) or pooled


def _select_layer(label: str) -> None:
    st.session_state[keys.LAYER] = label
    _clear_channel()


def _clear_channel() -> None:
    """Clear the chosen channel, because equal channel numbers of two layers are unrelated."""
    st.session_state[keys.CHANNEL] = None


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
        before, after = order[: (page - 1) * PAGE][-1:], order[page * PAGE :][:1]
        grid = ChannelGrid(tiles, channel, f"Feature maps of {label}", (*before, None)[0], (*after, None)[0])
        show_channel_grid(layer_maps.maps[on_page], scale, grid)
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
