"""Part of the page Layers: a logit as a sum over channels, and one channel on the photo and on more photos."""

from dataclasses import dataclass
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from inspector.analysis import channels
from inspector.analysis.channels import ChannelContributions, ContributionRow
from inspector.explain.class_maps import ClassMaps
from inspector.output.overlay import common_scale
from inspector.output.text import format_number
from inspector.ui.components import html
from inspector.ui.components.contribution_chart import draw_contribution_chart
from inspector.ui.components.controls import choose_segment, show_errors, show_table
from inspector.ui.components.map_canvas import (
    MapDrawing,
    encode_cells,
    find_gray_below,
    make_class_map_frame,
    show_maps,
)
from inspector.ui.components.markdown import plain
from inspector.ui.components.save import PictureToSave, show_save_menu, write_class, write_maps_lines
from inspector.ui.components.saved_maps import SavedStyle, make_map_to_save
from inspector.ui.pages.channels_photos import show_photos
from inspector.ui.state import cache, keys
from inspector.ui.state.handover import hand_on, take_over
from inspector.ui.state.selection import choose_channel, choose_class, choose_interpolation, choose_reading
from inspector.ui.state.streamlit_fixes import fragment
from inspector.ui.state.top_bar import PageSelection

_SIDE = 640  # longer side of the channel's map, in pixels
_FORMATS = dict.fromkeys(("weight", "pooled value", "contribution", "running sum"), "%.4f")


@dataclass(frozen=True)
class ChannelSelection:
    """What the controls of the page choose."""

    k: int  # class index
    against: int | str | None  # index of the class that k is contrasted with, or "average"; None: the logit of k
    count: int  # number of channels with a bar in the chart
    smooth: bool  # interpolate between the cells; False: show the raw grid


@fragment
@show_errors()
def show(selection: PageSelection) -> None:
    """Draw this part of the page."""
    maps = selection.maps
    take_over(selection, "channels", (keys.CLASS, keys.READING, keys.AGAINST, keys.RAW_GRID))
    chosen, place = _choose(maps)
    hand_on(selection, k=chosen.k, against=chosen.against, smooth=chosen.smooth)
    contributions = channels.compute_channel_contributions(maps, chosen.k, chosen.against)
    with place:
        channel = choose_channel(len(contributions.parts), int(contributions.order[0]))
    wide, narrow = st.columns([3, 2], gap="large")
    # Draw the chosen channel first: the user waits for it, and the browser needs 0.1 s to draw the chart.
    with narrow:
        _show_channel(selection.key, maps, contributions, channel, chosen.smooth)
    with wide:
        _show_contributions(selection.key, maps, contributions, chosen, channel)
    show_photos(selection.network, channel)


