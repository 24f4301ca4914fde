"""Pictures of stored class maps: over their photos if the photo files are unchanged, else as raw grids."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import streamlit as st
from numpy.typing import ArrayLike

from inspector.datasets.results import Results, StoredImage
from inspector.datasets.results import read_stored_image as read_row
from inspector.datasets.stored_maps import make_crop, read_receptive_field
from inspector.errors import ImageError, InspectorError
from inspector.images.photo import Photo, read_image
from inspector.output.overlay import common_scale, grid_image
from inspector.ui.components import html
from inspector.ui.state import batches, folders

_GRID = 336  # approximate longer side of a raw grid, in pixels


@st.cache_data(max_entries=64, show_spinner=False)
def read_stored_image(
    folder: Path, changed: int, part: str, row_group: int, row: int, _results: Results
) -> StoredImage:
    """Read one row of a folder of results. `changed` is the time of its index, so that new results are read."""
    return read_row(_results, part, row_group, row)


def draw_stored_map(results: Results, stored: StoredImage, values: ArrayLike, side: int) -> tuple[bytes, str]:
    """Draw a stored map (h, w) over its photo, or as a raw grid if the photo cannot be used.

    `side` is the longer side of the drawn photo, in pixels.

    Returns:
        The encoded image, and the reason why it does not show the photo; "" if it does.
    """
    photo, reason = find_photo(results, stored)
    scale = common_scale([values])
    if photo is None:
        return draw_raw_grid(values, scale), reason
    crop, field = make_crop(photo.size, stored.box, results), read_receptive_field(results)
    return html.encode_map_on_photo(values, photo, crop, field, side, scale), ""


def draw_raw_grid(values: ArrayLike, scale: float) -> bytes:
    """Draw each cell of a map as a block of pixels, so that browsers do not blur the cells."""
    cells = grid_image(values, scale)
    factor = max(1, _GRID // max(cells.shape[:2]))
    return html.encode_image(np.kron(cells, np.ones((factor, factor, 1), np.uint8)), exact=True)


def find_photo(results: Results, stored: StoredImage) -> tuple[Photo | None, str]:
    """Return the photo of a stored map and ""; if its map cannot be drawn over it, None and the reason."""
    field = read_receptive_field(results)
    if field.misplaced is not None:
        return None, field.warning or ""
    try:
        photo = make_opener(results)(stored.path)
    except InspectorError as error:
        return None, f"{error} Only its grid is shown."
    if (photo.sha256, photo.size) != (stored.sha256, stored.size):
        return None, "The file at the path of the photo has changed. Only the grid is shown."
    return photo, ""


def make_opener(results: Results) -> Callable[[str], Photo]:
    """Return a function that opens a photo by its path in results, for this visitor; jobs may call it, too.

    The function raises InspectorError if the photo is not there, may not be read, or cannot be.
    """
    is_open, source = folders.is_open(), results.about.get("source")
    uploads = batches.list_uploads() if source == batches.UPLOADED else {}

    def open_photo(path: str) -> Photo:
        if source == batches.UPLOADED:
            if path not in uploads:
                raise ImageError("The photo was uploaded, and is not stored.")
            return read_image(uploads[path], Path(path).name)
        return read_image(_find_file(path, source, is_open), Path(path).name)

    return open_photo


def _find_file(path: str, source: object, is_open: bool) -> Path:
    named = Path(path)
    places = [named] if not isinstance(source, str) or named.is_absolute() else [named, Path(source) / named]
    allowed = [place for place in places if folders.may_read(place, is_open)]
    if not allowed:
        raise ImageError("The photo is not in a folder that this app may open.")
    found = next(filter(_is_file, allowed), None)
    if found is None and not named.is_absolute():
        raise ImageError(f"There is no {path:.300} here. Start the app in the folder in which the batch was started.")
    if found is None:
        raise ImageError("The photo is not at its path any more.")
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
