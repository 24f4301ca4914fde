"""The bar at the top of every page: the network, the photo, and what the network sees of it.

Together they determine the class maps. The bar is drawn by app.py, so that its choices stay when the user opens another
page, and before torch is imported, so that it is on the screen at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import streamlit as st

from inspector.explain.shown_map import FigureContent
from inspector.images.photo import Photo
from inspector.ui.components.controls import choose_option
from inspector.ui.components.markdown import plain
from inspector.ui.state import cache, keys, photo_choice
from inspector.ui.state.networks import NetworkChoice, apply_selection, list_choices
from inspector.ui.state.size_choice import choose_size, describe_far_size

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from inspector.explain.class_maps import ClassMaps
    from inspector.explain.map_arrays import MapArrays, Maps, NetworkFacts
    from inspector.images.preprocessing import View


@dataclass(frozen=True, eq=False)
class PageSelection:
    """The chosen network, photo and input size, and the class maps that follow from them."""

    network: NetworkChoice
    key: cache.MapsKey
    photo: Photo
    layers_page: st.Page | None = None

    @cached_property
    def maps(self) -> "ClassMaps":
        """The class maps. They need torch, which takes seconds to import."""
        return cache.compute_class_maps(*self.key, self.photo, self.network.load)

    def compute_finer(self, factor: int) -> "ClassMaps":
        """Return the class maps with the cells between the network's own. Raises InspectorError if there are none."""
        return cache.compute_finer_maps(self.key, factor, self.photo, self.network.load)

    @cached_property
    def arrays(self) -> "MapArrays":
        """The class maps as arrays, which do not need torch if the network was kept for that."""
        return cache.compute_arrays(self.key, self.photo, self.network.load)

    def find_maps(self, content: FigureContent) -> "Maps":
        """Return the class maps of a figure: arrays, which may not need torch, if they have all that it shows."""
        if content.finer > 1:
            return self.compute_finer(content.finer)
        return self.maps if content.dense and self.arrays.scores is None else self.arrays

    def load_accelerated(self) -> None:
        """Load the network and its backend with torch, so that `maps` need not wait for them."""
        cache.accelerate_network(self.network.key, self.network.load)


@dataclass(frozen=True)
class Bar:
    """What the user chose in the bar."""

    network: NetworkChoice
    scale: cache.Scale
    notes: "DeltaGenerator"  # where notes about the link are shown, once the page has been drawn
    layers_page: st.Page | None = None  # page of the channels
    dataset_page: st.Page | None = None  # page that runs a batch

    def read_photo(self) -> Photo:
        """Read the chosen photo.

        Raises:
            ImageError: it cannot be read.
        """
        return photo_choice.read_photo(self.network.examples)


def draw_bar(
    load_page: st.Page | None = None,
    export_page: st.Page | None = None,
    layers_page: st.Page | None = None,
    dataset_page: st.Page | None = None,
) -> Bar:
    """Draw the bar.

    Args:
        load_page: page on which networks are loaded; a link to it stands beside the networks.
        export_page: page of figures; a link to it stands at the end.
        layers_page: page of the channels, which other pages open.
        dataset_page: page that runs a batch, which the page Concepts opens.
    """
    keys.update_link()
    apply_selection()
    offered = list_choices()
    with st.container(key=keys.BAR, horizontal=True, vertical_alignment="center", gap="small"):
        photo_choice.draw_uploader()
        strip = st.container(key=keys.STRIP, width="stretch")
        size_place = st.container(width="content", gap=None)
        name = choose_option("Model", list(offered), key=keys.NETWORK, width=210)
        if load_page is not None:
            st.page_link(load_page, label="Load model ...", icon=":material/upload:", help=plain(offered[name].title))
        if export_page is not None:
            st.page_link(export_page, label="Export", icon=":material/download:")
    with size_place:
        scale = choose_size(offered[name])
    with strip:
        photo_choice.draw_strip(offered[name].examples)
    return Bar(offered[name], scale, st.container(), layers_page, dataset_page)


def read_nothing(bar: Bar, import_page: Callable[[], object]) -> tuple[()]:
    """Import a page that needs neither network nor photo. Its function `show` has no arguments."""
    _show_spinner_during(import_page)
    return ()


