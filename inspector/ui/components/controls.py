"""What all pages are made of: widgets, tables, download buttons, errors and verdicts.

The value of every widget here is in the link of the page, but for uploads. Settings that are not named go to Streamlit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeVar

import streamlit as st

from inspector.errors import InspectorError
from inspector.explain.kinds import VERDICTS, Verdict
from inspector.images.photo import MAX_BYTES

PHOTO_TYPES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
SHARE = st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)
WIDE_TEXT = st.column_config.TextColumn(width="medium")

T = TypeVar("T")


def choose_segment(label: str, options: Sequence[T], *, key: str, default: T | None = None, **settings: Any) -> T:
    """Show options side by side. One is always chosen: at first `default`, or the first option."""
    settings |= {"default": options[0] if default is None else default, "required": True}
    chosen: T = st.segmented_control(label, options, key=key, bind="query-params", **settings)
    return chosen


def choose_option(label: str, options: Sequence[T], *, key: str, **settings: Any) -> T:
    """Show options in a box; at first, the first one is chosen."""
    chosen: T = st.selectbox(label, options, key=key, bind="query-params", **{"width": 280} | settings)
    return chosen


def search_option(label: str, options: Sequence[T], placeholder: str, *, key: str, **settings: Any) -> T | None:
    """Show options in a box that is empty at first, and then shows the placeholder and returns None."""
    return choose_option(label, options, key=key, index=None, placeholder=placeholder, **settings)


def choose_several(label: str, options: Sequence[T], default: Sequence[T], *, key: str, **settings: Any) -> list[T]:
    """Show options side by side, of which any number can be chosen."""
    settings |= {"default": default, "selection_mode": "multi"}
    chosen: list[T] = st.pills(label, options, key=key, bind="query-params", **settings)
    return chosen


def switch(label: str, help: str | None = None, *, key: str, on: bool = False, **settings: Any) -> bool:
    """Show a switch."""
    return st.toggle(label, on, key=key, help=help, bind="query-params", **settings)


def enter_number(
    label: str, low: float, high: float | None, value: Any = "min", step: float | None = None, **settings: Any
) -> Any:
    """Show a field for a number from `low` to `high`; all int, or all float. Where `value` is None it may be empty.

    If code sets the number, it begins at "min": Streamlit warns of a second start value.
    """
    return st.number_input(label, low, high, value, step, bind="query-params", **{"width": 150} | settings)


def upload_photos(label: str, *, key: str, several: bool | str = False, **settings: Any) -> Any:
    """Show a field to upload photos. Return the file or None; a list of files if there may be several."""
    settings |= {"accept_multiple_files": several, "max_upload_size": MAX_BYTES // 1_000_000}
    text = "Photos stay in the memory of this server, are never written to disk, and no other session sees them."
    return st.file_uploader(label, PHOTO_TYPES, key=key, help=text, **settings)


def show_table(
    rows: Sequence[Any] | Mapping[str, Any],
    alt: str,
    columns: Mapping[str, Any] | None = None,
    on_row: Callable[[int], None] | None = None,
    *,
    key: str = "",
    **settings: Any,
) -> None:
    """Show a table.

    Args:
        rows: the rows, or the columns by name.
        alt: what the table shows, for screen readers.
        columns: settings of columns by name; a text is the format of its numbers.
        on_row: is called with the index of a row that the user selects, before the page runs. Needs `key`.
        key: of the widget; "" for none.
        settings: of st.dataframe.
    """
    formats = {
        name: st.column_config.NumberColumn(format=column) if isinstance(column, str) else column
        for name, column in (columns or {}).items()
    }

    def report() -> None:
        if on_row is not None and (selected := st.session_state[key]["selection"]["rows"]):
            on_row(selected[0])

    if on_row is not None:
        settings |= {"on_select": report, "selection_mode": "single-row"}
    st.dataframe(rows, hide_index=True, column_config=formats, alt=alt, key=key or None, **settings)


def show_download_buttons(
    files: Mapping[str, str], make_file: Callable[[str], bytes], title: str = "", key_prefix: str = ""
) -> None:
    """Show a row of download buttons. A file is made when its button is pressed, and no earlier.

    Args:
        files: label of a button -> name of its file.
        make_file: returns the bytes of a file, given its name.
        title: stands before the buttons.
        key_prefix: begins the widget keys, so that the rows of two pages have different ones.
    """
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        if title:
            st.caption(title, width="content")
        for label, name in files.items():
            st.download_button(label, partial(make_file, name), name, key=f"{key_prefix}{name}", on_click="ignore")


@contextmanager
def show_errors() -> Iterator[None]:
    """Show the message of an InspectorError that is raised inside, and continue after the block."""
    try:
        yield
    except InspectorError as error:
        show_error(error)


def show_error(error: InspectorError | str) -> None:
    """Show one error as a red box."""
    st.error(str(error), icon=":material/error:")


def verdict_badge(verdict: Verdict | Literal["none"]) -> str:
    """Return a verdict as a colored badge, in Markdown; "none" is that of a network without class maps."""
    color = "red" if verdict == "none" else VERDICTS[verdict].color
    return f":{color}-badge[{verdict}]"
