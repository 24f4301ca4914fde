"""Two faults of Streamlit, worked around: both lose what the user did, where two things happen at once."""

import inspect
import logging
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec

import streamlit as st
from streamlit.runtime import forward_msg_queue

from inspector.ui.state import keys

# The Streamlit versions (major, minor) whose queue of messages was read and tested: from the first to the last.
FIRST_TESTED, LAST_TESTED = (1, 60), (1, 67)

P = ParamSpec("P")


def fragment(part: Callable[P, None]) -> Callable[P, None]:
    """Decorate a part of a page like `st.fragment`, but run the whole page if a widget outside has changed as well.

    The browser sends all changes of one moment together. If one of them is inside a fragment, it asks for a run of the
    fragment only: a photo that arrives in the moment of a click would stay unseen.
    """

    @st.fragment
    @wraps(part)  # Streamlit identifies fragments by their names
    def run_part(outside: list[Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        if outside != _read_outside():
            st.rerun()
        part(*args, **kwargs)

    @wraps(part)
    def run_with_page(*args: P.args, **kwargs: P.kwargs) -> None:
        # Streamlit runs the fragment again with the arguments of the last run of the whole page.
        run_part(_read_outside(), *args, **kwargs)

    return run_with_page


def _read_outside() -> list[Any]:
    return [st.session_state.get(key) for key in keys.OUTSIDE_FRAGMENTS]


@cache
def apply_streamlit_fixes() -> None:
    """Keep the answers to uploads in the queue of messages when a new run of the page clears it.

    The browser asks where to send a file, and waits for the answer. A run that starts before the answer is sent clears
    the queue, and the file is lost without a message. `ForwardMsgQueue.clear` of Streamlit 1.67 keeps the messages of
    a run's life cycle and toasts, but not this answer.
    """
    queue = getattr(forward_msg_queue, "ForwardMsgQueue", None)
    if reason := find_obstacle(st.__version__, queue):
        logging.getLogger(__name__).warning("Uploads during a run of the page may be lost: %s", reason)
    else:
        forward_msg_queue.ForwardMsgQueue.clear = keep_upload_answers(  # type: ignore[method-assign]
            forward_msg_queue.ForwardMsgQueue.clear
        )


def find_obstacle(version: str, queue: Any) -> str | None:
    """Return why the queue of messages cannot be fixed; None if it can.

    Args:
        version: of Streamlit.
        queue: the class ForwardMsgQueue, or what this version has in its place.
    """
    major, minor = (int(number) for number in version.split(".")[:2])
    if not FIRST_TESTED <= (major, minor) <= LAST_TESTED:
        first, last = (".".join(map(str, tested)) for tested in (FIRST_TESTED, LAST_TESTED))
        return f"the fix is tested with Streamlit {first} to {last}, and this is {version}."
    try:
        parameters = list(inspect.signature(queue.clear).parameters)
        messages = queue()._queue
    except (AttributeError, TypeError) as error:
        return f"Streamlit's queue of messages is another than expected ({error})."
    if parameters[:2] != ["self", "retain_lifecycle_msgs"] or not isinstance(messages, list):
        return "Streamlit's queue of messages is another than expected."
    return None


def keep_upload_answers(clear: Callable[..., None]) -> Callable[..., None]:
    """Wrap `ForwardMsgQueue.clear` so that answers to uploads stay, unless the queue is cleared because it was sent."""

    @wraps(clear)
    def clear_but_answers(queue: Any, retain_lifecycle_msgs: bool = False, *args: Any, **kwargs: Any) -> None:
        waiting = [message for message in queue._queue if message.WhichOneof("type") == "file_urls_response"]
        clear(queue, retain_lifecycle_msgs, *args, **kwargs)
        if retain_lifecycle_msgs:
            for answer in waiting:
                if answer not in queue._queue:
                    queue.enqueue(answer)

    return clear_but_answers
