"""Read the stored feature maps of a data set, photo by photo, with the head and what the shards say of each photo.

`inspector batch --features` writes them. This module does not import torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspector.datasets.feature_files import HEAD, decode_features, format_features_name, open_features, read_head
from inspector.datasets.results import Results, iterate_batches, read_results
from inspector.datasets.shard_schema import open_parquet
from inspector.errors import HeadError, InspectorError, translate_errors
from inspector.explain.receptive_field import ReceptiveField, read_field
from inspector.images.photo import Photo, read_image
from inspector.images.preprocessing import Box, Crop


@dataclass(frozen=True, eq=False)
class StoredPhoto:
    """What the results say of a photo that was read."""

    index: int  # place in the list of the run
    path: str
    label: int | None  # class of its label; None: it has no label, or one that is no class
    size: tuple[int, int]  # (H, W)
    box: Box  # the network's crop, in pixels of the photo
    sha256: str  # hash of its file
    logits: Mapping[int, float]  # the network's own, of the top classes, highest first

    @property
    def predicted(self) -> int:
        """The top-1 class."""
        return next(iter(self.logits))


def open_photo_file(path: str) -> Photo:
    """Read a photo of results from its file.

    Raises:
        InspectorError: the file is not there any more, or is in a tar, or cannot be read.
    """
    if not Path(path).is_file():
        raise InspectorError(
            f"The photo {path:.300} is not there. Use the folder in which `inspector batch` ran, with files and no tar."
        )
    return read_image(path)


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """Opened features of a data set: only the table of photos and the head are in memory."""

    results: Results
    weight: NDArray[np.float32]  # (K, C) of the linear layer
    bias: NDArray[np.float32]  # (K,)
    photos: tuple[StoredPhoto, ...]  # those that were read, in the order of the list
    groups: tuple[tuple[Path, int, int], ...]  # row groups: file, number in it, index of the first photo
    open_photo: Callable[[str], Photo] = open_photo_file  # reads a photo by its path in the results

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the features of a photo."""
        channels, height, width = self.results.about["features"]
        return int(channels), int(height), int(width)

    @property
    def pooling(self) -> str:
        """The pooling of the head: "average" or "max"."""
        return str(self.results.about["pooling"])

    @property
    def field(self) -> ReceptiveField:
        """Receptive fields of the cells of the features, in pixels of the network's input."""
        field, finer = read_field(self.results.about["receptive_field"]), int(self.results.about.get("finer", 1))
        y, x = (replace(axis, stride=axis.stride * finer) for axis in (field.y, field.x))
        return replace(field, y=y, x=x)

    def crop(self, photo: StoredPhoto) -> Crop:
        """Return where the network's input lies on a photo."""
        height, width = self.results.about["size"]
        return Crop(photo.size, photo.box, (height, width))

    @cached_property
    def by_index(self) -> Mapping[int, StoredPhoto]:
        """The photos by their index."""
        return {photo.index: photo for photo in self.photos}

    def read_photo(self, index: int) -> Photo:
        """Read a photo of the results.

        Raises:
            InspectorError: it is not there any more, has changed since, or cannot be read.
        """
        stored = self.by_index[index]
        photo = self.open_photo(stored.path)
        if (photo.sha256, photo.size) != (stored.sha256, stored.size):
            raise InspectorError(
                f"The photo {stored.path:.300} has changed since `inspector batch` ran, so nothing of it can be shown "
                "or tested. Put it back, or use `inspector batch --features` with a new folder."
            )
        return photo

    def read(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """Read the feature maps of some photos, (n, C, h, w), in the order of their indices.

        Raises:
            InspectorError: a file is damaged, or a photo has no features, or values that float16 does not hold.
        """
        starts = np.array([first for _, _, first in self.groups], np.int64)
        found = np.empty((len(indices), *self.shape), np.float32)
        wanted = np.asarray(indices, np.int64)
        group_of = np.searchsorted(starts, wanted, side="right") - 1
        for number in np.unique(group_of):
            path, group, _ = self.groups[number]
            places = np.flatnonzero(group_of == number)
            with _translate(path), open_parquet(path) as file:
                table = file.read_row_group(group)
                listed = table["index"].to_numpy()
                rows = np.searchsorted(listed, wanted[places])
                if (rows >= len(listed)).any() or not np.array_equal(listed[rows], wanted[places]):
                    raise ValueError("it does not have the photos that it should")
                found[places] = decode_features(table.take(rows), self.shape)[1]
                if not np.isfinite(found[places]).all():
                    raise InspectorError(
                        f"{path} has feature maps with values beyond 65,504, the largest number of float16, which they "
                        "are stored in. The features of these photos cannot be used."
                    )
        return found

    def pool(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Pool feature maps (n, C, h, w) as the head does: (n, C)."""
        return np.asarray(features.mean((2, 3), np.float64) if self.pooling == "average" else features.max((2, 3)))


def read_features(folder: str | Path) -> StoredFeatures:
    """Open the features in a folder of results.

    Raises:
        InspectorError: the folder has no results, or results without features, or a file is damaged.
    """
    results = read_results(Path(folder))
    about = results.about
    if "features" not in about:
        raise InspectorError(
            f"The results in {folder} have no features. Use `inspector batch PHOTOS --features` with a new folder."
        )
    if about["pooling"] not in ("average", "max"):
        raise HeadError(
            f"The results in {folder} are of a head with {about['pooling']} pooling. Expected average or max."
        )
    with _translate(Path(folder) / HEAD):
        weight, bias = read_head(Path(folder), about)
    photos = [photo for batch in iterate_batches(results) for photo in _list_photos(batch.select_readable())]
    paths = [part.with_name(format_features_name(int(part.stem.removeprefix("part-")))) for part in results.parts]
    groups = tuple(group for path in paths for group in _list_groups(path, about))
    return StoredFeatures(results, weight, bias, tuple(photos), groups)


def _list_groups(path: Path, about: Mapping[str, Any]) -> list[tuple[Path, int, int]]:
    """List the row groups of a file of features, each with the index of its first photo."""
    with _translate(path), open_parquet(path) as file:
        open_features(file, about)
        firsts = [file.read_row_group(number, ["index"])["index"][0].as_py() for number in range(file.num_row_groups)]
        return [(path, number, int(first)) for number, first in enumerate(firsts)]


def _list_photos(rows: Any) -> list[StoredPhoto]:
    names = ("index", "path", "label_class", "height", "width", "box", "sha256", "classes", "logits")
    columns = [rows.column(name).to_pylist() for name in names]
    return [
        StoredPhoto(index, path, label, (height, width), tuple(box), sha256, dict(zip(classes, logits, strict=True)))
        for index, path, label, height, width, box, sha256, classes, logits in zip(*columns, strict=True)
    ]


def _translate(path: Path) -> Any:
    hint = "Use `inspector batch --resume` with its options to write it again"
    return translate_errors(InspectorError, f"Cannot read {path} ({{reason}}). {hint}.")