def _choose(maps: ClassMaps) -> tuple[ChannelSelection, DeltaGenerator]:
    """Show the controls. Return the choices, and an empty place where the box for the channel is put later."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        k = choose_class(maps)
        against = choose_reading(maps, k)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        place = st.empty()
        count = choose_segment("Bars", [10, 20, 40], key=keys.BARS, default=20)
        smooth = choose_interpolation()
    return ChannelSelection(k, against, count, smooth), place


def _show_contributions(
    key: cache.MapsKey, maps: ClassMaps, contributions: ChannelContributions, chosen: ChannelSelection, channel: int
) -> None:
    """Show the sum of bias and channels as a chart and as a table."""
    st.subheader(f"Channel contributions to {plain(contributions.title)}", anchor=False)
    total, count = f"{contributions.total:.4f}", len(contributions.parts)
    st.markdown(
        f"**bias {_format(contributions.bias)} and {count} channels "
        f"{_format(float(contributions.parts.double().sum()))} = {_format(contributions.total)}**"
    )
    if maps.classifier.head.per_class:
        st.caption(
            "This network ends in one feature map per class and pools it, so a class has a single contribution. The "
            "page Layers shows what this map is computed from."
        )
    else:
        st.caption(
            "Each channel adds its weight times its pooled value. From the bias down, every bar starts where the one "
            "before it ends; the gray number is the running sum. Click a row to see its channel."
        )

    def follow() -> None:
        bars = st.session_state[keys.CONTRIBUTION_CHART]["selection"]["bar"]
        if bars and bars[0].get("channel") is not None:
            st.session_state[keys.CHANNEL] = int(bars[0]["channel"])

    spec = _chart_spec(key, chosen.k, chosen.against, chosen.count, contributions)
    spec = spec | {"params": [*spec["params"], {"name": "chosen", "value": channel}]}
    st.vega_lite_chart(
        spec=spec,
        key=keys.CONTRIBUTION_CHART,
        on_select=follow,
        selection_mode="bar",
        alt=f"The bias, the {chosen.count} largest of {count} channel contributions and the rest; their sum is {total}",
    )
    code = _write_chart(key, maps, chosen, channel)
    picture = PictureToSave(f"channel contributions to {contributions.title}", lambda: spec, code)
    show_save_menu([picture], "contribution chart")
    with st.expander("Show as a table"):
        rows = [_make_row(row, contributions) for row in contributions.list_rows(chosen.count)]
        show_table(rows, "The channel contributions, row by row", _FORMATS)


def _write_chart(key: cache.MapsKey, maps: ClassMaps, chosen: ChannelSelection, channel: int) -> str:
    """Return the lines of Python that draw the chart."""
    against = "" if chosen.against is None else f", {write_class(maps, chosen.against)}"
    return "\n".join(
        [
            "import altair",
            "",
            "from inspector.analysis.channels import compute_channel_contributions",
            "from inspector.ui.components.contribution_chart import draw_contribution_chart",
            *write_maps_lines(key, maps),
            f"contributions = compute_channel_contributions(maps, {write_class(maps, chosen.k)}{against})",
            f"spec = draw_contribution_chart(contributions, {chosen.count}).to_dict()",
            f'spec["params"].append({{"name": "chosen", "value": {channel}}})',
            'altair.Chart.from_dict(spec).save("contributions.svg")',
        ]
    )


def _make_row(row: ContributionRow, contributions: ChannelContributions) -> dict[str, Any]:
    channel, weight = row.channel, contributions.weight
    return {
        "": row.text,
        "weight": None if channel is None or weight is None else float(weight[channel]),
        "pooled value": None if channel is None else float(contributions.pooled[channel]),
        "contribution": row.value,
        "running sum": row.after,
    }


# Cached, because Altair needs 0.1 s per chart, and the chart is the same for every chosen channel.
@st.cache_data(max_entries=64, show_spinner=False)
def _chart_spec(
    key: cache.MapsKey, k: int, against: int | str | None, count: int, _contributions: ChannelContributions
) -> dict[str, Any]:
    spec: dict[str, Any] = draw_contribution_chart(_contributions, count).to_dict()
    return spec


def _show_channel(
    key: cache.MapsKey, maps: ClassMaps, contributions: ChannelContributions, channel: int, smooth: bool
) -> None:
    """Show one channel over the photo, and its contribution."""
    values = maps.feature_maps[channel]
    st.subheader(f"Channel {channel}", anchor=False)
    scale = common_scale([values.numpy(force=True)])
    frame = make_class_map_frame(maps, _SIDE, smooth)
    drawing = MapDrawing(encode_cells(values, scale), f"channel {channel} on the photo")
    show_maps(keys.CHANNEL_MAP, cache.get_view(maps), frame, [drawing])
    gray = find_gray_below(maps.view, maps.classifier.receptive_field)
    st.html(html.make_activation_bar(scale, bool((values < 0).any()), gray))
    code = [*write_maps_lines(key, maps), f"values = maps.feature_maps[{channel}]"]
    code.append("field = classifier.receptive_field")
    style = SavedStyle(scale, f"strongest color at {format_number(scale)}", smooth)
    name, field = f"channel {channel} of {maps.classifier.name}", maps.classifier.receptive_field
    picture = make_map_to_save(name, values, cache.get_view(maps), field, style, code)
    show_save_menu([picture], "channel picture")
    contribution = _format(float(contributions.parts[channel]))
    if contributions.weight is None:
        st.markdown(f"It adds **{contribution}** logits. Every cell has a weight of its own.")
    else:
        weight = _format(float(contributions.weight[channel]))
        pooled = format_number(float(contributions.pooled[channel]))
        st.markdown(
            f"weight **{weight}** x pooled value **{pooled}** = **{contribution}** logits",
            help="The pooled value is the mean of the map, or its maximum, depending on the pooling. The weight is "
            "that of the class; for a contrast it is the difference of two weights.",
        )
    rank = contributions.order.tolist().index(channel) + 1
    st.caption(f"Rank {rank} of {len(contributions.parts)} by absolute contribution to {plain(contributions.title)}.")
    highest = channels.find_classes_with_highest_weight(maps, channel, 5)
    if highest and not maps.classifier.head.per_class:
        names = ", ".join(f"{plain(name)} ({_format(weight, 3)})" for _, name, weight in highest)
        st.markdown(f"**Classes with the highest weight for this channel**: {names}")


def _format(value: float, digits: int = 4) -> str:
    return format_number(value, f"+.{digits}f")
