"""Measure how much of a class map's evidence is inside the object, given as boxes or as a mask.

Evidence is the positive part of a class map in logits, resampled over the whole photo as in figures: interpolated
between the centers of the cells, zero outside the crop.

    share = sum of the evidence inside the object / sum of all evidence

The pointing game tests only whether the highest value is inside (Zhang et al., "Top-down neural attention by excitation
backprop", ECCV 2016; IJCV 2018).
"""

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from inspector.errors import LocalizationError, translate_errors
from inspector.explain.grid import fit_size, resample_on_photo
from inspector.explain.receptive_field import ReceptiveField
from inspector.images.decode import MAX_BYTES, MAX_PIXELS
from inspector.images.preprocessing import Box, Crop

if TYPE_CHECKING:
    from inspector.explain.class_maps import ClassMaps

Mask: TypeAlias = NDArray[np.bool_]  # (H, W), true inside the object

_SPELLINGS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
_SLACK = 2  # pixels by which a box may exceed its photo: annotators round, and some count from 1
_OBJECT = (1, 255)  # object pixels: 1 in trimaps (2: background, 3: border) and in 0/1 masks, 255 in 0/255 masks
_BORDER = 3  # of trimaps
_SIDE = 400  # longer side, in pixels, at which evidence is summed: a cell covers many pixels of this size


@dataclass(frozen=True)
class Regions:
    """Objects on photos. If a photo has a mask, its boxes are not used."""

    boxes: Mapping[str, Sequence[Box]]  # by the path of the photo, relative to the image folder
    masks: Path | None = None  # folder with a/b.png for the photo a/b.jpg


@dataclass(frozen=True)
class EvidenceInside:
    """How much of the evidence of one class map is inside the object."""

    share: float | None  # share of the evidence inside, 0-1; None if no value of the map is positive
    pointing: bool  # whether the highest value is inside; false if there is no evidence


class MeanEvidenceInside(TypedDict):
    """Means of `EvidenceInside` over images, as a dict with the keys that run.json stores."""

    share: float | None  # mean share, 0-1, of the images that have evidence; None if there are none
    pointing: float  # fraction of all images whose highest value is inside, 0-1
    images: int  # number of images


def read_regions(path: Path) -> Regions:
    """Read the objects of photos from a CSV of boxes or a folder of masks.

    Raises:
        LocalizationError: the path is neither a CSV of boxes nor a folder of PNG masks.
    """
    if not path.is_dir():
        return Regions(read_boxes(path))
    if not any(path.rglob("*.png")):
        raise LocalizationError(f"No mask in {path}. Use PNG files named as the photos, a/b.png for a/b.jpg.")
    return Regions({}, path)


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """Read the boxes of each photo from a CSV file.

    Args:
        path: CSV with the columns file and x1, y1, x2, y2 or xmin, ymin, xmax, ymax, in pixels of the upright photo.
            Several rows with the same file are several objects. Other columns are ignored.

    Returns:
        Boxes (left, top, right, bottom) of each photo, by its path in the CSV.

    Raises:
        LocalizationError: the file cannot be read, or is not a CSV of boxes.
    """
    boxes: dict[str, list[Box]] = {}
    unreadable = f"Cannot read {path} ({{reason}}). Use a CSV of boxes."
    with translate_errors(LocalizationError, unreadable), path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or ()
        edges = next((spelling for spelling in _SPELLINGS if {"file", *spelling} <= set(columns)), None)
        if edges is None:
            raise LocalizationError(
                f"{path} has the columns {', '.join(columns) or '(none)'}. Expected file and x1, y1, x2, y2, or file "
                "and xmin, ymin, xmax, ymax."
            )
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if not row["file"]:
                raise LocalizationError(f"{where} names no file. Use a path relative to the folder of the images.")
            boxes.setdefault(PurePosixPath(row["file"]).as_posix(), []).append(_parse_box(row, edges, where))
    if not boxes:
        raise LocalizationError(f"{path} has no box. Use one row per object.")
    return boxes


