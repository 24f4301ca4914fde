"""Class maps side by side, each of another network or photo. They share one scale, or each has its own scale."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING

import streamlit as st

from inspector.analysis.comparable_maps import ComparableMaps, PlacedMap, make_comparable
from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMap, ClassMaps
from inspector.images.photo import Photo
from inspector.output.overlay import common_scale, dimmed_photo, needs_lossless
from inspector.output.text import format_number
from inspector.ui.components import html
from inspector.ui.components.map_canvas import find_gray_below
from inspector.ui.components.markdown import plain
from inspector.ui.components.save import PictureToSave, find_name, show_save_menu, write_class, write_photo
from inspector.ui.components.saved_maps import SavedStyle, make_map_to_save
from inspector.ui.state import cache
from inspector.ui.state.networks import NetworkChoice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = 480  # longer side of a picture, in pixels


@dataclass(frozen=True)
class MapRequest:
    """A request for the class maps of one photo by one network."""

    title: str
    network: NetworkChoice
    photo: Photo
    scale: cache.Scale = 1

    @property
    def key(self) -> cache.MapsKey:
        """Key of the class maps in the caches."""
        return self.network.key, self.photo.sha256, self.photo.name, self.scale


@dataclass(frozen=True, eq=False)
class MapColumn:
    """The class map of one class, shown as one column."""

    title: str
    maps: ClassMaps
    k: int
    against: int | str | None  # index of the class that k is contrasted with, or "average"; None: the logit of k
    class_map: ClassMap
    key: cache.MapsKey  # names network, photo and input size in the lines of Python


def make_column(title: str, maps: ClassMaps, k: int, key: cache.MapsKey, against: int | str | None = None) -> MapColumn:
    """Return the map of a class, or of its contrast, as a column."""
    return MapColumn(title, maps, k, against, maps.class_map(k, against), key)


@dataclass(frozen=True)
class ColumnsStyle:
    """How columns are drawn."""

    own_scales: bool = False  # each map has its own scale, which is written below it
    smooth: bool = True  # interpolate between the cells; False: draw the raw grid
    resample: bool = False  # draw all maps on the smallest of their grids; they have to be of one photo
    colors: str = "inspector"  # one of COLORMAPS


def compute_requests(requests: Sequence[MapRequest]) -> list[tuple[MapRequest, ClassMaps]]:
    """Compute class maps one after the other. If a request fails, show its error as a warning on the page.

    Returns:
        Each request that succeeds with its class maps, in order.
    """
    computed = []
    for number, request in enumerate(requests, 1):
        network, photo = request.network, request.photo
        progress = f"{number} of {len(requests)}"
        try:
            with st.spinner(
                f"Computing the class maps of {plain(photo.name)} by {plain(network.name)}, {progress} ..."
            ):
                maps = cache.compute_class_maps(*request.key, photo, network.load)
        except InspectorError as error:
            st.warning(plain(f"{request.title}: {error}"), icon=":material/warning:")
        else:
            computed.append((request, maps))
    return computed


def show_map_columns(columns: Sequence[MapColumn], style: ColumnsStyle, photo_line: str | None = None) -> None:
    """Show class maps over their photos, with their sums. If they share one scale, show its color bar.

    Args:
        columns: the class maps, at least one.
        style: how they are drawn.
        photo_line: text below the photo of the first column, which is shown before the maps; None: no photo.
    """
    drawn, scale = _make_comparable(columns, style)
    tiles = [_draw_column(*pair, scale, style) for pair in zip(columns, drawn.placed, strict=True)]
    if photo_line is not None:
        tiles.insert(0, _draw_photo(columns[0].maps, photo_line))
    width = 22 if len(tiles) <= 4 else 13  # in percent of the window
    st.html(html.make_tiles(tiles, f"clamp(10rem, {width}vw, 32rem)"))
    if scale is not None:
        grays = [find_gray_below(column.maps.view, column.maps.classifier.receptive_field) for column in columns]
        known = [gray for gray in grays if gray is not None]
        gray = round(mean(known)) if known else None
        st.html(html.make_color_bar(scale, f"{drawn.unit}; the same scale for all maps", style.colors, gray))


def _make_comparable(columns: Sequence[MapColumn], style: ColumnsStyle) -> tuple[ComparableMaps, float | None]:
    """Return the maps as they are drawn, and their scale; None: each has a scale of its own."""
    all_maps, class_maps = [column.maps for column in columns], [column.class_map for column in columns]
    contrast = any(column.against is not None for column in columns)
    drawn = make_comparable(all_maps, class_maps, style.resample, not style.own_scales, contrast)
    return drawn, None if style.own_scales else common_scale(drawn.values)


def draw_figure(columns: Sequence[MapColumn], style: ColumnsStyle) -> "Figure":
    """Draw all columns as one figure."""
    # Imported here, because matplotlib takes a second to import.
    from inspector.output.comparison_figure import side_by_side_figure

    return side_by_side_figure(
        [column.maps for column in columns],
        [column.k for column in columns],
        [column.title for column in columns],
        style.own_scales,
        style.smooth,
        style.resample,
        [column.against for column in columns],
        style.colors,
    )


def show_columns_menu(columns: Sequence[MapColumn], style: ColumnsStyle, key: str) -> None:
    """Show the menu that saves the columns, as one figure or one by one. `key` begins the keys of its widgets."""
    show_save_menu(list_pictures(columns, style), key, "Save a picture")


def list_pictures(columns: Sequence[MapColumn], style: ColumnsStyle) -> list[PictureToSave]:
    """Return the figure of all columns, and each of them, to be saved."""
    drawn, scale = _make_comparable(columns, style)
    lines = _write_columns(columns)
    classes = ", ".join(write_class(column.maps, column.k) for column in columns)
    others = ", ".join(write_class(column.maps, column.against) for column in columns)
    has_contrast = any(column.against is not None for column in columns)
    titles = [column.title for column in columns]
    settings = [f"own_scales={style.own_scales}", f"smooth={style.smooth}", f"resample={style.resample}"]
    settings += [f"against=[{others}]"] if has_contrast else []
    settings += [f"colormap={style.colors!r}"] if style.colors != "inspector" else []
    code = [
        "from inspector.output.comparison_figure import side_by_side_figure",
        *lines,
        f"figure = side_by_side_figure(maps, [{classes}], {titles!r}, {', '.join(settings)})",
        'figure.savefig("comparison.png", dpi=200)',
    ]
    pictures = [PictureToSave("all maps as a figure", lambda: draw_figure(columns, style), "\n".join(code))]
    for i, (column, placed) in enumerate(zip(columns, drawn.placed, strict=True)):
        ends = scale or common_scale([placed.values])
        one = [
            "from inspector.analysis.comparable_maps import make_comparable",
            *lines,
            f"shown = [one.class_map(k, b) for one, k, b in zip(maps, [{classes}], [{others}])]",
            f"placed = make_comparable(maps, shown, {style.resample}, by_area={not style.own_scales}).placed[{i}]",
            f"maps, values, crop, field = maps[{i}], placed.values, placed.crop, placed.field",
        ]
        map_style = SavedStyle(ends, f"{drawn.unit}; strongest color at {format_number(ends, '.3g')}")
        map_style = replace(map_style, smooth=style.smooth, colors=style.colors)
        name = f"{column.title}, {column.class_map.title}"
        view = cache.get_view(column.maps)
        pictures.append(make_map_to_save(name, placed.values, view, placed.field, map_style, one, placed.crop))
    return pictures


def _write_columns(columns: Sequence[MapColumn]) -> list[str]:
    """Return the lines of Python that compute `maps`, the class maps of the columns."""
    names = [find_name(column.key, column.maps) for column in columns]
    loaded = ", ".join(f"{name!r}: load({name!r})" for name in dict.fromkeys(names))
    return [
        "from inspector import class_maps, load",
        "",
        f"networks = {{{loaded}}}",
        "maps = [",
        *(
            f"    class_maps(networks[{name!r}], {write_photo(column.key, column.maps)}),"
            for name, column in zip(names, columns, strict=True)
        ),
        "]",
    ]


def _draw_photo(maps: ClassMaps, line: str) -> html.Tile:
    view = cache.get_view(maps)
    photo = view.photo
    image = html.encode_image(dimmed_photo(photo, view.crop, _SIDE), needs_lossless(photo.size))
    return html.Tile(image, photo.name, [line], f"photo {photo.name}")


def _draw_column(column: MapColumn, placed: PlacedMap, scale: float | None, style: ColumnsStyle) -> html.Tile:
    """Draw one class map on `scale`; None: on a scale of its own."""
    own_scale = common_scale([placed.values])
    photo, ends = cache.get_view(column.maps).photo, scale or own_scale
    where = placed.crop, placed.field
    image = html.encode_map_on_photo(placed.values, photo, *where, _SIDE, ends, style.smooth, style.colors)
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
        yield f"strongest color at {format_number(own_scale, '.2g')} {maps.classifier.meaning.units}"
