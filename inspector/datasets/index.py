"""Query the index of a data-set summary: a Parquet file with one row of numbers per image, without its maps.

DuckDB reads only the columns that a query needs, so listing 50 rows out of a million takes no
noticeable time. This module does not import torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.errors import InspectorError, require, translate_errors

# The columns of the index. `predicted` is the top-1 class; `inside` is null if no object is known in the image. For an
# image that could not be read, only index, path, label, error, part, row_group and row have values.
COLUMNS = {
    "index": "int64",
    "path": "string",
    "label": "string",
    "predicted": "int32",
    "probability": "float32",  # probability of the top-1 class, 0-1
    "label_class": "int32",
    "label_rank": "int32",  # place of the label in the order of logits; 0: the label is the top-1 class
    "label_probability": "float32",
    "border": "float32",  # in the top-1 class's map: share of |values| in the outermost ring of cells, 0-1
    "border_positive": "float32",  # share of the positive values in that ring, 0-1
    "positions": "float32",  # effective number of cells with evidence, 1 to h * w
    "inside": "float32",  # share of the positive evidence inside the objects, 0-1
    "residual": "float64",
    "verdict": "string",
    "error": "string",
    "part": "string",  # file that holds the image's maps; next: row group in the file, row in the row group
    "row_group": "int32",
    "row": "int32",
}

ORDERS = {
    "as read": "index",
    "probability": "probability",
    "probability of the label": "label_probability",
    "evidence at the border": "border",
    "positions with evidence": "positions",
    "evidence inside the object": "inside",
    "residual": "residual",
}
_SQL = {name: f'"{name}"' for name in COLUMNS}
_COLUMN_LIST = ", ".join(_SQL.values())
BINS = 20  # bins in a histogram of shares


@dataclass(frozen=True)
class Filters:
    """Conditions that select images of an index; an image must meet all conditions that are set."""

    predicted: int | None = None
    label: str | None = None
    wrong: bool = False  # the label is a class, but not the top-1 class
    errors: bool = False  # images that could not be read
    text: str = ""  # part of the path; upper and lower case are equal

    def make_condition(self) -> tuple[str, list[Any]]:
        """Return the SQL condition that follows WHERE, and the values for its question marks."""
        conditions: list[tuple[str, list[Any], bool]] = [
            ("predicted = ?", [self.predicted], self.predicted is not None),
            ("label = ?", [self.label], self.label is not None),
            ("label_rank > 0", [], self.wrong),
            ("error IS NOT NULL", [], self.errors),
            ("contains(lower(path), lower(?))", [self.text], bool(self.text)),
        ]
        active = [(sql, values) for sql, values, is_set in conditions if is_set]
        return " AND ".join(sql for sql, _ in active) or "true", [value for _, values in active for value in values]


NO_FILTERS = Filters()


@dataclass(frozen=True)
class SummaryCounts:
    """Counts and means over all images of an index.

    A mean is over the images that have a value in its column; it is None if no image has a value.
    """

    images: int
    errors: int  # images that could not be read
    labelled: int  # images with a label, which may be no class of the network
    classed: int  # images that could be read and whose label is a class of the network
    top1: float | None  # share of the `classed` images whose label is the top-1 class, 0-1
    top5: float | None  # share of the `classed` images whose label is among the top 5 classes, 0-1
    residual: float | None  # largest residual of all images, in logits
    verdicts: dict[str, int]  # images per verdict
    border: float | None
    border_positive: float | None
    positions: float | None
    inside: float | None
    with_objects: int


def read_counts(index: Path) -> SummaryCounts:
    """Compute the counts and means over all images of an index.

    Raises:
        InspectorError: the index cannot be read, or DuckDB is not installed. All functions here that query raise it.
    """
    (numbers,) = _query(
        index,
        "SELECT count(*) AS images, count(error) AS errors, count(label) AS labelled, count(label_rank) AS classed, "
        "avg((label_rank < 1)::INT) AS top1, avg((label_rank < 5)::INT) AS top5, max(residual) AS residual, "
        "avg(border) AS border, avg(border_positive) AS border_positive, avg(positions) AS positions, "
        "avg(inside) AS inside, count(inside) AS with_objects FROM images",
    )
    verdicts = _query(
        index, "SELECT verdict, count(*) AS n FROM images WHERE verdict NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    return SummaryCounts(**numbers, verdicts={row["verdict"]: row["n"] for row in verdicts})


def count_images(index: Path, filters: Filters = NO_FILTERS) -> int:
    """Count the images of an index that pass the filters."""
    condition, values = filters.make_condition()
    (row,) = _query(index, f"SELECT count(*) AS n FROM images WHERE {condition}", values)
    return int(row["n"])


def list_rows(
    index: Path,
    filters: Filters = NO_FILTERS,
    order: str = "index",
    descending: bool = False,
    limit: int = 50,
    offset: int = 0,
) -> list[dict[str, Any]]:
    """List one page of rows of the index, sorted by a column.

    Args:
        index: the Parquet file.
        filters: which images to list.
        order: column to sort by; rows with null in this column come last.
        descending: list the highest values first.
        limit: largest number of rows in the page.
        offset: number of rows to skip before the page.

    Returns:
        One dict per image, with the keys of COLUMNS.

    Raises:
        InspectorError: there is no such column, or `limit` or `offset` is below 0.
    """
    if limit < 0 or offset < 0:
        raise InspectorError(f"Expected limit and offset of 0 or more, got {limit} and {offset}.")
    condition, values = filters.make_condition()
    order_clause = f"ORDER BY {_find_column(order)} {'DESC' if descending else 'ASC'} NULLS LAST, index"
    # The inner query sorts image numbers only. Without it, a page far down would sort whole rows, paths included.
    page = f"SELECT index FROM images WHERE {condition} {order_clause} LIMIT ? OFFSET ?"
    return _query(
        index, f"SELECT {_COLUMN_LIST} FROM images WHERE index IN ({page}) {order_clause}", [*values, limit, offset]
    )


def find_row(index: Path, number: int) -> dict[str, Any] | None:
    """Return the row of the image with this number, or None if there is no such image."""
    return next(iter(_query(index, f"SELECT {_COLUMN_LIST} FROM images WHERE index = ? LIMIT 1", [number])), None)


def list_extremes(index: Path, column: str, descending: bool, limit: int = 50) -> list[dict[str, Any]]:
    """List the images with the lowest or highest values of a column; images with null in this column are left out."""
    rows = list_rows(index, order=column, descending=descending, limit=limit)
    return [row for row in rows if row[column] is not None]


def summarize_classes(index: Path) -> list[dict[str, Any]]:
    """Return counts and means per class, for each class that is the label or top-1 class of at least one image."""
    return _query(
        index,
        "SELECT * FROM (SELECT predicted AS class, count(*) AS predicted, avg(border) AS border, avg(positions) AS "
        "positions, avg(inside) AS inside FROM images WHERE predicted NOT NULL GROUP BY 1) FULL JOIN (SELECT "
        "label_class AS class, count(*) AS labelled, count(*) FILTER (label_rank = 0) AS recognised FROM images WHERE "
        "label_class NOT NULL GROUP BY 1) USING (class) ORDER BY class",
    )


def list_labels(index: Path, limit: int = 10_000) -> list[str]:
    """List the different labels in an index, sorted; at most `limit` labels."""
    rows = _query(index, "SELECT DISTINCT label FROM images WHERE label NOT NULL ORDER BY 1 LIMIT ?", [limit])
    return [row["label"] for row in rows]


def count_bins(index: Path, column: str) -> list[int]:
    """Count the images in each of BINS equal bins from 0 to 1 of a column of shares; the last bin includes 1.

    Raises:
        InspectorError: there is no such column of numbers.
    """
    sql = _find_column(column)
    if COLUMNS[column] == "string":
        raise InspectorError(f"The column {column!r} of the index holds texts. Use a column of shares, such as border.")
    rows = _query(
        index,
        f"SELECT least(floor({sql} * {BINS})::INT, {BINS - 1}) AS bin, count(*) AS n FROM images "
        f"WHERE {sql} NOT NULL GROUP BY 1",
    )
    counts = {row["bin"]: row["n"] for row in rows}
    return [counts.get(number, 0) for number in range(BINS)]


def count_confusions(parts: Sequence[Path], limit: int) -> list[tuple[int, int, int]]:
    """Count the confusions: pairs of label and a different top-1 class.

    Args:
        parts: Parquet files of the results, which need no index.
        limit: largest number of pairs to return.

    Returns:
        (class number of the label, number of the top-1 class, number of images), most frequent pair first.
    """
    rows = _execute(
        "SELECT label_class, classes[1], count(*) FROM read_parquet(?) WHERE label_class <> classes[1] "
        "GROUP BY ALL ORDER BY 3 DESC, 1, 2 LIMIT ?",
        [[str(part) for part in parts], limit],
        "Cannot read the results ({reason}). Use `inspector batch --resume` to write broken files again.",
    ).fetchall()
    return [(int(label), int(predicted), int(number)) for label, predicted, number in rows]


def _find_column(name: str) -> str:
    """Return the SQL for a column. Only texts of the table _SQL reach a query, never the name that was given."""
    if name not in _SQL:
        raise InspectorError(f"The index has no column {name!r}. Use one of {', '.join(COLUMNS)}.")
    return _SQL[name]


def _query(index: Path, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """Run a query in which the index is the table `images`; return one dict per row."""
    result = _execute(sql, values, "Cannot read the index ({reason}). Use `inspector survey` to make it again.", index)
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _execute(sql: str, values: Sequence[Any], message: str, index: Path | None = None) -> Any:
    duckdb = require("duckdb", extra="data", purpose="The summary of a data set")
    with translate_errors(InspectorError, message):
        # Open one connection per query: connections are not thread-safe, and opening one takes only 0.01 s.
        connection = duckdb.connect()
        if index is not None:
            connection.read_parquet(str(index)).create_view("images")
        return connection.execute(sql, list(values))
