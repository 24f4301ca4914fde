"""Cut the parts of photos that cards show. This module does not import torch."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from inspector.datasets.concepts.model import ConceptPosition
from inspector.datasets.features import StoredFeatures
from inspector.errors import InspectorError
from inspector.images.decode import Pixels
from inspector.images.photo import Photo


def read_crops(stored: StoredFeatures, positions: Sequence[ConceptPosition], side: int = 112) -> list[Pixels | None]:
    """Read the parts of photos that cards show for some positions. Each photo is read once.

    Args:
        stored: the features of the results, which know how their photos are opened.
        positions: positions of any number of cards.
        side: sides of the squares, in pixels.

    Returns:
        Square pixels (side, side, 3) of each position; None where the photo is not there or cannot be read.
    """
    crops: list[Pixels | None] = [None] * len(positions)
    for index, places in _group_by_photo(positions):
        if (photo := _read_photo(stored, index)) is not None:
            for place in places:
                crops[place] = cut_square(photo, positions[place], side)
    return crops


def cut_square(photo: Photo, position: ConceptPosition, side: int) -> Pixels:
    """Cut the part of a photo that a card shows for a position, as a square of `side` pixels."""
    cut = Image.fromarray(photo.pixels).crop(tuple(map(round, position.box)))  # type: ignore[arg-type]
    return np.asarray(cut.resize((side, side), Image.Resampling.BICUBIC))


def _group_by_photo(positions: Sequence[ConceptPosition]) -> Iterator[tuple[int, list[int]]]:
    """Yield each photo with the places of its positions in the list."""
    by_photo: dict[int, list[int]] = {}
    for place, position in enumerate(positions):
        by_photo.setdefault(position.photo, []).append(place)
    yield from by_photo.items()


def _read_photo(stored: StoredFeatures, index: int) -> Photo | None:
    try:
        return stored.read_photo(index) if index in stored.by_index else None
    except InspectorError:
        return None