def read_network(bar: Bar, import_page: Callable[[], object]) -> tuple[NetworkChoice]:
    """Import the page, and return the chosen network."""
    _show_spinner_during(import_page)
    return (bar.network,)


def read_bar(bar: Bar, import_page: Callable[[], object]) -> tuple[Bar]:
    """Import the page, and return what was chosen."""
    _show_spinner_during(import_page)
    return (bar,)


def _show_spinner_during(import_page: Callable[[], object]) -> None:
    # Draw the placeholder in every run: if some runs had none, everything below would change its position.
    with st.empty(), st.spinner("Importing PyTorch ..."):
        import_page()


def read_selection(bar: Bar, import_page: Callable[[], object] = lambda: None) -> tuple[PageSelection]:
    """Import the page, and compute the class maps of the chosen photo.

    Args:
        bar: what was chosen.
        import_page: called when the bar and the photo are on the screen, because it can take seconds.

    Raises:
        InspectorError: the photo or the network cannot be used.
    """
    return _read_selection(bar, import_page, lambda chosen: (chosen.maps.view, chosen.maps.classifier.facts))


def read_arrays(bar: Bar, import_page: Callable[[], object] = lambda: None) -> tuple[PageSelection]:
    """Import the page, and compute the class maps of the chosen photo as arrays, without torch if possible.

    The arguments and errors are those of `read_selection`.
    """
    is_quick = cache.find_stored(bar.network.key, bar.scale) is not None
    return _read_selection(bar, import_page, lambda chosen: (chosen.arrays.view, chosen.arrays.classifier), is_quick)


def _read_selection(
    bar: Bar,
    import_page: Callable[[], object],
    compute: Callable[[PageSelection], "tuple[View, NetworkFacts]"],
    is_quick: bool = False,
) -> tuple[PageSelection]:
    network, photo = bar.network, bar.read_photo()
    notes = st.container()
    chosen = PageSelection(network, (network.key, photo.sha256, photo.name, bar.scale), photo, bar.layers_page)
    # Draw the placeholder in every run: if some runs had none, everything below would change its position, and widgets
    # would lose what the user has typed.
    place = st.empty()
    warning = st.empty()
    if is_quick or st.session_state.get(keys.SHOWN_MAPS) == chosen.key:
        import_page()
        view, facts = compute(chosen)
    else:
        text = f"Loading {plain(network.name)} and computing the class maps of {plain(photo.name)} ..."
        with place.container(), st.spinner(text):
            _show_photo(photo)
            import_page()
            view, facts = compute(chosen)
        place.empty()
    st.session_state[keys.SHOWN_MAPS] = chosen.key
    _warn_of_misplacement(facts, warning)
    _show_notes(notes, chosen, view, facts)
    return (chosen,)


def _show_notes(place: "DeltaGenerator", chosen: PageSelection, view: "View", facts: "NetworkFacts") -> None:
    """Show what was changed in the photo, and whether its size is far from that of the training."""
    for note in view.photo.notes:
        place.info(plain(note), icon=":material/info:")
    if chosen.key[3] == 1:
        return
    trained = chosen.network.load().preprocessing.size
    if (warning := describe_far_size(facts.size, trained, chosen.network.sizes)) is not None:
        place.warning(plain(warning), icon=":material/photo_size_select_large:")


def _warn_of_misplacement(facts: "NetworkFacts", note: Any) -> None:
    """Show why the place of the cells is unknown, if it is."""
    if (warning := facts.receptive_field.warning) is not None:
        note.warning(f"{plain(warning)} The sums are right all the same.", icon=":material/wrong_location:")


def _show_photo(photo: Photo) -> None:
    """Show a photo about as large, and where, the Image page then shows it; a tall one fits on the screen."""
    height, width = photo.size
    widest = 900 if width > height else max(40, round(420 * width / height))  # CSS pixels
    column, *_ = st.columns((1.075, 1.075, 1))
    step = max(1, width // widest)  # the map waits while this is encoded
    column.image(photo.pixels[::step, ::step], width="stretch" if width > height else widest)
