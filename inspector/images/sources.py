"""What images there are: a folder, a glob, a CSV list or WebDataset tar shards, listed in one order. Imports no torch.

A tar is read for its headers and labels only. Each image in it is known by the place of its bytes, so that any part of
the list can be read at once, and nothing that lies in a tar is ever unpickled.
"""

import csv
import glob
import hashlib
import io
import json
import os
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import fsspec

from inspector.errors import ImageError, summarize_reason
from inspector.images.photo import MAX_BYTES, Photo, read_image

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_WOULD_DO = (
    "a folder, a glob in quotes ('photos/*.jpg'), a CSV with a column path, or WebDataset shards (*.tar) would do"
)
_LABELS = ("cls", "txt", "json")  # endings of members that hold one, the first that is there
_LABEL_KEYS = ("label", "cls", "class", "class_name")  # of a .json
_LABEL_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source."""

    path: str  # as a user would write it; `shard.tar/member.jpg` in a tar
    label: str | None
    file: str  # where its bytes are: a path or a URL
    start: int = 0  # of its bytes in the file
    length: int | None = None  # None: all of the file


def list_images(source: str | Path | Sequence[str | Path]) -> list[Item]:
    """The images of a source, or of several one after the other; those of folders and globs are sorted by path.

    Of a folder the images at any depth, labelled by the folder of the first level that they lie in; of a glob what it
    matches; of a CSV the column `path` (or the first) and `label`, relative to the CSV; of *.tar, with braces
    ({000..099}) and globs, the images in the order of the tar, labelled by a .cls, .txt or .json of the same name.
    Files, CSVs and tars may be URLs that fsspec knows. Raises ImageError where there is no image, or no such source.
    """
    sources = [source] if isinstance(source, str | Path) else source
    items = [item for one in sources for item in _listed(str(one))]
    if not items:
        raise ImageError(
            f"No images in {' '.join(map(str, sources))}; files that end in {', '.join(ENDINGS)} would do."
        )
    return items


def hash_items(items: Iterable[Item]) -> str:
    """SHA-256 of the list: of paths, labels and places in tars."""
    hashed = hashlib.sha256()
    for item in items:
        line = json.dumps([item.path, item.label, item.start, item.length])
        hashed.update(line.encode() + b"\n")
    return hashed.hexdigest()


def read_item(item: Item) -> Photo:
    """The photo; ImageError where it cannot be read."""
    name = item.path.rsplit("/", 1)[-1]
    if item.length is None and not _is_url(item.file):
        return read_image(item.file, name)
    if item.length is not None and item.length > MAX_BYTES:
        raise ImageError(f"{name} has {item.length / 1e6:.0f} MB; at most {MAX_BYTES / 1e6:.0f} MB are read.")
    return read_image(_bytes(item), name)


def _bytes(item: Item) -> bytes:
    end = None if item.length is None else item.start + item.length
    try:
        if _is_url(item.file):
            system, path = fsspec.core.url_to_fs(item.file)
            return bytes(system.cat_file(path, item.start, end))
        with open(item.file, "rb") as file:  # noqa: PTH123 - a path for every image of a tar would cost more than it reads
            file.seek(item.start)
            return file.read(item.length)
    # A remote file system has errors of its own.
    except Exception as error:
        raise ImageError(f"Cannot read {item.path}: {summarize_reason(error)}.") from error


def _is_url(file: str) -> bool:
    return "://" in file


def _opened(file: str) -> IO[bytes]:
    if not _is_url(file):
        return Path(file).open("rb")
    opened: IO[bytes] = fsspec.open(file, "rb").open()
    return opened


def _listed(source: str) -> Iterator[Item]:
    ending = Path(source).suffix.lower()
    if Path(source).is_dir():
        return _of_folder(source)
    if ending == ".csv":
        return _of_csv(source)
    if ending == ".tar":
        return (item for file in _expanded(source) for item in _of_tar(file))
    if Path(source).is_file() and ending in ENDINGS:
        return iter([_whole_file(source, None)])
    if glob.has_magic(source):
        matched = sorted(glob.iglob(source, recursive=True))  # noqa: PTH207 - kept as it was written
        return (_whole_file(path, None) for path in matched if path.lower().endswith(ENDINGS) and Path(path).is_file())
    raise ImageError(f"No images at {source}: {_WOULD_DO}.")


def _whole_file(path: str, label: str | None) -> Item:
    # A name that is no UTF-8 can be opened, but not be written down.
    shown = path.encode("utf-8", "backslashreplace").decode()
    return Item(path if shown == path else shown, label, path)


def _of_folder(folder: str) -> Iterator[Item]:
    found: list[str] = []
    seen: set[str] = set()
    # Class folders are often links; a link to a folder above would lead round and round.
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if (real := os.path.realpath(where)) in seen:
            folders.clear()
            continue
        seen.add(real)
        below = Path(where).relative_to(folder).as_posix()
        found += [
            name if below == "." else f"{below}/{name}"
            for name in files
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    found.sort()
    for path in found:
        first, slash, _ = path.partition("/")
        label = first.encode("utf-8", "backslashreplace").decode() if slash else None
        yield _whole_file(os.path.join(folder, path), label and sys.intern(label))  # noqa: PTH118


def _of_csv(file: str) -> Iterator[Item]:
    try:
        with _opened(file) as opened:
            text = opened.read().decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise ImageError(f"The list {file} cannot be read: {summarize_reason(error)}.") from error
    first = [cell.strip().lower() for cell in rows[0]] if rows else []
    # A first row that begins with an image is no header.
    header = first if "path" in first or not (first and first[0].endswith(ENDINGS)) else []
    column = header.index("path") if "path" in header else 0
    labels = header.index("label") if "label" in header else None
    folder = os.path.dirname(file)  # noqa: PTH120 - of a URL too
    for number, row in enumerate(rows[bool(header) :], 1 + bool(header)):
        if column >= len(row) or not row[column].strip():
            raise ImageError(f"Row {number} of {file} names no file; a path in its column {column + 1} would do.")
        path = row[column].strip()
        label = row[labels].strip() if labels is not None and labels < len(row) else ""
        placed = path if _is_url(path) else os.path.join(folder, path)  # noqa: PTH118
        yield _whole_file(placed, sys.intern(label) if label else None)


def _expanded(pattern: str) -> list[str]:
    """The files that a name with braces and globs stands for."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces:
        span = re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
        if span:
            numbers = range(int(span[1]), int(span[2]) + 1)
            inner = [str(number).zfill(len(span[1])) for number in numbers]
        else:
            inner = braces[1].split(",")
        before, after = pattern[: braces.start()], pattern[braces.end() :]
        return [file for one in inner for file in _expanded(f"{before}{one}{after}")]
    if glob.has_magic(pattern) and not _is_url(pattern) and not Path(pattern).is_file():
        return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
    return [pattern]


