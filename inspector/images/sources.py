"""List the images of a folder, a glob, a CSV file or WebDataset tar shards in a fixed order. Imports no torch.

To list a tar, only its headers and labels are read. The list stores where each image's bytes begin and how many they
are, so any image can be read directly later. Nothing in a tar is ever unpickled.
"""

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
from typing import IO, BinaryIO

import fsspec

from inspector.entries import parse_json
from inspector.errors import ImageError, translate_errors
from inspector.files import open_regular, read_csv
from inspector.images.decode import check_bytes, read_limited
from inspector.images.photo import Photo, read_image
from inspector.printable import make_printable

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_EXPECTED = "Use a folder, a glob in quotes ('photos/*.jpg'), a CSV with a column path, or WebDataset shards (*.tar)."
# Endings of tar members that hold a label. If an image has several such members, the first ending in this list counts.
_LABELS = ("cls", "txt", "json")
_LABEL_KEYS = ("label", "cls", "class", "class_name")  # keys of a .json that may hold the label; the first one counts
_LIST_BYTES = 500_000_000  # of a CSV: a line for each of five million images
_LABEL_BYTES = 65_536  # read at most, from each tar member that holds a label
# Kinds of addresses that a CSV may name. The list may come from somebody else, and fsspec has kinds that log in to
# other machines, run commands or unpack archives.
_PROTOCOLS = ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "file", "memory")


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source."""

    path: str  # as the user wrote it; for an image in a tar, `shard.tar/member.jpg`
    label: str | None
    file: str  # path or URL of the file that holds the image's bytes: the image itself, or a tar
    start: int = 0  # position of the image's first byte in the file
    length: int | None = None  # number of bytes; None: the whole file
    content: bytes | None = None  # the image's bytes, if they are in no file, as those of an upload


def list_images(source: str | Path | Sequence[str | Path]) -> list[Item]:
    """List the images of one or more sources, one source after the other.

    Args:
        source: one source or several; each is one of

            - a folder: its images at any depth, sorted by path; the label is the name of the first subfolder.
            - a glob: the files that it matches, sorted by path, without labels.
            - a CSV file: the columns `path` (or the first one) and `label`; paths are relative to the CSV.
            - a tar, or several, named with braces ({000..099}) or globs: the images in the order of the tar; the
              label is read from a .cls, .txt or .json member of the same name.

            Tars, CSVs and the images in a CSV may also be URLs that fsspec supports.

    Raises:
        ImageError: a source does not exist or cannot be read, or no source contains an image.
    """
    sources = [source] if isinstance(source, str | Path) else source
    items = [item for one in sources for item in _list_source(str(one))]
    if not items:
        raise ImageError(
            f"No images in {' '.join(map(str, sources))}. Expected files that end in {', '.join(ENDINGS)}."
        )
    return items


def hash_items(items: Iterable[Item]) -> str:
    """Return the SHA-256 of a list of images: paths, labels, byte positions in tars, and bytes that are in no file."""
    hashed = hashlib.sha256()
    for item in items:
        content = [] if item.content is None else [hashlib.sha256(item.content).hexdigest()]
        line = json.dumps([item.path, item.label, item.start, item.length, *content])
        hashed.update(line.encode() + b"\n")
    return hashed.hexdigest()


def read_item(item: Item) -> Photo:
    """Read the photo of an item.

    Raises:
        ImageError: the image cannot be read.
    """
    name = item.path.rsplit("/", 1)[-1]
    if item.content is not None:
        return read_image(item.content, name)
    if item.length is None and not _is_url(item.file):
        return read_image(item.file, name)
    if item.length is not None:
        check_bytes(name, item.length)
    return read_image(_read_bytes(item, name), name)


def _read_bytes(item: Item, name: str) -> bytes:
    with translate_errors(ImageError, f"Cannot read {item.path}: {{reason}}."), _open_file(item.file) as file:
        if item.length is None:
            return read_limited(file, name)
        file.seek(item.start)
        return file.read(item.length)


def _is_url(file: str) -> bool:
    return "://" in file


def _open_file(file: str) -> BinaryIO:
    if not _is_url(file):
        return open_regular(file)
    # Without a cache, only the bytes that are read are requested: a tar may be large, and its images small.
    stream: BinaryIO = fsspec.open(file, "rb", cache_type="none").open()
    return stream


def _list_source(source: str) -> Iterator[Item]:
    ending = Path(source).suffix.lower()
    if Path(source).is_dir():
        return _list_folder(source)
    if ending == ".csv":
        return _list_csv(source)
    if ending == ".tar":
        return (item for file in _expand_pattern(source) for item in _list_tar(file))
    if Path(source).is_file() and ending in ENDINGS:
        return iter([_make_item(source, None)])
    if glob.has_magic(source):
        matched = sorted(glob.iglob(source, recursive=True))  # noqa: PTH207 - paths are listed as the user wrote them
        return (_make_item(path, None) for path in matched if path.lower().endswith(ENDINGS) and Path(path).is_file())
    raise ImageError(f"No images at {source}. {_EXPECTED}")


def _make_item(path: str, label: str | None) -> Item:
    return Item(make_storable(path), label if label is None else sys.intern(make_printable(label)), path)


def make_storable(path: str) -> str:
    """Escape bytes of a path that are not UTF-8: such a file can be opened, but its path cannot be saved as text."""
    return path.encode("utf-8", "backslashreplace").decode()


def _list_folder(folder: str) -> Iterator[Item]:
    paths: list[str] = []
    visited: set[str] = set()
    # Follow links, because class folders are often links. Skip visited folders: a link to a parent would never end.
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if (real := os.path.realpath(where)) in visited:
            folders.clear()
            continue
        visited.add(real)
        below = Path(where).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        paths += [prefix + name for name in files if name.lower().endswith(ENDINGS) and not name.startswith(".")]
    paths.sort()
    for path in paths:
        first, slash, _ = path.partition("/")
        yield _make_item(os.path.join(folder, path), first if slash else None)  # noqa: PTH118


def _list_csv(file: str) -> Iterator[Item]:
    with translate_errors(ImageError, f"The list {file} cannot be read: {{reason}}."), _open_file(file) as stream:
        listed = stream.read(_LIST_BYTES + 1)
        if len(listed) > _LIST_BYTES:
            raise ImageError(f"The list {file} has more than {_LIST_BYTES / 1e6:.0f} MB. Split it into several.")
        text = listed.decode("utf-8-sig")
        rows = [row for row in read_csv(io.StringIO(text, newline="")) if row]
    first = [cell.strip().lower() for cell in rows[0]] if rows else []
    # A first row without the word "path" that begins with an image file is data, not a header.
    header = first if "path" in first or not (first and first[0].endswith(ENDINGS)) else []
    column = header.index("path") if "path" in header else 0
    labels = header.index("label") if "label" in header else None
    folder = os.path.dirname(file)  # noqa: PTH120 - `file` may be a URL
    for number, row in enumerate(rows[bool(header) :], 1 + bool(header)):
        if column >= len(row) or not row[column].strip():
            raise ImageError(f"Row {number} of {file} names no file. Expected a path in column {column + 1}.")
        path = row[column].strip()
        if _is_url(path) and path.partition("://")[0].lower() not in _PROTOCOLS:
            raise ImageError(
                f"Row {number} of {file} names {make_printable(path, 100)}. A list may name files, and addresses that "
                f"begin with {', '.join(_PROTOCOLS)}. Use one of these."
            )
        label = row[labels].strip() if labels is not None and labels < len(row) else ""
        file_path = path if _is_url(path) else os.path.join(folder, path)  # noqa: PTH118
        yield _make_item(file_path, label or None)


def _expand_pattern(pattern: str) -> list[str]:
    """Return the files that a name with braces or globs stands for, such as "shards/{000..099}.tar"."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces:
        inner = braces[1].split(",")
        if interval := re.fullmatch(r"(\d+)\.\.(\d+)", braces[1]):
            numbers = range(int(interval[1]), int(interval[2]) + 1)
            inner = [str(number).zfill(len(interval[1])) for number in numbers]
        before, after = pattern[: braces.start()], pattern[braces.end() :]
        return [file for one in inner for file in _expand_pattern(f"{before}{one}{after}")]
    if glob.has_magic(pattern) and not _is_url(pattern) and not Path(pattern).is_file():
        return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
    return [pattern]