def _parse_box(row: Mapping[str, str | None], edges: Sequence[str], where: str) -> Box:
    texts = [row[edge] or "" for edge in edges]
    try:
        box = [float(text) for text in texts]
    except ValueError:
        box = [math.nan]
    if not all(map(math.isfinite, box)):
        raise LocalizationError(f"{where}: expected four numbers, {', '.join(edges)}; got {', '.join(texts)}.")
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        raise LocalizationError(
            f"{where}: the box {left:g}, {top:g}, {right:g}, {bottom:g} is empty. The right edge has to be larger "
            "than the left, and the lower edge larger than the upper."
        )
    return left, top, right, bottom


def find_object_mask(regions: Regions, file: str, size: tuple[int, int]) -> Mask | None:
    """Find the pixels of the object on a photo: its mask, or every pixel that one of its boxes touches.

    Args:
        regions: objects of all photos.
        file: path of the photo, relative to the image folder, with / between folders.
        size: (height, width) of the photo in pixels.

    Returns:
        Mask (H, W); None if no object of the photo is known.

    Raises:
        LocalizationError: the mask cannot be read or does not fit the photo, or a box is outside the photo.
    """
    if regions.masks is not None:
        path = regions.masks / PurePosixPath(file).with_suffix(".png")
        if path.is_file():
            return _fit_mask(np.isin(_read_mask_values(path), _OBJECT), size, path)
    boxes = regions.boxes.get(file)
    if boxes is None:
        return None
    height, width = size
    mask = np.zeros(size, np.bool_)
    for left, top, right, bottom in boxes:
        if min(left, top) < -_SLACK or max(right - width, bottom - height, left - width + 1, top - height + 1) > _SLACK:
            raise LocalizationError(
                f"{file} has {width} x {height} pixels, but a box {left:g}, {top:g}, {right:g}, {bottom:g}. Use "
                "boxes inside the photo, in its pixels."
            )
        mask[_find_touched_pixels(top, bottom, height), _find_touched_pixels(left, right, width)] = True
    return mask


def find_border(regions: Regions, file: str, size: tuple[int, int]) -> Mask | None:
    """Find the pixels of a photo that its trimap calls border: neither object nor background.

    The arguments and errors are those of `find_object_mask`.

    Returns:
        Mask (H, W); None if the photo has no mask, or one without a border.
    """
    path = None if regions.masks is None else regions.masks / PurePosixPath(file).with_suffix(".png")
    if path is None or not path.is_file():
        return None
    values = _read_mask_values(path)
    is_trimap = set(np.unique(values).tolist()) <= {1, 2, _BORDER}
    return _fit_mask(values == _BORDER, size, path) if is_trimap and (values == _BORDER).any() else None


def _find_touched_pixels(start: float, end: float, length: int) -> slice:
    """Return the pixels that an interval touches; for an interval just outside the photo, the nearest pixel."""
    return slice(min(max(math.floor(start), 0), length - 1), max(math.ceil(end), 1))


def _read_mask_values(path: Path) -> NDArray[np.uint8]:
    """Read a mask whose pixels have numbers, of which one or more are those of an object."""
    with translate_errors(LocalizationError, f"Cannot read the mask {path} ({{reason}}). Use a PNG file."):
        if (size := path.stat().st_size) > MAX_BYTES:
            raise LocalizationError(
                f"The mask {path} has {size / 1e6:.0f} MB. At most {MAX_BYTES / 1e6:.0f} MB are read."
            )
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise LocalizationError(
                    f"The mask {path} has {image.width} x {image.height} pixels. At most {MAX_PIXELS / 1e6:.0f} "
                    "megapixels are read."
                )
            if image.mode not in ("1", "L", "P"):
                raise LocalizationError(
                    f"The mask {path} has pixels of mode {image.mode}. Expected one number from 0 to 255 per pixel."
                )
            # For a palette image, the values are indices and not colors.
            values = np.asarray(image)
    if not np.isin(values, _OBJECT).any():
        listed = ", ".join(str(int(value)) for value in np.unique(values)[:8])
        raise LocalizationError(
            f"The mask {path} has no object: expected pixels of 1 or 255, got {listed}. Remove the file if the object "
            "is not known."
        )
    return values


