"""Workarounds for faults of Streamlit.

It loses an action of the user when two things happen at once: an upload, a photo that arrives with a click, a download.
It leaves the limits of uploads to the browser.
"""

import inspect
import logging
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec

import streamlit as st
from streamlit import delta_generator, runtime
from streamlit.runtime import forward_msg_queue

from inspector.ui.state import downloads, keys, uploads

# First and last Streamlit version (major, minor) with which the changes were tested.
FIRST_TESTED, LAST_TESTED = (1, 60), (1, 67)

P = ParamSpec("P")


def fragment(part: Callable[P, None]) -> Callable[P, None]:
    """Decorate a part of a page like `st.fragment`, but run the whole page if a widget outside has changed, too.

    The browser sends all changes of one moment together. If one of the changes is inside a fragment, the browser asks
    Streamlit to run only this fragment. So a photo that arrives at the moment of a click would not be shown.
    """

    @st.fragment
    @wraps(part)  # keeps the name: Streamlit identifies fragments by their names
    def run_part(outside: list[Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        if outside != _read_outside():
            st.rerun()
        part(*args, **kwargs)

    @wraps(part)
    def run_with_page(*args: P.args, **kwargs: P.kwargs) -> None:
        # When only the fragment runs, Streamlit passes the arguments of the last run of the whole page again,
        # so `outside` has the values of that run.
        run_part(_read_outside(), *args, **kwargs)

    return run_with_page


def _read_outside() -> list[Any]:
    return [st.session_state.get(key) for key in keys.OUTSIDE_FRAGMENTS]


@cache
def apply_streamlit_fixes() -> None:
    """Change Streamlit so that a new run of the page loses neither uploads nor downloads, and uploads are limited.

    Before an upload, the browser asks where to send the file, and waits for the answer. A run that starts before the
    answer is sent clears the queue, so the file is lost without an error message. `ForwardMsgQueue.clear` of Streamlit
    1.67 keeps toasts and the messages of a run's life cycle, but not this answer.
    """
    # Before its first element, Streamlit looks at the sources of all modules, in case it runs in an interactive Python.
    delta_generator._use_warning_has_been_displayed = True
    queue = getattr(forward_msg_queue, "ForwardMsgQueue", None)
    if reason := find_obstacle(st.__version__, queue):
        logging.getLogger(__name__).warning("Uploads during a run of the page may be lost: %s", reason)
    else:
        forward_msg_queue.ForwardMsgQueue.clear = keep_upload_answers(  # type: ignore[method-assign]
            forward_msg_queue.ForwardMsgQueue.clear
        )
    running = runtime.get_instance() if runtime.exists() else None
    files = getattr(running, "media_file_mgr", None)
    if reason := _find_untested(st.__version__) or downloads.find_obstacle(files):
        logging.getLogger(__name__).warning("Downloads at the end of a run of the page may be lost: %s", reason)
    elif running is not None:
        downloads.keep_replaced_downloads(files, running.is_active_session)
    manager = getattr(running, "uploaded_file_mgr", None)
    if reason := _find_untested(st.__version__) or uploads.find_obstacle(manager):
        logging.getLogger(__name__).warning("The size of uploads is limited by browsers only: %s", reason)
    else:
        uploads.limit_uploads(manager)


def _find_untested(version: str) -> str | None:
    """Return a sentence if the changes were not tested with this version of Streamlit, otherwise None."""
    major, minor = (int(number) for number in version.split(".")[:2])
    if FIRST_TESTED <= (major, minor) <= LAST_TESTED:
        return None
    first, last = (".".join(map(str, tested)) for tested in (FIRST_TESTED, LAST_TESTED))
    return f"the fix is tested with Streamlit {first} to {last}, and this is {version}."


def find_obstacle(version: str, queue: Any) -> str | None:
    """Return why the message queue cannot be fixed; None if it can.

    Args:
        version: version of Streamlit.
        queue: the class ForwardMsgQueue; None if this version of Streamlit has none.
    """
    if reason := _find_untested(version):
        return reason
    try:
        parameters = list(inspect.signature(queue.clear).parameters)
        messages = queue()._queue
    except (AttributeError, TypeError) as error:
        return f"Streamlit's queue of messages is another than expected ({error})."
    if parameters[:2] != ["self", "retain_lifecycle_msgs"] or not isinstance(messages, list):
        return "Streamlit's queue of messages is another than expected."
    return None


def keep_upload_answers(clear: Callable[..., None]) -> Callable[..., None]:
    """Wrap `ForwardMsgQueue.clear` so that a new run of the page keeps answers to upload requests.

    A new run calls it with retain_lifecycle_msgs=True. Without this argument the messages were sent: nothing is kept.
    """

    @wraps(clear)
    def clear_but_answers(queue: Any, retain_lifecycle_msgs: bool = False, *args: Any, **kwargs: Any) -> None:
        waiting = [message for message in queue._queue if message.WhichOneof("type") == "file_urls_response"]
        clear(queue, retain_lifecycle_msgs, *args, **kwargs)
        if retain_lifecycle_msgs:
            for answer in waiting:
                if answer not in queue._queue:
                    queue.enqueue(answer)

    return clear_but_answers
