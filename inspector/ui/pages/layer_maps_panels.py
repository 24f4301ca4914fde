"""The panels and texts about a layer and about one of its channels."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from inspector.analysis.layers import ChannelStatistics, LayerContributions, LayerMaps
from inspector.explain.class_maps import ClassMaps
from inspector.explain.tracing.layer_trace import Layer
from inspector.output.overlay import MOSAIC_COLUMNS, common_scale, draw_mosaic
from inspector.output.picture import Picture
from inspector.output.text import format_number
from inspector.ui.components import html
from inspector.ui.components.channel_grid import ChannelTile
from inspector.ui.components.map_canvas import MapDrawing, encode_cells, find_gray_below, make_frame, show_maps
from inspector.ui.components.markdown import plain
from inspector.ui.components.save import PictureToSave, show_save_menu, write_maps_lines
from inspector.ui.components.saved_maps import SavedStyle, enlarge, make_map_to_save
from inspector.ui.state import cache, keys

INDEX, MEAN, HIGHEST, CONTRIBUTION = "number", "mean", "highest", "contribution"  # values in links
_SMALL = 28 * 28  # cells; with larger maps, the maps of a whole page of channels take too long to send
_SIDE, _DEPTH_SIDE = 640, 360  # longer sides of the drawn maps, in pixels


@dataclass(frozen=True)
class LayerSelection:
    """What the controls of the page choose."""

    layer: Layer
    order: str  # what the channels are sorted by: INDEX, MEAN, HIGHEST or CONTRIBUTION
    k: int | None  # index of the class that the channels contribute to; None: show no contributions
    own_scales: bool  # give each channel its own scale
    smooth: bool  # interpolate between the cells; False: show the raw grid


@dataclass(frozen=True, eq=False)
class ShownLayer:
    """What the page shows of a layer."""

    key: cache.MapsKey
    maps: ClassMaps
    layer_maps: LayerMaps
    selection: LayerSelection
    statistics: ChannelStatistics
    contributions: LayerContributions | None  # to the logit of the chosen class
    scale: float | None  # scale that all channels share; None: each channel has its own

    @property
    def class_name(self) -> str:
        """Name of the class that the channels contribute to, escaped for Markdown."""
        assert self.selection.k is not None, "there is a class where there are contributions"
        return plain(self.maps.classifier.class_names[self.selection.k])


def describe_layer(shown: ShownLayer) -> str:
    """Return a few sentences on the layer and its channels on this photo."""
    layer, statistics = shown.layer_maps.layer, shown.statistics
    channels, height, width = shown.layer_maps.maps.shape
    sentences = [f"{plain(layer.kind)}: {channels} feature maps of {height} x {width} cells."]
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
        kind = (
            f"{shown.contributions.kind}: these maps are pooled, and the contributions sum to the logit minus the bias"
        )
        if shown.contributions.kind == "first order":
            kind = "gradient x activation: a first-order approximation, which does not sum to the logit"
        sentences.append(f"Contributions to the logit of {shown.class_name} are {kind}.")
    return " ".join(sentences)


def make_tile(shown: ShownLayer, channel: int) -> ChannelTile:
    """Return the texts below the map of a channel in the grid."""
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
    return ChannelTile(channel, value, mark, label + (f", {mark}" if mark else ""))


def show_channel(shown: ShownLayer, channel: int, on_page: Sequence[int]) -> None:
    """Show one channel large over the photo, with its statistics."""
    layer_maps = shown.layer_maps
    grids = layer_maps.maps.numpy(force=True)

    def find_scale(c: int) -> float:
        return common_scale([grids[c]]) if shown.scale is None else shown.scale

    def draw(c: int) -> MapDrawing:
        return MapDrawing(encode_cells(grids[c], find_scale(c)), f"channel {c} of {layer_maps.layer.label}")

    st.subheader(f"Channel {channel}", anchor=False)
    frame = make_frame(grids[channel].shape, layer_maps.view, layer_maps.receptive_field, _SIDE, shown.selection.smooth)
    previews = {c: draw(c) for c in on_page} if grids[channel].size <= _SMALL else {}
    show_maps(keys.CHANNEL_MAP, layer_maps.view, frame, [draw(channel)], previews=previews)
    gray = find_gray_below(layer_maps.view, layer_maps.receptive_field)
    st.html(html.make_activation_bar(find_scale(channel), layer_maps.has_negatives, gray))
    pictures = [*_list_pictures(shown, channel, find_scale(channel)), _make_page_to_save(shown, on_page)]
    show_save_menu(pictures, "layer picture")
    st.markdown(", ".join(_list_statistics(shown, channel)))


def _list_pictures(shown: ShownLayer, channel: int, scale: float) -> list[PictureToSave]:
    """Return the map of the channel and the two maps over all channels, to be saved."""
    layer_maps, label = shown.layer_maps, shown.layer_maps.layer.label
    lines = [*_write_layer(shown), "field = layer_maps.receptive_field"]
    drawn = [(f"channel {channel} of {label}", layer_maps.maps[channel], scale, f"layer_maps.maps[{channel}]")]
    for name, how in (("mean", "average"), ("highest", "max")):
        values = layer_maps.pool_channels(how)  # type: ignore[arg-type]
        values = values - values.min()
        code = f"layer_maps.pool_channels({how!r})"
        drawn.append((f"{name} of all channels of {label}", values, float(values.max()), f"{code} - {code}.min()"))
    return [
        make_map_to_save(
            name,
            values,
            layer_maps.view,
            layer_maps.receptive_field,
            SavedStyle(ends, f"strongest color at {format_number(ends)}", shown.selection.smooth),
            [*lines, f"values = {code}"],
        )
        for name, values, ends, code in drawn
    ]


def _write_layer(shown: ShownLayer) -> list[str]:
    return [
        "from inspector.analysis.layers import compute_layer_maps",
        *write_maps_lines(shown.key, shown.maps),
        f"layer_maps = compute_layer_maps(classifier, maps.view, {shown.layer_maps.layer.label!r})",
    ]


def _make_page_to_save(shown: ShownLayer, on_page: Sequence[int]) -> PictureToSave:
    """Return the page of the grid of channels, to be saved."""
    label, channels = shown.layer_maps.layer.label, list(on_page)
    scale = "each on its own scale"
    if shown.scale is not None:
        scale = f"strongest color at {format_number(shown.scale)}"

    def draw() -> Picture:
        mosaic, tile = draw_mosaic(shown.layer_maps.maps[channels].numpy(force=True), shown.scale)
        factor = max(1, 128 // max(tile))
        rows = [", ".join(map(str, channels[i : i + MOSAIC_COLUMNS])) for i in range(0, len(channels), MOSAIC_COLUMNS)]
        lines = (f"{cache.get_view(shown.maps).photo.name}; {scale}", f"channels, row by row: {'; '.join(rows)}")
        return Picture(enlarge(mosaic, factor), f"channels of {label}", lines)

    code = [
        "from inspector.output.overlay import draw_mosaic",
        *_write_layer(shown),
        f"channels = {channels}",
        f"pixels, _ = draw_mosaic(layer_maps.maps[channels].numpy(), {shown.scale!r})",
    ]
    return PictureToSave(f"the {len(channels)} channels of this page of {label}", draw, "\n".join(code))


def _list_statistics(shown: ShownLayer, channel: int) -> list[str]:
    """Return the statistics of a channel as phrases in Markdown."""
    statistics, ceiling = shown.statistics, shown.layer_maps.layer.ceiling
    zeros, saturated = float(statistics.zeros[channel]), float(statistics.saturated[channel])
    phrases = [
        f"mean **{format_number(float(statistics.mean[channel]))}**",
        f"highest **{format_number(float(statistics.highest[channel]))}**",
        "**dead**: 0 in every cell" if statistics.dead[channel] else f"0 in **{zeros:.0%}** of the cells",
    ]
    if ceiling is not None:
        phrases.append(f"saturated at {format_number(ceiling)} in **{saturated:.0%}** of the cells")
    if shown.contributions is not None:
        contribution = format_number(float(shown.contributions.values[channel]), "+.4f")
        phrases.append(f"adds **{contribution}** logits to {shown.class_name} ({shown.contributions.kind})")
    return phrases


def show_depth(layer_maps: LayerMaps, smooth: bool) -> None:
    """Show two maps over all channels: their mean in each cell, and their maximum in each cell."""
    st.markdown(
        "**All channels in one map**",
        help="Depth pooling: the mean, or the maximum, over all channels in each cell. It shows where the layer is "
        "active, for whatever class.",
    )
    frame = make_frame(layer_maps.maps.shape[1:], layer_maps.view, layer_maps.receptive_field, _DEPTH_SIDE, smooth)
    drawings = []
    for name, values in (("mean", layer_maps.pool_channels("average")), ("highest", layer_maps.pool_channels("max"))):
        # Start the scale at the lowest value, not at zero: the maximum of many channels is far from zero in every cell.
        low, high = float(values.min()), float(values.max())
        line = f"{name} over the channels: from {format_number(low)} (clear) to {format_number(high)} (red)"
        alt = f"{name} over all channels of {layer_maps.layer.label}"
        drawings.append(MapDrawing(encode_cells(values - low, high - low), alt, line=line))
    show_maps(keys.DEPTH_MAPS, layer_maps.view, frame, drawings, "8rem")
