"""The networks that a visitor can choose: those of models/, and those that were loaded in this session.

A network from a file is private: only its session can use it, and its memory is given back when it is removed. All
sessions share a network of torchvision or timm.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from inspector.errors import InspectorError
from inspector.images.examples import choose_examples
from inspector.networks.catalog import CARD, LIBRARIES, is_trusted, list_models, read_model_card
from inspector.networks.size_accuracy import SizeAccuracies
from inspector.printable import make_printable
from inspector.ui.state import cache, keys, sessions

if TYPE_CHECKING:
    from inspector.explain.classifier import Classifier

MAX_PRIVATE = 3  # networks from files that a session keeps; a new one replaces the oldest
MAX_NAMED = 8  # networks of libraries that a session lists


@dataclass(frozen=True)
class NetworkChoice:
    """A network that the user can choose. It is loaded only when `load` is called."""

    key: str  # key in the caches; for a network from a file cache.PRIVATE and a random text
    name: str
    title: str
    examples: str  # kind of example photos that fit the network, see list_examples
    load: "Callable[[], Classifier]"
    sizes: SizeAccuracies | None = None  # the accuracy at several input sizes, if it was measured

    @property
    def whole(self) -> str:
        """The size at which the whole photo is seen: the most accurate one, or that of the training."""
        best = None if self.sizes is None else self.sizes.find_best_whole()
        return "whole" if best is None else best.size

    @property
    def is_private(self) -> bool:
        """Whether only this session may use the network."""
        return self.key.startswith(cache.PRIVATE)


def list_choices() -> dict[str, NetworkChoice]:
    """Return the networks of models/, those of this session, and one of a library that the link names, by name."""
    listed = {
        name: NetworkChoice(name, name, card.title, card.examples, partial(cache.load_network, name), card.sizes)
        for name, card in list_models().items()
    } | dict(list_own())
    linked = st.query_params.get(keys.NETWORK, "")
    if linked.startswith(LIBRARIES) and linked not in listed:
        title = make_printable(linked, 100)
        listed[linked] = NetworkChoice(linked, linked, title, "photos", partial(cache.load_local_network, linked))
    return listed


def find_network(name: str) -> NetworkChoice:
    """Return the network that results name.

    Raises:
        InspectorError: it is not one of models/, of this session, or of a library.
    """
    found = [choice for choice in list_choices().values() if choice.name.removesuffix(" (yours)") == name]
    if found:
        return found[0]
    if name.startswith(LIBRARIES):
        return NetworkChoice(name, name, name, "photos", partial(cache.load_local_network, name))
    raise InspectorError(f"The results are of {name}, which is not loaded here. Load it on the page Model.")


def list_own() -> Mapping[str, NetworkChoice]:
    """Return the networks that were loaded in this session, by name."""
    own: dict[str, NetworkChoice] = st.session_state.get(keys.OWN_NETWORKS, {})
    return own


def add_private(classifier: "Classifier", title: str) -> NetworkChoice:
    """Add a network from a file to those of this session, and choose it for all pages."""
    name = f"{classifier.name} (yours)"
    key = cache.PRIVATE + uuid.uuid4().hex
    choice = NetworkChoice(key, name, title, choose_examples(classifier.preprocessing), lambda: classifier)
    _add(choice, MAX_PRIVATE)
    return choice


def add_named(name: str, classifier: "Classifier") -> NetworkChoice:
    """Add torchvision:NAME or timm:NAME to the networks of this session, and choose it for all pages."""
    examples = choose_examples(classifier.preprocessing)
    choice = NetworkChoice(name, name, name, examples, partial(cache.load_network, name))
    _add(choice, MAX_NAMED)
    return choice


def add_folder(folder: Path) -> NetworkChoice:
    """Load the network in a folder and choose it for all pages; add it to those of this session, unless listed anyway.

    Raises:
        NetworkError: its model.json or its weights cannot be read.
    """
    if is_trusted(folder):
        choice = list_choices()[folder.name]
        choice.load()
        select(choice.name)
        return choice
    card = read_model_card(folder)
    load = partial(cache.load_network, str(folder), cache.read_change_time(folder / CARD))
    choice = NetworkChoice(str(folder), card.name, card.title, card.examples, load)
    choice.load()
    _add(choice, MAX_NAMED)
    return choice


def _add(choice: NetworkChoice, most: int) -> None:
    if keys.OWN_NETWORKS not in st.session_state:
        own = st.session_state[keys.OWN_NETWORKS] = {}
        sessions.at_session_end(own.clear)
    remove(choice.name)  # a file of the same name, loaded again
    st.session_state[keys.OWN_NETWORKS][choice.name] = choice
    same_kind = [name for name, other in list_own().items() if other.is_private == choice.is_private]
    for oldest in same_kind[:-most]:
        remove(oldest)
    select(choice.name)
    st.session_state[keys.LOAD_REVISION] = st.session_state.get(keys.LOAD_REVISION, 0) + 1
    st.session_state[keys.NOTE] = f"{choice.name} is loaded, and chosen for all pages."


def make_field_key(field: str) -> str:
    """Return the key of a field of the forms that load networks.

    It is another one after each load: the fields are new widgets then, and nothing of one network is left for the next.
    """
    return f"load {field} {st.session_state.get(keys.LOAD_REVISION, 0)}"


def remove(name: str) -> None:
    """Remove a network of this session. The memory of a private one is given back, with all of its results."""
    removed = st.session_state.get(keys.OWN_NETWORKS, {}).pop(name, None)
    if removed is not None and removed.is_private:
        cache.forget_network(removed.key)


def select(name: str) -> None:
    """Choose a network for all pages, from the next run on: the box of networks may have been drawn in this one."""
    st.session_state[keys.NEXT_NETWORK] = name


def apply_selection() -> None:
    """Choose the network that `select` named. Call this before the box of networks is drawn."""
    if (name := st.session_state.pop(keys.NEXT_NETWORK, None)) is not None:
        st.session_state[keys.NETWORK] = name
