"""Damaged, foreign and half-written results: never other numbers, one true sentence, and nobody's file is lost."""

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up_results import Image, make_about, make_row, write_results
from tiny_photos import write_photos
from torch import nn

import inspector
from inspector.datasets import gallery, summarize
from inspector.datasets import index as dataset_index
from inspector.datasets.results import iterate_batches, read_results, read_stored_image
from inspector.datasets.run import RunOptions, run_dataset
from inspector.datasets.shard_schema import parse_about
from inspector.datasets.summary import MAPS, NUMBERS, belongs_to, read_summary
from inspector.datasets.table import begin_run, check_place, is_file_of_run, read_rows, write_shard
from inspector.errors import ExportError, InspectorError

NAMES, GRID = ("cat", "dog", "fox"), (3, 3)


def make_images(count: int = 5) -> list[Image]:
    random = np.random.default_rng(0)
    return [
        Image(f"photos/{n}.png", {0: random.normal(size=GRID), 1: random.normal(size=GRID)}, label=0)
        for n in range(count - 1)
    ] + [Image("photos/broken.png", {}, error="broken.png is broken")]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results with checksums: two shards of three and two rows."""
    out, about = tmp_path / "results", make_about(NAMES, GRID, images=5, shard_size=3)
    rows = [make_row(n, image, NAMES) for n, image in enumerate(make_images())]
    out.mkdir()
    (out / "run.json").write_text(json.dumps(about))
    for number, part in enumerate((rows[:3], rows[3:])):
        write_shard(out, number, part, about)
    return out


def read_everything(folder: Path) -> Any:
    """All that readers take from results; arrays as lists, so that they can be compared."""
    opened = read_results(folder)
    return [dict(opened.about), *(batch.rows.to_pylist() for batch in iterate_batches(opened))]


# --- damage


def test_no_damaged_byte_changes_a_number_without_an_error(results: Path, tmp_path: Path) -> None:
    part = results / "part-00000.parquet"
    content, whole = part.read_bytes(), read_everything(results)
    noticed = 0
    for place in range(0, len(content), 29):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        part.write_bytes(damaged)
        try:
            assert read_everything(results) == whole, place
        except InspectorError:
            noticed += 1
            # What a reader refuses is written anew.
            assert 0 in begin_run(results, make_about(NAMES, GRID, images=5, shard_size=3) | MATCHING, resume=True)
    assert noticed > len(content) / 29 / 2


MATCHING = {"overlays": None, "list_sha256": None}  # what the hand-made run.json does not have


@pytest.mark.parametrize("place", ["a page of maps", "the settings", "the end"])
def test_resume_writes_a_damaged_shard_anew(tmp_path: Path, hand_made_gap: nn.Module, place: str) -> None:
    classifier = inspector.Classifier.wrap(hand_made_gap, class_names=NAMES, size=(6, 8))
    photos, out = write_photos(tmp_path / "photos", {"cat": 4}), tmp_path / "out"
    run_dataset(photos, classifier, out, RunOptions(shard_size=2))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    part = bytearray(before["part-00001.parquet"])
    offset = pq.read_metadata(out / "part-00001.parquet").row_group(0).column(13).data_page_offset + 60
    byte = {"a page of maps": offset, "the settings": part.index(b"ARROW:schema") + 600, "the end": len(part) - 1}[
        place
    ]
    part[byte] ^= 1
    (out / "part-00001.parquet").write_bytes(part)
    with pytest.raises(InspectorError, match=r"part-00001\.parquet"):
        read_everything(out)
    run_dataset(photos, classifier, out, RunOptions(shard_size=2, resume=True))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_rows_of_damaged_shards_are_refused_by_every_reader(results: Path) -> None:
    part = results / "part-00000.parquet"
    content = bytearray(part.read_bytes())
    content[pq.read_metadata(part).row_group(0).column(13).data_page_offset + 60] ^= 1
    part.write_bytes(content)
    with pytest.raises(InspectorError, match=r"Cannot read .*part-00000.parquet .*Use `inspector batch --resume`"):
        read_stored_image(read_results(results), part.name, 0, 0)
    with pytest.raises(OSError, match="CRC"):
        read_rows(results)[0].to_table()


def test_shards_without_checksums_are_still_read(tmp_path: Path) -> None:
    older = write_results(tmp_path / "older", make_images(), make_about(NAMES, GRID))
    table = pq.read_table(older / "part-00000.parquet")
    metadata = {b"inspector": table.schema.metadata[b"inspector"]}
    pq.write_table(table.replace_schema_metadata(metadata), older / "part-00000.parquet")
    assert len(read_everything(older)[1]) == 4


# --- files of others


def test_resume_removes_only_temporary_files_of_ours(tmp_path: Path, hand_made_gap: nn.Module) -> None:
    classifier = inspector.Classifier.wrap(hand_made_gap, class_names=NAMES, size=(6, 8))
    photos, out = write_photos(tmp_path / "photos", {"cat": 2}), tmp_path / "out"
    run_dataset(photos, classifier, out)
    ours = [f"part-00007.parquet.{'0' * 32}.tmp", ".part-00007.parquet.tmp", f"run.json.{'a' * 32}.tmp"]
    foreign = ["mine.tmp", "part-00007.parquet.tmp", f"xpart-00007.parquet.{'0' * 32}.tmp", "run.json.tmp"]
    for name in (*ours, *foreign):
        (out / name).write_text("x")
    (out / "x.tmp").mkdir()
    (out / f"part-00008.parquet.{'0' * 32}.tmp").mkdir()
    run_dataset(photos, classifier, out, RunOptions(resume=True))
    kept = {path.name for path in out.iterdir()} - {"run.json", "part-00000.parquet"}
    assert kept == {*foreign, "x.tmp", f"part-00008.parquet.{'0' * 32}.tmp"}


def test_a_place_is_checked_before_a_run(tmp_path: Path) -> None:
    assert check_place(tmp_path / "new", resume=False) == set()
    (tmp_path / "mine.tmp").write_text("mine")
    with pytest.raises(ExportError, match=r"is not empty\. Use --resume to continue .*, --overwrite to replace it"):
        check_place(tmp_path, resume=False)
    with pytest.raises(ExportError, match=r"has files but no run\.json"):
        check_place(tmp_path, resume=True)
    ours = ("part-00000.parquet", "run.json", "gallery.html", "gallery-0001.html", "overlays", "survey")
    assert all(map(is_file_of_run, ours))
    assert not any(map(is_file_of_run, ("mine.tmp", "photo.jpg", "part-x.parquet", "gallery-1.html.bak")))


# --- values of other types


def nest(levels: int) -> str:
    return "[" * levels + "]" * levels


def change(**values: Any) -> str:
    return json.dumps(make_about(NAMES, GRID, images=5, shard_size=3) | values)


BROKEN_SETTINGS = {
    "{": "not JSON", "null": "expected an object", "[]": "expected an object", '"x"': "expected an object",
    "": "empty", nest(100_000): "nested too deeply", '{"a":' * 5000 + "1" + "}" * 5000: "nested too deeply",
    "{}": "network, network_sha256, class_names", change(class_names=5): "class_names",
    change(class_names=[]): "class_names",
    change(class_names=["a", 1]): "class_names", change(class_names=None): "class_names", change(grid=5.5): "grid",
    change(grid=[10**6, 10**6]): "grid", change(grid=[0, 3]): "grid", change(grid=None): "grid",
    change(grid=["3", "3"]): "grid", change(size=[-5, 28]): "size", change(size=[5, 5, 5]): "size",
    change(network=None): "network", change(pooling=3): "pooling", change(top=0): "top", change(top="2"): "top",
    change(images=-1): "images", change(shard_size=0): "shard_size", change(preprocessing=[]): "preprocessing",
    change(receptive_field=None): "receptive_field", change(receptive_field={"y": {}, "x": {}}): "centre",
    change(receptive_field={"y": {"centre": "1", "stride": 1}, "x": {}}): "centre", change(source=[]): "source",
}  # fmt: skip


@pytest.mark.parametrize(("content", "word"), BROKEN_SETTINGS.items(), ids=range(len(BROKEN_SETTINGS)))
def test_settings_of_wrong_types_give_one_sentence(results: Path, tmp_path: Path, content: str, word: str) -> None:
    (results / "run.json").write_text(content)
    about = make_about(NAMES, GRID, images=5, shard_size=3)
    with pytest.raises(ExportError, match=r"run\.json cannot be read: .*") as raised:
        begin_run(results, about, resume=True)
    assert word in str(raised.value)
    part = results / "part-00000.parquet"
    table = pq.read_table(part).replace_schema_metadata({b"inspector": content.encode()})
    pq.write_table(table, part)
    with pytest.raises(InspectorError, match=r"part-00000\.parquet ") as raised_by_reader:
        read_results(results)
    assert word in str(raised_by_reader.value)
    with pytest.raises(ExportError, match=r"The shards in .* are not those of `inspector batch`"):
        read_rows(results)


def test_settings_that_are_whole_are_returned() -> None:
    about = make_about(NAMES, GRID)
    assert parse_about(json.dumps(about).encode()) == about
    unbounded = {axis: {"centre": 1, "stride": 2, "size": None} for axis in "yx"}
    assert parse_about(change(receptive_field=unbounded).encode())["receptive_field"] == unbounded


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"maps": None}, "a value of maps is missing"),
        ({"maps": [1.0] * 8}, "maps that are not 3 x 3 cells"),
        ({"maps": []}, "maps that are not 3 x 3 cells"),
        ({"map_classes": [0]}, "maps that are not 3 x 3 cells"),
        ({"map_classes": [0, 3]}, "map_classes has a class that is not one of 3"),
        ({"map_classes": [0, None]}, "a value of map_classes is missing"),
        ({"classes": [-1, 0]}, "classes has a class that is not one of 3"),
        ({"classes": [], "probabilities": [], "logits": [], "biases": []}, "not one probability, logit and bias"),
        ({"classes": None}, "a value of classes is missing"),
        ({"logits": [1.0]}, "not one probability, logit and bias"),
        ({"label_class": 3}, "label_class has a class that is not one of 3"),
        ({"box": [0.0, 1.0]}, "lacks its path, size or crop"),
        ({"height": None}, "lacks its path, size or crop"),
    ],
)
def test_rows_of_wrong_values_give_one_sentence(tmp_path: Path, changed: dict[str, Any], sentence: str) -> None:
    rows = [make_row(n, image, NAMES) for n, image in enumerate(make_images())]
    rows[1] = rows[1] | changed
    folder = write_results(tmp_path / "results", [], make_about(NAMES, GRID), rows=rows)
    with pytest.raises(InspectorError, match=r"Cannot read .*part-00000\.parquet") as raised:
        summarize.summarize(folder, tmp_path / "out")
    assert sentence in str(raised.value)
    with pytest.raises(InspectorError, match=r"Cannot read .*part-00000\.parquet"):
        read_stored_image(read_results(folder), "part-00000.parquet", 0, 1)


def test_columns_of_other_types_give_one_sentence(results: Path) -> None:
    part = results / "part-00000.parquet"
    table = pq.read_table(part)
    texts = table.set_column(2, "label", table["index"]).replace_schema_metadata(table.schema.metadata)
    pq.write_table(texts, part)
    with pytest.raises(InspectorError, match=r"part-00000\.parquet has label as int64, not as string\. Expected a"):
        read_results(results)


def test_a_summary_whose_arrays_do_not_fit_gives_one_sentence(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summarize.summarize(results, out)
    with np.load(out / MAPS) as stored:
        arrays = dict(stored)
    for changed in (
        {"pairs": np.array([[0, 9]])},
        {"predicted_sums": np.zeros((2, 3, 3))},
        {"class_names": np.array([])},
    ):
        np.savez(out / MAPS, **(arrays | changed))
        with pytest.raises(InspectorError, match=r"Cannot read the summary in .*out .*make it again"):
            read_summary(out)
    (out / NUMBERS).write_text(nest(100_000))
    assert not belongs_to(out, read_results(results))


# --- interrupted, and many at once


def test_a_summary_that_fails_leaves_the_earlier_one_whole(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    summarize.summarize(results, out, report=True)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(before) >= {"survey.json", "classes.csv", "border.png"}

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("make_report", "_write_index_and_maps", "json_bytes"):
        with monkeypatch.context() as patched:
            patched.setattr(summarize, name, fail)
            with pytest.raises(ExportError, match=r"Cannot write .*No space left"):
                summarize.summarize(results, out, report=True)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    # Tables and figures of other results do not stay beside a summary without them.
    summarize.summarize(results, out)
    assert {path.name for path in out.iterdir()} == {"survey.json", "images.parquet", "average-maps.npz"}


def test_eight_readers_open_fresh_results_at_once(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    write = summarize._write_index_and_maps

    def write_and_count(*arguments: Any) -> Any:
        made.append(1)
        return write(*arguments)

    monkeypatch.setattr(summarize, "_write_index_and_maps", write_and_count)
    opened, out = read_results(results), results / "survey"
    with ThreadPoolExecutor(8) as pool:
        found = [task.result() for task in [pool.submit(summarize.open_summary, opened, out) for _ in range(8)]]
    assert {one.counts.images for one in found} == {5}
    assert len(made) == 1


def test_other_processes_may_open_the_same_results(results: Path) -> None:
    code = "import pathlib, sys\nfrom inspector.datasets.results import read_results\n"
    code += "from inspector.datasets.summarize import open_summary, summarize\n"
    code += "folder = pathlib.Path(sys.argv[1])\nfor _ in range(2):\n    summarize(folder, folder / 'survey')\n"
    code += "    assert open_summary(read_results(folder), folder / 'survey').counts.images == 5"
    command = [sys.executable, "-c", code, str(results)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            time.sleep(0.05)
            assert summarize.open_summary(read_results(results), results / "survey").counts.images == 5
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read()


def test_a_full_disk_while_overlays_are_drawn_gives_one_sentence(
    tmp_path: Path, hand_made_gap: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(gallery, "write_atomic", fail)
    classifier = inspector.Classifier.wrap(hand_made_gap, class_names=NAMES, size=(6, 8))
    photos = write_photos(tmp_path / "photos", {"cat": 2})
    with pytest.raises(ExportError, match=r"Cannot write .*00000000\.jpg: No space left on device\."):
        run_dataset(photos, classifier, tmp_path / "out", RunOptions(overlays=True))


# --- names in queries


@pytest.mark.parametrize("name", ["", "nothing", "index; DROP TABLE images", "1", 'index" --', "count(*)", "INDEX"])
def test_a_column_that_is_not_in_the_table_never_reaches_a_query(results: Path, tmp_path: Path, name: str) -> None:
    index = summarize.summarize(results, tmp_path / "out").index
    with pytest.raises(InspectorError, match="The index has no column "):
        dataset_index.list_rows(index, order=name)
    with pytest.raises(InspectorError, match="The index has no column "):
        dataset_index.list_extremes(index, name, descending=True)
    with pytest.raises(InspectorError, match="The index has no column "):
        dataset_index.count_bins(index, name)


def test_bins_are_of_numbers_and_pages_begin_at_0(results: Path, tmp_path: Path) -> None:
    index = summarize.summarize(results, tmp_path / "out").index
    with pytest.raises(InspectorError, match="The column 'path' of the index holds texts"):
        dataset_index.count_bins(index, "path")
    with pytest.raises(InspectorError, match="Expected limit and offset of 0 or more, got -1 and 0"):
        dataset_index.list_rows(index, limit=-1)
