"""Write boxes and masks in the formats of other tools: COCO JSON, YOLO text, Pascal VOC XML, CSV, and PNG masks.

    coco    one JSON file: images, annotations with boxes and masks, categories
    yolo    a folder: labels/ with one text file per photo, and classes.txt
    voc     a folder: one XML file per photo
    csv     one table: a row per box
    masks   a folder: one PNG per photo, 255 inside and 0 outside; with several classes, a folder for each

Coordinates are pixels of the upright photo. Classes have the numbers that they have in the network.
"""

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inspector.analysis.localization import Mask
from inspector.entries import Entries, parse_json
from inspector.errors import ExportError
from inspector.files import check_new_folder, csv_bytes, json_bytes, new_folder, write_atomic
from inspector.images.preprocessing import Box

CSV_COLUMNS = ("file", "class", "class_number", "x1", "y1", "x2", "y2", "probability", "largest", "share")
SUFFIXES = {".json": "coco", ".csv": "csv"}
MANIFEST = "inspector.json"  # in a folder: how it was made, and the files that were written


@dataclass(frozen=True)
class DetectedObject:
    """A connected part of a photo where the map of a class is above the threshold."""

    k: int  # number of the class in the network
    box: Box  # left, top, right, bottom in pixels of the photo
    area: float  # number of pixels
    largest: float  # largest value of the map in it, in logits per cell
    share: float  # of all positive evidence on the photo, 0-1
    runs: tuple[int, ...] = ()  # lengths of runs outside, inside, outside, ... of the mask, column by column


@dataclass(frozen=True)
class DetectedPhoto:
    """What was found on a photo."""

    file: str  # relative path with / between folders
    size: tuple[int, int]  # (height, width); (0, 0) if the photo could not be read
    probabilities: Mapping[int, float] = field(default_factory=dict)  # of the classes that were looked for
    objects: tuple[DetectedObject, ...] = ()
    error: str | None = None  # why the photo could not be read


def encode_runs(mask: Mask) -> tuple[int, ...]:
    """Return the lengths of the runs of a mask column by column, first one outside: COCO's run-length encoding."""
    values = mask.ravel(order="F")
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [values.size]])).tolist()
    return (0, *runs) if values.size and values[0] else tuple(runs)


def decode_runs(runs: Sequence[int], size: tuple[int, int]) -> Mask:
    """Return the mask (H, W) of run lengths from `encode_runs`."""
    values: NDArray[np.bool_] = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(size[::-1]).T


def find_format(out: Path, format: str | None) -> str:
    """Return the format of a result: the one that is named, else that of the suffix.

    Raises:
        ExportError: there is no such format, or the suffix is that of none or of another one.
    """
    known = (*SUFFIXES.values(), *_FOLDERS)
    if format is not None and format not in known:
        raise ExportError(f"No format {format!r}. Use one of {', '.join(known)}.")
    found = SUFFIXES.get(out.suffix.lower())
    if format is None and found is None:
        raise ExportError(
            f"The format of {out} is not clear. Use a name that ends in .json (COCO) or .csv, or --format with "
            f"{', '.join(_FOLDERS)} for a folder."
        )
    chosen = format or found
    if chosen not in _FOLDERS and found != chosen:
        expected = next(suffix for suffix, name in SUFFIXES.items() if name == chosen)
        raise ExportError(f"Boxes in the format {chosen} need a name that ends in {expected}; got {out}.")
    return str(chosen)


def needs_masks(format: str) -> bool:
    """Return whether a format holds masks."""
    return format in ("coco", "masks")


def check_target(out: Path, format: str, overwrite: bool) -> None:
    """Check that a result can be written; call it before work that takes long.

    Raises:
        ExportError: the file or folder exists and is not to be replaced.
    """
    if format in _FOLDERS:
        check_new_folder(out, is_ours=_is_ours(out) if overwrite else None)
    elif out.exists() and not (overwrite and out.is_file()):
        raise ExportError(f"{out} exists already. Use another name, or --overwrite to replace it.")


def _is_ours(out: Path) -> Callable[[str], bool]:
    """Return what decides if a name in a folder was written here, by the list of files in its manifest."""
    try:
        written = set(Entries(parse_json((out / MANIFEST).read_bytes())).texts("files"))
    except (OSError, ValueError, KeyError):
        written = set()

    def is_ours(name: str) -> bool:
        path = out / name
        inner = [one for one in path.rglob("*") if not one.is_dir()] if path.is_dir() else [path]
        return all(one.relative_to(out).as_posix() in written for one in inner)

    return is_ours


def check_names(files: Sequence[str], format: str) -> None:
    """Raise ExportError if two photos would get the same file in a folder."""
    if format not in _FOLDERS:
        return
    names: dict[str, str] = {}
    for file in files:
        stem = str(PurePosixPath(file).with_suffix("")).lower()
        if stem in names:
            raise ExportError(
                f"{names[stem]} and {file} would get the same file in a folder. Use --format coco or csv, or other "
                "names."
            )
        names[stem] = file


