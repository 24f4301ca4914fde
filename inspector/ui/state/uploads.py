"""Limits of uploads that the server keeps: the limits of widgets are kept by the browser only.

A browser asks for a place for each file, sends the file there, and the page reads it. The server takes only files that
were asked for, of the size that their kind may have, as long as the session and all sessions together have room.
"""

import inspect
import threading
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import PurePosixPath
from tempfile import SpooledTemporaryFile
from typing import Any

from starlette import formparsers
from starlette.exceptions import HTTPException
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from inspector.images.decode import MAX_BYTES
from inspector.printable import make_printable
from inspector.ui.state import sessions

PHOTOS = ("jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
NETWORKS = ("safetensors", "pt", "pth", "bin", "ckpt", "onnx", "keras", "h5")
LABELS = ("txt", "json", "csv", "tsv")
MAX_PHOTO, MAX_NETWORK, MAX_LABELS = MAX_BYTES, 500_000_000, 1_000_000  # bytes
MAX_SESSION, MAX_SERVER = 1_500_000_000, 6_000_000_000  # bytes of all files together
MAX_ARRIVING = 2_000_000_000  # bytes of files whose requests have not ended
_MAX_ASKED = 100_000  # places of one session that are kept

_LIMITS = dict.fromkeys(PHOTOS, MAX_PHOTO) | dict.fromkeys(NETWORKS, MAX_NETWORK) | dict.fromkeys(LABELS, MAX_LABELS)
_LONGEST_NAME = 200  # characters

_asked: dict[str, list[str]] = {}  # id of a session -> places that it asked for
_lock = threading.Lock()


def find_obstacle(manager: Any) -> str | None:
    """Return why the manager of uploaded files of a running Streamlit cannot be limited; None if it can."""
    try:
        parameters = [list(inspect.signature(call).parameters) for call in (manager.add_file, manager.get_upload_urls)]
        stored = manager.file_storage
    except (AttributeError, TypeError) as error:
        return f"Streamlit's manager of uploaded files is another than expected ({error})."
    expected = [["session_id", "file"], ["session_id", "file_names"]]
    if parameters != expected or not isinstance(stored, dict):
        return "Streamlit's manager of uploaded files is another than expected."
    if not hasattr(formparsers, "SpooledTemporaryFile"):
        return "Starlette keeps the files of requests in another way than expected."
    return None


def limit_uploads(manager: Any) -> None:
    """Change the manager of uploaded files of a running Streamlit so that it keeps the limits of this module."""
    formparsers.SpooledTemporaryFile = ArrivingFile  # type: ignore[assignment, attr-defined]
    manager.get_upload_urls = _note_places(manager)
    manager.add_file = _check_files(manager)


class ArrivingFile(SpooledTemporaryFile[bytes]):
    """A file of a request. It stays in memory, and all of them together take at most MAX_ARRIVING bytes.

    Starlette would write what is larger than 1 MB to the disk.
    """

    total = 0  # bytes of all arriving files

    def __init__(self, max_size: int = 0) -> None:
        super().__init__(max_size=0)  # never written to the disk
        self.taken = 0

    def write(self, data: Any) -> int:
        """Write data to the end."""
        with _lock:
            if ArrivingFile.total + len(data) > MAX_ARRIVING:
                raise HTTPException(503, "Too many files arrive at this server at the same time: try again later.")
            ArrivingFile.total += len(data)
            self.taken += len(data)
        return super().write(data)

    def close(self) -> None:
        """Free the memory."""
        with _lock:
            ArrivingFile.total -= self.taken
            self.taken = 0
        super().close()


def _note_places(manager: Any) -> Callable[..., Any]:
    get_upload_urls = manager.get_upload_urls

    @wraps(get_upload_urls)
    def note_places(session_id: str, file_names: Sequence[str]) -> Any:
        places = get_upload_urls(session_id, file_names)
        with _lock:
            if session_id not in _asked:
                sessions.register(session_id, partial(_asked.pop, session_id, None))
                sessions.register(session_id, partial(manager.remove_session_files, session_id))
            asked = _asked.setdefault(session_id, [])
            asked += [place.file_id for place in places]
            del asked[:-_MAX_ASKED]
        return places

    return note_places


def _check_files(manager: Any) -> Callable[..., None]:
    add_file = manager.add_file

    @wraps(add_file)
    def check_file(session_id: str, file: Any) -> None:
        # The browser shows the answer to the request, so the reason is raised as such.
        with _lock:
            stored = {
                owner: sum(len(other.data) for other in files.values())
                for owner, files in list(manager.file_storage.items())
            }
            if file.file_id not in _asked.get(session_id, ()):
                raise HTTPException(403, "This file was not announced: choose it in the page again.")
            limit = _LIMITS.get(PurePosixPath(file.name).suffix[1:].lower(), MAX_LABELS)
            if len(file.data) > limit:
                raise HTTPException(413, f"The file is larger than {limit / 1e6:.0f} MB.")
            if stored.get(session_id, 0) + len(file.data) > MAX_SESSION:
                raise HTTPException(413, f"All files together are larger than {MAX_SESSION / 1e6:.0f} MB: remove some.")
            if sum(stored.values()) + len(file.data) > MAX_SERVER:
                raise HTTPException(507, "The memory of this server is full of files of all visitors: try again later.")
            add_file(session_id, file._replace(name=clean_name(file.name)))

    return check_file


def forget_upload(file: UploadedFile) -> None:
    """Give back the memory of an uploaded file that is no longer needed. Its widget must not be drawn again."""
    context = get_script_run_ctx()
    if context is not None and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        context.uploaded_file_mgr.remove_file(context.session_id, file.file_id)


def clean_name(name: str) -> str:
    """Return the name of an uploaded file so that it can be shown and drawn: printable, and not too long."""
    clean = make_printable(name)
    return clean if len(clean) <= _LONGEST_NAME else f"{clean[:60]}...{clean[-(_LONGEST_NAME - 63) :]}"
