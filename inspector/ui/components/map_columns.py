"""Class maps side by side, each of another network or photo. They share one scale, or each has its own scale."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import streamlit as st

from inspector.analysis.comparable_maps import PlacedMap, make_comparable
from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMap, ClassMaps
from inspector.images.photo import Photo
from inspector.output.overlay import common_scale, dimmed_photo, needs_lossless
from inspector.output.text import format_number
from inspector.ui.components import html
from inspector.ui.components.markdown import plain
from inspector.ui.state import cache
from inspector.ui.state.networks import NetworkChoice

_SIDE = 480  # longer side of a picture, in pixels


@dataclass(frozen=True)
class MapRequest:
    """A request for the class maps of one photo by one network."""

    title: str
    network: NetworkChoice
    photo: Photo
    scale: cache.Scale = 1


@dataclass(frozen=True, eq=False)
class MapColumn:
    """The class map of one class, shown as one column."""

    title: str
    maps: ClassMaps
    k: int
    class_map: ClassMap


def compute_requests(requests: Sequence[MapRequest]) -> list[tuple[str, ClassMaps]]:
    """Compute class maps one after the other. If a request fails, show its error as a warning on the page.

    Returns:
        Title and class maps of each request that succeeds, in order.
    """
    computed = []
    for number, request in enumerate(requests, 1):
        network, photo = request.network, request.photo
        progress = f"{number} of {len(requests)}"
        try:
            with st.spinner(
                f"Computing the class maps of {plain(photo.name)} by {plain(network.name)}, {progress} ..."
            ):
                key = network.key, photo.sha256, photo.name, request.scale
                maps = cache.compute_class_maps(*key, photo, network.load)
        except InspectorError as error:
            st.warning(plain(f"{request.title}: {error}"), icon=":material/warning:")
        else:
            computed.append((request.title, maps))
    return computed


def show_map_columns(
    columns: Sequence[MapColumn],
    own_scales: bool,
    smooth: bool,
    photo_line: str | None = None,
    resample: bool = False,
) -> None:
    """Show class maps over their photos, with their sums. If they share one scale, show its color bar.

    Args:
        columns: the class maps, at least one.
        own_scales: give each map its own scale, and write the scale below the map.
        smooth: interpolate between the cells; False: draw the raw grid.
        photo_line: text below the photo of the first column, which is shown before the maps; None: no photo.
        resample: draw all maps on the smallest of their grids; they have to be of one photo.
    """
    all_maps, class_maps = [column.maps for column in columns], [column.class_map for column in columns]
    drawn = make_comparable(all_maps, class_maps, resample, by_area=not own_scales)
    scale = None if own_scales else common_scale(drawn.values)
    tiles = [_draw_column(*pair, scale, smooth) for pair in zip(columns, drawn.placed, strict=True)]
    if photo_line is not None:
        tiles.insert(0, _draw_photo(columns[0].maps, photo_line))
    st.html(html.make_tiles(tiles, "clamp(10rem, 13vw, 20rem)"))
    if scale is not None:
        st.html(html.make_color_bar(scale, f"{drawn.unit}; the same scale for all maps"))


def _draw_photo(maps: ClassMaps, line: str) -> html.Tile:
    view = cache.get_view(maps)
    photo = view.photo
    image = html.encode_image(dimmed_photo(photo, view.crop, _SIDE), needs_lossless(photo.size))
    return html.Tile(image, photo.name, [line], f"photo {photo.name}")


def _draw_column(column: MapColumn, placed: PlacedMap, scale: float | None, smooth: bool) -> html.Tile:
    """Draw one class map on `scale`; None: on a scale of its own."""
    own_scale = common_scale([placed.values])
    photo, ends = cache.get_view(column.maps).photo, scale or own_scale
    image = html.encode_map_on_photo(placed.values, photo, placed.crop, placed.field, _SIDE, ends, smooth)
    alt = f"class map of {column.title}: {column.class_map.title}"
    return html.Tile(image, column.title, list(_list_numbers(column, own_scale, scale is None)), alt)


def _list_numbers(column: MapColumn, own_scale: float, with_scale: bool) -> Iterator[str]:
    maps, top = column.maps, int(column.maps.logits.argmax())
    yield f"{column.class_map.title} {maps.outcome(column.k)}"
    if top != column.k:
        yield f"top-1: {maps.classifier.class_names[top]}"
    yield column.class_map.equation()
    yield f"{maps.verdict}, residual {format_number(maps.residual, '.0e')}"
    if maps.classifier.receptive_field.misplaced is not None:
        yield maps.classifier.place
    if with_scale:
        yield f"strongest color at {format_number(own_scale, '.2g')} {maps.classifier.meaning.units} per cell"
