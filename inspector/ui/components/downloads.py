"""Download buttons. A file is made when its button is pressed, and no earlier."""

from collections.abc import Callable, Mapping
from functools import partial

import streamlit as st


def show_download_buttons(
    files: Mapping[str, str], make_file: Callable[[str], bytes], title: str = "", key_prefix: str = ""
) -> None:
    """Show a row of download buttons.

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
