"""Read the results of a data set: the folder of Parquet files that `inspector batch` writes.

`part-00000.parquet`, `part-00001.parquet`, ... hold one row per image: its top classes with their class maps, or an
error if the image could not be read. The metadata of each file name the network and the settings that made the results.
This module does not import torch.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspector.datasets.shard_schema import (
    PER_TOP_CLASS,
    REQUIRED,
    SHARD_COLUMNS,
    check_rows,
    open_parquet,
    read_about,
)
from inspector.datasets.statistics import Floats
from inspector.errors import InspectorError, translate_errors
from inspector.explain.kinds import OutputMeaning

_VALUES_PER_BATCH = 4_000_000  # largest number of class-map values in memory at once


@dataclass(frozen=True, eq=False)
class Results:
    """An opened folder of results. Only the metadata of its files are in memory."""

    folder: Path
    parts: tuple[Path, ...]
    images: int
    about: Mapping[str, Any]  # network and settings that made the results: the content of run.json

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the network's classes, (K,)."""
        return tuple(self.about["class_names"])

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the class maps, in cells."""
        height, width = self.about["grid"]
        return int(height), int(width)

    @property
    def meaning(self) -> OutputMeaning:
        """What the values are that the maps sum to. Results of older versions name no unit."""
        return OutputMeaning(self.about.get("probability", "softmax"), self.about.get("unit"))


@dataclass(frozen=True, eq=False)
class StoredImage:
    """The stored values of one image. Class numbers are the keys of the mappings."""

    path: str
    sha256: str  # hash of the photo's file
    size: tuple[int, int]  # (H, W) of the photo
    box: tuple[float, float, float, float]  # the network's crop: left, top, right, bottom in pixels of the photo
    maps: Mapping[int, NDArray[np.float32]]  # one map (h, w) per class, in logits; the top-1 class comes first
    probabilities: Mapping[int, float]  # 0-1
    logits: Mapping[int, float]
    biases: Mapping[int, float]
    finer: int = 1  # the maps have so many cells per cell of the network's own grid, down and across

    def own_cells(self, k: int) -> NDArray[np.float32]:
        """Return the cells of the network's own grid, which sum to the logit less the bias: (h, w)."""
        return self.maps[k][:: self.finer, :: self.finer]


def read_state(folder: Path) -> list[list[Any]]:
    """Return [name, size in bytes] of each part. If this list changes, the results have changed."""
    return [[part.name, part.stat().st_size] for part in _list_parts(folder)]


def _list_parts(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("part-*.parquet")))


def read_results(folder: Path) -> Results:
    """Open the results in a folder.

    Raises:
        InspectorError: the folder has no results, results of different networks or settings, or a broken file.
    """
    parts = _list_parts(folder)
    if not parts:
        raise InspectorError(
            f"No results in {folder}: no file there is named part-*.parquet. Use `inspector batch PHOTOS -o {folder}`."
        )
    counts, abouts = zip(*map(_read_about, parts), strict=True)
    about = abouts[0]
    for part, part_about in zip(parts, abouts, strict=True):
        if differing := [key for key in REQUIRED if part_about[key] != about[key]]:
            raise InspectorError(
                f"{part} and {parts[0].name} differ in {differing[0].replace('_', ' ')}. Use one folder per run of "
                "`inspector batch`."
            )
    if not sum(counts):
        raise InspectorError(f"The results in {folder} have no image. Expected one or more.")
    return Results(folder, parts, sum(counts), about)


def read_stored_image(results: Results, part: str, row_group: int, row: int) -> StoredImage:
    """Read one image with its class maps.

    Args:
        results: the opened results.
        part: name of the file that holds the image.
        row_group: index of the row group in the file.
        row: index of the row in the row group.

    Raises:
        InspectorError: the file no longer exists or cannot be read.
    """
    path = next((path for path in results.parts if path.name == part), None)
    if path is None:
        raise InspectorError(
            f"{results.folder} no longer has {part}. Use `inspector survey` to make the summary again."
        )
    with _open_part(path) as file:
        (rows,) = file.read_row_group(row_group).slice(row, 1).to_batches()
        check_rows(rows, results.about)
        (one,) = rows.to_pylist()
        if one["error"] is not None:
            raise ValueError(f"row {row} of row group {row_group} is of an image that was not read")
        grids = np.array(one["maps"], np.float32).reshape(-1, *results.grid)
        maps = dict(zip(one["map_classes"], grids, strict=True))
        by_class = {name: dict(zip(one["classes"], one[name], strict=True)) for name in PER_TOP_CLASS}
        size, box = (one["height"], one["width"]), tuple(one["box"])
        return StoredImage(one["path"], one["sha256"], size, box, maps, finer=results.about.get("finer", 1), **by_class)


