"""A photo split into concepts: the map of each, and the sum of all, rest and bias."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from inspector.datasets.concepts.files import ConceptFlag
from inspector.datasets.concepts.model import ClassConcepts, ConceptCard
from inspector.datasets.concepts.photo import PhotoConcepts, split_photo, split_stored_photo
from inspector.errors import InspectorError
from inspector.explain.receptive_field import ReceptiveField
from inspector.images.photo import Photo
from inspector.images.preprocessing import Crop
from inspector.output.overlay import common_scale, dimmed_photo, draw_map_on_photo
from inspector.output.picture import Picture
from inspector.output.text import format_number, replace_minus
from inspector.ui.components import html
from inspector.ui.components.controls import choose_option, show_errors
from inspector.ui.components.markdown import plain
from inspector.ui.components.save import PictureToSave, show_save_menu, write_maps_lines
from inspector.ui.components.stored_maps import draw_raw_grid
from inspector.ui.state import cache, folders, keys, networks
from inspector.ui.state.concept_work import OpenedConcepts
from inspector.ui.state.top_bar import Bar

_OF_THE_BAR = "the photo of the bar"
_SIDE, _SMALL, _SAVED = 720, 320, 1280  # longer sides of pictures, in pixels


@dataclass(frozen=True, eq=False)
class SplitPhoto:
    """A photo that was split."""

    split: PhotoConcepts
    name: str
    photo: Photo | None  # None: it cannot be read
    problem: str  # why it cannot be
    crop: Crop
    field: ReceptiveField
    python: Sequence[str]  # lines that compute `split`, `photo`, `crop` and `field`


def show_photo(
    bar: Bar, opened: OpenedConcepts, one: ClassConcepts, card: ConceptCard, flags: Mapping[str, ConceptFlag]
) -> None:
    """Show the map of a card, and of all cards of its class, on a photo that is chosen."""
    st.subheader("On a photo", anchor=False)
    listed = {_label(opened, index): index for index in sorted((*one.photos, *one.held_out))}
    options = [*listed, _OF_THE_BAR]
    first = options.index(_label(opened, card.positions[0].photo)) if card.positions else 0
    if st.session_state.get(keys.CONCEPT_PHOTO, options[0]) not in options:
        st.session_state.pop(keys.CONCEPT_PHOTO)  # of another class
    chosen = choose_option("Photo", options, key=keys.CONCEPT_PHOTO, index=first, width=340)
    with show_errors():
        if chosen == _OF_THE_BAR and not _has_network(bar, opened):
            return
        split = (
            _split_current(bar, opened, one) if chosen == _OF_THE_BAR else _split_stored(opened, one, listed[chosen])
        )
        _show_split(split, one, card, flags)


def _has_network(bar: Bar, opened: OpenedConcepts) -> bool:
    """Return whether the bar has the network of the concepts. If not, say so, with a button that chooses it.

    Raises:
        InspectorError: the network of the concepts is not loaded.
    """
    with st.spinner(f"Loading {plain(bar.network.name)} ..."):
        if bar.network.load().sha256() == opened.found.network_sha256:
            return True
    wanted = networks.find_network(opened.found.network)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.info(plain(f"The bar has the network {bar.network.name}, and these concepts are of {wanted.name}."))
        if wanted.name in networks.list_choices() and st.button(
            f"Choose {plain(wanted.name)}", key=keys.CONCEPT_NETWORK
        ):
            networks.select(wanted.name)
            st.rerun()
    return False


def _label(opened: OpenedConcepts, index: int) -> str:
    return f"{Path(opened.stored.by_index[index].path).name} ({index})"


def _split_stored(opened: OpenedConcepts, one: ClassConcepts, index: int) -> SplitPhoto:
    stored = opened.stored
    name, photo, problem = Path(stored.by_index[index].path).name, None, ""
    try:
        photo = stored.read_photo(index)
    except InspectorError as error:
        problem = str(error)
    python = [
        "from inspector.datasets.concepts.files import read_concepts",
        "from inspector.datasets.concepts.photo import split_stored_photo",
        "from inspector.datasets.features import read_features",
        "",
        *_open_lines(opened, one),
        f"split = split_stored_photo(one, stored, {index})",
        f"photo, crop, field = stored.read_photo({index}), stored.crop(stored.by_index[{index}]), stored.field",
    ]
    crop = stored.crop(stored.by_index[index])
    return SplitPhoto(split_stored_photo(one, stored, index), name, photo, problem, crop, stored.field, python)


def _split_current(bar: Bar, opened: OpenedConcepts, one: ClassConcepts) -> SplitPhoto:
    """Split the photo of the bar, whose network is that of the concepts.

    Raises:
        InspectorError: the photo cannot be read or explained.
    """
    stored, photo = opened.stored, bar.read_photo()
    with st.spinner(f"Computing the feature maps of {plain(photo.name)} ..."):
        key = bar.network.key, photo.sha256, photo.name, bar.scale
        maps = cache.compute_class_maps(*key, photo, bar.network.load)
        features = maps.feature_maps.float().numpy(force=True)
    split = split_photo(one, features, stored.weight, stored.bias, stored.pooling, float(maps.logits[one.k]))
    python = [
        "from inspector.datasets.concepts.files import read_concepts",
        "from inspector.datasets.concepts.photo import split_photo",
        "from inspector.datasets.features import read_features",
        *write_maps_lines(key, maps),
        *_open_lines(opened, one),
        "features = maps.feature_maps.numpy(force=True)",
        "split = split_photo(one, features, stored.weight, stored.bias, stored.pooling)",
        "photo, crop, field = maps.view.photo, maps.view.crop, maps.classifier.receptive_field",
    ]
    field = maps.classifier.receptive_field
    return SplitPhoto(split, photo.name, maps.view.photo, "", maps.view.crop, field, python)


def _open_lines(opened: OpenedConcepts, one: ClassConcepts) -> list[str]:
    name = folders.name_folder(opened.stored.results.folder)
    return [
        f"stored = read_features({name!r})",
        f"one = read_concepts({f'{name}/concepts'!r}).find_class({one.k})",
    ]


def _show_split(shown: SplitPhoto, one: ClassConcepts, card: ConceptCard, flags: Mapping[str, ConceptFlag]) -> None:
    split = shown.split
    values = split.maps[card.number - 1]
    scale = common_scale(list(split.maps))
    picture, numbers = st.columns([2, 3], gap="large")
    with picture:
        title = f"{card.key} on {shown.name}"
        tile = html.Tile(_draw(shown, values, scale, _SIDE), title, [_format(float(values.sum()))], f"map of {title}")
        st.html(html.make_tiles([tile], "min(100%, 24rem)"))
        if shown.problem:
            st.caption(plain(f"{shown.problem} Only its grid is shown."))
        show_save_menu([_make_picture(shown, card, title, scale)], "concept picture")
    with numbers:
        st.html(html.make_value_list(_list_terms(split)))
        st.caption(plain(_describe_sum(split)))
        st.markdown(f"**All concepts of {plain(one.name)}**, on one scale")
        tiles = []
        for other, own in zip(one.cards, split.maps, strict=True):
            name = f"{other.key} {flags.get(other.key, ConceptFlag()).name}".rstrip()
            alt = f"map of {other.key} on {shown.name}"
            tiles.append(
                html.Tile(_draw(shown, own, scale, _SMALL), name, [_format(float(own.sum()))], f"{alt}, small")
            )
        st.html(html.make_tiles(tiles, "clamp(7rem, 9vw, 14rem)"))
        st.html(html.make_color_bar(scale, "logits per cell"))


def _draw(shown: SplitPhoto, values: object, scale: float, side: int) -> bytes:
    if shown.photo is None or shown.field.misplaced is not None:
        return draw_raw_grid(values, scale)  # type: ignore[arg-type]
    return html.encode_map_on_photo(values, shown.photo, shown.crop, shown.field, side, scale)  # type: ignore[arg-type]


def _format(value: float) -> str:
    return replace_minus(f"{value:+.3f} logits")


def _list_terms(split: PhotoConcepts) -> list[tuple[str, str]]:
    terms = split.terms
    values = [
        ("concepts", terms.concepts),
        ("left by the factorization", terms.left),
        ("evidence against the class", terms.against),
        ("common to all classes", terms.common),
        ("bias", terms.bias),
    ]
    return [
        *((name, replace_minus(f"{value:+.4f}")) for name, value in values),
        ("logit", format_number(split.logit, ".4f")),
    ]


def _describe_sum(split: PhotoConcepts) -> str:
    """Return how exact the sum is, and how far the stored features are from the network."""
    text = (
        f"Concepts + rest (left, against, common) + bias = {split.terms.logit:.4f}. The sum differs from the logit of "
        f"the features by {split.residual:.1e}."
    )
    if split.difference is not None:
        text += f" The network's own logit is {split.network_logit:.4f}, and differs by {split.difference:.1e}."
    return replace_minus(text)


def _make_picture(shown: SplitPhoto, card: ConceptCard, title: str, scale: float) -> PictureToSave:
    values = shown.split.maps[card.number - 1]

    def draw() -> Picture:
        if shown.photo is None:
            raise InspectorError(f"{shown.problem} It cannot be drawn.")
        canvas = dimmed_photo(shown.photo, shown.crop, _SAVED, gray=True)
        pixels = draw_map_on_photo(canvas, shown.crop, values, shown.field, scale)
        return Picture(pixels, title, (f"strongest color at {scale:.3g} logits per cell",))

    lines = [
        *shown.python,
        "from inspector.output.overlay import dimmed_photo, draw_map_on_photo",
        f"canvas = dimmed_photo(photo, crop, {_SAVED}, gray=True)",
        f"pixels = draw_map_on_photo(canvas, crop, split.maps[{card.number - 1}], field, {scale!r})",
    ]
    return PictureToSave(title, draw, "\n".join(lines))
