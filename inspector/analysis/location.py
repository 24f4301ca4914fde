"""Where on the photo the evidence of a class map is: points, boxes and a mask, in pixels of the photo.

The map is resampled over the photo as in figures: interpolated between the centers of the cells, zero outside the crop.

    mask    every pixel whose value is positive and above a threshold
    boxes   one around each connected part of the mask; pixels are connected by an edge or a corner
    points  the centers of the cells that are local maxima and above the threshold

The threshold is a share of the largest value of the resampled map (Zhou et al., CVPR 2016, use 0.2), or a number of
logits per cell, which is the same for all photos. The first box, around the part with the most pixels, is the box that
weakly supervised localization evaluates (Choe et al., CVPR 2020); one box per part is what instance segmentation from
class maps starts with (Ahn et al., "IRN", CVPR 2019).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.morphology import local_maxima

from inspector.analysis.localization import Mask
from inspector.errors import LocalizationError
from inspector.explain.grid import cell_extents, fit_size, require_place, resample_on_photo
from inspector.explain.receptive_field import ReceptiveField
from inspector.images.preprocessing import Box, Crop

if TYPE_CHECKING:
    from inspector.explain.class_maps import ClassMaps

Unit = Literal["share", "logits"]

DEFAULT_THRESHOLD = 0.3
_MAX_SIDE = 2048  # longer side at which a map is resampled; the edges of boxes on larger photos are rounded to this


@dataclass(frozen=True)
class Point:
    """A local maximum of a class map: the center of its cell, or of several neighbors with the same value."""

    x: float  # in pixels of the photo; the outer edge of the first pixel is 0
    y: float
    value: float  # of the cell, in logits


@dataclass(frozen=True)
class Region:
    """A connected part of the photo where the map is above the threshold."""

    box: Box  # left, top, right, bottom in pixels of the photo
    area: float  # number of pixels of the photo
    largest: float  # largest value of the map in it, in logits per cell
    share: float  # of all positive evidence on the photo, 0-1


@dataclass(frozen=True, eq=False)
class Location:
    """Where a class map is above a threshold."""

    size: tuple[int, int]  # (height, width) of the photo
    values: NDArray[np.float32]  # the map over the photo, in logits per cell; at most 2048 pixels on its longer side
    threshold: float  # in logits per cell
    points: tuple[Point, ...]  # local maxima above the threshold, the highest first
    regions: tuple[Region, ...]  # connected parts, that with the most pixels first
    labels: NDArray[np.int32]  # number of the region of each pixel of `values`, from 1; 0 outside of all

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The box (left, top, right, bottom) of each region, in pixels of the photo, the largest region first."""
        return tuple(region.box for region in self.regions)

    @cached_property
    def mask(self) -> Mask:
        """(H, W) of the photo, true where the map is above the threshold."""
        return self._enlarge(self.labels > 0)

    def region_mask(self, number: int) -> Mask:
        """Return the mask (H, W) of one region, numbered as in `regions`."""
        return self._enlarge(self.labels == number + 1)

    @property
    def reason(self) -> str | None:
        """Why nothing is found, in one sentence; None if something is."""
        if self.regions:
            return None
        largest = float(self.values.max())
        if largest <= 0:
            return "No value of the map is positive, so there is no evidence to locate."
        return f"The largest value, {largest:.3g} logits per cell, is not above the threshold of {self.threshold:.3g}."

    def _enlarge(self, mask: Mask) -> Mask:
        if mask.shape == self.size:
            return mask
        height, width = self.size
        return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT) > 0


def locate_class(
    maps: "ClassMaps",
    k: str | int,
    against: str | int | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    unit: Unit = "share",
    dense: bool = False,
) -> Location:
    """Locate the evidence for a class on the photo.

    Args:
        maps: class maps of a photo. Where a finer grid was computed, the evidence is located on it.
        k: name or index of the class.
        against: name or index of a class to contrast with, or "average" for the average of all classes.
        threshold: pixels above it are found. A share of the largest value, from 0 to below 1, or logits per cell.
        unit: "share" or "logits".
        dense: position scores instead of contributions to the logit.

    Returns:
        Location with ``points``, ``boxes`` and ``mask``; empty, with its ``reason``, if no value is positive and above
        the threshold.

    Raises:
        ClassError: there is no such class.
        LocalizationError: the threshold cannot be used.
        PlaceError: the place of the cells on the photo is unknown.
    """
    values = maps.class_map(k, against, dense, finer=True).values.float().numpy(force=True)
    return locate_map(values, maps.view.crop, maps.shown_field, threshold, unit)


