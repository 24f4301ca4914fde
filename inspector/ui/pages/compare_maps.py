"""Part of the page Compare: one photo by several networks, or several photos by one network, on one scale."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import streamlit as st

from inspector.analysis.comparable_maps import make_comparable
from inspector.analysis.similarity import compare_maps, find_class_by_name, find_common_class_name, find_same_class
from inspector.explain.class_maps import AVERAGE, ClassMaps
from inspector.images.photo import Photo
from inspector.networks.catalog import list_models
from inspector.output.viewer import VIEWER_COLORMAPS
from inspector.ui.components import controls
from inspector.ui.components.controls import show_table, switch
from inspector.ui.components.map_columns import (
    ColumnsStyle,
    MapColumn,
    MapRequest,
    compute_requests,
    draw_figure,
    make_column,
    show_columns_menu,
    show_map_columns,
)
from inspector.ui.components.markdown import plain
from inspector.ui.state import cache, keys, photo_choice
from inspector.ui.state.handover import hand_on, take_over
from inspector.ui.state.networks import NetworkChoice, list_choices
from inspector.ui.state.photos import OwnPhoto
from inspector.ui.state.selection import choose_interpolation, choose_reading
from inspector.ui.state.streamlit_fixes import fragment
from inspector.ui.state.top_bar import PageSelection

if TYPE_CHECKING:
    from inspector.output.figure_file import Format

NETWORKS, PHOTOS = "networks", "photos"
MAX_NETWORKS = 4
MAX_PHOTOS = 12
_FILES = {"PNG": "comparison.png", "PDF": "comparison.pdf", "SVG": "comparison.svg"}
_FORMATS: "dict[str, Format]" = {"comparison.png": "png", "comparison.pdf": "pdf", "comparison.svg": "svg"}


def show(chosen: PageSelection, mode: str) -> None:
    """Draw this part of the page. `mode` is NETWORKS or PHOTOS."""
    if mode == NETWORKS:
        requests = _choose_networks(chosen.network, cache.get_view(chosen.maps).photo, chosen.key[3])
    else:
        requests = _choose_photos(chosen.network, chosen.key[3])
    if compared := compute_requests(requests):
        _show_comparison(chosen, compared, mode)


def list_same_classes(network: NetworkChoice) -> list[str]:
    """Return the names of the other networks in models/ that have the same classes."""
    cards = list_models()
    if network.key not in cards:
        return []
    classes = cards[network.key].classes
    return [name for name, card in cards.items() if card.classes == classes and name != network.name]


def _choose_networks(network: NetworkChoice, photo: Photo, scale: cache.Scale) -> list[MapRequest]:
    """Show the choice of the other networks. Return one request per network."""
    offered, same_classes = list_choices(), list_same_classes(network)
    # Offer the network of the bar, too. Otherwise the box would lose a network that is chosen in the bar.
    names = st.multiselect(
        f"{plain(network.name)} and",
        list(offered),
        default=same_classes[: MAX_NETWORKS - 1],
        key=keys.COMPARED_NETWORKS,
        bind="query-params",
        max_selections=MAX_NETWORKS - 1,
        help="The first network is that of the bar. Add more on the page Model, for this session, or with "
        "`inspector add`.",
    )
    others = [offered[name] for name in names if name != network.name]
    if not others:
        text = "Choose one more network in the box above."
        if not same_classes:
            text += (
                " No other network here has the same classes: load your own on the page Model, add one with "
                "`inspector add`, or compare several photos by this network."
            )
        st.info(text, icon=":material/compare:")
    # The size at which the whole photo is seen is another one for each network.
    return [
        MapRequest(choice.name, choice, photo, choice.whole if scale == network.whole else scale)
        for choice in (network, *others)
    ]


def _choose_photos(network: NetworkChoice, scale: cache.Scale) -> list[MapRequest]:
    """Show the choice of photos, and an error for each photo that cannot be read. Return one request per photo."""
    offered = photo_choice.list_offered(network.examples)
    own = [name for name, photo in offered.items() if isinstance(photo, OwnPhoto)]
    names = photo_choice.choose_photos("Photos", offered, own or list(offered)[:3], key=keys.COMPARED_EXAMPLES)
    if not names:
        st.info("Choose photos above, or add some in the bar.", icon=":material/compare:")
    if len(names) > MAX_PHOTOS:
        st.info(f"Only the first {MAX_PHOTOS} of {len(names)} photos are shown.", icon=":material/info:")
    requests = []
    for name in names[:MAX_PHOTOS]:
        # A link may name photos that are not here.
        if name in offered:
            with controls.show_errors():
                photo = photo_choice.read_offered(offered[name])
                requests.append(MapRequest(photo.name, network, photo, scale))
    return requests


@fragment
def _show_comparison(chosen: PageSelection, compared: Sequence[tuple[MapRequest, ClassMaps]], mode: str) -> None:
    """Show the maps of one class, or of each photo's top-1 class, with their numbers."""
    maps = [one for _, one in compared]
    key = keys.compared_class(mode)
    take_over(chosen, f"compare {mode}", (keys.RAW_GRID, key, keys.READING, keys.AGAINST, keys.COLORMAP))
    # At first, networks are compared for one class. Photos show different objects: each gets its own top-1 class.
    default = find_common_class_name(maps) if mode == NETWORKS else None
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        names = list(dict.fromkeys(name for one in maps for name in one.classifier.class_names))
        placeholder = f"{default} (top-1 of the first)" if default else "top-1 of each"
        text = "Type to search. A network without a class of this name shows its top-1 class."
        name = controls.search_option("Class", names, placeholder, key=key, width=320, help=text) or default
        classes = (
            find_same_class(maps, name) if name or mode == NETWORKS else [int(one.logits.argmax()) for one in maps]
        )
        against = choose_reading(chosen.maps, _find_own_class(chosen.maps, name))
        colors = controls.choose_option("Color map", list(VIEWER_COLORMAPS), key=keys.COLORMAP, width=170)
        text = "Off: the same color is the same number of logits in all maps. On: faint maps are visible too."
        own_scales = switch("One scale per map", text, key=keys.OWN_SCALES)
        resample = len({one.values.shape[1:] for one in maps}) > 1 and mode == NETWORKS and _choose_common_grid()
        smooth = choose_interpolation()
    hand_on(chosen, k=_find_own_class(chosen.maps, name), against=against, smooth=smooth, colors=colors)
    other = chosen.maps.classifier.class_names[against] if isinstance(against, int) else against
    columns = [
        make_column(request.title, one, k, request.key, _find_contrast(one, k, other))
        for (request, one), k in zip(compared, classes, strict=True)
    ]
    style = ColumnsStyle(own_scales, smooth, resample, colors)
    show_map_columns(columns, style)
    _show_downloads(columns, style, mode)
    _show_numbers(columns, mode)
    if mode == NETWORKS:
        _show_similarity(columns, resample)


