"""Pictures of stored class maps: over their photos where these are still there and as they were, else as grids."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from inspector.datasets.results import Results, StoredImage, read_stored_image
from inspector.errors import InspectorError
from inspector.images.photo import Photo, read_image
from inspector.ui.components import html

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_GRID = 336  # pixels of the longer side of a grid, about
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def roots() -> list[Path] | None:
    """The folders below which visitors may open results and photos: $INSPECTOR_DATA; None where there is no limit.

    Unless said, an app that serves this machine only has no limit, and one that serves others the folder it runs in.
    """
    if chosen := os.environ.get("INSPECTOR_DATA"):
        return [Path(folder) for folder in chosen.split(os.pathsep) if folder]
    return None if st.get_option("server.address") in _LOOPBACK else [Path()]


def may_open(path: Path) -> bool:
    """Whether a path lies below one of the roots, also where links lead."""
    allowed = roots()
    try:
        return allowed is None or any(path.resolve().is_relative_to(root.resolve()) for root in allowed)
    except (OSError, ValueError, RuntimeError):
        return False


@st.cache_data(max_entries=64, show_spinner=False)
def stored_image(folder: Path, changed: int, part: str, row_group: int, row: int, _results: Results) -> StoredImage:
    return read_stored_image(_results, part, row_group, row)


def picture(results: Results, stored: StoredImage, values: "ArrayLike", side: int) -> tuple[bytes, str]:
    """A map over its photo, the longer side `side` pixels, or as its grid; and why it is no photo, if it is none."""
    from inspector.datasets.stored_maps import make_crop, read_receptive_field
    from inspector.output.overlay import common_scale, dimmed_photo, draw_map_on_photo, needs_lossless

    photo, why = _photo(results, stored)
    if photo is None:
        return grid(values, common_scale([values])), why
    crop, field = make_crop(photo.size, stored.box, results), read_receptive_field(results)
    canvas = dimmed_photo(photo, crop, side)
    image = draw_map_on_photo(canvas, crop, values, field, common_scale([values]))
    return html.encode_image(image, needs_lossless(photo.size)), ""


def grid(values: "ArrayLike", scale: float) -> bytes:
    """A map as its cells, large enough that browsers do not blur them."""
    import numpy as np

    from inspector.output.overlay import grid_image

    cells = grid_image(values, scale)
    factor = max(1, _GRID // max(cells.shape[:2]))
    return html.encode_image(np.kron(cells, np.ones((factor, factor, 1), np.uint8)), exact=True)


def _photo(results: Results, stored: StoredImage) -> tuple[Photo | None, str]:
    source = results.about.get("source")
    named = Path(stored.path)
    places = [named] if not isinstance(source, str) or named.is_absolute() else [named, Path(source) / named]
    path = next((place for place in places if _is_file(place)), None)
    if path is None:
        return None, "The photo is not where it was: its grid alone."
    if not may_open(path):
        return None, "The photo is not in a folder that this app may open: its grid alone."
    try:
        photo = read_image(path)
    except InspectorError as error:
        return None, f"{error} Its grid alone."
    if (photo.sha256, photo.size) != (stored.sha256, stored.size):
        return None, "The photo is another one by now: the grid alone."
    return photo, ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def numbers(told: Sequence[tuple[str, str]]) -> str:
    """Names and values side by side, as many in a row as there is room for."""
    from html import escape

    cells = "".join(
        f'<div><div style="font-size: .8rem; opacity: .7">{escape(name)}</div>'
        f'<div style="font-size: 1.15rem; overflow-wrap: anywhere">{escape(value)}</div></div>'
        for name, value in told
    )
    columns = "repeat(auto-fill, minmax(min(100%, 11rem), 1fr))"
    return f'<div style="display: grid; gap: .9rem 1.4rem; grid-template-columns: {columns}">{cells}</div>'
