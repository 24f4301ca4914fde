"""Place stored class maps on their photos, by the crop and the receptive fields that the results contain."""

import math
from pathlib import PurePath

from numpy.typing import ArrayLike

from inspector.analysis.localization import Mask, Regions, find_object_mask, measure_evidence_inside_map
from inspector.datasets.results import Results
from inspector.explain.receptive_field import ReceptiveField, read_field
from inspector.images.preprocessing import Box, Crop


def read_receptive_field(results: Results) -> ReceptiveField:
    """Return the receptive fields of the cells of the stored maps."""
    return read_field(results.about["receptive_field"])


def make_crop(photo_size: tuple[int, int], box: Box, results: Results) -> Crop:
    """Return the crop: where the network's input lies on a photo. It is needed to draw maps over the photo."""
    height, width = results.about["size"]
    return Crop(photo_size, box, (height, width))


def measure_inside_objects(
    values: ArrayLike, path: str, size: tuple[int, int], box: Box, objects: Regions, results: Results
) -> float:
    """Measure which share of a stored class map's evidence is inside the objects of its photo.

    Args:
        values: class map (h, w), in logits.
        path: the photo's path in the results. Objects are looked up by this path and by the path
            relative to the source.
        size: (height, width) of the photo.
        box: the network's crop on the photo.
        objects: boxes or masks of the objects, by path of the photo.
        results: the results that contain the map.

    Returns:
        The share, 0-1, as `measure_evidence_inside_map` defines it; nan if the photo has no known object, or the map
        has no positive value.

    Raises:
        LocalizationError: an object does not fit the photo.
        PlaceError: the place of the cells is unknown.
    """
    mask = find_stored_mask(path, size, objects, results)
    if mask is None:
        return math.nan
    crop, field = make_crop(size, box, results), read_receptive_field(results)
    share = measure_evidence_inside_map(values, crop, field, mask).share
    return math.nan if share is None else share


def find_stored_mask(path: str, size: tuple[int, int], objects: Regions, results: Results) -> Mask | None:
    """Find the pixels of the objects on a photo of results, (H, W); None if none is known.

    Args:
        path: the photo's path in the results. Objects are looked up by this path and by the path relative to the
            source.
        size: (height, width) of the photo.
        objects: boxes or masks of the objects.
        results: the results that contain the photo.

    Raises:
        LocalizationError: an object does not fit the photo.
    """
    names = dict.fromkeys((_make_relative(path, results.about.get("source")), PurePath(path).as_posix()))
    return next((mask for name in names if (mask := find_object_mask(objects, name, size)) is not None), None)


def _make_relative(path: str, source: object) -> str:
    """Return the path relative to the source, if the source is a folder that contains it; else the path itself."""
    photo = PurePath(path)
    if isinstance(source, str) and photo.is_relative_to(source):
        photo = photo.relative_to(source)
    return photo.as_posix()