def _find_own_class(maps: ClassMaps, name: str | None) -> int:
    """Return the index of a class of the network of the bar; its top-1 class if it has none of this name."""
    found = None if name is None else find_class_by_name(maps.classifier.class_names, name)
    return maps.top(1)[0][0] if found is None else found


def _find_contrast(maps: ClassMaps, k: int, other: str | None) -> int | str | None:
    """Return what class k is contrasted with: a class that this network has, too, the average, or nothing."""
    if other in (None, AVERAGE):
        return other
    assert other is not None, "it is a name"
    found = find_class_by_name(maps.classifier.class_names, other)
    return None if found == k else found


def _choose_common_grid() -> bool:
    """Show the switch "One grid". Return whether all maps are resampled to one grid."""
    text = (
        "Off: each map has the grid of its network, and maps share a scale per area of the photo. On: all maps are "
        "resampled to the smallest of their grids, so that they can be compared cell by cell. Their sums stay the same."
    )
    return switch("One grid", text, key=keys.COMMON_GRID)


def _show_downloads(columns: Sequence[MapColumn], style: ColumnsStyle, mode: str) -> None:
    def make_file(name: str) -> bytes:
        # Imported here, because matplotlib takes a second to import.
        from inspector.output.figure_file import encode_figure

        return encode_figure(draw_figure(columns, style), _FORMATS[name])

    with st.container(horizontal=True, vertical_alignment="center"):
        controls.show_download_buttons(_FILES, make_file, "Download the figure")
        show_columns_menu(columns, style, f"{mode} picture")


