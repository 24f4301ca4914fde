"""What a page looks at: the class maps of the network, photo and input size of the sidebar."""

from typing import TYPE_CHECKING

import streamlit as st

from inspector.ui import cached
from inspector.ui.choice import SIZES, Choice, choose_network, choose_photo, choose_size

if TYPE_CHECKING:
    from inspector.maps import ClassMaps


def look() -> "tuple[Choice, cached.MapsKey, ClassMaps]":
    """Of the sidebar, which it fills. Raises InspectorError where the photo or the network cannot be used."""
    with st.sidebar:
        choice = choose_network()
        photo = choose_photo(choice)
        size = choose_size()
    for note in photo.notes:
        st.info(note, icon=":material/info:")
    key = choice.key, photo.sha256, photo.name, SIZES[size]
    # Here in every run: if it came and went, all below would move and widgets in use would lose what was typed.
    place = st.empty()
    if st.session_state.get("looked at") == key:
        return choice, key, cached.class_maps_of(*key, photo, choice.load)
    with place.container(), st.spinner(f"Loading {choice.name} and splitting the logits of {photo.name} ..."):
        maps = cached.class_maps_of(*key, photo, choice.load)
    place.empty()
    st.session_state["looked at"] = key
    return choice, key, maps


def choose_class(maps: "ClassMaps") -> int:
    """A class, by a box to type into; the likeliest while it is empty."""
    likeliest = maps.top(1)[0][1]
    name = st.selectbox(
        "Class", maps.classifier.class_names, index=None, placeholder=f"{likeliest} (the likeliest)", key="class",
        bind="query-params", width=280, help="Type to search. Empty follows the likeliest class of each photo.",
    )  # fmt: skip
    return maps.classifier.class_index(name or likeliest)


def choose_channel(count: int, first: int) -> int:
    """A channel, by its number; `first` while the box is empty."""
    kept = st.session_state.get("channel")
    if kept is not None and not 0 <= kept < count:
        # Of another layer or network.
        st.session_state["channel"] = None
    number = st.number_input(
        "Channel", 0, count - 1, None, key="channel", bind="query-params", width=150,
        placeholder=str(first),
        help=f"A channel is one of the {count} maps. Click one, or type its number. Empty: the first that is shown.",
    )  # fmt: skip
    return first if number is None else int(number)
