"""The photos of a list on which each channel before the pooling is most active, and where on the photo.

    value[c, photo] = max over cells y, x of  F[c, y, x]

Only the highest values are kept, so the memory does not grow with the number of photos. They can be kept in a file.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspector.errors import Cancelled, InspectorError
from inspector.explain.class_maps import class_maps
from inspector.explain.classifier import Classifier
from inspector.explain.grid import cell_extents
from inspector.files import write_atomic
from inspector.images.photo import Photo
from inspector.images.sources import Item, read_item

COUNT = 12  # photos kept per channel
_MOST_FILES = 64  # in a folder; a new file replaces the oldest
_MOST_SKIPPED = 100  # error messages that are kept
_VERSION = "1"  # of the files


@dataclass(frozen=True, eq=False)
class TopActivations:
    """The highest activations of each channel, the highest one first. There are n of them, or as many as photos."""

    photos: tuple[str, ...]  # the photos that were read, as their list names them
    values: NDArray[np.float32]  # (C, n), the highest value of the channel on the photo
    which: NDArray[np.int32]  # (C, n), index of the photo in the list of all photos
    fields: NDArray[
        np.float32
    ]  # (C, n, 4): receptive field of the cell, left, top, right, bottom in pixels of the photo
    cells: NDArray[np.float32]  # (C, n, 4): the cell itself
    skipped: tuple[str, ...]  # error messages of the photos that cannot be used


def compute_top_activations(
    items: Sequence[Item],
    classifier: Classifier,
    count: int = COUNT,
    on_progress: Callable[[float], None] = lambda done: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TopActivations:
    """Run a classifier on photos, and find for each channel the photos with its highest activations.

    Args:
        items: the photos.
        classifier: any classifier.
        count: photos to keep per channel.
        on_progress: is called with the share of the photos that is done, 0-1.
        should_stop: is called before each photo.

    Raises:
        Cancelled: `should_stop` returned true.
    """
    best: tuple[NDArray[np.float32], ...] | None = None
    skipped: list[str] = []
    for number, item in enumerate(items):
        if should_stop():
            raise Cancelled("Stopped.")
        try:
            found = _find_activations(classifier, read_item(item), number)
        except InspectorError as error:
            skipped.append(str(error))
        else:
            best = found if best is None else _merge(best, found, count)
        on_progress((number + 1) / len(items))
    nothing = (*[np.zeros((0, 0), np.float32)] * 2, *[np.zeros((0, 0, 4), np.float32)] * 2)
    values, which, fields, cells = nothing if best is None else best
    return TopActivations(
        tuple(item.path for item in items),
        values.astype(np.float32),
        which.astype(np.int32),
        fields.astype(np.float32),
        cells.astype(np.float32),
        tuple(skipped[:_MOST_SKIPPED]),
    )


def _find_activations(classifier: Classifier, photo: Photo, number: int) -> tuple[NDArray[np.float32], ...]:
    """Return the highest value of each channel, (C, 1), the number of the photo, and both boxes of its cell."""
    maps = class_maps(classifier, photo)
    grids = maps.feature_maps.float().numpy(force=True)  # (C, h, w)
    channels, height, width = grids.shape
    places = grids.reshape(channels, -1).argmax(1)
    rows, columns = cell_extents((height, width), maps.view.crop, classifier.receptive_field)
    y, x = np.divmod(places, width)
    found = list(zip(y, x, strict=True))
    fields = np.array([[columns[b].first, rows[a].first, columns[b].last, rows[a].last] for a, b in found])
    cells = np.array([[columns[b].start, rows[a].start, columns[b].end, rows[a].end] for a, b in found])
    values = grids.reshape(channels, -1)[np.arange(channels), places]
    return values[:, None], np.full((channels, 1), number), fields[:, None], cells[:, None]


def _merge(
    best: tuple[NDArray[np.float32], ...], found: tuple[NDArray[np.float32], ...], count: int
) -> tuple[NDArray[np.float32], ...]:
    """Keep the `count` highest values of each channel, in a tie those of the earlier photo."""
    joined = [np.concatenate(pair, 1) for pair in zip(best, found, strict=True)]
    order = np.argsort(-joined[0], 1, kind="stable")[:, :count]
    return tuple(np.take_along_axis(one, order if one.ndim == 2 else order[..., None], 1) for one in joined)


def name_file(folder: Path, classifier: Classifier, items: Sequence[Item], count: int = COUNT) -> Path:
    """Return the file for the activations of a network on photos. It is another one if any of them has changed.

    Args:
        folder: the folder of such files.
        classifier: the network. Its weights and its preprocessing count.
        items: the photos. Their paths count, and the sizes and times of their files.
        count: photos kept per channel.
    """
    states = {file: _read_state(file) for file in {item.file for item in items}}
    listing = [[item.path, item.start, item.length, *states[item.file]] for item in items]
    network = [classifier.sha256(), classifier.preprocessing.describe(), "before the pooling"]
    described = [_VERSION, *network, count, listing]
    return folder / f"{hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]}.npz"


def _read_state(file: str) -> tuple[int, int]:
    """Return size and time of a file; zeros for an address."""
    try:
        state = Path(file).stat()
    except (OSError, ValueError):
        return 0, 0
    return state.st_size, state.st_mtime_ns


def write_top_activations(path: Path, found: TopActivations) -> None:
    """Write activations into a file. The oldest of more than 64 files in its folder are removed.

    Raises:
        OSError: the file cannot be written.
    """
    buffer = io.BytesIO()
    texts = {name: np.array(getattr(found, name), dtype=str) for name in ("photos", "skipped")}
    arrays = {name: getattr(found, name) for name in ("values", "which", "fields", "cells")}
    np.savez_compressed(buffer, **arrays, **texts)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
    files = sorted(path.parent.glob("*.npz"), key=lambda file: file.stat().st_mtime_ns)
    for oldest in files[:-_MOST_FILES]:
        oldest.unlink(missing_ok=True)


def read_top_activations(path: Path) -> TopActivations | None:
    """Read activations from a file; None if there is none, or it is broken."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("values", "which", "fields", "cells")}
            texts = {name: tuple(map(str, stored[name])) for name in ("photos", "skipped")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return TopActivations(texts["photos"], **arrays, skipped=texts["skipped"])
