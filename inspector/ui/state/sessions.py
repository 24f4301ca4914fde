"""What ends with a session: when its page was closed, what the session kept is dropped.

Streamlit keeps the state of a closed page for two minutes, in case the browser connects again, and then until another
session happens to need the place. A thread closes such sessions instead, and gives their memory back to the system.
"""

import gc
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache

from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from inspector.explain.memory import give_back_freed_memory

# Seconds after which a session without a browser is closed. After 120, Streamlit would keep it where nothing finds it.
_GONE = 110.0
_INTERVAL = 4.0

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
        if runtime.exists() and (ended := end_sessions(runtime.get_instance().is_active_session, time.monotonic())):
            _close_sessions(ended)
            time.sleep(1)  # the loop of the server closes them
            give_back_memory()


def end_sessions(is_active: Callable[[str], bool], now: float) -> list[str]:
    """Drop what the sessions kept that were not connected for `_GONE` seconds. Return their ids."""
    with _lock:
        for session_id in list(_callbacks):
            if is_active(session_id):
                _last_seen[session_id] = now
        ended = {
            session_id: _callbacks.pop(session_id)
            for session_id in list(_callbacks)
            if now - _last_seen[session_id] > _GONE
        }
        for session_id in _last_seen.keys() - _callbacks.keys():
            del _last_seen[session_id]
    for callbacks in ended.values():
        for drop in callbacks:
            drop()
    return list(ended)


def _close_sessions(session_ids: list[str]) -> None:
    """Let Streamlit forget sessions: their state, the arguments of their fragments, and their caches."""
    instance = runtime.get_instance()
    with suppress(AttributeError):  # a version of Streamlit that was not tested keeps them until it needs their place
        # Only the loop of the server may close a session.
        loop = instance._get_async_objs().eventloop
        for session_id in session_ids:
            loop.call_soon_threadsafe(instance.close_session, session_id)


def give_back_memory() -> None:
    """Free what only cycles of objects hold, and return freed memory to the system.

    The networks of a session are in such cycles, which `cache.load_network` may have frozen meanwhile.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    give_back_freed_memory()
