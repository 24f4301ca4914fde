"""Write files and folders so that they are there whole or not at all."""

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
    """Yield a temporary folder beside ``folder`` that takes its name when the block ends without an error.

    Args:
        folder: the folder to be made; it may exist while it is empty. Missing parents are made.
        error: class of the error to raise.

    Raises:
        InspectorError: of class ``error``, if ``folder`` holds files or cannot be written. Nothing is left there.
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
            shutil.rmtree(unfinished, ignore_errors=True)  # gone already where it was renamed


def write_atomic(path: Path, content: bytes, durable: bool = False, many_writers: bool = False) -> None:
    """Write a file beside its place and rename it, so that a reader finds the old content or the new.

    Args:
        path: where to write; its folder exists.
        content: all bytes of the file.
        durable: wait until the disk holds them, so that a power failure leaves no empty file either.
        many_writers: other processes may write the same file at the same time. Each then uses a temporary name of its
            own, which stays if its process is killed; otherwise the next write replaces what a killed one left.

    Raises:
        OSError: the file cannot be written. Nothing is left beside it.
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
        temporary.unlink(missing_ok=True)  # gone already where it was renamed


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Return a CSV table as UTF-8 bytes, with newlines as line ends."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def json_bytes(content: Any, ascii_only: bool = True) -> bytes:
    """Return JSON as UTF-8 bytes, indented by two spaces, with a newline at the end."""
    return (json.dumps(content, indent=2, ensure_ascii=ascii_only) + "\n").encode()


def replace_non_finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Replace infinity and NaN by None: JSON has no such numbers."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
