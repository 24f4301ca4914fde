"""Building blocks of all pages: widgets, tables, download buttons, errors and verdicts.

The link of the page contains the values of these widgets, except uploads. The functions pass their additional keyword
arguments to the Streamlit widget.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeVar

import streamlit as st

from inspector.errors import InspectorError
from inspector.explain.kinds import VERDICTS, Verdict
from inspector.ui.components.markdown import plain
from inspector.ui.state import links, stored_networks, uploads

SHARE = st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)
WIDE_TEXT = st.column_config.TextColumn(width="medium")

T = TypeVar("T")


def choose_segment(label: str, options: Sequence[T], *, key: str, default: T | None = None, **settings: Any) -> T:
    """Show options side by side. One is always chosen: at first `default`; None means the first option."""
    settings |= {"default": options[0] if default is None else default, "required": True}
    links.note_unknown(key, options, label.lower())
    chosen: T | None = st.segmented_control(label, options, key=key, bind="query-params", **settings)
    links.follow_choice(key, chosen)
    # An empty value in the link leaves nothing chosen.
    return settings["default"] if chosen is None else chosen


def choose_option(label: str, options: Sequence[T], *, key: str, **settings: Any) -> T:
    """Show options in a box. At first, the first option is chosen."""
    links.note_unknown(key, options, label.lower())
    chosen: T = st.selectbox(label, options, key=key, bind="query-params", **{"width": 280} | settings)
    links.follow_choice(key, chosen)
    return chosen


def search_option(label: str, options: Sequence[T], placeholder: str, *, key: str, **settings: Any) -> T | None:
    """Show options in a box that is empty at first. While it is empty, it shows the placeholder and returns None."""
    return choose_option(label, options, key=key, index=None, placeholder=placeholder, **settings)


def choose_several(label: str, options: Sequence[T], default: Sequence[T], *, key: str, **settings: Any) -> list[T]:
    """Show options side by side. Any number of them can be chosen; at first, those in `default`."""
    settings |= {"default": default, "selection_mode": "multi"}
    chosen: list[T] = st.pills(label, options, key=key, bind="query-params", **settings)
    return chosen


def switch(label: str, help: str | None = None, *, key: str, on: bool = False, **settings: Any) -> bool:
    """Show a switch. Return whether it is on."""
    return st.toggle(label, on, key=key, help=help, bind="query-params", **settings)


def enter_number(
    label: str, low: float, high: float | None, value: Any = "min", step: float | None = None, **settings: Any
) -> Any:
    """Show a field for a number from `low` to `high`. All arguments are int, or all are float.

    `value` is the number at first: "min" is `low`; None leaves the field empty. For a key that code sets in the session
    state, `value` has to be "min", because Streamlit warns about a second start value.
    """
    # Streamlit fails where a whole number in the link is infinite, as numbers of hundreds of digits are, too.
    bind: Literal["query-params"] | None = (
        None if _is_infinite(st.query_params.get(settings["key"], "0")) else "query-params"
    )
    return st.number_input(label, low, high, value, step, bind=bind, **{"width": 150} | settings)


def _is_infinite(text: str) -> bool:
    try:
        return math.isinf(float(text))
    except ValueError:
        return False


def upload_photos(label: str, *, key: str, several: bool | str = False, **settings: Any) -> Any:
    """Show a field to upload photos. Return the file or None; with `several`, a list of files."""
    settings |= {"accept_multiple_files": several, "max_upload_size": uploads.MAX_PHOTO // 1_000_000}
    text = "Photos stay in the memory of this server, are never written to disk, and no other session sees them."
    return st.file_uploader(label, uploads.PHOTOS, key=key, help=text, **settings)


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
        columns: name of a column -> its settings; a string is the format of its numbers.
        on_row: called with the index of a row that the user selects, before the page runs again. It needs a `key`.
        key: key of the widget; "" for none.
        settings: passed to st.dataframe.
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
    """Show a row of download buttons. A file is made only when its button is pressed.

    Args:
        files: label of a button -> name of its file.
        make_file: returns the bytes of a file, given its name.
        title: text before the buttons.
        key_prefix: beginning of the widget keys, so that the buttons of two pages have different keys.
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
    """Show an error message in a red box. It may quote anything."""
    st.error(plain(error), icon=":material/error:")


def show_import_of_torch() -> None:
    """Show in a corner that PyTorch is being imported, if it was not before: what follows then takes seconds, once."""
    if not stored_networks.has_torch():
        st.toast("Importing PyTorch. This takes some seconds, once.", icon=":material/hourglass_top:")


def verdict_badge(verdict: Verdict | Literal["none"]) -> str:
    """Return a verdict as a colored badge in Markdown. "none" stands for a network without class maps."""
    color = "red" if verdict == "none" else VERDICTS[verdict].color
    return f":{color}-badge[{verdict}]"