def _show_numbers(columns: Sequence[MapColumn], mode: str) -> None:
    top = [column.maps.top(1)[0] for column in columns]
    quantity = " or ".join(dict.fromkeys(map(_name_quantity, columns)))
    if all(column.maps.classifier.meaning.has_probabilities for column in columns):
        outcomes: dict[str, Any] = {"probability": [float(one.maps.probabilities[one.k]) for one in columns]}
    else:
        outcomes = {"outcome": [column.maps.outcome(column.k) for column in columns]}
    show_table(
        {
            "network" if mode == NETWORKS else "photo": [column.title for column in columns],
            "class": [column.class_map.title for column in columns],
            **outcomes,
            "map": [float(column.class_map.values.sum()) for column in columns],
            "+ bias": [column.class_map.bias for column in columns],
            f"= {quantity}": [column.class_map.total for column in columns],
            "top-1": [f"{name} ({one.maps.outcome(k, 0)})" for one, (k, name, _) in zip(columns, top, strict=True)],
            "verdict": [column.maps.verdict for column in columns],
            "largest residual": [f"{column.maps.residual:.1e}" for column in columns],
        },
        "The compared class maps with classes, probabilities and logits",
        {"probability": controls.SHARE, "map": "%.3f", "+ bias": "%.3f", f"= {quantity}": "%.3f"},
    )
    if quantity == "logit":
        st.caption("A logit is the score of a class before softmax: the sum of its map, plus a bias.")


def _name_quantity(column: MapColumn) -> str:
    """Return the word for what the map of a column sums to."""
    meaning = column.maps.classifier.meaning
    return meaning.quantity if column.against is None else meaning.difference


def _show_similarity(columns: Sequence[MapColumn], resample: bool) -> None:
    """Show how similar the maps of one class are, pair by pair, if they have the same grid."""
    rows, other_grids = [], []
    for a, b in combinations(columns, 2):
        if a.class_map.title.casefold() != b.class_map.title.casefold():
            continue
        first, second = make_comparable([a.maps, b.maps], [a.class_map, b.class_map], resample, by_area=False).values
        similarity = compare_maps(replace(a.class_map, values=first), replace(b.class_map, values=second))
        if similarity is None:
            grids = [" x ".join(map(str, column.class_map.values.shape)) for column in (a, b)]
            other_grids.append(f"{a.title} ({grids[0]}) and {b.title} ({grids[1]})")
        else:
            names = f"{a.title}, {b.title}"
            rows.append({"maps": names, "cosine": similarity.cosine, "rank correlation": similarity.rank})
    if rows:
        formats = {"cosine": "%.2f", "rank correlation": "%.2f"}
        show_table(rows, "Similarity of the maps", formats, width="content")
        st.caption(
            "1: the same map, 0: unrelated, \N{MINUS SIGN}1: the opposite. The cosine compares the logits of the cells "
            "up to a common factor; the rank correlation compares only their order."
        )
    if other_grids:
        text = (
            "Not compared, because the place of their cells is unknown"
            if resample
            else ("Not compared, because their grids differ (switch on *One grid*)")
        )
        st.caption(f"{text}: {plain('; '.join(other_grids))}.")
