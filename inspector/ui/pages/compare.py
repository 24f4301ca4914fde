"""The page of comparison: one photo by several networks, or several photos by one network, on one scale."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import streamlit as st

from inspector.analysis.similarity import common_name, compare_maps, find_same_class
from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMap, ClassMaps
from inspector.images.examples import list_examples
from inspector.images.photo import MAX_BYTES, Photo
from inspector.networks.catalog import list_models
from inspector.output.overlay import common_scale
from inspector.ui.components import html
from inspector.ui.state import cache
from inspector.ui.state.sidebar import NetworkChoice, choose_photo, choose_size, list_choices
from inspector.ui.state.streamlit_fixes import fragment

if TYPE_CHECKING:
    from inspector.output.export import Format

NETWORKS, PHOTOS = "networks", "photos"
MOST_NETWORKS = 4
MOST_PHOTOS = 12
_SIDE = 480  # pixels of the longer side of a picture
_OPACITY = 0.85


@dataclass(frozen=True)
class Column:
    """One of what is compared: a network or a photo, and the class of it that is shown."""

    title: str
    maps: ClassMaps
    k: int
    class_map: ClassMap


def show(choice: NetworkChoice) -> None:
    try:
        mode = st.segmented_control(
            "Compare", [NETWORKS, PHOTOS], default=NETWORKS if _fitting(choice) else PHOTOS, required=True,
            key="compare", bind="query-params",
            help="Several networks on one photo, or several photos by one network.",
        )  # fmt: skip
        with st.sidebar:
            photo = choose_photo(choice) if mode == NETWORKS else None
            scale = choose_size()
        compared = _photos(choice, scale) if photo is None else _networks(choice, photo, scale)
    except InspectorError as error:
        st.error(str(error), icon=":material/error:")
        return
    if compared:
        _columns(compared, mode)


def _fitting(first: NetworkChoice) -> list[str]:
    """The other networks of models/ that know the same classes."""
    cards = list_models()
    if first.key not in cards:
        return []
    return [name for name, card in cards.items() if card.classes == cards[first.key].classes and name != first.name]


def _networks(first: NetworkChoice, photo: Photo, scale: float | None) -> list[tuple[str, ClassMaps]]:
    """The class maps of one photo by each network chosen; what fails is a sentence, and the others are shown."""
    offered = list_choices()
    fitting = _fitting(first)
    # The box keeps what was chosen in it when the first network becomes one of them.
    chosen = st.multiselect(
        f"{html.plain_text(first.name)} and", list(offered), default=fitting[: MOST_NETWORKS - 1], key="with",
        bind="query-params", max_selections=MOST_NETWORKS - 1,
        help="The first network is that of the sidebar. More are added on the page Network, for this session, or by "
        "`inspector add`.",
    )  # fmt: skip
    for note in photo.notes:
        st.info(note, icon=":material/info:")
    others = [offered[name] for name in chosen if name != first.name]
    if not others:
        st.info(
            "Choose one more network in the box above."
            if fitting
            else "Choose one more network in the box above. None there knows the same classes: load one of your own on "
            "the page Network, keep one by `inspector add`, or compare several photos by this network.",
            icon=":material/compare:",
        )
    asked = [(one.name, one, photo) for one in (first, *others)]
    return _made(asked, scale)


def _photos(choice: NetworkChoice, scale: float | None) -> list[tuple[str, ClassMaps]]:
    """The class maps of each photo chosen; a photo that cannot be read is a sentence, and the others are shown."""
    offered = list_examples(choice.examples)
    with st.container(horizontal=True, vertical_alignment="top", gap="medium"):
        uploads = st.file_uploader(
            "Your photos", type=["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"],
            key="photos compared", accept_multiple_files=True, max_upload_size=MAX_BYTES // 1_000_000, width=380,
            help="They stay in this server's memory, are never written to disk, and no other session sees them.",
        )  # fmt: skip
        chosen = st.pills(
            "and examples", list(offered), selection_mode="multi", default=list(offered)[:3], key="examples",
            bind="query-params",
        )  # fmt: skip
    photos = []
    for upload in uploads:
        try:
            photos.append(cache.uploaded_photo(upload.file_id, upload.name, upload.getvalue()))
        except InspectorError as error:
            st.error(str(error), icon=":material/error:")
    # Of another network's kind there may be some in the link.
    photos += [cache.example_photo(offered[name]) for name in chosen if name in offered]
    if not photos:
        st.info("Upload photos, or choose examples above.", icon=":material/compare:")
    if len(photos) > MOST_PHOTOS:
        st.info(f"The first {MOST_PHOTOS} of {len(photos)} photos are shown.", icon=":material/info:")
    return _made([(photo.name, choice, photo) for photo in photos[:MOST_PHOTOS]], scale)


def _made(asked: Sequence[tuple[str, NetworkChoice, Photo]], scale: float | None) -> list[tuple[str, ClassMaps]]:
    made = []
    for number, (title, choice, photo) in enumerate(asked, 1):
        try:
            with st.spinner(f"Splitting the logits of {photo.name} by {choice.name}, {number} of {len(asked)} ..."):
                maps = cache.class_maps_of(choice.key, photo.sha256, photo.name, scale, photo, choice.load)
        except InspectorError as error:
            st.warning(f"{html.plain_text(title)}: {error}", icon=":material/warning:")
        else:
            made.append((title, maps))
    return made


@fragment
def _columns(compared: Sequence[tuple[str, ClassMaps]], mode: str) -> None:
    maps = [one for _, one in compared]
    # Photos differ in what is on them: each shows its own likeliest class. Networks are asked about the same one.
    usual = common_name(maps) if mode == NETWORKS else None
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        names = list(dict.fromkeys(name for one in maps for name in one.classifier.class_names))
        chosen = st.selectbox(
            "Class", names, index=None, key=f"class_of_{mode}", bind="query-params", width=320,
            placeholder=f"{usual} (the first one's likeliest)" if usual else "each one's own likeliest",
            help="Type to search. A network that does not know the name shows its own likeliest class.",
        )  # fmt: skip
        own_scales = st.toggle(
            "Each on its own scale", key="own_scales", bind="query-params",
            help="Off: the same colour is the same number of logits in all maps. On: faint maps are seen too.",
        )  # fmt: skip
        smooth = not st.toggle(
            "Raw grid", key="grid", bind="query-params", help="The cells as they are, not interpolated."
        )
    name = chosen or usual
    classes = find_same_class(maps, name) if name or mode == NETWORKS else [int(one.logits.argmax()) for one in maps]
    columns = [Column(title, one, k, one.class_map(k)) for (title, one), k in zip(compared, classes, strict=True)]
    scale = common_scale([column.class_map.values for column in columns])
    st.html(html.tiles(_tiles(columns, None if own_scales else scale, smooth), "clamp(10rem, 13vw, 20rem)"))
    if not own_scales:
        st.html(html.colour_bar(scale, "logits a position, the same for all maps"))
    _downloads(columns, own_scales, smooth)
    _table(columns, mode)
    if mode == NETWORKS:
        _agreement(columns)


def _tiles(columns: Iterable[Column], scale: float | None, smooth: bool) -> Iterable[tuple[bytes, str, str, str]]:
    """The map of each over its photo; without a scale each on its own, which then stands below it."""
    for column in columns:
        one, own = column.maps, common_scale([column.class_map.values])
        (image,) = html.draw_overlays(one, [column.class_map], _SIDE, own if scale is None else scale, smooth, _OPACITY)
        words = [
            f"{column.class_map.title} {one.probabilities[column.k]:.1%}",
            column.class_map.equation(),
            one.verdict,
        ]
        words += [f"densest colour {own:.2g} logits a position"] if scale is None else []
        yield (
            image,
            column.title,
            " \N{MIDDLE DOT} ".join(words),
            f"class map of {column.title}: {column.class_map.title}",
        )


def _downloads(columns: Sequence[Column], own_scales: bool, smooth: bool) -> None:
    """The same as a figure, made when pressed."""

    def maker(suffix: "Format") -> Callable[[], bytes]:
        def make() -> bytes:
            from inspector.output.export import figure_bytes
            from inspector.training.figures import side_by_side_figure

            maps, classes = [column.maps for column in columns], [column.k for column in columns]
            titles = [column.title for column in columns]
            return figure_bytes(side_by_side_figure(maps, classes, titles, own_scales, smooth), suffix)

        return make

    suffixes: Sequence[Format] = ("png", "pdf", "svg")
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.caption("Download the figure", width="content")
        for suffix in suffixes:
            st.download_button(
                suffix.upper(), maker(suffix), f"comparison.{suffix}", key=f"comparison {suffix}", on_click="ignore"
            )


def _table(columns: Sequence[Column], mode: str) -> None:
    likeliest = [column.maps.top(1)[0] for column in columns]
    numbers = st.column_config.NumberColumn(format="%.3f")
    st.dataframe(
        {
            "network" if mode == NETWORKS else "photo": [column.title for column in columns],
            "class": [column.class_map.title for column in columns],
            "probability": [float(column.maps.probabilities[column.k]) for column in columns],
            "map": [float(column.class_map.values.sum()) for column in columns],
            "+ bias": [column.class_map.bias for column in columns],
            "= logit": [column.class_map.total for column in columns],
            "likeliest": [f"{name} ({probability:.0%})" for _, name, probability in likeliest],
            "verdict": [column.maps.verdict for column in columns],
            "largest miss": [f"{column.maps.residual:.1e}" for column in columns],
        },
        hide_index=True,
        column_config={
            "probability": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1),
            "map": numbers,
            "+ bias": numbers,
            "= logit": numbers,
        },
        alt="What is compared, with classes, probabilities and logits",
    )
    st.caption("A logit is the score that a class gets before softmax: the sum of its map, plus a bias.")


def _agreement(columns: Sequence[Column]) -> None:
    """How alike the maps of one class are, pair by pair, where their grids are the same."""
    rows, apart = [], []
    for a, b in combinations(columns, 2):
        if a.class_map.title.casefold() != b.class_map.title.casefold():
            continue
        found = compare_maps(a.class_map, b.class_map)
        if found is None:
            grids = (" x ".join(map(str, column.class_map.values.shape)) for column in (a, b))
            apart.append(f"{a.title} ({next(grids)}) and {b.title} ({next(grids)})")
        else:
            rows.append({"maps": f"{a.title}, {b.title}", "cosine": found.cosine, "rank correlation": found.rank})
    if rows:
        two = st.column_config.NumberColumn(format="%.2f")
        st.dataframe(
            rows, hide_index=True, width="content", column_config={"cosine": two, "rank correlation": two},
            alt="How alike the maps are",
        )  # fmt: skip
        st.caption(
            "1: the same map, 0: unrelated, \N{MINUS SIGN}1: the opposite. The cosine compares the cells' logits up to "
            "a common factor; the rank correlation only which cells have more."
        )
    if apart:
        st.caption(html.plain_text(f"Not compared cell by cell, since their grids differ: {'; '.join(apart)}."))
