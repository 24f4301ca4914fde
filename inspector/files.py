"""Write files and folders completely or not at all, and encode tables as CSV and JSON."""

import csv
import io
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inspector.errors import ExportError, InspectorError


@contextmanager
def new_folder(folder: Path, error: type[InspectorError] = ExportError) -> Iterator[Path]:
    """Yield a temporary folder, which is renamed to ``folder`` when the `with` block ends without an error.

    Args:
        folder: the folder to create. It may exist if it is empty. Missing parent folders are created.
        error: class of the error to raise.

    Raises:
        InspectorError: ``folder`` is not empty or cannot be written. The error has the class ``error``, and no
            unfinished files are left behind.
    """
    if "\0" in str(folder):
        raise error(f"Cannot write {str(folder)!r}: the name has a null character. Nothing was left there.")
    unfinished: Path | None = None
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            state = "not empty" if folder.is_dir() else "not a folder"
            raise error(f"{folder} exists already and is {state}: nothing was written. Use a new folder.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".inspector-", dir=folder.parent))
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.replace(folder)
    except OSError as failure:
        raise error(f"Cannot write {folder}: {failure.strerror}. Nothing was left there.") from failure
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)  # after a success it is already renamed


def write_atomic(path: Path, content: bytes, durable: bool = False, many_writers: bool = False) -> None:
    """Write a temporary file and rename it to ``path``, so that readers find the old or the new content, never a part.

    Args:
        path: the file to write; its folder must exist.
        content: all bytes of the file.
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
        temporary.write_bytes(content)
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


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Return a CSV table as UTF-8 bytes; its lines end with a single newline character on every system."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def json_bytes(content: Any, ascii_only: bool = True) -> bytes:
    """Encode ``content`` as JSON in UTF-8, indented by two spaces, with a newline at the end."""
    return (json.dumps(content, indent=2, ensure_ascii=ascii_only) + "\n").encode()


def replace_non_finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Replace infinity and NaN by None, because JSON cannot represent them."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
