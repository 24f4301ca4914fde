"""Measure the time of the summary of a million images, and of the queries to its index.

The results are made up, with a seed: three class maps of 7x7 cells per image out of 1000 classes, a quarter of the
images misclassified, parts of 10,000 images in a temporary folder. Measured are the summary (one pass over all maps,
which writes the index), its peak memory in a process of its own, and the queries of the page "Data set": median and
95th percentile over the rounds.

    python benchmarks/survey.py
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from report import format_table, write_results

from inspector.datasets import index as dataset_index
from inspector.datasets.index import Filters
from inspector.datasets.results import read_results, read_stored_image
from inspector.datasets.shard_schema import make_schema
from inspector.datasets.table import format_shard_name

CLASSES, GRID, TOP, PART = 1000, (7, 7), 3, 10_000


def main(
    images: Annotated[int, typer.Option(min=1, help="Number of rows of the results.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=2, help="How often each query is run.")] = 30,
    worker: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time a summary and the queries to its index, and write results/survey.md."""
    if worker is not None:
        _measure_summary(worker)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = time.perf_counter()
        few = _write_made_up_results(folder / "few", min(images, PART))
        _write_made_up_results(folder / "all", images)
        write_seconds = time.perf_counter() - start
        results = read_results(folder / "all")
        size = sum(part.stat().st_size for part in results.parts)
        lines = []
        for what, count, path in (("one part", min(images, PART), few), ("all", images, folder / "all")):
            seconds, memory = json.loads(
                subprocess.run(
                    [sys.executable, __file__, "--worker", str(path)], capture_output=True, text=True, check=True
                ).stdout
            )
            rate = count / seconds
            lines.append((what, f"{count:,}", f"{seconds:.1f}", f"{rate:,.0f}", f"{memory:,.0f}"))
        index = folder / "all" / "survey" / "images.parquet"
        queries = _make_queries(index, folder / "all", images)
        answers = [(what, rounds, *_time_query(query, rounds)) for what, query in queries.items()]
        write_results(
            "survey",
            f"python benchmarks/survey.py --images {images} --rounds {rounds}",
            f"{images:,} images in {len(results.parts)} parts, {size / 1e6:,.0f} MB, written in {write_seconds:.0f} s; "
            f"the index has {index.stat().st_size / 1e6:.1f} MB. About 0.8 GB of the peak is torch.",
            format_table(("summary of", "images", "seconds", "images per second", "peak MB"), lines),
            format_table(("query", "rounds", "median ms", "95th percentile ms"), answers),
        )


def _measure_summary(folder: Path) -> None:
    """Print the seconds of a summary without the imports, and the peak memory of this process in MB."""
    from inspector.datasets.summarize import summarize

    start = time.perf_counter()
    summarize(folder, folder / "survey")
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3]))


def _make_queries(index: Path, folder: Path, images: int) -> dict[str, Callable[[], object]]:
    random = np.random.default_rng(1)
    results = read_results(folder)

    def one_image() -> object:
        row = dataset_index.find_row(index, int(random.integers(images)))
        assert row is not None
        return read_stored_image(results, row["part"], row["row_group"], row["row"])

    middle = max(0, images // 2 - 50)
    return {
        "the numbers of all images": lambda: dataset_index.read_counts(index),
        "the first page": lambda: dataset_index.list_rows(index),
        "the first page by cells": lambda: dataset_index.list_rows(index, order="positions", descending=True),
        "a page in the middle": lambda: dataset_index.list_rows(index, offset=middle),
        "a page in the middle by probability": lambda: dataset_index.list_rows(
            index, order="probability", offset=middle
        ),
        "misclassified images of a class, counted": lambda: dataset_index.count_images(index, Filters(7, wrong=True)),
        "misclassified images of a class, by border": lambda: dataset_index.list_rows(
            index, Filters(7, wrong=True), "border"
        ),
        "a text in the paths, counted": lambda: dataset_index.count_images(index, Filters(text="0999")),
        "a text in the paths": lambda: dataset_index.list_rows(index, Filters(text="0999")),
        "any image with its maps": one_image,
    }


def _time_query(query: Callable[[], object], rounds: int) -> tuple[str, str]:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        query()
        times.append((time.perf_counter() - start) * 1e3)
    return f"{statistics.median(times):.0f}", f"{statistics.quantiles(times, n=20, method='inclusive')[-1]:.0f}"


def _write_made_up_results(folder: Path, images: int) -> Path:
    folder.mkdir()
    axis = {"centre": 16, "stride": 32, "size": None}
    about = {
        "version": "0", "network": "made up", "network_sha256": "0", "class_names": [f"c{k}" for k in range(CLASSES)],
        "grid": GRID, "size": [224, 224], "pooling": "average", "verdict": "exact", "top": TOP,
        "probability": "softmax", "receptive_field": {"y": axis, "x": axis}, "preprocessing": {}, "source": "photos",
        "images": images, "shard_size": PART,
    }  # fmt: skip
    for first in range(0, images, PART):
        rows = _make_rows(first, min(PART, images - first))
        pq.write_table(
            pa.table(rows, schema=make_schema(about)), folder / format_shard_name(first // PART), compression="zstd"
        )
    return folder


def _make_rows(first: int, count: int) -> dict[str, object]:
    random = np.random.default_rng(first)
    top1 = random.integers(CLASSES, size=count)
    classes = (top1[:, None] + np.arange(TOP)) % CLASSES
    rank = np.where(random.random(count) < 0.25, random.integers(1, TOP, count), 0)
    label = classes[np.arange(count), rank]
    maps = random.normal(0.2, 0.3, (count, TOP * GRID[0] * GRID[1])).astype(np.float16)
    sums = maps.reshape(count, TOP, -1).astype(np.float32).sum(2)
    return {
        "index": np.arange(first, first + count),
        "path": [f"photos/c{k}/image_{n:08}.jpg" for n, k in enumerate(label, first)],
        "label": [f"c{k}" for k in label],
        "height": np.full(count, 375),
        "width": np.full(count, 500),
        "sha256": ["0" * 64] * count,
        "classes": _make_lists(classes),
        "probabilities": _make_lists(np.sort(random.random((count, TOP)) / TOP)[:, ::-1]),
        "logits": _make_lists(sums),
        "biases": _make_lists(np.zeros((count, TOP))),
        "label_class": label,
        "label_rank": rank,
        "label_probability": random.random(count),
        "maps": _make_lists(maps),
        "map_classes": _make_lists(classes),
        "box": _make_lists(np.tile([62.5, 0, 437.5, 375], (count, 1))),
        "residual": random.random(count) * 1e-5,
        "verdict": ["exact"] * count,
        "error": [None] * count,
    }


def _make_lists(values: np.ndarray) -> pa.Array:
    count, each = values.shape
    return pa.ListArray.from_arrays(np.arange(0, count * each + 1, each, dtype=np.int32), values.ravel())


if __name__ == "__main__":
    typer.run(main)
