"""Controls of several pages: class, contrast, channel, and how the maps are shown."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import streamlit as st

from inspector.explain.class_names import label_names
from inspector.ui.components.controls import choose_option, choose_segment, enter_number, search_option, switch
from inspector.ui.state import keys

if TYPE_CHECKING:
    from inspector.explain.class_maps import ClassMaps
    from inspector.explain.map_arrays import MapArrays

FEATURE_MAPS, CHANNELS = "feature maps", "channels"  # values in links: the parts of the page Layers
LOGIT, AVERAGE, CLASS = "logit", "against the average", "against a class"  # values in links

View = Literal["class map", "winning class", "what if"]


@dataclass(frozen=True)
class MapSelection:
    """Which class map is shown, and how."""

    k: int  # class index
    against: int | str | None  # index of the class that k is contrasted with, or "average"; None: the logit of k
    dense: bool  # show class scores per cell (before pooling) instead of contributions
    view: View  # what is drawn on the photo
    smooth: bool  # interpolate between cell centers; False: show the raw grid
    opacity: float  # opacity of the strongest color, 0-1
    scale: float  # the |value| that has the strongest color, in logits


def label_classes(maps: "ClassMaps | MapArrays") -> list[str]:
    """Return the class names of the network for lists, see label_names."""
    return label_names(maps.classifier.class_names)


def choose_class(maps: "ClassMaps") -> int:
    """Show a box to search for a class. Return the index of the class; while the box is empty, of the top-1 class."""
    labels, top = label_classes(maps), maps.top(1)[0][0]
    text = "Type to search. While it is empty, the top-1 class of each photo is shown."
    label = search_option("Class", labels, f"{labels[top]} (top-1)", key=keys.CLASS, help=text)
    return top if label is None else labels.index(label)


def choose_reading(maps: "ClassMaps", k: int) -> int | str | None:
    """Show the choice between the logit of class k and a contrast.

    Returns:
        The index of the class that k is contrasted with, or "average"; None for the logit of class k.
    """
    text = (
        "A logit is the score of a class before softmax. Probabilities depend only on differences of logits, "
        "so a class can also be contrasted with the average class or with another class."
    )
    reading = choose_segment("Reading", [LOGIT, AVERAGE, CLASS], key=keys.READING, help=text)
    if reading != CLASS:
        return None if reading == LOGIT else "average"
    labels = label_classes(maps)
    # Offer the top class other than k first: the contrast of a class with itself is zero in every cell.
    other = next((j for j, _, _ in maps.top(2) if j != k), k)
    return labels.index(choose_option("Against", labels, index=other, key=keys.AGAINST))


def choose_interpolation() -> bool:
    """Show the switch "Raw grid". Return whether maps are interpolated between the centers of their cells."""
    return not switch("Raw grid", "Show the cells without interpolation.", key=keys.RAW_GRID)


def choose_position_scores(maps: "ClassMaps") -> bool:
    """Show the switch of class scores per cell if the network has max pooling. Return whether they are shown."""
    return maps.classifier.head.pooling == "max" and switch(
        "Class score per cell",
        "Max pooling reads one cell per channel, so most cells add nothing to the logit. Switched on, each cell has "
        "the score that it would get if it alone were pooled. This is easier to read, but these scores do not sum to "
        "the logit.",
        key=keys.POSITION_SCORES,
    )


def choose_channel(count: int, first: int) -> int:
    """Show a box for the number of a channel. Return the number; while the box is empty, `first`."""
    previous = st.session_state.get(keys.CHANNEL)
    if previous is not None and not 0 <= previous < count:
        # This number was chosen for a layer or network with more channels.
        st.session_state[keys.CHANNEL] = None
    text = (
        f"A channel is one of the {count} feature maps. Click one, or type its number. While it is empty, the first "
        "one shown is chosen."
    )
    number = enter_number("Channel", 0, count - 1, None, key=keys.CHANNEL, placeholder=str(first), help=text)
    return first if number is None else int(number)
