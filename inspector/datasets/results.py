"""The results of a whole data set: the folder of Parquet files that `inspector batch` writes, read back.

`part-00000.parquet` and its neighbours hold a row an image: what it was taken for, the class maps of its likeliest
classes, or the error that stood in their way. Each tells in its metadata what the results were made with. Imports no
torch.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspector.datasets.statistics import Floats
from inspector.datasets.table import KEY, import_arrow
from inspector.errors import InspectorError, translate_errors

COLUMNS = frozenset(
    (
        "index", "path", "label", "height", "width", "classes", "probabilities", "logits", "biases", "label_class",
        "label_rank", "label_probability", "maps", "map_classes", "box", "residual", "verdict", "error",
    )
)  # fmt: skip

_VALUES_PER_BATCH = 4_000_000  # numbers of class maps
_MUST_MATCH = ("network", "network_sha256", "class_names", "grid", "size", "pooling", "preprocessing")


@dataclass(frozen=True, eq=False)
class Results:
    """A folder of results, its files not yet read."""

    folder: Path
    parts: tuple[Path, ...]
    rows: tuple[int, ...]  # images of each part
    about: Mapping[str, Any]  # what all were made with

    @property
    def images(self) -> int:
        return sum(self.rows)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.about["class_names"])

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the class maps."""
        height, width = self.about["grid"]
        return int(height), int(width)

    def read_state(self) -> list[list[Any]]:
        return read_state(self.folder)


@dataclass(frozen=True, eq=False)
class StoredImage:
    """What is stored of one image that was read."""

    path: str
    sha256: str  # of the photo's file
    size: tuple[int, int]  # (H, W) of the photo
    box: tuple[float, float, float, float]  # what the network saw: left, top, right, bottom in pixels of the photo
    maps: Mapping[int, NDArray[np.float32]]  # (h, w) in logits by class, the likeliest first
    probabilities: Mapping[int, float]  # 0-1
    logits: Mapping[int, float]
    biases: Mapping[int, float]


def read_state(folder: Path) -> list[list[Any]]:
    """Name and bytes of each part: what has another state are other results."""
    return [[part.name, part.stat().st_size] for part in _list_parts(folder)]


def _list_parts(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("part-*.parquet")))


def read_results(folder: Path) -> Results:
    """The results in a folder; InspectorError where there are none, or those of two networks."""
    parts = _list_parts(folder)
    if not parts:
        raise InspectorError(
            f"No results in {folder}: no file there is named part-*.parquet. `inspector batch PHOTOS -o {folder}` "
            "writes some."
        )
    about: Mapping[str, Any] = {}
    rows = []
    for part in parts:
        count, part_about = _read_about(part)
        if not about:
            about = part_about
        elif differing := [key for key in _MUST_MATCH if part_about[key] != about[key]]:
            raise InspectorError(
                f"{part} was made with another {differing[0].replace('_', ' ')} than {parts[0].name}: results of one "
                "run of `inspector batch`, in a folder of their own, would do."
            )
        rows.append(count)
    if not sum(rows):
        raise InspectorError(f"The results in {folder} are empty: one image or more would do.")
    return Results(folder, parts, tuple(rows), about)


