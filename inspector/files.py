"""Read ordinary files only; write files and folders completely or not at all; encode tables as CSV and JSON."""

import csv
import errno
import json
import math
import os
import platform
import re
import shutil
import stat
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO
from weakref import WeakValueDictionary

from inspector.errors import ExportError, InspectorError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# A spreadsheet takes a cell for a formula if it begins with one of these (OWASP, "CSV Injection"). A text that begins
# with apostrophes and then one of these is quoted too, so that reading is the inverse of writing.
_FORMULA = re.compile(
    "'*[=+\\-@\t\r\n\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}"
    "\N{FULLWIDTH COMMERCIAL AT}]"
)
_QUOTED_FORMULA = re.compile(f"'{_FORMULA.pattern}")

_TEMPORARY = ".inspector-"
# The name of a temporary folder says which process writes in it.
_TEMPORARY_NAME = re.compile(r"\.inspector-(?P<host>[A-Za-z0-9]*)-(?P<pid>\d{1,10})-[a-z0-9_]+")
_thread_locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()  # one per folder, by its real path
_thread_locks_lock = threading.Lock()


def open_regular(path: str | Path) -> BinaryIO:
    """Open an ordinary file for reading. A link is followed.

    A pipe would block the reader, and a device such as /dev/zero never ends, although both have a size of 0 bytes.

    Raises:
        OSError: the path is no ordinary file, or the file cannot be opened.
    """
    # Without O_NONBLOCK, opening a pipe waits until another process writes to it.
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if stat.S_ISREG(os.fstat(file).st_mode):
        return os.fdopen(file, "rb")
    os.close(file)
    raise OSError(errno.EINVAL, "it is not an ordinary file, but a folder, a pipe or a device")


@contextmanager
def new_folder(
    folder: Path, error: type[InspectorError] = ExportError, is_ours: Callable[[str], bool] | None = None
) -> Iterator[Path]:
    """Yield a temporary folder, which is renamed to ``folder`` when the `with` block ends without an error.

    Args:
        folder: the folder to create. It may exist if it is empty. Missing parent folders are created.
        error: class of the error to raise.
        is_ours: as for `check_new_folder`. An earlier folder is replaced in two renames, after the new one is complete.

    Raises:
        InspectorError: ``folder`` is not empty or cannot be written. The error has the class ``error``, and no
            unfinished files are left behind.
    """
    check_new_folder(folder, error, is_ours)
    # If the folder is a link, its target is what gets replaced.
    target = Path(os.path.realpath(folder))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target.parent) as unfinished:
            yield unfinished
            unfinished.chmod(0o755)
            _move_into_place(unfinished, target)
    except OSError as failure:
        raise error(f"Cannot write {folder}: {failure.strerror or failure}. Nothing was left there.") from failure


def check_new_folder(
    folder: Path, error: type[InspectorError] = ExportError, is_ours: Callable[[str], bool] | None = None
) -> None:
    """Check that a new folder can have this name; call it before work that takes long.

    Args:
        folder: the folder to create. It may exist if it is empty.
        error: class of the error to raise.
        is_ours: decides by its name whether a file in the folder was written by Inspector. If all were, the folder may
            be replaced. None: a folder with files in it is never replaced.

    Raises:
        InspectorError: the name cannot be used, or a folder or file of this name must not be replaced.
    """
    if "\0" in str(folder):
        raise error(f"Cannot write {str(folder)!r}: the name has a null character. Nothing was left there.")
    try:
        _restore_replaced(folder)
        if not folder.exists():
            return
        if not folder.is_dir():
            raise error(f"{folder} exists already and is not a folder: nothing was written. Use a new folder.")
        if folder.samefile(os.curdir):
            raise error(
                f"{folder} is the folder in which Inspector runs, and a new folder would take its place: nothing was "
                "written. Use a folder in it, or run Inspector elsewhere."
            )
        names = sorted(path.name for path in folder.iterdir())
    except OSError as failure:
        raise error(f"Cannot write {folder}: {failure.strerror}. Nothing was left there.") from failure
    if is_ours is None and names:
        raise error(
            f"{folder} exists already and is not empty: nothing was written. Use a new folder, or --overwrite to "
            "replace what Inspector wrote there."
        )
    if foreign := [name for name in names if is_ours is None or not is_ours(name)]:
        raise error(
            f"{folder} holds {foreign[0]}, which Inspector did not write there, so it is not replaced: nothing was "
            "written. Use a new folder."
        )


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new hidden folder in ``parent``, which is removed when the `with` block ends, if it is still there.

    If the process is killed, its folder stays, and the next call with the same parent removes it.

    Raises:
        OSError: the folder cannot be made.
    """
    _remove_leftovers(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{_find_host()}-{os.getpid()}-", dir=parent))
    try:
        with lock_folder(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def lock_folder(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a folder; other threads and processes that ask for it wait, or get BlockingIOError.

    The lock leaves no file, and ends with the process. It is advice: only callers of this function respect it. Where
    the system has no such locks (Windows, some network drives), only threads of this process wait.

    Raises:
        BlockingIOError: another holds the lock, and `wait` is False.
        OSError: the folder cannot be opened.
    """
    with _thread_locks_lock:
        thread_lock = _thread_locks.setdefault(os.path.realpath(folder), threading.Lock())
    if not thread_lock.acquire(blocking=wait):
        raise BlockingIOError(f"{folder} is in use")
    try:
        with _lock_for_processes(folder, wait):
            yield
    finally:
        thread_lock.release()


