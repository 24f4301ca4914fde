"""The page of layers: the network as a tree, and the feature maps of any layer on the photo, channel by channel."""

from collections.abc import Sequence

import streamlit as st

from inspector.analysis.layers import Contributions, Facts, Layer, LayerMaps, facts, find_layer, pooled_layer
from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMaps
from inspector.output.overlay import common_scale
from inspector.ui.components import html
from inspector.ui.components.channel_grid import Tile, activation_bar, number, show_channel_grid
from inspector.ui.components.map_canvas import MapDrawing, encode_cells, make_frame, show_maps
from inspector.ui.state import cache
from inspector.ui.state.selection import choose_channel, choose_class
from inspector.ui.state.sidebar import NetworkChoice, SidebarSelection
from inspector.ui.state.streamlit_fixes import fragment

PAGE = 64  # channels shown at once
_SMALL = 28 * 28  # positions: a page of channels with more is no quick message
INDEX, MEAN, HIGHEST, CONTRIBUTION = "number", "mean", "highest", "contribution"


def show(selection: SidebarSelection) -> None:
    choice = selection.network
    with st.spinner(f"Looking at the layers of {choice.name} ..."):
        known = cache.layers_of(choice.key, choice.load)
    _explore(choice, selection.key, selection.maps, known)


@fragment
def _explore(choice: NetworkChoice, key: cache.MapsKey, maps: ClassMaps, known: tuple[Layer, ...]) -> None:
    try:
        layer, sort, k, own, raw = _controls(maps, known)
        _tree(choice, known, layer)
        with st.spinner(f"Running {choice.name} up to {layer.label} ..."):
            of = cache.layer_maps_of(key, layer.label, maps, layer)
        _channels(key, maps, of, sort, k, own, raw)
    except InspectorError as error:
        st.error(str(error), icon=":material/error:")


def _controls(maps: ClassMaps, known: tuple[Layer, ...]) -> tuple[Layer, str, int | None, bool, bool]:
    """The layer, what its channels are sorted by and for which class, each on its own scale or not, raw or not."""
    labels = [layer.label for layer in known if layer.size is not None]
    last = pooled_layer(maps.classifier, known).label
    if st.session_state.get("layer") not in (None, *labels):
        st.session_state["layer"] = None  # that of another network

    def step(by: int) -> None:
        _choose(labels[labels.index(st.session_state["layer"] or last) + by])

    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        label = st.selectbox(
            "Layer", labels, index=None, placeholder=f"{last} (what is pooled)", key="layer", bind="query-params",
            on_change=_forget_channel, width=300,
            help="Type to search. A layer is any module that returns feature maps, a block of several too. One that "
            "runs more than once in a pass is listed once for each run.",
        ) or last  # fmt: skip
        for name, icon, by, end in (
            ("Layer before", "upward", -1, labels[0]),
            ("Layer after", "downward", 1, labels[-1]),
        ):
            st.button(name, icon=f":material/arrow_{icon}:", on_click=step, args=(by,), disabled=label == end)
        sort = st.segmented_control(
            "Sort channels by", [INDEX, MEAN, HIGHEST, CONTRIBUTION], default=MEAN, required=True, key="sort",
            bind="query-params",
            help="Mean: the mean activation over all positions. Highest: at the strongest position. Contribution: what "
            "the channel brings to the logit of a class, exactly before the pooling, elsewhere to first order.",
        )  # fmt: skip
        k = choose_class(maps) if sort == CONTRIBUTION else None
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        own = st.toggle(
            "A scale for each channel", key="own", bind="query-params",
            help="Off: all channels share one scale, so that they can be compared. On: weak ones are seen too.",
        )  # fmt: skip
        raw = st.toggle("Raw grid", key="grid", bind="query-params", help="The cells as they are, not interpolated.")
    return find_layer(known, label), sort, k, own, raw


def _choose(label: str) -> None:
    st.session_state["layer"] = label
    _forget_channel()


def _forget_channel() -> None:
    """The channels of another layer have nothing to do with those of this one."""
    st.session_state["channel"] = None