@dataclass(frozen=True, eq=False)
class RowBatch:
    """Some consecutive rows of one part, all from the same row group."""

    rows: Any  # pyarrow.RecordBatch with the columns SHARD_COLUMNS
    part: Path
    row_group: int
    first: int  # index, within the row group, of this batch's first row

    def select_readable(self) -> Any:
        """Return the rows of the images that could be read, as a pyarrow.RecordBatch."""
        return self.rows.filter(self.rows.column("error").is_null())


def iterate_batches(results: Results) -> Iterator[RowBatch]:
    """Iterate over all rows, in batches so small that memory can hold several copies of their maps.

    Raises:
        InspectorError: a part cannot be read.
    """
    height, width = results.grid
    batch_rows = min(8192, max(16, _VALUES_PER_BATCH // (height * width * (int(results.about.get("top", 5)) + 1))))
    for part in results.parts:
        with _open_part(part) as file:
            for group in range(file.num_row_groups):
                first = 0
                for rows in file.iter_batches(batch_rows, row_groups=[group], columns=list(SHARD_COLUMNS)):
                    check_rows(rows, results.about)
                    yield RowBatch(rows, part, group, first)
                    first += rows.num_rows


def unpack_maps(rows: Any, classes: NDArray[np.int64], grid: tuple[int, int]) -> tuple[NDArray[np.int64], Floats]:
    """Get from each row the stored map of one class.

    Arrow stores a column of lists as one flat array, plus the offset at which each row begins. Example: the grid is
    1 x 2, row 0 has map a of class 4 and map b of class 7, and row 1 has map c of class 7.

        map_classes    values [4, 7, 7]              offsets [0, 2, 3]
        maps           values [a, a, b, b, c, c]     offsets [0, 4, 6]

    Class 7 has map 1 of row 0 and map 0 of row 1. So for classes [7, 7] the maps begin at 0 + 1 * 2 = 2 (b, b) and at
    4 + 0 * 2 = 4 (c, c).

    Args:
        rows: pyarrow.RecordBatch with the columns "map_classes" and "maps".
        classes: (N,), for each row the class whose map to return.
        grid: (h, w) of the maps.

    Returns:
        Indices (n,) of the rows that have the map of their class, and these maps (n, h, w) in logits.
    """
    height, width = grid
    offsets = rows.column("map_classes").offsets.to_numpy()
    # If the batch is a slice of a longer one, its first offset is not 0.
    map_classes = rows.column("map_classes").values.to_numpy()[offsets[0] : offsets[-1]]
    row_of_map = np.repeat(np.arange(len(classes)), np.diff(offsets))
    matches = np.flatnonzero(map_classes == classes[row_of_map])
    found, first = np.unique(row_of_map[matches], return_index=True)
    map_in_row = matches[first] - (offsets[found] - offsets[0])
    starts = rows.column("maps").offsets.to_numpy()[found] + map_in_row * height * width
    values = rows.column("maps").values.to_numpy()[starts[:, None] + np.arange(height * width)]
    return found, values.reshape(-1, height, width).astype(np.float64)


def _read_about(part: Path) -> tuple[int, Mapping[str, Any]]:
    """Return the number of images in a part, and the network and settings that made the part."""
    problem = f"{part} {{reason}}. Expected a Parquet file of this version of `inspector batch`."
    with _open_part(part) as file, translate_errors(InspectorError, problem):
        return file.metadata.num_rows, read_about(file.schema_arrow)


@contextmanager
def _open_part(part: Path) -> Iterator[Any]:
    """Open a part as a pyarrow ParquetFile; any exception while the file is read becomes an InspectorError."""
    message = f"Cannot read {part} ({{reason}}). Use `inspector batch --resume` to write it again."
    with translate_errors(InspectorError, message), open_parquet(part) as file:
        yield file