def _fit_mask(mask: Mask, size: tuple[int, int], path: Path) -> Mask:
    """Resize a mask to its photo. Raises an error if the aspect ratios differ by more than the rounding of sizes."""
    down, across = (length / wanted for length, wanted in zip(mask.shape, size, strict=True))
    if abs(mask.shape[0] - size[0] * across) > max(1, across) and abs(mask.shape[1] - size[1] * down) > max(1, down):
        raise LocalizationError(
            f"The mask {path} has {mask.shape[1]} x {mask.shape[0]} pixels, its photo {size[1]} x {size[0]}. "
            "Use a mask of the size of the photo."
        )
    return resize_mask(mask, size)


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Resize a mask to (H, W): each pixel takes the value at its center."""
    rows, columns = (
        ((np.arange(length) + 0.5) * old / length).astype(int) for old, length in zip(mask.shape, size, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def measure_evidence_inside(maps: "ClassMaps", k: str | int, mask: Mask, tolerance: float = 0) -> EvidenceInside:
    """Measure how much of the evidence for a class is inside the object.

    Args:
        maps: class maps of a photo.
        k: name or index of the class.
        mask: (H, W) of the photo, true inside the object.
        tolerance: distance in pixels of the photo by which the highest value may be outside the object in the pointing
            game. Zhang et al. use 15.

    Raises:
        LocalizationError: the mask has another size.
        PlaceError: the place of the cells is unknown.
    """
    view = maps.view
    if mask.shape != view.photo.size:
        raise LocalizationError(
            f"The mask is {mask.shape}, the photo {view.photo.size}. Use a mask of the size of the photo."
        )
    values = maps.values[maps.classifier.class_index(k)].float().numpy(force=True)
    return measure_evidence_inside_map(values, view.crop, maps.classifier.receptive_field, mask, tolerance)


def measure_evidence_inside_map(
    values: ArrayLike, crop: Crop, field: ReceptiveField, mask: Mask, tolerance: float = 0
) -> EvidenceInside:
    """Measure how much of the evidence of a stored class map is inside the object.

    Args:
        values: class map (h, w) in logits.
        crop: where the network's input lies on the photo.
        field: receptive fields of the cells.
        mask: (H, W) of the photo, true inside the object.
        tolerance: distance in pixels of the photo, as in `measure_evidence_inside`.
    """
    share, distance = measure_share_and_distance(values, crop, field, mask)
    return EvidenceInside(share, share is not None and distance <= tolerance)


def measure_share_and_distance(
    values: ArrayLike, crop: Crop, field: ReceptiveField, mask: Mask
) -> tuple[float | None, float]:
    """Return the share of the evidence inside the object, and how far from the object the highest value is.

    The share is None if no value is positive. The distance is in pixels of the photo: 0 inside the object, infinite
    without evidence.
    """
    height, width = fit_size(crop.photo_size, min(_SIDE, max(crop.photo_size)))
    drawn = resample_on_photo(values, crop, field, (height, width), smooth=True)
    evidence = np.maximum(drawn, 0).astype(np.float64)
    if not evidence.any():
        return None, math.inf
    mask = resize_mask(mask, (height, width))
    distance = _measure_distance(mask, drawn) * crop.photo_size[0] / height
    return float(evidence[mask].sum() / evidence.sum()), distance


def _measure_distance(mask: Mask, drawn: NDArray[np.float32]) -> float:
    """Measure the distance from the pixel with the highest value to the mask; infinite if the mask is empty."""
    places = np.argwhere(drawn == drawn.max())
    # Of several highest pixels, take the one nearest to their mean, because the first is often in a corner.
    highest = places[np.abs(places - places.mean(0)).sum(1).argmin()]
    offsets = np.argwhere(mask) - highest
    return float(np.hypot(offsets[:, 0], offsets[:, 1]).min(initial=math.inf))


def average_evidence_inside(evidence: Iterable[EvidenceInside | None]) -> MeanEvidenceInside | None:
    """Average `EvidenceInside` over the images whose objects are known; return None if there is no such image."""
    known = [inside for inside in evidence if inside is not None]
    if not known:
        return None
    shares = [inside.share for inside in known if inside.share is not None]
    return {
        "share": statistics.fmean(shares) if shares else None,
        "pointing": statistics.fmean(inside.pointing for inside in known),
        "images": len(known),
    }
