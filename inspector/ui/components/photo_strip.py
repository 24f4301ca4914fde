"""Photos as small pictures, of which one is chosen. Files that are dropped anywhere or pasted go to the uploader."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import streamlit as st

from inspector.ui.components.assets import make_component
from inspector.ui.state import keys

# With the style of the page, which Streamlit loads late: what is drawn beside the photos has its place at once.
_show = make_component("photo_strip", "page.css")


@dataclass(frozen=True)
class StripPhoto:
    """A photo that the strip offers."""

    id: str
    name: str
    picture: str  # data URL; "" if the photo cannot be read
    own: bool  # uploaded by the visitor: it can be removed


def show_photo_strip(
    items: Sequence[StripPhoto],
    chosen: str,
    tab: str,
    asked: bool,
    on_choice: Callable[[str], None],
    on_removal: Callable[[str], None],
    on_tab: Callable[[str], None],
) -> None:
    """Show the strip.

    Args:
        items: the photos.
        chosen: id of the chosen photo.
        tab: name of the browser tab on the server. A tab that has another name from before reports it.
        asked: let the browser report the name in any case.
        on_choice: called with the id of a photo that the visitor chooses, before the page runs again.
        on_removal: called with the id of a photo that the visitor removes.
        on_tab: called with the name of the tab that the browser reports.
    """

    def report(event: str, call: Callable[[str], None]) -> Callable[[], None]:
        return lambda: call(str(st.session_state[keys.PHOTO_STRIP][event]))

    _show(
        key=keys.PHOTO_STRIP,
        data={"items": [asdict(item) for item in items], "chosen": chosen, "tab": tab, "asked": asked},
        default={"tab": None},
        on_chosen_change=report("chosen", on_choice),
        on_removed_change=report("removed", on_removal),
        on_tab_change=report("tab", on_tab),
    )
