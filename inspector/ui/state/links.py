"""Links that an earlier version of the app made. They still open the same view."""

import streamlit as st

from inspector.ui.state import keys

# Parameter -> old value -> the value that replaces it.
_RENAMED_VALUES = {
    keys.RUNS_PHOTO_FILTER: {"taken for another class": "misclassified", "of one class": "one class"},
    keys.IMAGE_FILTER: {"mistaken": "misclassified", "not read": "unreadable"},
}


def update_link() -> None:
    """Set the widgets whose values in the link have new names. Call it before the widgets are drawn."""
    for key, renamed in _RENAMED_VALUES.items():
        # Streamlit drops a value that it does not know from the link, so this happens once.
        if (value := renamed.get(st.query_params.get(key, ""))) is not None:
            st.session_state[key] = value
