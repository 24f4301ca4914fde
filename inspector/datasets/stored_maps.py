"""Stored class maps back on their photos: the view and the receptive fields that the results tell of."""

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from inspector.analysis.localization import Box, Regions, find_object_mask, measure_inside_map
from inspector.datasets.results import Results
from inspector.explain.tracing.receptive_field import Axis, ReceptiveField
from inspector.images.photo import Photo, Pixels
from inspector.images.preprocessing import Crop, View


def read_receptive_field(results: Results) -> ReceptiveField:
    """Of the positions of the stored maps."""
    y, x = (results.about["receptive_field"][axis] for axis in ("y", "x"))
    return ReceptiveField(_read_axis(y), _read_axis(x))


def _read_axis(stored: Mapping[str, Any]) -> Axis:
    size = stored["size"]
    # JSON knows no infinity.
    return Axis(stored["centre"], stored["stride"], math.inf if size is None else float(size))


def stored_view(photo: Photo, box: Box, results: Results) -> View:
    """What the network saw of a photo, to draw maps over; its pixels as the network saw them are not stored."""
    size: tuple[int, int] = results.about["size"]
    return View(photo, _no_pixels(size), Crop(photo.size, box, size))


def _no_pixels(size: tuple[int, int]) -> Pixels:
    return np.broadcast_to(np.uint8(0), (*size, 3))


def measure_inside_objects(
    values: ArrayLike, path: str, size: tuple[int, int], box: Box, objects: Regions, results: Results
) -> float:
    """The share of a class map's evidence inside the objects of a photo of a size (H, W), 0-1, as in `localisation`.

    nan where no object is known of it, or the map has no evidence. Objects are looked up under the path in the
    results, and under the path from the folder that was the source. Raises LocalisationError.
    """
    names = dict.fromkeys((_make_relative(path, results.about.get("source")), PurePath(path).as_posix()))
    mask = next((mask for name in names if (mask := find_object_mask(objects, name, size)) is not None), None)
    if mask is None:
        return math.nan
    view = stored_view(Photo(_no_pixels(size), path, ""), box, results)
    share = measure_inside_map(values, view, read_receptive_field(results), mask).share
    return math.nan if share is None else share


def _make_relative(path: str, source: object) -> str:
    """A path as seen from the folder that was the source, where it lies in it."""
    whole = PurePath(path)
    if isinstance(source, str) and whole.is_relative_to(source):
        whole = whole.relative_to(source)
    return whole.as_posix()