def locate_map(
    values: ArrayLike,
    crop: Crop,
    field: ReceptiveField,
    threshold: float = DEFAULT_THRESHOLD,
    unit: Unit = "share",
) -> Location:
    """Locate the evidence of a map on the photo.

    Args:
        values: map (h, w), signed.
        crop: where the network's input lies on the photo.
        field: receptive fields of the cells.
        threshold: as for `locate_class`.
        unit: "share" or "logits".

    Raises:
        LocalizationError: the threshold cannot be used.
        PlaceError: the place of the cells is unknown.
    """
    (location,) = locate_map_at(values, crop, field, (threshold,), unit)
    return location


def locate_map_at(
    values: ArrayLike, crop: Crop, field: ReceptiveField, thresholds: Sequence[float], unit: Unit = "share"
) -> Iterator[Location]:
    """Locate the evidence of a map at several thresholds, one after the other; the map is resampled once.

    The arguments and errors are those of `locate_map`.
    """
    for threshold in thresholds:
        check_threshold(threshold, unit)
    require_place(field)
    size = crop.photo_size
    drawn_size = size if max(size) <= _MAX_SIDE else fit_size(size, _MAX_SIDE)
    drawn = resample_on_photo(values, crop, field, drawn_size, smooth=True)
    total = float(np.maximum(drawn, 0).sum(dtype=np.float64))
    for threshold in thresholds:
        lowest = threshold * max(0.0, float(drawn.max())) if unit == "share" else threshold
        regions, labels = _find_regions(drawn, lowest, total, size)
        points = _find_points(np.asarray(values, np.float32), crop, field, lowest) if regions else ()
        yield Location(size, drawn, lowest, points, regions, labels)


def check_threshold(threshold: float, unit: Unit) -> None:
    """Raise LocalizationError if a threshold cannot be used."""
    if unit not in get_args(Unit):
        raise LocalizationError(f"Expected the unit of the threshold as share or logits; got {unit!r}.")
    if not 0 <= threshold < (1 if unit == "share" else math.inf):
        allowed = "a share of the largest value from 0 to below 1" if unit == "share" else "a number of 0 or more"
        raise LocalizationError(f"Expected the threshold as {allowed}; got {threshold}.")


def _find_regions(
    drawn: NDArray[np.float32], lowest: float, total: float, size: Sequence[int]
) -> tuple[tuple[Region, ...], NDArray[np.int32]]:
    """Return the connected parts above a threshold, the largest first, and the number of the part of each pixel.

    `total` is the sum of all positive values.
    """
    down, across = (length / drawn_length for length, drawn_length in zip(size, drawn.shape, strict=True))
    # Only in the part of the photo that holds all of them: it is often small, and connecting takes most of the time.
    above, labels = drawn > lowest, np.zeros(drawn.shape, np.int32)
    rows, columns = (np.flatnonzero(above.any(axis)) for axis in (1, 0))
    if not len(rows):
        return (), labels
    y, x = int(rows[0]), int(columns[0])
    part = np.s_[y : rows[-1] + 1, x : columns[-1] + 1]
    count, found, stats, _ = cv2.connectedComponentsWithStats(above[part].astype(np.uint8), connectivity=8)
    order = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")
    numbers = np.zeros(count, np.int32)
    numbers[order] = np.arange(1, count)
    regions = []
    for number in order:
        left, top, width, height, area = (int(value) for value in stats[number])
        window = np.s_[top : top + height, left : left + width]
        inside = drawn[part][window][found[window] == number]  # positive, because no threshold is below 0
        left, top = left + x, top + y
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        share = float(inside.sum(dtype=np.float64)) / total
        regions.append(Region(box, area * down * across, float(inside.max()), share))
    labels[part] = numbers[found]
    return tuple(regions), labels


def _find_points(values: NDArray[np.float32], crop: Crop, field: ReceptiveField, lowest: float) -> tuple[Point, ...]:
    """Find the cells that are local maxima. Between the centers of cells, an interpolated map has no maximum."""
    rows, columns = cell_extents(values.shape, crop, field)
    visible = np.outer([row.end > row.start for row in rows], [column.end > column.start for column in columns])
    # A border of one cell, because cells at the edge may be maxima too.
    limited = np.pad(np.where(visible, values, -np.inf), 1, constant_values=-np.inf)
    highest = local_maxima(limited, connectivity=2)[1:-1, 1:-1] & (values > lowest) & visible
    count, numbers = cv2.connectedComponents(highest.astype(np.uint8), connectivity=8)
    points = []
    for number in range(1, count):
        y, x = np.nonzero(numbers == number)
        across = float(np.mean([min(max(columns[i].center, columns[i].start), columns[i].end) for i in x]))
        down = float(np.mean([min(max(rows[i].center, rows[i].start), rows[i].end) for i in y]))
        points.append(Point(across, down, float(values[y[0], x[0]])))
    return tuple(sorted(points, key=lambda point: -point.value))
