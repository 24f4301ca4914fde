"""The viewer of class maps as a component of the page: the pictures and, below the fold, the maps of several classes.

The browser draws; the server sends numbers (output/viewer.py) and the answers that need the network: channels of the
chosen cell, and the logits without the masked cells.
"""

import hashlib
from typing import Any

from inspector.output.viewer import ViewerData
from inspector.ui.components.assets import make_component
from inspector.ui.state import keys
from inspector.ui.state.view_state import ViewState

_show_viewer = make_component("class_viewer", "viewer.css")
_show_strip = make_component("class_strip")


def show_viewer(data: ViewerData, state: ViewState, subject: str, **answers: Any) -> int | None:
    """Show the viewer. Return the channel whose link the user has just pressed, or None.

    Args:
        data: the photo and the maps.
        state: what is shown when the subject first appears; afterwards the browser holds the state.
        subject: a text that another photo, network or grid changes.
        answers: what else the browser shows, in types that JSON can store.
    """
    # The names of a network seldom change, so the browser keeps their list under a name of its own.
    names = hashlib.sha256("\n".join(data.names).encode()).hexdigest()[:12]
    values = data.to_json() | {"state": state.to_json(), "subject": subject, "names_id": names} | answers
    result = _show_viewer(
        key=keys.VIEWER,
        data=values,
        default={"state": None},
        on_state_change=lambda: None,
        on_channel_change=lambda: None,
    )
    channel = result.channel
    return channel if isinstance(channel, int) and not isinstance(channel, bool) and channel >= 0 else None


def show_class_strip(data: ViewerData, state: ViewState, subject: str, all_classes: bool) -> None:
    """Show the maps of several classes side by side: the top classes, and before them all classes if asked for."""
    sent = sorted(one.k for one in data.classes if one.k >= 0)
    values = data.to_json() | {"state": state.to_json(), "subject": subject, "all": sent if all_classes else []}
    values["names"] = {str(k): data.names[k] for k in sent}
    _show_strip(key=keys.TOP_MAPS, data=values)