def read_stored_image(results: Results, part: str, row_group: int, row: int) -> StoredImage:
    """An image's maps, from its row in a row group of a part; InspectorError where the part cannot be read."""
    path = next((path for path in results.parts if path.name == part), None)
    if path is None:
        raise InspectorError(f"{results.folder} has no {part} any more: `inspector survey` anew would do.")
    columns = [
        "path",
        "sha256",
        "height",
        "width",
        "box",
        "map_classes",
        "maps",
        "classes",
        "probabilities",
        "logits",
        "biases",
    ]
    with _open_part(path) as file:
        stored = file.read_row_group(row_group, columns).slice(row, 1).to_pydict()
    (one,) = (dict(zip(stored, values, strict=True)) for values in zip(*stored.values(), strict=True))
    maps = np.array(one["maps"], np.float32).reshape(-1, *results.grid)
    left, top, right, bottom = one["box"]
    probabilities, logits, biases = (
        dict(zip(one["classes"], one[name], strict=True)) for name in ("probabilities", "logits", "biases")
    )
    return StoredImage(
        one["path"], one["sha256"], (one["height"], one["width"]), (left, top, right, bottom),
        dict(zip(one["map_classes"], maps, strict=True)), probabilities, logits, biases,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class RowBatch:
    """Some rows of a part, as pyarrow has them."""

    rows: Any  # a pyarrow.RecordBatch of COLUMNS
    part: Path
    row_group: int
    first: int  # the number, in the row group, of the first row

    def select_readable(self) -> Any:
        """The rows of images that could be read."""
        return self.rows.filter(self.rows.column("error").is_null())


def iterate_batches(results: Results) -> Iterator[RowBatch]:
    """All rows, so many at once that their maps fit into memory a few times; InspectorError for a broken part."""
    height, width = results.grid
    batch_rows = min(8192, max(16, _VALUES_PER_BATCH // (height * width * (int(results.about.get("top", 5)) + 1))))
    for part in results.parts:
        with _open_part(part) as file:
            for group in range(file.num_row_groups):
                first = 0
                for rows in file.iter_batches(batch_rows, row_groups=[group], columns=sorted(COLUMNS)):
                    yield RowBatch(rows, part, group, first)
                    first += rows.num_rows


def unpack_maps(rows: Any, classes: NDArray[np.int64], grid: tuple[int, int]) -> tuple[NDArray[np.int64], Floats]:
    """Read one stored class map of each row.

    Arrow keeps a column of lists as one flat array and the offset at which each row begins. For a grid of 1 x 2, a row
    with maps a and b of the classes 4 and 7, and a row with map c of class 7:

        map_classes    values [4, 7, 7]              offsets [0, 2, 3]
        maps           values [a, a, b, b, c, c]     offsets [0, 4, 6]

    Class 7 is map 1 of row 0 and map 0 of row 1, so for classes [7, 7] the maps begin at 0 + 1 * 2 = 2 (b, b) and at
    4 + 0 * 2 = 4 (c, c).

    Args:
        rows: pyarrow.RecordBatch with the columns "map_classes" and "maps".
        classes: class whose map is wanted, one per row.
        grid: (h, w) of the maps.

    Returns:
        Indices (n,) of the rows that have that map, and the maps (n, h, w) in logits.
    """
    height, width = grid
    offsets = rows.column("map_classes").offsets.to_numpy()
    # The batch may be a slice of a longer one: its first offset is not 0 then.
    map_classes = rows.column("map_classes").values.to_numpy()[offsets[0] : offsets[-1]]
    row_of_map = np.repeat(np.arange(len(classes)), np.diff(offsets))
    matches = np.flatnonzero(map_classes == classes[row_of_map])
    found, first = np.unique(row_of_map[matches], return_index=True)
    map_in_row = matches[first] - (offsets[found] - offsets[0])
    starts = rows.column("maps").offsets.to_numpy()[found] + map_in_row * height * width
    values = rows.column("maps").values.to_numpy()[starts[:, None] + np.arange(height * width)]
    return found, values.reshape(-1, height, width).astype(np.float64)


def _read_about(part: Path) -> tuple[int, Mapping[str, Any]]:
    """How many images a part has, and what it was made with."""
    with _open_part(part) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        if KEY not in (schema.metadata or {}):
            raise InspectorError(
                f"{part} does not say what it was made with: a Parquet file that `inspector batch` wrote would do."
            )
        about = json.loads(schema.metadata[KEY])
    if missing := sorted(COLUMNS - set(schema.names)) or [key for key in _MUST_MATCH if key not in about]:
        raise InspectorError(
            f"{part} lacks {', '.join(missing)}: a Parquet file that this version of `inspector batch` wrote would do."
        )
    return rows, about


@contextmanager
def _open_part(part: Path) -> Iterator[Any]:
    """A part as a pyarrow ParquetFile; whatever fails while it is read is one InspectorError."""
    parquet = import_arrow().parquet
    message = f"Cannot read {part} ({{reason}}); `inspector batch --resume` writes it anew."
    with translate_errors(InspectorError, message), parquet.ParquetFile(part) as file:
        yield file
