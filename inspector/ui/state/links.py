"""What a link of the app says that the app does not have: it is named above the page, and never dropped in silence."""

from collections.abc import Iterable

import streamlit as st

from inspector.printable import make_printable
from inspector.ui.components.markdown import plain
from inspector.ui.state import keys

_SHOWN = 60  # characters of a value
_UNSEEN = "no choice yet"


def note_unknown(key: str, known: Iterable[object], what: str) -> None:
    """Keep a note if the link has a value of a key that the app does not know. Call it before the widget is drawn.

    Args:
        key: key of the widget, and of the link.
        known: the values that the widget offers.
        what: what the widget chooses, for the note.
    """
    for value in set(st.query_params.get_all(key)).difference(map(str, known)):
        add_note(key, f"The link names the {what} {make_printable(value, _SHOWN)!r}, which is not offered here.")


def add_note(key: str, sentence: str) -> None:
    """Keep a note about a value of the link until the user chooses another value, or closes the note."""
    _notes()[key] = sentence, _UNSEEN


def drop_note(key: str) -> None:
    """Drop the note about a value."""
    _notes().pop(key, None)


def follow_choice(key: str, chosen: object) -> None:
    """Drop the note about a value when the user has chosen another one than the page chose in its place."""
    if key in _notes():
        sentence, first = _notes()[key]
        if first is _UNSEEN:
            _notes()[key] = sentence, chosen
        elif first != chosen:
            drop_note(key)


def _notes() -> dict[str, tuple[str, object]]:
    notes: dict[str, tuple[str, object]] = st.session_state.setdefault(keys.LINK_NOTES, {})
    return notes


def show_notes() -> None:
    """Show the notes that are kept, each with a button to close it."""
    for key, (sentence, _) in list(_notes().items()):
        with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"note {key}"):
            st.warning(plain(sentence), icon=":material/link_off:")
            st.button("Close", key=f"close note {key}", on_click=drop_note, args=(key,), width="content")
