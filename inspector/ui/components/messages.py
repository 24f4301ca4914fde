"""What a page says about errors and verdicts, the same way everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager

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


def verdict_badge(verdict: Verdict) -> str:
    """Return a verdict as a colored badge, in Markdown."""
    return f":{VERDICTS[verdict].color}-badge[{verdict}]"