def _list_tar(file: str) -> Iterator[Item]:
    images: list[tuple[str, str, int, int]] = []
    labels: dict[str, tuple[int, str]] = {}  # path without ending -> (position of the label's ending in _LABELS, label)
    translate = translate_errors(ImageError, f"The shard {file} cannot be read as an uncompressed tar: {{reason}}.")
    with translate, _open_file(file) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps all headers in memory
            folder, _, name = member.name.rpartition("/")
            stem, _, ending = name.partition(".")
            if not member.isreg() or not stem:
                continue
            sample = f"{folder}/{stem}"
            if f".{ending}".lower().endswith(ENDINGS):
                images.append((member.name, sample, member.offset_data, member.size))
            elif ending.lower() in _LABELS and (label := _read_label(tar.extractfile(member), ending.lower())):
                ranked = (_LABELS.index(ending.lower()), sys.intern(make_printable(label)))
                labels[sample] = min(ranked, labels.get(sample, ranked))
    for name, sample, start, size in images:
        path = make_storable(f"{file}/{name}")
        yield Item(path, labels[sample][1] if sample in labels else None, file, start, size)


def _read_label(member: IO[bytes] | None, ending: str) -> str | None:
    text = member.read(_LABEL_BYTES).decode("utf-8", "replace").strip() if member is not None else ""
    if ending != "json":
        return text.splitlines()[0].strip() if text else None
    try:
        value = parse_json(text, kind=object)
    except ValueError:
        return None
    if isinstance(value, dict):
        value = next((value[key] for key in _LABEL_KEYS if key in value), None)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
