"""Summarize the results of a data set, in one pass over the stored maps and with bounded memory.

    results of `inspector batch` -> an index with one row of numbers per image, and average maps

Module `statistics` defines the numbers; module `index` queries the index.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspector.analysis.localization import Regions
from inspector.datasets.index import COLUMNS, SummaryCounts, count_confusions, read_counts
from inspector.datasets.report import REPORT_FILES, make_report
from inspector.datasets.results import Results, RowBatch, iterate_batches, read_results, read_state, unpack_maps
from inspector.datasets.shard_schema import import_arrow
from inspector.datasets.statistics import Floats, count_effective_cells, measure_border_share
from inspector.datasets.stored_maps import measure_inside_objects
from inspector.datasets.summary import INDEX, MAPS, NUMBERS, AverageMaps, DatasetSummary, Ints, belongs_to, read_summary
from inspector.errors import ExportError, InspectorError, summarize_reason
from inspector.files import json_bytes, lock_folder, temporary_folder

SUMMARY_FILES = (INDEX, MAPS, NUMBERS, *REPORT_FILES)
_PAIRS = 1000  # number of confusions whose contrast maps are averaged: the most frequent ones
_ROW_GROUP = 30_000  # rows in a row group of the index; small, so that one image is found quickly


def summarize(
    folder: str | Path,
    out: str | Path,
    objects: Regions | None = None,
    on_progress: Callable[[float], None] = lambda done: None,
    report: bool = False,
) -> DatasetSummary:
    """Summarize the results in a folder, and write the summary into `out`. `read_summary` can read it again.

    Args:
        folder: the results, a folder that `inspector batch` wrote.
        out: folder for the summary; an earlier summary in it is replaced when the new one is complete.
        objects: boxes or masks of the objects in the photos. If given, the evidence inside the objects is measured.
        on_progress: called with the share of the images that are done, 0-1.
        report: also write the tables (CSV) and figures (PNG) of `make_report`.

    Raises:
        InspectorError: the results cannot be read or have no image, or `objects` has no object for any image.
        LocalizationError: a box or mask does not fit its photo.
        ExportError: `out` cannot be written.
    """
    folder, out = Path(folder), Path(out)
    results = read_results(folder)
    with _translate_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with lock_folder(out):
            _write_summary(results, out, objects, on_progress, report)
            return read_summary(out)


def open_summary(
    results: Results, out: Path, on_progress: Callable[[float], None] = lambda done: None
) -> DatasetSummary:
    """Read the summary of some results from `out`; if it is missing or of other results, make it first.

    Of several threads and processes that open the same results, one makes the summary, and the others wait for it.

    Raises:
        InspectorError: the results or the summary cannot be read.
        ExportError: there is no summary yet, and `out` cannot be written.
    """
    with _translate_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with lock_folder(out):
            if not belongs_to(out, results):
                _write_summary(results, out, None, on_progress, report=False)
            return read_summary(out)


def _write_summary(
    results: Results, out: Path, objects: Regions | None, on_progress: Callable[[float], None], report: bool
) -> None:
    with temporary_folder(out) as temporary:
        counts = _write_index_and_maps(results, temporary, objects, on_progress)
        if objects is not None and not counts.with_objects:
            raise InspectorError(
                f"No object is known for the {results.images:,} images in {results.folder}. Use file names as in the "
                f"results, or relative to {results.about.get('source')}."
            )
        numbers, state = asdict(counts), read_state(results.folder)
        if counts.residual is not None and not math.isfinite(counts.residual):
            numbers["residual"] = str(counts.residual)  # JSON has no nan and no infinity
        about = {
            "network": results.about["network"],
            "precision": results.about.get("precision", ""),
            "state": state,
            "summary": numbers,
        }
        (temporary / NUMBERS).write_bytes(json_bytes(about))
        if report:
            for name, content in make_report(read_summary(temporary)).items():
                (temporary / name).write_bytes(content)
        _replace_files(temporary, out)


def _write_index_and_maps(
    results: Results, temporary: Path, objects: Regions | None, on_progress: Callable[[float], None]
) -> SummaryCounts:
    classes = len(results.class_names)
    confusions = np.array(count_confusions(results.parts, _PAIRS), np.int64).reshape(-1, 3)
    pairs = confusions[:, :2]
    predicted, labeled, contrasts = (_make_averages(n, results) for n in (classes, classes, len(pairs)))
    done = 0
    with _open_index_writer(temporary / INDEX) as write:
        for batch in iterate_batches(results):
            readable = batch.select_readable()
            top1, maps = _find_top1(readable, batch, results)
            labels = readable.column("label_class").fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            rows, label_maps = unpack_maps(readable, labels, results.grid)
            predicted.add(top1, maps)
            labeled.add(labels[rows], label_maps)
            which, pair = _match_pairs(pairs, np.stack([labels[rows], top1[rows]], 1), classes)
            contrasts.add(pair, (maps[rows] - label_maps)[which])
            write(_make_index_rows(batch, readable, top1, maps, objects, results))
            done += batch.rows.num_rows
            on_progress(done / results.images)
    averages = {"predicted": predicted, "labelled": labeled, "contrast": contrasts}
    arrays: dict[str, Any] = {f"{name}_sums": average.sums for name, average in averages.items()}
    arrays |= {f"{name}_counts": average.counts for name, average in averages.items()}
    np.savez_compressed(temporary / MAPS, class_names=np.array(results.class_names), pairs=pairs, **arrays)
    return read_counts(temporary / INDEX)


def _make_averages(number: int, results: Results) -> AverageMaps:
    try:
        return AverageMaps(np.zeros((number, *results.grid)), np.zeros(number, np.int64))
    except MemoryError as error:
        height, width = results.grid
        raise InspectorError(
            f"There is not enough memory for {number:,} average maps of {height} x {width} cells, as the results in "
            f"{results.folder} ask for."
        ) from error


def _find_top1(readable: Any, batch: RowBatch, results: Results) -> tuple[Ints, Floats]:
    """Return the top-1 class of every row (N,), and its class map (N, h, w)."""
    top1 = _take_first(readable.column("classes")).astype(np.int64)
    rows, maps = unpack_maps(readable, top1, results.grid)
    if len(rows) < len(top1):
        raise InspectorError(
            f"{batch.part} has an image without the map of its top-1 class. Use `inspector batch` with a new folder."
        )
    return top1, maps


def _take_first(lists: Any) -> NDArray[Any]:
    """Return the first value of each list of a pyarrow array of lists."""
    first: NDArray[Any] = lists.values.to_numpy()[lists.offsets.to_numpy()[:-1]]
    return first


def _match_pairs(pairs: Ints, found: Ints, classes: int) -> tuple[Ints, Ints]:
    """Return the indices of those `found` pairs (N, 2) that are in `pairs` (P, 2), and their indices in `pairs`.

    Each pair is compared by one number, its key: label * classes + predicted. Example with 10 classes: the keys of
    `pairs` [[2, 0], [1, 3]] are [20, 13], and the keys of `found` [[1, 3], [4, 4], [2, 0]] are [13, 44, 20]. The result
    is ([0, 2], [1, 0]).
    """
    if not len(pairs):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    pair_keys, found_keys = (rows[:, 0] * classes + rows[:, 1] for rows in (pairs, found))
    order = np.argsort(pair_keys)
    # searchsorted returns len(pairs) for a key above all others; the remainder keeps the index valid.
    nearest = order[np.searchsorted(pair_keys, found_keys, sorter=order) % len(pair_keys)]
    matched = np.flatnonzero(pair_keys[nearest] == found_keys)
    return matched, nearest[matched]


def _make_index_rows(
    batch: RowBatch, readable: Any, top1: Ints, maps: Floats, objects: Regions | None, results: Results
) -> Any:
    """Return the rows of the index for a batch, as a pyarrow.Table."""
    pa = import_arrow()
    rows = batch.rows
    is_readable = rows.column("error").is_null().to_numpy(zero_copy_only=False)
    inside = np.full(len(maps), np.nan)
    if objects is not None:
        photos = (readable.column(name).to_pylist() for name in ("path", "height", "width", "box"))
        for n, (path, height, width, box) in enumerate(zip(*photos, strict=True)):
            inside[n] = measure_inside_objects(maps[n], path, (height, width), box, objects, results)
    computed = {
        "predicted": top1,
        "probability": _take_first(readable.column("probabilities")),
        "border": measure_border_share(np.abs(maps)),
        "border_positive": measure_border_share(np.maximum(maps, 0)),
        "positions": count_effective_cells(maps),
        "inside": inside,
    }
    place = {
        "part": pa.repeat(batch.part.name, rows.num_rows),
        "row_group": pa.repeat(batch.row_group, rows.num_rows),
        "row": pa.array(np.arange(batch.first, batch.first + rows.num_rows)),
    }
    columns = {name: _fill_nulls(values, is_readable) for name, values in computed.items()} | place
    ordered = (columns[name] if name in columns else rows.column(name) for name in COLUMNS)
    return pa.table([values.cast(kind) for values, kind in zip(ordered, COLUMNS.values(), strict=True)], list(COLUMNS))


def _fill_nulls(values: NDArray[Any], is_readable: NDArray[np.bool_]) -> Any:
    """Return a pyarrow array for all rows, from the values of the readable rows; other rows and nan become null."""
    pa = import_arrow()
    values_of_all = np.full(len(is_readable), np.nan)
    values_of_all[is_readable] = values
    return pa.array(values_of_all, mask=np.isnan(values_of_all))


@contextmanager
def _open_index_writer(path: Path) -> Iterator[Callable[[Any], None]]:
    """Yield a function that accepts tables of index rows, of any length, and writes them in row groups of one size."""
    pa = import_arrow()
    pending: list[Any] = []
    schema = pa.schema([pa.field(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()])
    # Use LZ4 because it decompresses fastest.
    with pa.parquet.ParquetWriter(path, schema, compression="lz4") as file:

        def write(table: Any, least: int = _ROW_GROUP) -> None:
            pending.append(table)
            if sum(map(len, pending)) >= least:
                file.write_table(pa.concat_tables(pending), row_group_size=_ROW_GROUP)
                pending.clear()

        yield write
        write(schema.empty_table(), 0)


def _replace_files(temporary: Path, out: Path) -> None:
    """Move the files of a complete summary into `out`, and remove what is there of an earlier summary.

    NUMBERS is removed first and moved last: `read_summary` refuses a folder without this file as incomplete.
    """
    for name in (NUMBERS, *REPORT_FILES):
        (out / name).unlink(missing_ok=True)
    for file in sorted(temporary.iterdir(), key=lambda file: file.name == NUMBERS):
        file.replace(out / file.name)


@contextmanager
def _translate_write_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(f"Cannot write {out} ({summarize_reason(error)}). Use another folder.") from error