def _tree(choice: NetworkChoice, known: tuple[Layer, ...], chosen: Layer) -> None:
    """All modules in the order in which they begin; choosing a row of feature maps chooses the layer."""

    def follow() -> None:
        rows = st.session_state[key].selection.rows
        if rows and known[rows[0]].size is not None:
            _choose(known[rows[0]].label)

    key = f"tree of {choice.key}"
    with st.expander("The network as a tree, in the order in which its layers run", expanded=True):
        st.dataframe(
            [_row(layer, layer is chosen) for layer in known],
            key=key,
            on_select=follow,
            selection_mode="single-row",
            hide_index=True,
            height=214,
            column_config={
                "layer": st.column_config.TextColumn(width="medium"),
                "sees": st.column_config.TextColumn(
                    help="The receptive field: the pixels of the network's input, height x width, that one position of "
                    "the maps can depend on. It may reach beyond the input."
                ),
            },
            alt="The layers in the order in which they run, with the shapes of what they return",
        )


def _row(layer: Layer, chosen: bool) -> dict[str, str]:
    mark = " \N{BLACK LEFT-POINTING TRIANGLE}" if chosen else ""
    return {
        "layer": "\N{EM SPACE}" * layer.depth + layer.label + mark,
        "kind": layer.kind,
        "output": " x ".join(map(str, layer.shape)) if layer.shape else "",
        "sees": _sees(layer),
    }


def _sees(layer: Layer) -> str:
    if layer.size is None:
        return ""
    if layer.field is None or layer.field.y.size == float("inf"):
        return "everything"
    return f"{layer.field.y.size:.0f} x {layer.field.x.size:.0f}"


@fragment
def _channels(
    key: cache.MapsKey, maps: ClassMaps, of: LayerMaps, sort: str, k: int | None, own: bool, raw: bool
) -> None:
    told, brought = facts(of), None
    if k is not None:
        with st.spinner(f"Following the logit of {maps.classifier.class_names[k]} back to {of.layer.label} ..."):
            brought = cache.contributions_of(key, of.layer.label, k, maps, of)
    order = _order(told, brought, sort)
    scale = None if own else common_scale([of.maps.numpy(force=True)])
    wide, narrow = st.columns([3, 2], gap="large")
    with wide:
        st.subheader(of.layer.label, anchor=False)
        st.caption(_about(of, told, brought, maps, k))
        with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
            channel = choose_channel(len(order), order[0])
            page = _page(order, channel, (key, of.layer.label, sort, k))
    shown = order[(page - 1) * PAGE : page * PAGE]
    # First what a click is waited for.
    with narrow:
        _channel(maps, of, channel, told, brought, k, scale, raw, shown)
        _depth(of, raw)
    with wide:
        tiles = [_tile(c, told, brought, sort, of.layer.ceiling) for c in shown]
        show_channel_grid(of.maps[shown], tiles, scale, channel, f"Feature maps of {of.layer.label}")
        if scale is not None:
            st.html(activation_bar(scale, of.signed))


def _order(told: Facts, brought: Contributions | None, sort: str) -> list[int]:
    """The channels as they are shown, those with the highest value first."""
    if sort == INDEX:
        return list(range(len(told.mean)))
    by = told.highest if sort == HIGHEST else told.mean
    by = brought.values if brought is not None else by
    order: list[int] = by.argsort(descending=True, stable=True).tolist()
    return order


