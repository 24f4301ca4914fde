"""What Streamlit loses where two things happen at once, kept."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec

import streamlit as st

from inspector.ui.state import keys

P = ParamSpec("P")


def fragment(part: Callable[P, None]) -> Callable[P, None]:
    """`st.fragment`, which runs the whole page where something outside it has changed as well.

    The browser sends all changes of one moment together, and where one of them is inside a fragment it asks for a run
    of the fragment only. A photo that arrives in the moment of a click would stay unseen.
    """

    @st.fragment
    @wraps(part)  # Streamlit tells fragments apart by their names
    def alone(outside: list[Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        if outside != _outside():
            st.rerun()
        part(*args, **kwargs)

    @wraps(part)
    def with_the_page(*args: P.args, **kwargs: P.kwargs) -> None:
        # Streamlit keeps the arguments of the last run of the whole page.
        alone(_outside(), *args, **kwargs)

    return with_the_page


def _outside() -> list[Any]:
    return [st.session_state.get(key) for key in keys.OUTSIDE_FRAGMENTS]


@cache
def apply_streamlit_fixes() -> None:
    """Let no run of a page throw away the answers to the browser's uploads.

    The browser asks where to send a file, and waits. A run that starts before the answer is on its way empties the
    queue of messages, the answer among them: the file is lost without a word. Streamlit 1.67 does so.
    """
    try:
        from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
    except ImportError:  # another version, with other ways
        return
    clear = ForwardMsgQueue.clear

    @wraps(clear)
    def clear_but_answers(
        queue: ForwardMsgQueue, retain_lifecycle_msgs: bool = False, *args: Any, **kwargs: Any
    ) -> None:
        waiting = [one for one in getattr(queue, "_queue", ()) if one.WhichOneof("type") == "file_urls_response"]
        clear(queue, retain_lifecycle_msgs, *args, **kwargs)
        # Else the queue was emptied because all of it was sent.
        if retain_lifecycle_msgs:
            for answer in waiting:
                if answer not in queue._queue:
                    queue.enqueue(answer)

    ForwardMsgQueue.clear = clear_but_answers  # type: ignore[method-assign, assignment]
