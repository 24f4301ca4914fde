"""Read the objects on photos with their classes: a CSV of boxes, a folder of masks, or COCO JSON.

`localization.read_regions` reads objects without classes. Here each object may name its class, so that a photo with
objects of several classes can be measured for each of them.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from inspector.analysis.localization import Mask, Regions, find_border, find_object_mask, read_boxes, read_regions
from inspector.entries import Entries, parse_json
from inspector.errors import LocalizationError, translate_errors
from inspector.images.preprocessing import Box
from inspector.printable import make_printable

_CLASS_COLUMNS = ("object", "class", "label")  # of a CSV; the first that there is names the class of an object
_MAX_JSON = 1_000_000_000  # bytes


@dataclass(frozen=True)
class Annotation:
    """One object on a photo."""

    box: Box
    name: str | None = None  # class of the object; None: that of its photo
    outline: Any = None  # "segmentation" of COCO: polygons, or run lengths; None if only the box is known


@dataclass(frozen=True, eq=False)
class Annotations:
    """The objects of all photos, by the path of the photo relative to the image folder, with / between folders."""

    objects: Mapping[str, Sequence[Annotation]] = field(default_factory=dict)
    masks: Path | None = None  # folder with a/b.png for the photo a/b.jpg


@dataclass(frozen=True, eq=False)
class PhotoObjects:
    """All objects of one class on a photo."""

    boxes: tuple[Box, ...]  # in pixels of the photo
    mask: Mask  # (H, W), true inside the objects
    is_outlined: bool  # whether the mask follows the outlines of the objects; else it is their boxes
    border: Mask | None = None  # (H, W), true where it is not known what is object and what is background


def read_annotations(path: Path) -> Annotations:
    """Read the objects of photos.

    Args:
        path: a CSV of boxes, as `read_boxes` takes it, whose column `object`, `class` or `label` names the class of
            each object; a folder of PNG masks; or a JSON file in the format of COCO's instances.

    Raises:
        LocalizationError: the path cannot be read, or is none of these.
    """
    if path.suffix.lower() == ".json":
        return Annotations(_read_coco(path))
    if path.is_dir():
        return Annotations({}, read_regions(path).masks)
    names = _read_names(path) if path.is_file() else {}
    objects = {
        file: [Annotation(box, name) for box, name in zip(boxes, names.get(file) or [None] * len(boxes), strict=True)]
        for file, boxes in read_boxes(path).items()
    }
    return Annotations(objects)


def _read_names(path: Path) -> dict[str, list[str | None]]:
    """Read the class of each object, by photo; empty if the CSV has no column for it."""
    names: dict[str, list[str | None]] = {}
    unreadable = f"Cannot read {path} ({{reason}}). Use a CSV of boxes."
    with translate_errors(LocalizationError, unreadable), path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        column = next((one for one in _CLASS_COLUMNS if one in (rows.fieldnames or ())), None)
        for row in rows if column is not None else ():
            name = make_printable(row[column] or "")
            names.setdefault(PurePosixPath(row["file"] or "").as_posix(), []).append(name or None)
    return names


def _read_coco(path: Path) -> dict[str, list[Annotation]]:
    expected = "Use a JSON file with images, annotations and categories, as COCO's instances have them"
    missing = f"{path} has no {{reason}}. {expected}."
    problem = f"Cannot read {path} ({{reason}}). {expected}."
    with translate_errors(LocalizationError, problem, {KeyError: missing}):
        if path.stat().st_size > _MAX_JSON:
            raise ValueError(f"it has more than {_MAX_JSON / 1e6:.0f} MB")
        content = Entries(parse_json(path.read_bytes()))
        categories = {one.whole("id"): make_printable(one.text("name")) for one in content.objects("categories")}
        files = {one.whole("id"): PurePosixPath(one.text("file_name")).as_posix() for one in content.objects("images")}
        objects: dict[str, list[Annotation]] = {file: [] for file in files.values()}
        for number, one in enumerate(content.objects("annotations")):
            left, top, width, height = one.numbers("bbox", (4,))
            if width <= 0 or height <= 0:
                raise ValueError(f"the bbox of annotation {number} is empty")
            image, category = one.whole("image_id"), one.whole("category_id")
            if image not in files or category not in categories:
                raise ValueError(f"annotation {number} has an image_id or category_id that is not listed")
            box = (left, top, left + width, top + height)
            outline = one.values.get("segmentation") or None
            objects[files[image]].append(Annotation(box, categories[category], outline))
    return objects


def find_photo_objects(
    annotations: Annotations, file: str, size: tuple[int, int], label: str | None
) -> dict[str | None, PhotoObjects]:
    """Find the objects on a photo, by class.

    Args:
        annotations: objects of all photos.
        file: path of the photo, relative to the image folder, with / between folders.
        size: (height, width) of the photo in pixels.
        label: class of the objects that name none; None if it is not known.

    Returns:
        The objects of each class; empty if the photo has none.

    Raises:
        LocalizationError: a mask cannot be read or does not fit the photo, or a box is outside the photo.
    """
    if annotations.masks is not None:
        regions = Regions({}, annotations.masks)
        mask = find_object_mask(regions, file, size)
        if mask is None:
            return {}
        return {label: PhotoObjects((find_box_of_mask(mask),), mask, True, find_border(regions, file, size))}
    by_class: dict[str | None, list[Annotation]] = {}
    for one in annotations.objects.get(file, ()):
        by_class.setdefault(one.name or label, []).append(one)
    return {name: _join_objects(objects, file, size) for name, objects in by_class.items()}


def _join_objects(objects: Sequence[Annotation], file: str, size: tuple[int, int]) -> PhotoObjects:
    boxes = tuple(one.box for one in objects)
    mask = find_object_mask(Regions({file: boxes}), file, size)
    assert mask is not None
    if any(one.outline is None for one in objects):
        return PhotoObjects(boxes, mask, False)
    return PhotoObjects(boxes, np.logical_or.reduce([_draw_outline(one.outline, file, size) for one in objects]), True)


def find_box_of_mask(mask: Mask) -> Box:
    """Return the box (left, top, right, bottom) around all pixels of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _draw_outline(outline: Any, file: str, size: tuple[int, int]) -> Mask:
    """Draw the "segmentation" of COCO: polygons [x, y, x, y, ...], or run lengths {"size", "counts"} by column."""
    expected = "Expected polygons, or run lengths as a list of numbers"
    with translate_errors(LocalizationError, f"The segmentation of an object on {file} is not usable. {expected}."):
        if isinstance(outline, dict):
            counts = np.array(outline["counts"], np.int64)
            if tuple(outline["size"]) != size or counts.sum() != size[0] * size[1] or (counts < 0).any():
                raise LocalizationError(
                    f"The segmentation of an object on {file} is of {outline['size']}, the photo of {list(size)} "
                    "(height, width). Use run lengths of the photo's size."
                )
            values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
            return np.asarray(values.reshape(size[::-1]).T)
        canvas = np.zeros(size, np.uint8)
        polygons = [np.array(polygon, np.float64).reshape(-1, 2) for polygon in outline]
        # Corners of pixels are at whole numbers there, and the centers of pixels here.
        cv2.fillPoly(canvas, [np.round(polygon - 0.5).astype(np.int32) for polygon in polygons], 1)
        return canvas > 0