def write_boxes(
    photos: Sequence[DetectedPhoto],
    class_names: Sequence[str],
    out: Path,
    format: str,
    about: Mapping[str, Any],
    overwrite: bool = False,
) -> Path:
    """Write what was found on photos, completely or not at all.

    Args:
        photos: all photos, also those without a box.
        class_names: names of all classes of the network.
        out: file or folder.
        format: "coco", "csv", "yolo", "voc" or "masks".
        about: how it was made: in "info" of COCO, and in the manifest of a folder.
        overwrite: replace an earlier result.

    Raises:
        ExportError: the result exists and is not to be replaced, or cannot be written.
    """
    check_target(out, format, overwrite)
    readable = [photo for photo in photos if photo.error is None]
    if format in _FOLDERS:
        with new_folder(out, is_ours=_is_ours(out) if overwrite else None) as folder:
            files = [MANIFEST]
            for name, content in _FOLDERS[format](readable, class_names):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
                files.append(name)
            (folder / MANIFEST).write_bytes(json_bytes({**about, "files": files}, ascii_only=False))
        return out
    content = _encode_coco(readable, class_names, about) if format == "coco" else _encode_csv(readable, class_names)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, content)
    except OSError as error:
        raise ExportError(f"Cannot write {out}: {error.strerror or error}.") from error
    return out


def _encode_coco(photos: Sequence[DetectedPhoto], class_names: Sequence[str], about: Mapping[str, Any]) -> bytes:
    annotations: list[dict[str, Any]] = []
    for number, photo in enumerate(photos, 1):
        for one in photo.objects:
            left, top, right, bottom = one.box
            probability = photo.probabilities.get(one.k, math.nan)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": one.k,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": one.area,
                    "iscrowd": 0,
                    "segmentation": {"size": list(photo.size), "counts": list(one.runs)},
                    **({} if math.isnan(probability) else {"score": probability}),
                    "largest": one.largest,
                    "share": one.share,
                }
            )
    images = [
        {"id": number, "file_name": photo.file, "height": photo.size[0], "width": photo.size[1]}
        for number, photo in enumerate(photos, 1)
    ]
    categories = [{"id": k, "name": name} for k, name in enumerate(class_names)]
    content = {"info": about, "images": images, "annotations": annotations, "categories": categories}
    return json_bytes(content, ascii_only=False)


def _encode_csv(photos: Sequence[DetectedPhoto], class_names: Sequence[str]) -> bytes:
    rows = []
    for photo in photos:
        for one in photo.objects:
            numbers = [f"{edge:g}" for edge in one.box]
            numbers += [f"{photo.probabilities.get(one.k, math.nan):.6g}", f"{one.largest:.6g}", f"{one.share:.4f}"]
            rows.append([photo.file, class_names[one.k], one.k, *numbers])
    return csv_bytes(CSV_COLUMNS, rows)


def _list_yolo(photos: Sequence[DetectedPhoto], class_names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a YOLO data set: class, center and size of each box as shares of the photo's sides."""
    yield "classes.txt", "".join(f"{name}\n" for name in class_names).encode()
    for photo in photos:
        height, width = photo.size
        lines = []
        for one in photo.objects:
            left, top, right, bottom = one.box
            numbers = ((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width)
            lines.append(" ".join(f"{number:.6f}" for number in (*numbers, (bottom - top) / height)))
        text = "".join(f"{one.k} {line}\n" for one, line in zip(photo.objects, lines, strict=True))
        yield f"labels/{PurePosixPath(photo.file).with_suffix('.txt')}", text.encode()


def _list_voc(photos: Sequence[DetectedPhoto], class_names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the files of Pascal VOC: its pixels are counted from 1, and a box includes its last pixels."""
    for photo in photos:
        path, root = PurePosixPath(photo.file), ElementTree.Element("annotation")
        size = {"width": photo.size[1], "height": photo.size[0], "depth": 3}
        _add(root, {"folder": path.parent.name, "filename": path.name, "size": size, "segmented": 0})
        for one in photo.objects:
            left, top, right, bottom = one.box
            edges = {
                "xmin": math.floor(left) + 1, "ymin": math.floor(top) + 1, "xmax": math.ceil(right),
                "ymax": math.ceil(bottom),
            }  # fmt: skip
            values = {
                "name": class_names[one.k],
                "pose": "Unspecified",
                "truncated": 0,
                "difficult": 0,
                "bndbox": edges,
            }
            _add(root, {"object": values})
        ElementTree.indent(root)
        yield str(path.with_suffix(".xml")), ElementTree.tostring(root, encoding="utf-8") + b"\n"


def _add(parent: ElementTree.Element, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        child = ElementTree.SubElement(parent, name)
        if isinstance(value, Mapping):
            _add(child, value)
        else:
            child.text = str(value)


def _list_masks(photos: Sequence[DetectedPhoto], class_names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    classes = {k for photo in photos for k in photo.probabilities}
    several = any(len(photo.probabilities) > 1 for photo in photos)
    safe = {k: re.sub(r"[^\w-]+", "_", class_names[k])[:60] for k in classes}
    folders = {k: f"{k}_{safe[k]}/" if several else "" for k in classes}
    for photo in photos:
        for k in photo.probabilities:
            mask = np.zeros(photo.size, np.bool_)
            for one in photo.objects:
                if one.k == k:
                    mask |= decode_runs(one.runs, photo.size)
            file = io.BytesIO()
            Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
            yield f"{folders[k]}{PurePosixPath(photo.file).with_suffix('.png')}", file.getvalue()


_FOLDERS: Mapping[str, Callable[[Sequence[DetectedPhoto], Sequence[str]], Iterator[tuple[str, bytes]]]] = {
    "yolo": _list_yolo,
    "voc": _list_voc,
    "masks": _list_masks,
}
