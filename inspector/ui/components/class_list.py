"""The top classes as a list that is clicked or walked with the arrow keys; the photo follows in the browser.

Streamlit's own table reports a row only after 150 ms, and draws on a canvas that no screen reader can read.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import streamlit as st

from inspector.ui.components.assets import make_component
from inspector.ui.state import keys

_show = make_component("class_list")


@dataclass(frozen=True)
class Row:
    """One class."""

    k: int
    name: str
    probability: float
    logit: str  # as text


def show_class_list(rows: Sequence[Row], chosen: int, on_choice: Callable[[int], None]) -> None:
    """Show the list of classes.

    Args:
        rows: the classes.
        chosen: index of the class that is shown.
        on_choice: is called with the index of the class that the user chooses, before the page runs.
    """
    listed = {row.k for row in rows}

    def report() -> None:
        # What the browser reports may be older than the list.
        if (k := st.session_state[keys.CLASS_LIST]["chosen"]) in listed:
            on_choice(k)

    _show(key=keys.CLASS_LIST, data={"rows": [asdict(row) for row in rows], "chosen": chosen}, on_chosen_change=report)
