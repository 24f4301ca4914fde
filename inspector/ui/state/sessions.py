"""What ends with a session: when its page was closed, what the session kept is dropped.

Streamlit keeps the state of a closed page for two minutes, in case the browser connects again, and then until another
session happens to need the place. A thread looks for such sessions instead.
"""

import threading
import time
from collections.abc import Callable
from functools import cache

from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

# Seconds after which a session without a browser cannot come back. Streamlit forgets it after 120.
_GONE = 150.0
_INTERVAL = 15.0

_callbacks: dict[str, list[Callable[[], object]]] = {}  # id of a session -> what is called when it has ended
_last_seen: dict[str, float] = {}  # id of a session -> when it was last connected, in seconds
_lock = threading.Lock()


def at_session_end(drop: Callable[[], object]) -> None:
    """Call `drop` when the session of this thread has ended. Outside of an app nothing is registered."""
    if (context := get_script_run_ctx()) is not None:
        register(context.session_id, drop)


def register(session_id: str, drop: Callable[[], object]) -> None:
    """Call `drop` when the session has ended."""
    with _lock:
        _callbacks.setdefault(session_id, []).append(drop)
        _last_seen[session_id] = time.monotonic()
    if runtime.exists():
        _start_watching()


@cache
def _start_watching() -> None:
    threading.Thread(target=_watch, daemon=True, name="sessions").start()


def _watch() -> None:
    while True:
        time.sleep(_INTERVAL)
        if runtime.exists():
            end_sessions(runtime.get_instance().is_active_session, time.monotonic())


def end_sessions(is_active: Callable[[str], bool], now: float) -> None:
    """Drop what the sessions kept that were not connected for `_GONE` seconds."""
    with _lock:
        for session_id in list(_callbacks):
            if is_active(session_id):
                _last_seen[session_id] = now
        ended = [_callbacks.pop(session_id) for session_id in list(_callbacks) if now - _last_seen[session_id] > _GONE]
        for session_id in _last_seen.keys() - _callbacks.keys():
            del _last_seen[session_id]
    for callbacks in ended:
        for drop in callbacks:
            drop()
