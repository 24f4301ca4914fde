"""Pictures of stored class maps: over their photos if the photo files are unchanged, else as raw grids."""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import streamlit as st
from numpy.typing import ArrayLike

from inspector.datasets.results import Results, StoredImage
from inspector.datasets.results import read_stored_image as read_row
from inspector.datasets.stored_maps import make_crop, read_receptive_field
from inspector.errors import InspectorError
from inspector.images.photo import Photo, read_image
from inspector.output.overlay import common_scale, grid_image
from inspector.ui.components import html

_GRID = 336  # approximate longer side of a raw grid, in pixels
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Beginnings of the names of headers that proxies add.
_FORWARDING = ("forwarded", "via", "x-forwarded", "x-real-ip", "x-client-ip", "cf-", "true-client-ip")


def allowed_folders() -> list[Path] | None:
    """Return the folders from which visitors may open results and photos; None if all are allowed.

    $INSPECTOR_DATA lists these folders. If it is not set, an app that serves only this machine allows all folders; an
    app that also serves other machines, also behind a proxy, allows only the folder that it runs in.
    """
    if names := os.environ.get("INSPECTOR_DATA"):
        return [Path(name) for name in names.split(os.pathsep) if name]
    return None if st.get_option("server.address") in _LOOPBACK and _is_local(st.context.headers) else [Path()]


def _is_local(headers: Mapping[str, str]) -> bool:
    """Return whether a browser on this machine opened the page, as far as its request tells.

    A proxy usually names itself or the visitor, or passes on the address in the visitor's browser. A request that names
    no address is not known to be local. Without any headers there is no request, as in tests.
    """
    if not headers:
        return True
    if any(name.lower().startswith(_FORWARDING) for name in headers):
        return False
    addresses = [urlsplit(headers.get("Origin") or "").hostname, urlsplit(f"//{headers.get('Host') or ''}").hostname]
    return all(address in _LOOPBACK for address in addresses)


def may_open(path: Path) -> bool:
    """Return whether a path lies in an allowed folder after links are followed."""
    allowed = allowed_folders()
    try:
        return allowed is None or any(path.resolve().is_relative_to(folder.resolve()) for folder in allowed)
    except (OSError, ValueError, RuntimeError):
        return False


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
    photo, reason = _find_photo(results, stored)
    scale = common_scale([values])
    if photo is None:
        return draw_raw_grid(values, scale), reason
    crop, field = make_crop(photo.size, stored.box, results), read_receptive_field(results)
    if field.misplaced is not None:
        return draw_raw_grid(values, scale), field.warning or ""
    return html.encode_map_on_photo(values, photo, crop, field, side, scale), ""


def draw_raw_grid(values: ArrayLike, scale: float) -> bytes:
    """Draw each cell of a map as a block of pixels, so that browsers do not blur the cells."""
    cells = grid_image(values, scale)
    factor = max(1, _GRID // max(cells.shape[:2]))
    return html.encode_image(np.kron(cells, np.ones((factor, factor, 1), np.uint8)), exact=True)


def _find_photo(results: Results, stored: StoredImage) -> tuple[Photo | None, str]:
    """Return the photo of a stored map and ""; if the photo cannot be used, None and the reason."""
    source = results.about.get("source")
    named = Path(stored.path)
    places = [named] if not isinstance(source, str) or named.is_absolute() else [named, Path(source) / named]
    path = next((place for place in places if _is_file(place)), None)
    if path is None:
        return None, "The photo is not at its path any more. Only its grid is shown."
    if not may_open(path):
        return None, "The photo is not in a folder that this app may open. Only its grid is shown."
    try:
        photo = read_image(path)
    except InspectorError as error:
        return None, f"{error} Only its grid is shown."
    if (photo.sha256, photo.size) != (stored.sha256, stored.size):
        return None, "The file at the path of the photo has changed. Only the grid is shown."
    return photo, ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