@contextmanager
def _lock_for_processes(folder: Path, wait: bool) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.EBADF):
                raise
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(parent: Path) -> None:
    """Remove the temporary folders of processes that no longer exist, and of no others."""
    if os.name == "nt":  # os.kill(pid, 0) would end the process there
        return
    for folder in parent.glob(f"{_TEMPORARY}*"):
        found = _TEMPORARY_NAME.fullmatch(folder.name)
        if found is None or found["host"] != _find_host() or not folder.is_dir() or folder.is_symlink():
            continue
        # A number of a process means little in another container; there, the lock tells that it is alive.
        with suppress(OSError):
            if not _is_alive(int(found["pid"])):
                with lock_folder(folder, wait=False):
                    shutil.rmtree(folder, ignore_errors=True)


def _find_host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", platform.node())[:32]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # it belongs to another user
    return True


def _move_into_place(unfinished: Path, folder: Path) -> None:
    """Rename a complete folder to its final name, in place of an earlier folder if there is one."""
    earlier = _name_replaced(folder)
    if not folder.exists() or not any(folder.iterdir()):
        unfinished.replace(folder)
        return
    folder.replace(earlier)
    try:
        unfinished.replace(folder)
    except BaseException:
        earlier.replace(folder)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _name_replaced(folder: Path) -> Path:
    """Return the name that a folder has for the moment in which it is replaced."""
    return folder.with_name(f".inspector-replaced-{folder.name}")


def _restore_replaced(folder: Path) -> None:
    """Give a folder its name back if the process was killed between the two renames that replace it."""
    target = Path(os.path.realpath(folder))
    if target.name and os.path.isdir(earlier := _name_replaced(target)):  # noqa: PTH112 - False for a name that is too long
        if target.exists():
            shutil.rmtree(earlier, ignore_errors=True)
        else:
            earlier.replace(target)


def write_atomic(path: Path, content: bytes, durable: bool = False, many_writers: bool = False) -> None:
    """Write a file completely or not at all, as `new_file`.

    Args:
        path: the file to write; its folder must exist.
        content: all bytes of the file.
        durable: as in `new_file`.
        many_writers: as in `new_file`.

    Raises:
        OSError: the file cannot be written. No temporary file is left behind.
    """
    with new_file(path, durable, many_writers) as temporary:
        temporary.write_bytes(content)


@contextmanager
def new_file(path: Path, durable: bool = False, many_writers: bool = False) -> Iterator[Path]:
    """Yield the path of a temporary file, which is renamed to ``path`` when the `with` block ends without an error.

    So readers find the old or the new content, never a part.

    Args:
        path: the file to write; its folder must exist.
        durable: wait until the bytes are on the disk, so that a power failure cannot leave an empty file.
        many_writers: other processes may write the same file at the same time, so each write uses its own temporary
            name. If a process is killed, its temporary file stays. Default: one fixed temporary name, so the next
            write replaces the temporary file of a killed process.

    Raises:
        OSError: the file cannot be written. No temporary file is left behind.
    """
    attempt = f".{uuid.uuid4().hex}" if many_writers else ""
    temporary = path.with_name(f".{path.name}{attempt}.tmp")
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable and os.name != "nt":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)  # after a success it is already renamed


def find_cache_folder() -> Path:
    """Return the folder of what can be made again, as built networks: $INSPECTOR_CACHE, else ~/.cache/inspector."""
    if chosen := os.environ.get("INSPECTOR_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inspector"


def find_data_folder() -> Path:
    """Return the folder of what a user keeps, as networks and results: ~/.local/share/inspector.

    $XDG_DATA_HOME takes the place of ~/.local/share.
    """
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "inspector"


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Return a CSV table as UTF-8 bytes; its lines end with a single newline character on every system.

    A text that a spreadsheet would run as a formula, such as "=1+1", gets an apostrophe before it. `read_csv` removes
    it again.
    """
    lines: list[str] = []
    # The writer calls `append` once per row. Only with its own line ends does it quote a text that has a line end.
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerows([_quote_formula(cell) for cell in row] for row in (header, *rows))
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines).encode()


def read_csv(lines: Iterable[str], **dialect: Any) -> Iterator[list[str]]:
    """Read the rows of a CSV table, as `csv_bytes` writes it or as others do. The header is the first row.

    Args:
        lines: the lines of the table.
        dialect: options of `csv.reader`, such as the delimiter.
    """
    for row in csv.reader(lines, **dialect):
        yield [cell[1:] if _QUOTED_FORMULA.match(cell) else cell for cell in row]


def _quote_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def json_bytes(content: Any, ascii_only: bool = True) -> bytes:
    """Encode ``content`` as JSON in UTF-8, indented by two spaces, with a newline at the end."""
    return (json.dumps(content, indent=2, ensure_ascii=ascii_only) + "\n").encode()


def replace_non_finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Replace infinity and NaN by None, because JSON cannot represent them."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
