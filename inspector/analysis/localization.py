"""Is the evidence on the object? Objects of photos, known from boxes or masks, and the class maps drawn over them.

Evidence is the positive part of a class map, in logits, drawn over the whole photo as figures draw it: smooth between
the centres of the cells, zero outside what the network saw.

    share = sum of the evidence inside the object / sum of all evidence

The pointing game asks only where the map is highest (Zhang et al., "Top-down Neural Attention by Excitation Backprop",
IJCV 2018).
"""

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from inspector.errors import LocalizationError, translate_errors
from inspector.explain.class_maps import ClassMaps
from inspector.explain.grid import fit_size, resample_on_photo
from inspector.explain.tracing.receptive_field import ReceptiveField
from inspector.images.photo import MAX_BYTES, MAX_PIXELS
from inspector.images.preprocessing import Box, Crop

Mask: TypeAlias = NDArray[np.bool_]  # (H, W), true inside the object

_SPELLINGS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
_SLACK = 2  # pixels that a box may reach out of its photo: annotators round, and some count from 1
_OBJECT = (1, 255)  # 1 in trimaps (2 is background, 3 the border) and 0/1 masks, 255 in 0/255 masks
_SIDE = 400  # pixels of the longer side: cells are larger than what is lost


@dataclass(frozen=True)
class Regions:
    """Where the objects of photos are; a mask tells more than boxes and goes before them."""

    boxes: Mapping[str, Sequence[Box]]  # by the photo's file, relative to the folder of the images
    masks: Path | None = None  # a folder with a/b.png for a photo a/b.jpg


@dataclass(frozen=True)
class EvidenceInside:
    """How much of one class map's evidence is inside the object."""

    share: float | None  # of the evidence, 0-1; None where there is none: no value of the map is positive
    pointing: bool  # whether the highest value is inside; false where there is no evidence


class MeanEvidenceInside(TypedDict):
    """Means over images, as run.json holds them."""

    share: float | None  # over the images that have evidence
    pointing: float  # over all images
    images: int


def read_regions(path: Path) -> Regions:
    """The objects in a CSV of boxes, or those in a folder of masks; LocalisationError if it is neither."""
    if not path.is_dir():
        return Regions(read_boxes(path))
    if not any(path.rglob("*.png")):
        raise LocalizationError(f"No mask in {path}: a PNG named as its photo, a/b.png for a/b.jpg, would do.")
    return Regions({}, path)


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """The boxes of each file: a CSV with the columns file and x1, y1, x2, y2 or xmin, ymin, xmax, ymax.

    Pixels of the upright photo; several rows of a file are several objects, and other columns are not read. Raises
    LocalisationError.
    """
    boxes: dict[str, list[Box]] = {}
    unreadable = f"Cannot read {path} ({{reason}}); a CSV of boxes would do."
    with translate_errors(LocalizationError, unreadable), path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        edges = _find_edge_columns(rows.fieldnames or (), path)
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if not row["file"]:
                raise LocalizationError(f"{where} names no file; a photo's, relative to the images, would do.")
            boxes.setdefault(PurePosixPath(row["file"]).as_posix(), []).append(_parse_box(row, edges, where))
    if not boxes:
        raise LocalizationError(f"{path} has no box; a row for each object would do.")
    return boxes


def _find_edge_columns(columns: Sequence[str], path: Path) -> tuple[str, ...]:
    for spelling in _SPELLINGS:
        if {"file", *spelling} <= set(columns):
            return spelling
    raise LocalizationError(
        f"{path} has the columns {', '.join(columns) or '(none)'}; file and x1, y1, x2, y2 or file and "
        "xmin, ymin, xmax, ymax would do."
    )


def _parse_box(row: Mapping[str, str | None], edges: Sequence[str], where: str) -> Box:
    try:
        left, top, right, bottom = (float(row[edge] or "") for edge in edges)
    except ValueError:
        left = math.nan
    if not math.isfinite(left) or not all(map(math.isfinite, (top, right, bottom))):
        got = ", ".join(str(row[edge] or "") for edge in edges)
        raise LocalizationError(f"{where}: a box is four numbers, {', '.join(edges)}; got {got}.")
    if right <= left or bottom <= top:
        raise LocalizationError(
            f"{where}: the box {left:g}, {top:g}, {right:g}, {bottom:g} is empty; the right edge beyond the left and "
            "the lower beyond the upper would do."
        )
    return left, top, right, bottom


def find_object_mask(regions: Regions, file: str, size: tuple[int, int]) -> Mask | None:
    """The object's pixels in a photo of a size (H, W): its mask, or else every pixel that one of its boxes touches.

    `file` is relative to the folder of the images, with / between folders. None where nothing is known of the photo.
    Raises LocalisationError for a mask that cannot be read or is not the photo's, and for a box outside the photo.
    """
    if regions.masks is not None:
        path = regions.masks / PurePosixPath(file).with_suffix(".png")
        if path.is_file():
            return _fit_mask(_read_mask(path), size, path)
    boxes = regions.boxes.get(file)
    if boxes is None:
        return None
    height, width = size
    mask = np.zeros(size, np.bool_)
    for left, top, right, bottom in boxes:
        if min(left, top) < -_SLACK or max(right - width, bottom - height, left - width + 1, top - height + 1) > _SLACK:
            raise LocalizationError(
                f"{file} has {width} x {height} pixels, but a box {left:g}, {top:g}, {right:g}, {bottom:g}; boxes in "
                "pixels of the photo, inside it, would do."
            )
        mask[_find_touched_pixels(top, bottom, height), _find_touched_pixels(left, right, width)] = True
    return mask


