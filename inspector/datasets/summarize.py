"""From the results of a data set to its survey: one pass over the stored maps, in bounded memory.

    results of `inspector batch` -> an index with a row of numbers an image, and average maps

What the numbers are stands in `evidence`; questions to the index in `survey_index`.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspector.analysis.localization import Regions
from inspector.datasets.index import COLUMNS, count_confusions, read_counts
from inspector.datasets.results import Batch, Results, iterate_batches, read_results, unpack_maps
from inspector.datasets.statistics import Floats, count_effective_positions, measure_border_share
from inspector.datasets.stored_maps import measure_inside_objects
from inspector.datasets.summary import INDEX, MAPS, NUMBERS, AverageMaps, DatasetSummary, Ints, read_summary
from inspector.datasets.table import import_arrow
from inspector.errors import ExportError, InspectorError, summarize_reason
from inspector.files import json_bytes

_PAIRS = 1000  # confusions whose contrast maps are made, the most frequent ones
_ROW_GROUP = 30_000  # rows of the index: so few that one image is found quickly


def summarize(
    folder: Path, out: Path, objects: Regions | None = None, on_progress: Callable[[float], None] = lambda done: None
) -> DatasetSummary:
    """Survey the results in a folder, and keep what was found in `out`, where `read_survey` has it at once.

    `objects` says where the objects of the photos are; `on_progress` gets how much is done, 0-1. Raises
    InspectorError for results that cannot be read or have no image, LocalizationError for objects that do not fit
    the photos, and ExportError where `out` cannot be written.
    """
    results = read_results(folder)
    classes = len(results.class_names)
    mistaken = np.array(count_confusions(results.parts, _PAIRS), np.int64).reshape(-1, 3)
    pairs = mistaken[:, :2]
    predicted, labelled, contrasts = (
        AverageMaps(np.zeros((n, *results.grid)), np.zeros(n, np.int64)) for n in (classes, classes, len(pairs))
    )
    done = 0
    with _new_files(out) as unfinished:
        with _index_writer(unfinished / INDEX) as write:
            for batch in iterate_batches(results):
                read = batch.read()
                likeliest, maps = _likeliest(read, batch, results)
                labels = read.column("label_class").fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
                rows, of_label = unpack_maps(read, labels, results.grid)
                predicted.add(likeliest, maps)
                labelled.add(labels[rows], of_label)
                which, pair = _among(pairs, np.stack([labels[rows], likeliest[rows]], 1), classes)
                contrasts.add(pair, (maps[rows] - of_label)[which])
                write(_index_rows(batch, read, likeliest, maps, objects, results))
                done += batch.rows.num_rows
                on_progress(done / results.images)
        found = read_counts(unfinished / INDEX)
        if objects is not None and not found.with_objects:
            raise InspectorError(
                f"No object is known of the {results.images:,} images in {folder}: objects of files named as in the "
                f"results, or as from {results.about.get('source')} on, would do."
            )
        np.savez_compressed(
            unfinished / MAPS,
            class_names=np.array(results.class_names),
            predicted_sums=predicted.sums, predicted_counts=predicted.counts,
            labelled_sums=labelled.sums, labelled_counts=labelled.counts,
            pairs=pairs, contrast_sums=contrasts.sums, contrast_counts=contrasts.counts,
        )  # fmt: skip
        about = {"network": results.about["network"], "state": results.state(), "summary": asdict(found)}
        (unfinished / NUMBERS).write_bytes(json_bytes(about))
    return read_summary(out)


def _likeliest(read: Any, batch: Batch, results: Results) -> tuple[Ints, Floats]:
    """The likeliest class of every row, and its map."""
    likeliest = _firsts(read.column("classes")).astype(np.int64)
    rows, maps = unpack_maps(read, likeliest, results.grid)
    if len(rows) < len(likeliest):
        raise InspectorError(
            f"{batch.part} has an image without the map of its likeliest class: `inspector batch` into a new folder "
            "would do."
        )
    return likeliest, maps


def _firsts(lists: Any) -> NDArray[Any]:
    """The first value of each list of a pyarrow array."""
    first: NDArray[Any] = lists.values.to_numpy()[lists.offsets.to_numpy()[:-1]]
    return first


def _among(pairs: Ints, found: Ints, classes: int) -> tuple[Ints, Ints]:
    """Which of the found pairs (N, 2) are among `pairs`, and their numbers there."""
    if not len(pairs):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    known, asked = (rows[:, 0] * classes + rows[:, 1] for rows in (pairs, found))
    order = np.argsort(known)
    place = order[np.searchsorted(known, asked, sorter=order) % len(known)]
    which = np.flatnonzero(known[place] == asked)
    return which, place[which]


def _index_rows(
    batch: Batch, read: Any, likeliest: Ints, maps: Floats, objects: Regions | None, results: Results
) -> Any:
    """The rows of the index for a batch, a pyarrow.Table."""
    pa = import_arrow()
    rows = batch.rows
    was_read = rows.column("error").is_null().to_numpy(zero_copy_only=False)
    inside = np.full(len(maps), np.nan)
    if objects is not None:
        told = (read.column(name).to_pylist() for name in ("path", "height", "width", "box"))
        for n, (path, height, width, box) in enumerate(zip(*told, strict=True)):
            inside[n] = measure_inside_objects(maps[n], path, (height, width), box, objects, results)
    own = {
        "predicted": likeliest,
        "probability": _firsts(read.column("probabilities")),
        "border": measure_border_share(np.abs(maps)),
        "border_positive": measure_border_share(np.maximum(maps, 0)),
        "positions": count_effective_positions(maps),
        "inside": inside,
    }
    place = {
        "part": pa.repeat(batch.part.name, rows.num_rows),
        "row_group": pa.repeat(batch.row_group, rows.num_rows),
        "row": pa.array(np.arange(batch.first, batch.first + rows.num_rows)),
    }
    columns = {name: _with_nulls(values, was_read) for name, values in own.items()} | place
    known = (columns[name] if name in columns else rows.column(name) for name in COLUMNS)
    return pa.table([values.cast(kind) for values, kind in zip(known, COLUMNS.values(), strict=True)], list(COLUMNS))


def _with_nulls(values: NDArray[Any], was_read: NDArray[np.bool_]) -> Any:
    """An array of all rows from the numbers of those that were read; null for the others, and in place of nan."""
    pa = import_arrow()
    every = np.full(len(was_read), np.nan)
    every[was_read] = values
    return pa.array(every, mask=np.isnan(every))


@contextmanager
def _index_writer(path: Path) -> Iterator[Callable[[Any], None]]:
    """A function that takes the tables of an index, of any size, and writes them in row groups of one size."""
    pa = import_arrow()
    waiting: list[Any] = []
    schema = pa.schema([pa.field(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()])
    # Of the codecs the quickest to read.
    with pa.parquet.ParquetWriter(path, schema, compression="lz4") as file:

        def write(table: Any, least: int = _ROW_GROUP) -> None:
            waiting.append(table)
            if sum(map(len, waiting)) >= least:
                file.write_table(pa.concat_tables(waiting), row_group_size=_ROW_GROUP)
                waiting.clear()

        yield write
        write(schema.empty_table(), 0)


@contextmanager
def _new_files(out: Path) -> Iterator[Path]:
    """A folder whose files go into `out` when all are written, NUMBERS the last, so that none is without the others."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".survey-", dir=out, ignore_cleanup_errors=True) as unfinished:
            yield Path(unfinished)
            (out / NUMBERS).unlink(missing_ok=True)
            for name in (INDEX, MAPS, NUMBERS):
                (Path(unfinished) / name).replace(out / name)
    except OSError as error:
        raise ExportError(f"Cannot write {out} ({summarize_reason(error)}): another folder would do.") from error
