"""Stored class maps back on their photos: the crop and the receptive fields that the results tell of."""

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from numpy.typing import ArrayLike

from inspector.analysis.localization import Regions, find_object_mask, measure_evidence_inside_map
from inspector.datasets.results import Results
from inspector.explain.tracing.receptive_field import Axis, ReceptiveField
from inspector.images.preprocessing import Box, Crop


def read_receptive_field(results: Results) -> ReceptiveField:
    """Of the positions of the stored maps."""
    y, x = (results.about["receptive_field"][axis] for axis in ("y", "x"))
    return ReceptiveField(_read_axis(y), _read_axis(x))


def _read_axis(stored: Mapping[str, Any]) -> Axis:
    size = stored["size"]
    # JSON knows no infinity.
    return Axis(stored["centre"], stored["stride"], math.inf if size is None else float(size))


def make_crop(photo_size: tuple[int, int], box: Box, results: Results) -> Crop:
    """Return where the network's input lay on a photo, to draw maps over it."""
    height, width = results.about["size"]
    return Crop(photo_size, box, (height, width))


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
    share = measure_evidence_inside_map(
        values, make_crop(size, box, results), read_receptive_field(results), mask
    ).share
    return math.nan if share is None else share


def _make_relative(path: str, source: object) -> str:
    """A path as seen from the folder that was the source, where it lies in it."""
    whole = PurePath(path)
    if isinstance(source, str) and whole.is_relative_to(source):
        whole = whole.relative_to(source)
    return whole.as_posix()
