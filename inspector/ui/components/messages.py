"""What a page says about errors and verdicts, the same way everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import streamlit as st

from inspector.errors import InspectorError
from inspector.explain.kinds import VERDICTS, Verdict


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