def _find_touched_pixels(start: float, end: float, length: int) -> slice:
    """At least one pixel, even of a box that lies in the slack."""
    return slice(min(max(math.floor(start), 0), length - 1), max(math.ceil(end), 1))


def _read_mask(path: Path) -> Mask:
    with translate_errors(LocalizationError, f"Cannot read the mask {path} ({{reason}}); a PNG would do."):
        if (size := path.stat().st_size) > MAX_BYTES:
            raise LocalizationError(
                f"The mask {path} has {size / 1e6:.0f} MB; at most {MAX_BYTES / 1e6:.0f} MB are read."
            )
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise LocalizationError(
                    f"The mask {path} has {image.width} x {image.height} pixels; at most {MAX_PIXELS / 1e6:.0f} "
                    "megapixels are read."
                )
            if image.mode not in ("1", "L", "P"):
                raise LocalizationError(
                    f"The mask {path} has pixels of kind {image.mode}; one number from 0 to 255 a pixel would do."
                )
            # Of a palette image these are the indices, and no colours.
            values = np.asarray(image)
    mask: Mask = np.isin(values, _OBJECT)
    if not mask.any():
        listed = ", ".join(str(int(value)) for value in np.unique(values)[:8])
        raise LocalizationError(
            f"The mask {path} has no object: pixels of 1 or 255 would do, it has {listed}; remove it if nothing "
            "is known."
        )
    return mask


def _fit_mask(mask: Mask, size: tuple[int, int], path: Path) -> Mask:
    """A mask of another size takes its photo's if its shape is the photo's, but for the rounding of either."""
    down, across = (length / wanted for length, wanted in zip(mask.shape, size, strict=True))
    if abs(mask.shape[0] - size[0] * across) > max(1, across) and abs(mask.shape[1] - size[1] * down) > max(1, down):
        raise LocalizationError(
            f"The mask {path} has {mask.shape[1]} x {mask.shape[0]} pixels, its photo {size[1]} x {size[0]}; "
            "a mask of the photo's size would do."
        )
    return _resize_mask(mask, size)


def _resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """The mask at another size (H, W): each pixel is what lies at its centre."""
    rows, columns = (
        ((np.arange(length) + 0.5) * old / length).astype(int) for old, length in zip(mask.shape, size, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def measure_evidence_inside(maps: ClassMaps, k: str | int, mask: Mask, tolerance: float = 0) -> EvidenceInside:
    """How much of a class's evidence is inside the object; `mask` is (H, W) of the photo.

    The pointing game counts a highest value up to `tolerance` pixels of the photo beside the object too: none here,
    15 in Zhang et al. Raises LocalisationError for class maps that have no photo, and for a mask of another size.
    """
    view = maps.view
    if view is None:
        raise LocalizationError("These class maps came from a tensor: there is no photo that has objects.")
    if mask.shape != view.photo.size:
        raise LocalizationError(f"The mask is {mask.shape}, the photo {view.photo.size}; one of the photo would do.")
    values = maps.values[maps.classifier.class_index(k)].float().numpy(force=True)
    return measure_evidence_inside_map(values, view.crop, maps.classifier.receptive_field, mask, tolerance)


def measure_evidence_inside_map(
    values: ArrayLike, crop: Crop, field: ReceptiveField, mask: Mask, tolerance: float = 0
) -> EvidenceInside:
    """The same of a map (h, w) that was kept."""
    height, width = fit_size(crop.photo_size, min(_SIDE, max(crop.photo_size)))
    drawn = resample_on_photo(values, crop, field, (height, width), smooth=True)
    evidence = np.maximum(drawn, 0).astype(np.float64)
    if not evidence.any():
        return EvidenceInside(None, False)
    mask = _resize_mask(mask, (height, width))
    distance = _measure_distance(mask, _find_highest(drawn)) * crop.photo_size[0] / height
    return EvidenceInside(float(evidence[mask].sum() / evidence.sum()), distance <= tolerance)


def _find_highest(drawn: NDArray[np.float32]) -> tuple[int, int]:
    """The highest pixel; of equals the one nearest to the middle of all, not the first, which is often a corner."""
    places = np.argwhere(drawn == drawn.max())
    y, x = places[np.abs(places - places.mean(0)).sum(1).argmin()]
    return int(y), int(x)


def _measure_distance(mask: Mask, place: tuple[int, int]) -> float:
    """From a pixel to the nearest inside the mask; infinite where the mask is empty."""
    offsets = np.argwhere(mask) - place
    return float(np.hypot(offsets[:, 0], offsets[:, 1]).min(initial=math.inf))


def average_evidence_inside(evidence: Iterable[EvidenceInside | None]) -> MeanEvidenceInside | None:
    """Means over the images whose objects are known; None where there is no such image."""
    known = [inside for inside in evidence if inside is not None]
    if not known:
        return None
    shares = [inside.share for inside in known if inside.share is not None]
    return {
        "share": statistics.fmean(shares) if shares else None,
        "pointing": statistics.fmean(inside.pointing for inside in known),
        "images": len(known),
    }
