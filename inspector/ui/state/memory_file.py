"""A path for bytes in memory: libraries that read networks need a path, and uploads must not be written to a disk."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from inspector.errors import NetworkError, translate_errors
from inspector.files import temporary_folder
from inspector.ui.state import uploads

_MEMORY = Path("/dev/shm")  # a file system in memory, on Linux; small in many containers
_NEED_REAL_PATH = (".h5",)  # the library for HDF5 opens no links to files without a name


@contextmanager
def open_memory_file(data: bytes, name: str) -> Iterator[Path]:
    """Yield a path under which this process and its child processes can read the bytes.

    On Linux the bytes stay in memory, and are gone when the `with` block or the process ends. On other systems, they
    are in a temporary file.

    Args:
        data: the bytes.
        name: name of the uploaded file. The path has its ending, if it is that of a network, and no more of it.

    Raises:
        NetworkError: there is no room for the bytes.
    """
    ending = Path(name).suffix.lower()
    ending = ending if ending[1:] in uploads.NETWORKS else ""
    problem = f"There is no room for {name} on this server ({{reason}}). Try again later."
    with ExitStack() as stack:
        with translate_errors(NetworkError, problem):
            parent = _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())
            path = stack.enter_context(temporary_folder(parent)) / f"uploaded{ending}"
            if hasattr(os, "memfd_create") and ending not in _NEED_REAL_PATH:
                file = stack.enter_context(os.fdopen(os.memfd_create("upload"), "wb"))
                file.write(data)
                file.flush()
                path.symlink_to(f"/proc/{os.getpid()}/fd/{file.fileno()}")
            else:
                path.write_bytes(data)
        yield path
