"""Files of download buttons that are replaced by a new run of the page.

The file of a download button has a new id in each run of the page. At the end of a run, Streamlit deletes the files of
the run before. The browser shows the new buttons a moment later: a click in between asks for a file that was deleted,
and gets neither file nor message. So here such files are deleted some seconds later.
"""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

_KEPT = 10.0  # seconds after which the file of a replaced button is deleted, by the next run of any page
_REPLACED = "replaced by a new run"  # stands where Streamlit has the id of a session


def find_obstacle(manager: Any) -> str | None:
    """Return why the files of replaced buttons of a running Streamlit cannot be kept; None if they can."""
    if not callable(getattr(manager, "_remove_orphaned_deferred_callables", None)) or not all(
        isinstance(getattr(manager, name, None), dict)
        for name in ("_deferred_callables", "_files_by_session_and_coord")
    ):
        return "Streamlit's manager of media files is another than expected."
    return None


def keep_replaced_downloads(
    manager: Any, is_active: Callable[[str], bool], read_clock: Callable[[], float] = time.monotonic
) -> None:
    """Change the manager of media files of a running Streamlit so that files of replaced buttons are kept for a while.

    Args:
        manager: Streamlit's MediaFileManager.
        is_active: returns whether the session of this id is connected. Its files are deleted at once if not.
        read_clock: returns the time in seconds.
    """
    remove = manager._remove_orphaned_deferred_callables
    sessions: dict[str, str] = {}  # id of a file -> id of its session
    replaced: dict[str, float] = {}  # id of a file -> when its button was replaced, in seconds

    @wraps(remove)
    def remove_later() -> None:  # is called with the manager's lock held
        files, shown = manager._deferred_callables, manager._files_by_session_and_coord
        current = {file: session for session, by_place in shown.items() for file in by_place.values() if file in files}
        sessions.update(current)
        now = read_clock()
        for file in files.keys() - current:
            replaced.setdefault(file, now)
        shown[_REPLACED] = {
            file: file
            for file, since in replaced.items()
            if file in files and now - since < _KEPT and file in sessions and is_active(sessions[file])
        }
        remove()
        del shown[_REPLACED]
        for of_files in (sessions, replaced):
            for file in of_files.keys() - files:
                del of_files[file]

    manager._remove_orphaned_deferred_callables = remove_later
