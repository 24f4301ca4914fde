"""The sidebar: the user chooses a network, a photo and an input size there. Together they determine the class maps.

The sidebar is drawn before torch is imported, so that it is on the screen at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from inspector.images.examples import list_examples
from inspector.images.photo import Photo
from inspector.networks.catalog import list_models
from inspector.ui.components.controls import choose_option, upload_photos
from inspector.ui.components.markdown import plain
from inspector.ui.state import cache, keys

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from inspector.explain.class_maps import ClassMaps
    from inspector.explain.classifier import Classifier

# Choice, a value in links -> factor of the network's input size; None: the size of the photo.
SIZES: dict[str, float | None] = {"as trained": 1, "1.5 times": 1.5, "twice": 2, "the photo's own": None}


@dataclass(frozen=True)
class NetworkChoice:
    """A network that the user can choose. It is loaded only when `load` is called."""

    key: str  # key in the caches; for an uploaded network cache.PRIVATE and a random text
    name: str
    title: str
    examples: str  # kind of example photos that fit the network, see list_examples
    load: "Callable[[], Classifier]"


@dataclass(frozen=True, eq=False)
class SidebarSelection:
    """The chosen network, and the class maps of the chosen photo at the chosen input size."""

    network: NetworkChoice
    key: cache.MapsKey
    maps: "ClassMaps"


def list_choices() -> dict[str, NetworkChoice]:
    """Return the networks of models/ and the networks uploaded in this session, by name."""
    own: dict[str, NetworkChoice] = st.session_state.get(keys.OWN_NETWORKS, {})
    return {
        name: NetworkChoice(name, name, card.title, card.examples, partial(cache.load_network, name))
        for name, card in list_models().items()
    } | own


def choose_network() -> NetworkChoice:
    """Show the choice of networks. The choice stays when the user opens another page."""
    offered = list_choices()
    st.title("Inspector", anchor=False)
    st.caption("What each part of a photo contributes to a logit, in numbers that add up.")
    name = choose_option("Network", list(offered), key=keys.NETWORK, width="stretch")
    st.caption(plain(offered[name].title))
    return offered[name]


def choose_photo(choice: NetworkChoice) -> Photo:
    """Show the choice of photos: an upload, or an example that fits the network.

    Raises:
        ImageError: the upload cannot be read.
    """
    upload = upload_photos("Your photo", key=keys.UPLOADED_PHOTO)
    offered = list_examples(choice.examples)
    settings: dict[str, Any] = {"required": True, "disabled": upload is not None, "bind": "query-params"}
    example = st.pills("or an example", list(offered), default=next(iter(offered)), key=keys.EXAMPLE, **settings)
    if upload is not None:
        return cache.read_upload(upload.file_id, upload.name, upload.getvalue())
    # A link may name no example at all.
    return cache.read_example(offered.get(example) or next(iter(offered.values())))


def choose_size() -> float | None:
    """Show the choice of input sizes. Return a factor of the network's input size; None: the size of the photo."""
    text = (
        "Global pooling accepts feature maps of any size. A larger input gives finer class maps, and other logits. "
        "Most networks are most accurate at the size of their training."
    )
    return SIZES[choose_option("Input size", list(SIZES), key=keys.INPUT_SIZE, width="stretch", help=text)]


def read_nothing(import_page: Callable[[], object]) -> tuple[()]:
    """Import a page that draws its own sidebar. Its function `show` has no arguments."""
    _show_spinner_during(import_page)
    return ()


def read_network(import_page: Callable[[], object]) -> tuple[NetworkChoice]:
    """Draw the choice of networks in the sidebar, import the page, and return the chosen network."""
    with st.sidebar:
        network = choose_network()
    _show_spinner_during(import_page)
    return (network,)


def _show_spinner_during(import_page: Callable[[], object]) -> None:
    # Draw the placeholder in every run: if some runs had none, everything below would change its position.
    with st.empty(), st.spinner("Importing PyTorch ..."):
        import_page()


def read_sidebar(import_page: Callable[[], object] = lambda: None) -> tuple[SidebarSelection]:
    """Draw the sidebar, import the page, and compute the class maps of the chosen photo.

    Args:
        import_page: called when the sidebar and the photo are on the screen, because it can take seconds.

    Raises:
        InspectorError: the photo or the network cannot be used.
    """
    with st.sidebar:
        network = choose_network()
        photo = choose_photo(network)
        scale = choose_size()
    notes = st.container()
    key = network.key, photo.sha256, photo.name, scale
    # Draw the placeholder in every run: if some runs had none, everything below would change its position, and widgets
    # would lose what the user has typed.
    place = st.empty()
    warning = st.empty()
    if st.session_state.get(keys.SHOWN_MAPS) == key:
        import_page()
        maps = cache.compute_class_maps(*key, photo, network.load)
        _warn_of_misplacement(maps, warning)
        _show_notes(notes, maps)
        return (SidebarSelection(network, key, maps),)
    text = f"Loading {plain(network.name)} and computing the class maps of {plain(photo.name)} ..."
    with place.container(), st.spinner(text):
        step = max(1, photo.size[1] // (2 * photo_width(photo)))  # a large photo need not be encoded as a whole
        st.image(photo.pixels[::step, ::step], width=photo_width(photo))
        import_page()
        maps = cache.compute_class_maps(*key, photo, network.load)
    place.empty()
    _warn_of_misplacement(maps, warning)
    st.session_state[keys.SHOWN_MAPS] = key
    _show_notes(notes, maps)
    return (SidebarSelection(network, key, maps),)


def _show_notes(place: "DeltaGenerator", maps: "ClassMaps") -> None:
    """Show what was changed in the photo. The network's preprocessing decides some of it."""
    for note in cache.get_view(maps).photo.notes:
        place.info(plain(note), icon=":material/info:")


def _warn_of_misplacement(maps: "ClassMaps", note: Any) -> None:
    """Show why the place of the cells is unknown, if it is."""
    if maps.classifier.receptive_field.misplaced is not None:
        note.warning(
            f"{plain(maps.classifier.place)} The sums are right all the same.", icon=":material/wrong_location:"
        )


def photo_width(photo: Photo) -> int:
    """Return the width of a photo on the page, in CSS pixels: less for a tall photo, so that it fits on the screen."""
    height, width = photo.size
    return max(40, min(900, round(560 * width / height)))
