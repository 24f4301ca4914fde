"""What a page looks at: the class maps of the network, photo and input size of the sidebar."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from inspector.images.photo import Photo
from inspector.ui.state import cache
from inspector.ui.state.sidebar import SIZES, NetworkChoice, choose_network, choose_photo, choose_size

if TYPE_CHECKING:
    from inspector.explain.class_maps import ClassMaps

LOGIT, AVERAGE, CLASS = "logit", "against the average", "against a class"


def read_selection() -> "tuple[NetworkChoice, cache.MapsKey, ClassMaps]":
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
        return choice, key, cache.class_maps_of(*key, photo, choice.load)
    with place.container(), st.spinner(f"Loading {choice.name} and splitting the logits of {photo.name} ..."):
        st.image(photo.pixels, width=photo_width(photo))
        maps = cache.class_maps_of(*key, photo, choice.load)
    place.empty()
    st.session_state["looked at"] = key
    return choice, key, maps


def photo_width(photo: Photo) -> int:
    """As wide as fits without a tall photo pushing everything off the screen, in CSS pixels."""
    height, width = photo.size
    return max(40, min(900, round(560 * width / height)))


def label_classes(maps: "ClassMaps") -> list[str]:
    """The names of its classes as they are listed."""
    return label_names(maps.classifier.class_names)


def label_names(names: Sequence[str]) -> list[str]:
    """The names of classes, those that two classes share with their numbers: ImageNet has two cranes."""
    times = Counter(names)
    return [name if times[name] == 1 else f"{name} ({k})" for k, name in enumerate(names)]


def choose_class(maps: "ClassMaps") -> int:
    """A class, by a box to type into; the likeliest while it is empty."""
    labels, likeliest = label_classes(maps), maps.top(1)[0][0]
    label = st.selectbox(
        "Class", labels, index=None, placeholder=f"{labels[likeliest]} (the likeliest)", key="class",
        bind="query-params", width=280, help="Type to search. Empty follows the likeliest class of each photo.",
    )  # fmt: skip
    return likeliest if label is None else labels.index(label)


def choose_reading(maps: "ClassMaps", k: int) -> int | str | None:
    """What a class is read against: another class, "average", or None for its own logit."""
    reading = st.segmented_control(
        "Reading", [LOGIT, AVERAGE, CLASS], default=LOGIT, required=True, key="reading", bind="query-params",
        help="A logit is the score that a class gets before softmax. Only differences of logits change "
        "probabilities: so a class can also be read against the average class, or against another.",
    )  # fmt: skip
    if reading != CLASS:
        return None if reading == LOGIT else "average"
    labels = label_classes(maps)
    # The likeliest other class: against itself nothing is left.
    other = next((j for j, _, _ in maps.top(2) if j != k), k)
    return labels.index(st.selectbox("Against", labels, index=other, key="against", bind="query-params", width=280))


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