def _of_tar(file: str) -> Iterator[Item]:
    images: list[tuple[str, str, int, int]] = []
    labels: dict[str, tuple[int, str]] = {}  # the best of each sample
    try:
        with _opened(file) as opened, tarfile.open(fileobj=opened, mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # or all headers stay in memory
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if not member.isreg() or not stem:
                    continue
                sample = f"{folder}/{stem}"
                if f".{ending}".lower().endswith(ENDINGS):
                    images.append((member.name, sample, member.offset_data, member.size))
                elif ending.lower() in _LABELS and (label := _label(tar.extractfile(member), ending.lower())):
                    ranked = (_LABELS.index(ending.lower()), sys.intern(label))
                    labels[sample] = min(ranked, labels.get(sample, ranked))
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise ImageError(
            f"The shard {file} cannot be read as an uncompressed tar: {summarize_reason(error)}."
        ) from error
    for name, sample, start, size in images:
        path = f"{file}/{name}".encode("utf-8", "backslashreplace").decode()
        yield Item(path, labels[sample][1] if sample in labels else None, file, start, size)


def _label(member: IO[bytes] | None, ending: str) -> str | None:
    text = member.read(_LABEL_BYTES).decode("utf-8", "replace").strip() if member is not None else ""
    if ending != "json":
        return text.splitlines()[0].strip() if text else None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if isinstance(value, dict):
        value = next((value[key] for key in _LABEL_KEYS if key in value), None)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
