"""The top classes as a list. A click or the arrow keys choose a class, and the browser draws its map at once.

Streamlit's own table is not used: it reports a click only after 150 ms, and screen readers cannot read its canvas.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import streamlit as st

from inspector.ui.components.assets import make_component
from inspector.ui.state import keys

_show = make_component("class_list")


@dataclass(frozen=True)
class Row:
    """One class of the list."""

    k: int
    name: str
    probability: float | None  # None if the network returns other values
    logit: str  # a formatted number


def show_class_list(rows: Sequence[Row], chosen: int, on_choice: Callable[[int], None], quantity: str) -> None:
    """Show the list of classes.

    Args:
        rows: the classes.
        chosen: index of the class that is shown.
        on_choice: called with the index of the class that the user chooses, before the page runs again.
        quantity: the word for the number of each row, such as "logit".
    """
    listed = {row.k for row in rows}

    def report() -> None:
        # The browser may report a class of an older list.
        if (k := st.session_state[keys.CLASS_LIST]["chosen"]) in listed:
            on_choice(k)

    data = {"rows": [asdict(row) for row in rows], "chosen": chosen, "quantity": quantity}
    _show(key=keys.CLASS_LIST, data=data, on_chosen_change=report)
