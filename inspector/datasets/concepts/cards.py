"""Make the cards of concepts: where each one is strongest, and how many photos have it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inspector.analysis.localization import Regions, measure_evidence_inside_map
from inspector.datasets.concepts.model import ConceptCard, ConceptPosition, compute_least
from inspector.datasets.features import StoredFeatures, StoredPhoto
from inspector.datasets.stored_maps import find_stored_mask
from inspector.explain.grid import find_surroundings
from inspector.images.preprocessing import Box

_NOTHING = 1e-6  # of the strongest cell: what rounding leaves


def make_cards(
    stored: StoredFeatures,
    k: int,
    indices: Sequence[int],
    maps: NDArray[np.float64],
    stability: NDArray[np.float64] | None,
    top: int,
    objects: Regions | None = None,
) -> tuple[ConceptCard, ...]:
    """Make the cards of the concepts of a class.

    Args:
        stored: the features that the concepts were found on.
        k: number of the class.
        indices: the photos.
        maps: what each concept adds at each cell, (n, h, w, r) in logits.
        stability: of each concept, (r,).
        top: positions listed per concept.
        objects: objects on the photos, if any are known.

    Raises:
        LocalizationError: an object does not fit its photo.
    """
    inside = _measure_inside(stored, indices, maps, objects)
    cards = []
    for number in range(maps.shape[3]):
        own = maps[..., number]
        listed = [
            ConceptPosition(
                indices[n], stored.by_index[indices[n]].path, (row, column), float(own[n, row, column]), box
            )
            for n, row, column in find_strongest(own, top)
            for box in [make_box(stored, stored.by_index[indices[n]], (row, column))]
        ]
        least = compute_least([one.value for one in listed])
        count = int((own.max((1, 2)) >= least).sum())
        mean = float(own.sum((1, 2)).mean())
        stable = None if stability is None else float(stability[number])
        cards.append(ConceptCard(k, number + 1, mean, count, len(indices), tuple(listed), stable, inside[number]))
    return tuple(cards)


def find_strongest(maps: NDArray[np.float64], top: int) -> list[tuple[int, int, int]]:
    """Find the strongest cells of a concept, the strongest first: first one cell of each photo, then further cells.

    Args:
        maps: (n, h, w).
        top: number of cells.

    Returns:
        (photo, row, column) of at most `top` cells above zero.
    """
    least = _NOTHING * float(maps.max(initial=0))
    flat = maps.reshape(len(maps), -1)
    cells = np.argsort(-flat, 1, kind="stable")
    found: list[tuple[int, int]] = []
    for place in range(cells.shape[1]):
        values = flat[np.arange(len(flat)), cells[:, place]]
        order = np.argsort(-values, kind="stable")
        found += [(int(n), int(cells[n, place])) for n in order if values[n] > least][: top - len(found)]
        if len(found) >= top or not (values > least).any():
            break
    found.sort(key=lambda one: -flat[one])
    return [(n, *divmod(cell, maps.shape[2])) for n, cell in found]


def make_box(stored: StoredFeatures, photo: StoredPhoto, cell: tuple[int, int]) -> Box:
    """Return the part of a photo to show for a cell: three cells around it, and no more than its receptive field.

    It is moved where it would exceed the part of the photo that the network sees.
    """
    crop, field = stored.crop(photo), stored.field
    left, top, right, bottom = crop.box
    sides = []
    for axis, place, start, end, length, limit in zip(
        (field.y, field.x), cell, (top, left), (bottom, right), crop.input_size, crop.photo_size, strict=True
    ):
        scale = (end - start) / length  # pixels of the photo for one of the input
        shown = (max(start, 0) - start) / scale, (min(end, limit) - start) / scale
        sides.append([start + scale * edge for edge in find_surroundings(axis, place, *shown)])
    (y0, y1), (x0, x1) = sides
    return x0, y0, x1, y1


def _measure_inside(
    stored: StoredFeatures, indices: Sequence[int], maps: NDArray[np.float64], objects: Regions | None
) -> list[float | None]:
    """Return for each concept the mean share of its map inside the objects, over the photos where both are there."""
    shares: list[list[float]] = [[] for _ in range(maps.shape[3])]
    for index, own in zip(indices, maps, strict=True) if objects is not None else ():
        assert objects is not None
        photo = stored.by_index[index]
        mask = find_stored_mask(photo.path, photo.size, objects, stored.results)
        for number in range(maps.shape[3]) if mask is not None else ():
            assert mask is not None
            share = measure_evidence_inside_map(own[..., number], stored.crop(photo), stored.field, mask).share
            shares[number] += [] if share is None else [share]
    return [float(np.mean(found)) if found else None for found in shares]