def _page(order: Sequence[int], channel: int, sorted_by: object) -> int:
    """The page of channels; a channel that is newly chosen, or newly sorted, brings its page."""
    pages = -(-len(order) // PAGE)
    if pages == 1:
        return 1
    place = order.index(channel) // PAGE + 1
    return st.pagination(pages, default=place, key=f"page of {channel} {sorted_by}", max_visible_pages=5)


def _about(of: LayerMaps, told: Facts, brought: Contributions | None, maps: ClassMaps, k: int | None) -> str:
    channels, height, width = of.maps.shape
    words = [f"{of.layer.kind}: {channels} feature maps of {height} x {width} positions."]
    if (field := of.layer.field) is not None and field.y.size != float("inf"):
        words.append(
            f"A position sees {field.y.size:.0f} x {field.x.size:.0f} pixels of the network's input, and there is one "
            f"every {field.y.stride:.0f} pixels."
        )
    if dead := int(told.dead.sum()):
        words.append(f"{dead} channels are dead on this photo: 0 everywhere.")
    if full := int((told.saturated > 0).sum()):
        words.append(f"{full} are saturated somewhere: at {number(of.layer.ceiling or 0)}, the most that passes.")
    if brought is not None and k is not None:
        name = html.plain_text(maps.classifier.class_names[k])
        if brought.how == "first order":
            words.append(
                f"Contributions to the logit of {name} are gradient x activation: to first order, and in no exact sum."
            )
        else:
            words.append(
                f"Contributions to the logit of {name} are {brought.how}: these maps are what is pooled, and the parts "
                "sum to the logit less bias."
            )
    return " ".join(words)


def _tile(channel: int, told: Facts, brought: Contributions | None, sort: str, ceiling: float | None) -> Tile:
    if sort == CONTRIBUTION and brought is not None:
        value = f"{float(brought.values[channel]):+.2g}".replace("-", "\N{MINUS SIGN}")
    else:
        value = number(float((told.highest if sort == HIGHEST else told.mean)[channel]))
    full = float(told.saturated[channel])
    dead = bool(told.dead[channel])
    mark = "dead" if dead else f"{full:.0%} at {number(ceiling or 0)}" if full else ""
    label = f"channel {channel}, {sort if sort != INDEX else MEAN} {value}"
    return Tile(channel, value, mark, label + (f", {mark}" if mark else ""))


def _channel(
    maps: ClassMaps, of: LayerMaps, c: int, told: Facts, brought: Contributions | None, k: int | None,
    scale: float | None, raw: bool, shown: Sequence[int],
) -> None:  # fmt: skip
    """One channel large over the photo, with what is known of it."""
    grids = of.maps.numpy(force=True)

    def drawing(j: int) -> MapDrawing:
        densest = common_scale([grids[j]]) if scale is None else scale
        return MapDrawing(encode_cells(grids[j], densest), f"channel {j} of {of.layer.label}")

    st.subheader(f"Channel {c}", anchor=False)
    how = make_frame(grids[c].shape, of.view, of.receptive_field, 640, not raw)
    ahead = {j: drawing(j) for j in shown} if grids[c].size <= _SMALL else {}
    show_maps("the channel", of.view, how, [drawing(c)], ahead=ahead)
    st.html(activation_bar(common_scale([grids[c]]) if scale is None else scale, of.signed))
    lines = [f"mean **{number(float(told.mean[c]))}**", f"highest **{number(float(told.highest[c]))}**"]
    lines.append("**dead**: 0 everywhere" if told.dead[c] else f"0 at **{float(told.zeros[c]):.0%}** of the positions")
    if of.layer.ceiling is not None:
        lines.append(f"saturated, at {number(of.layer.ceiling)}, at **{float(told.saturated[c]):.0%}**")
    if brought is not None and k is not None:
        part = f"{float(brought.values[c]):+.4f}".replace("-", "\N{MINUS SIGN}")
        lines.append(f"brings **{part}** logits to {html.plain_text(maps.classifier.class_names[k])} ({brought.how})")
    st.markdown(", ".join(lines))


def _depth(of: LayerMaps, raw: bool) -> None:
    """All channels as one map: their mean, and the highest of them."""

    st.markdown(
        "**All channels in one map**",
        help="Depth pooling: at every position the mean, or the maximum, over all channels. It tells where the layer "
        "is active at all, for whatever class.",
    )
    how = make_frame(of.maps.shape[1:], of.view, of.receptive_field, 360, not raw)
    both = []
    for name, values in (("mean", of.depth("average")), ("highest", of.depth("max"))):
        # From the lowest on: the highest of many channels is high everywhere, and from zero on all would be red.
        low, high = float(values.min()), float(values.max())
        line = f"{name} over the channels: from {number(low)}, clear, to {number(high)}, red"
        alt = f"{name} over all channels of {of.layer.label}"
        both.append(MapDrawing(encode_cells(values - low, high - low), alt, line=line))
    show_maps("all channels", of.view, how, both, "8rem")
