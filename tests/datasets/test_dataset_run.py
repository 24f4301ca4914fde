"""A run writes every image exactly once, with the values of inspector.class_maps, also after a kill."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny_photos import write_photos
from torch import nn

import inspector
from inspector.datasets import decoding, gallery
from inspector.datasets import run as run_module
from inspector.datasets.results import read_results, read_stored_image
from inspector.datasets.run import RunOptions, run_dataset
from inspector.datasets.stored_maps import read_receptive_field
from inspector.datasets.table import Counts, count_rows, count_written_shards, read_rows, split_into_shards
from inspector.errors import ExportError, ImageError, InspectorError, NetworkError
from inspector.explain import memory
from inspector.explain.receptive_field import Axis, ReceptiveField
from inspector.images.examples import list_examples
from inspector.images.preprocessing import make_view
from inspector.images.sources import list_images, read_item

NAMES = ("cat", "dog", "bird")
SCHEMA = {
    "index": "int64", "path": "string", "label": "string", "height": "int32", "width": "int32", "sha256": "string",
    "classes": "list<element: int32>", "probabilities": "list<element: float>", "logits": "list<element: float>",
    "biases": "list<element: float>", "label_class": "int32", "label_rank": "int32", "label_probability": "float",
    "maps": "list<element: halffloat>", "map_classes": "list<element: int32>", "box": "list<element: float>",
    "residual": "float", "verdict": "string", "error": "string",
}  # fmt: skip


@pytest.fixture
def classifier(hand_made_gap: nn.Module) -> inspector.Classifier:
    return inspector.Classifier.wrap(hand_made_gap, class_names=NAMES, size=(6, 8), name="by hand")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten photos of 18 x 20 pixels: four cats, three dogs, three fish. The second dog is broken."""
    folder = write_photos(tmp_path / "photos", {"cat": 4, "dog": 3, "fish": 3})
    (folder / "dog" / "01.png").write_bytes(b"no image")
    return folder


def read_row_dicts(out: Path | str) -> list[dict[str, Any]]:
    return read_rows(out)[0].to_table().to_pylist()


# --- the values of a row


def test_a_row_has_the_values_of_class_maps(photos: Path, tmp_path: Path, classifier: inspector.Classifier) -> None:
    run_dataset(photos, classifier, tmp_path / "out", RunOptions(top=2, batch_size=4))
    rows = read_row_dicts(tmp_path / "out")
    assert [row["index"] for row in rows] == list(range(10))
    for row in rows:
        if row["error"] is not None:
            continue
        maps = inspector.class_maps(classifier, row["path"])
        assert maps.view is not None
        top = [k for k, _, _ in maps.top(2)]
        assert row["classes"] == top
        assert row["logits"] == pytest.approx(maps.logits[top].tolist(), abs=1e-5)
        assert row["biases"] == pytest.approx(maps.bias[top].tolist(), abs=1e-5)
        assert row["probabilities"] == pytest.approx(maps.probabilities[top].tolist(), abs=1e-6)
        grids = np.array(row["maps"], np.float16).reshape(-1, 6, 8)
        assert len(grids) == len(row["map_classes"])
        for k, grid in zip(row["map_classes"], grids, strict=True):
            assert np.array_equal(grid, maps.values[k].numpy().astype(np.float16))
        assert (row["height"], row["width"]) == (18, 20)
        assert row["sha256"] == maps.view.photo.sha256
        assert row["box"] == pytest.approx(maps.view.box)
        assert (row["residual"], row["verdict"]) == (pytest.approx(maps.residual), maps.verdict)


def test_finer_maps_are_stored_with_their_grid_and_place(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    classifier = inspector.Classifier.wrap(network, class_names=NAMES, size=(16, 24))
    photos = write_photos(tmp_path / "photos", {"cat": 3})
    out = tmp_path / "out"
    run_dataset(photos, classifier, out, RunOptions(top=2, finer=2, overlays=True))
    about = read_rows(out)[1]
    assert (about["grid"], about["finer"]) == ([8, 12], 2)
    assert about["finer_by"].startswith("2x finer by dilating the last strides")
    assert about["receptive_field"]["y"]["stride"] == classifier.receptive_field.y.stride / 2
    results = read_results(out)
    row = read_row_dicts(out)[0]
    maps = inspector.class_maps(classifier, row["path"], finer=2)
    stored = read_stored_image(results, results.parts[0].name, 0, 0)
    for k in row["classes"]:
        assert np.allclose(stored.maps[k], maps.finer.values[k].numpy(), atol=2e-3)
        assert float(stored.own_cells(k).sum()) + stored.biases[k] == pytest.approx(stored.logits[k], abs=2e-2)
    assert read_receptive_field(results) == maps.finer.field


def test_a_label_among_the_classes_has_a_rank_and_a_map(photos: Path, tmp_path: Path, hand_made_gap: nn.Module) -> None:
    names = ("cat", "bird", "dog")  # the network confuses green dogs with birds
    classifier = inspector.Classifier.wrap(hand_made_gap, class_names=names, size=(6, 8))
    run_dataset(photos, classifier, tmp_path / "out", RunOptions(top=1))
    ranks = set()
    for row in read_row_dicts(tmp_path / "out"):
        if row["error"] is not None or row["label"] == "fish":
            assert row["label_class"] is row["label_rank"] is row["label_probability"] is None
            continue
        k = names.index(row["label"])
        maps = inspector.class_maps(classifier, row["path"])
        assert row["label_class"] == k
        assert row["label_rank"] == [c for c, _, _ in maps.top(3)].index(k)
        assert row["label_probability"] == pytest.approx(float(maps.probabilities[k]), abs=1e-6)
        assert row["map_classes"] == list(dict.fromkeys([*row["classes"], k]))
        assert len(row["maps"]) == len(row["map_classes"]) * 6 * 8
        ranks.add(row["label_rank"] == 0)
    assert ranks == {True, False}


def test_labels_are_names_or_numbers_and_an_ambiguous_name_has_no_class(
    photos: Path, tmp_path: Path, hand_made_gap: nn.Module
) -> None:
    cat = photos / "cat" / "00.png"
    (tmp_path / "list.csv").write_text(
        "path,label\n" + "".join(f"{cat},{label}\n" for label in ("crane", "7", "0", "2", "3", "Crane"))
    )
    classifier = inspector.Classifier.wrap(hand_made_gap, class_names=["crane", "crane", "7"], size=8)
    run_dataset(tmp_path / "list.csv", classifier, tmp_path / "out")
    assert [row["label_class"] for row in read_row_dicts(tmp_path / "out")] == [None, 2, 0, 2, None, None]


def test_an_image_that_cannot_be_read_gives_a_row_with_its_error(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier
) -> None:
    counts = run_dataset(photos, classifier, tmp_path / "out", RunOptions(batch_size=1, shard_size=4))
    assert counts == Counts(10, 9, 1, 3)
    assert str(counts) == "10 images: 9 explained, 1 could not be read; 10 rows in 3 shards"
    row = read_row_dicts(tmp_path / "out")[5]
    expected = {"index": 5, "path": f"{photos}/dog/01.png", "label": "dog"}
    assert {name: value for name, value in row.items() if value is not None} == expected | {
        "error": "01.png is not an image that can be read. JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF can."
    }


def test_maps_that_do_not_add_up_are_counted(photos: Path, tmp_path: Path) -> None:
    class Stale(nn.Module):
        """A network whose bias changes after its head was read."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.linear(inputs.mean((2, 3)))

    network = Stale().eval()
    stale = inspector.Classifier.wrap(network, class_names=NAMES, size=8)
    with torch.no_grad():
        network.linear.bias += 1
    counts = run_dataset(photos / "cat", stale, tmp_path / "out")
    assert str(counts).endswith("4 rows in 1 shard; the class maps of 4 do not add up")
    assert {row["verdict"] for row in read_row_dicts(tmp_path / "out")} == {"not exact"}
    assert read_row_dicts(tmp_path / "out")[0]["residual"] == pytest.approx(1, abs=1e-5)


def test_a_folder_with_only_broken_images_gives_a_table(tmp_path: Path, classifier: inspector.Classifier) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    assert run_dataset(tmp_path / "photos", classifier, tmp_path / "out") == Counts(1, 0, 1, 1)


def test_a_network_with_one_logit_and_a_gray_input_gives_rows(photos: Path, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1)).eval()
    gray = inspector.Classifier.wrap(network, size=8, mean=(0.5,), std=(0.5,))
    run_dataset(photos, gray, tmp_path / "out")
    dataset, about = read_rows(tmp_path / "out")
    assert (about["top"], about["probability"], about["grid"]) == (1, "sigmoid", [6, 6])
    assert dataset.to_table().to_pylist()[0]["classes"] == [0]


# --- the files


def test_schema_and_metadata_are_as_documented(photos: Path, tmp_path: Path, classifier: inspector.Classifier) -> None:
    out = tmp_path / "out"
    run_dataset(photos, classifier, out, RunOptions(top=2, shard_size=4))
    files = sorted(path.name for path in out.iterdir())
    assert files == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet", "run.json"]
    assert [pq.read_metadata(out / name).num_rows for name in files[:3]] == [4, 4, 2]
    assert pq.read_metadata(out / files[0]).row_group(0).column(0).compression == "ZSTD"
    dataset, about = read_rows(out)
    assert {field.name: str(field.type) for field in dataset.schema} == SCHEMA
    assert about == json.loads((out / "run.json").read_text())
    expected = {
        "network": "by hand",
        "network_sha256": classifier.sha256(),
        "class_names": ["cat", "dog", "bird"],
        "grid": [6, 8],
        "size": [6, 8],
        "pooling": "average",
        "verdict": "exact",
        "top": 2,
        "probability": "softmax",
        "receptive_field": {axis: {"centre": 0.5, "stride": 1, "size": 1} for axis in "yx"} | {"misplaced": None},
        "source": str(photos),
        "images": 10,
        "shard_size": 4,
    }
    assert expected.items() <= about.items()
    assert about["preprocessing"]["resize"] == [6, 8]
    assert set(about) - set(expected) == {"version", "preprocessing", "fed", "backend", "overlays", "list_sha256"}


def test_an_unbounded_receptive_field_is_null(photos: Path, tmp_path: Path, classifier: inspector.Classifier) -> None:
    field = ReceptiveField(Axis(0.5, 1, math.inf), Axis(0.5, 1, 3))
    run_dataset(photos / "cat", replace(classifier, receptive_field=field), tmp_path / "out")
    text = (tmp_path / "out" / "run.json").read_text()
    fields = json.loads(text, parse_constant=pytest.fail)["receptive_field"]
    assert [fields[axis]["size"] for axis in "yx"] == [None, 3]


def test_a_table_may_be_on_another_file_system(photos: Path, tmp_path: Path, classifier: inspector.Classifier) -> None:
    out = f"memory://{tmp_path.name}/out"
    run_dataset(photos, classifier, out, RunOptions(shard_size=4))
    run_dataset(photos, classifier, tmp_path / "out", RunOptions(shard_size=4))
    assert read_row_dicts(out) == read_row_dicts(tmp_path / "out")
    assert run_dataset(photos, classifier, out, RunOptions(shard_size=4, resume=True)) == Counts(10, 9, 1, 3)
    with pytest.raises(ExportError, match=r"memory://.* is not empty"):
        run_dataset(photos, classifier, out, RunOptions(shard_size=4))


def test_a_place_that_cannot_be_written_is_reported(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier
) -> None:
    with pytest.raises(ExportError, match=r"Cannot write to nothing://x: Protocol not known"):
        run_dataset(photos, classifier, "nothing://x")
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"Cannot write .*file/below/run.json: .*Not a directory"):
        run_dataset(photos, classifier, tmp_path / "file" / "below")


def test_a_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"No shards in .* Expected a folder that `inspector batch` wrote."):
        read_rows(tmp_path)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "part-00000.parquet")
    with pytest.raises(ExportError, match=r"The shards in .* are not those of `inspector batch`: "):
        read_rows(tmp_path)
    (tmp_path / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ExportError, match=r"The shards in .* are not those of `inspector batch`: "):
        read_rows(tmp_path)


def test_without_pyarrow_the_error_says_what_to_install(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        InspectorError, match=r"A table of class maps needs pyarrow .*pip install 'class-map-inspector\[data\]'"
    ):
        run_dataset(photos, classifier, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["top", "batch_size", "shard_size"])
def test_an_option_below_one_is_refused(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier, name: str
) -> None:
    options: dict[str, Any] = {name: 0}
    with pytest.raises(InspectorError, match=f"Expected {name} of 1 or more, got 0."):
        run_dataset(photos, classifier, tmp_path / "out", RunOptions(**options))


def test_a_run_that_cannot_start_leaves_no_folder(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier
) -> None:
    with pytest.raises(ImageError, match="No images at nowhere"):
        run_dataset("nowhere", classifier, tmp_path / "out")
    network = nn.Sequential(nn.Conv2d(3, 2, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)).eval()
    small = inspector.Classifier.wrap(network, size=8).resized(4)
    with pytest.raises(NetworkError, match="cannot run on an input"):
        run_dataset(photos, small, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- resume


def test_a_folder_with_files_is_not_changed(photos: Path, tmp_path: Path, classifier: inspector.Classifier) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"out is not empty. Use --resume to continue"):
        run_dataset(photos, classifier, out)
    with pytest.raises(ExportError, match=r"out has files but no run.json, so there is no run to resume"):
        run_dataset(photos, classifier, out, RunOptions(resume=True))
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_run_may_start_with_resume(photos: Path, tmp_path: Path, classifier: inspector.Classifier) -> None:
    out = tmp_path / "out"
    out.mkdir()
    # Of runs that were killed at their start, here and on another file system.
    (out / ".run.json.tmp").write_text("{")
    (out / f"run.json.{uuid.uuid4().hex}.tmp").write_text("{")
    assert run_dataset(photos, classifier, out, RunOptions(resume=True)) == Counts(10, 9, 1, 1)
    assert sorted(path.name for path in out.iterdir()) == ["part-00000.parquet", "run.json"]


def test_resume_makes_only_the_missing_shards(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run_dataset(photos, classifier, out, RunOptions(shard_size=2))
    before = read_row_dicts(out)
    (out / "part-00001.parquet").unlink()
    whole = (out / "part-00003.parquet").read_bytes()
    (out / "part-00003.parquet").write_bytes(whole[:-100])
    (out / f"part-00003.parquet.{uuid.uuid4().hex}.tmp").write_bytes(whole[:50])
    decoded: list[str] = []
    read_item = decoding.read_item
    monkeypatch.setattr(decoding, "read_item", lambda item: (decoded.append(item.path), read_item(item))[1])
    progress: list[tuple[int, int]] = []
    counts = run_dataset(
        photos, classifier, out, RunOptions(shard_size=2, resume=True), on_progress=lambda *done: progress.append(done)
    )
    assert counts == Counts(10, 9, 1, 5)
    assert sorted(decoded) == [before[index]["path"] for index in (2, 3, 6, 7)]
    assert progress == [(6, 10), (8, 10), (10, 10)]
    assert read_row_dicts(out) == before
    assert len(list(out.iterdir())) == 6


def test_another_run_is_not_resumed(photos: Path, tmp_path: Path, classifier: inspector.Classifier) -> None:
    out = tmp_path / "out"
    run_dataset(photos, classifier, out, RunOptions(top=2, shard_size=4))
    other = inspector.Classifier.wrap(classifier.network, class_names=NAMES, size=(6, 8), name="other")
    renamed = inspector.Classifier.wrap(classifier.network, class_names=["a", "b", "c"], size=(6, 8), name="by hand")
    with pytest.raises(
        ExportError, match=r"differs in --top \(2 then, 3 now\). Use --resume with the command that began it"
    ):
        run_dataset(photos, classifier, out, RunOptions(top=3, shard_size=4, resume=True))
    with pytest.raises(ExportError, match=r"differs in --shard-size \(4 then, 5 now\)"):
        run_dataset(photos, classifier, out, RunOptions(top=2, shard_size=5, resume=True))
    with pytest.raises(ExportError, match=r"differs in the network \(by hand then, other now\)"):
        run_dataset(photos, other, out, RunOptions(top=2, shard_size=4, resume=True))
    with pytest.raises(ExportError, match=r"differs in the class names"):
        run_dataset(photos, renamed, out, RunOptions(top=2, shard_size=4, resume=True))
    with pytest.raises(ExportError, match=r"differs in the preprocessing"):
        run_dataset(photos, classifier.resized((7, 8)), out, RunOptions(top=2, shard_size=4, resume=True))
    with pytest.raises(ExportError, match=r"differs in --overlays"):
        run_dataset(photos, classifier, out, RunOptions(top=2, shard_size=4, overlays=True, resume=True))
    (photos / "cat" / "00.png").rename(photos / "cat" / "07.png")
    with pytest.raises(ExportError, match=r"differs in the list of images"):
        run_dataset(photos, classifier, out, RunOptions(top=2, shard_size=4, resume=True))
    with torch.no_grad():
        classifier.network.linear.bias += 1
    with pytest.raises(ExportError, match=r"differs in the weights of the network"):
        run_dataset(photos, classifier, out, RunOptions(top=2, shard_size=4, resume=True))


def test_counts_that_do_not_add_up_are_an_error(photos: Path, tmp_path: Path, classifier: inspector.Classifier) -> None:
    out = tmp_path / "out"
    run_dataset(photos, classifier, out, RunOptions(shard_size=4))
    kept = (out / "part-00001.parquet").read_bytes()
    (out / "part-00001.parquet").write_bytes((out / "part-00000.parquet").read_bytes())  # four rows of other images
    with pytest.raises(ExportError, match=r"1 shards of .* do not hold .*\(part-00001.parquet\). Delete these files"):
        count_rows(out, 10, 4)
    (out / "part-00001.parquet").write_bytes(kept)
    (out / "part-00003.parquet").write_bytes(kept)
    with pytest.raises(ExportError, match=r"\(part-00003.parquet\)"):
        count_rows(out, 10, 4)
    (out / "part-00003.parquet").rename(out / "other.parquet")
    (out / "part-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(ExportError, match=r"\(part-00002.parquet\)"):
        count_rows(out, 10, 4)


@pytest.mark.parametrize("overlays", [False, True])
def test_at_any_moment_all_finished_shards_are_on_the_disk(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier, overlays: bool
) -> None:
    out = tmp_path / "out"
    progress: list[tuple[int, int]] = []
    run_dataset(
        photos,
        classifier,
        out,
        RunOptions(shard_size=3, batch_size=1, overlays=overlays),
        on_progress=lambda done, _: progress.append((done, count_written_shards(out))),
    )
    assert progress == [(done, max(0, done - 1) // 3) for done in range(11)]


def test_a_shard_that_cannot_be_written_stops_the_run(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ExportError("Cannot write: no space left.")

    monkeypatch.setattr(run_module, "write_shard", fail)
    with pytest.raises(ExportError, match="no space left"):
        run_dataset(photos, classifier, tmp_path / "out", RunOptions(shard_size=1))
    assert count_written_shards(tmp_path / "out") == 0


# --- bounded memory


def test_decoding_runs_ahead_of_the_network_by_a_bounded_number(
    tmp_path: Path, classifier: inspector.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_photos(tmp_path / "photos", {"cat": 60})
    begun: list[str] = []
    explained = 0
    most = 0
    read_item, class_maps_of_batch = decoding.read_item, run_module.class_maps_of_batch

    photos: weakref.WeakSet[inspector.Photo] = weakref.WeakSet()

    def count_reads(item: Any) -> Any:
        begun.append(item.path)
        photo = read_item(item)
        photos.add(photo)
        return photo

    def explain_slowly(classifier: Any, inputs: Any, **options: Any) -> Any:
        nonlocal explained, most
        if begun:  # the first pass, before any photo is read, only asks for the grid
            time.sleep(0.02)
            most = max(most, len(begun) - explained)
            explained += len(inputs)
            assert len(photos) <= 3, "more photos are kept than are being decoded, by two threads and by this one"
        return class_maps_of_batch(classifier, inputs, **options)

    monkeypatch.setattr(decoding, "read_item", count_reads)
    monkeypatch.setattr(run_module, "class_maps_of_batch", explain_slowly)
    run_dataset(folder, classifier, tmp_path / "out", RunOptions(batch_size=4, workers=2, shard_size=8))
    assert len(begun) == explained == 60
    assert 4 < most <= 4 * (decoding._BATCHES_AHEAD + 1)


def test_the_rows_are_the_same_bytes_with_any_number_of_threads(
    tmp_path: Path, classifier: inspector.Classifier
) -> None:
    folder = write_photos(tmp_path / "photos", {"cat": 9, "dog": 8})
    (folder / "cat" / "03.png").write_bytes(b"no image")
    shards = []
    for workers in (1, 2, 7):
        out = tmp_path / str(workers)
        run_dataset(folder, classifier, out, RunOptions(batch_size=3, workers=workers, shard_size=8))
        shards.append([path.read_bytes() for path in sorted(out.glob("*.parquet"))])
    assert len(shards[0]) == 3
    assert shards[0] == shards[1] == shards[2]


# --- overlays


def test_overlays_and_their_gallery_show_every_image(
    tmp_path: Path, classifier: inspector.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_photos(tmp_path / "photos", {"cat": 2, "<i>dog": 3})
    (folder / "cat" / "00.png").write_bytes(b"no image")
    monkeypatch.setattr(gallery, "_IMAGES_PER_PAGE", 2)
    out = tmp_path / "out"
    run_dataset(folder, classifier, out, RunOptions(shard_size=3, batch_size=2, overlays=True))
    pictures = sorted(path.name for path in (out / "overlays").iterdir())
    assert pictures == ["00000000.jpg", "00000001.jpg", "00000002.jpg", "00000004.jpg"]
    with Image.open(out / "overlays" / pictures[0]) as picture:
        assert (picture.format, picture.size) == ("JPEG", (360, 324))
        drawn = np.asarray(picture).astype(int)
    plain = np.asarray(Image.open(folder / "<i>dog" / "00.png").resize((360, 324))).astype(int)
    assert np.abs(drawn - plain).mean() > 5, "no map is drawn"
    pages = [(out / f"gallery-{number:04}.html").read_text() for number in (1, 2, 3)]
    assert not (out / "gallery-0004.html").exists()
    assert "".join(pages).count("<img ") == 4
    assert 'src="overlays/00000004.jpg" loading="lazy"' in "".join(pages)
    assert "is not an image that can be read" in "".join(pages)
    assert "<i>" not in "".join(pages)
    assert "&lt;i&gt;dog" in pages[0]
    index = (out / "gallery.html").read_text()
    assert [f'href="gallery-{number:04}.html"' in index for number in (1, 2, 3)] == [True] * 3
    assert 'href="gallery-0002.html">next' in pages[0]


# --- killed and stopped runs of the command

MANY = 400


@pytest.fixture(scope="module")
def boots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boots")
    images = [path.read_bytes() for path in list_examples("fashion_mnist").values()]
    for number in range(MANY):
        (folder / f"{number:03}.png").write_bytes(images[number % len(images)] if number % 50 else b"no image")
    return folder


@pytest.fixture(scope="module")
def uninterrupted_rows(boots: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("uninterrupted_rows") / "out"
    run_dataset(boots, inspector.load("fashion_gap"), out, RunOptions(batch_size=1, shard_size=8))
    return read_row_dicts(out)


def start_command(boots: Path, out: Path) -> subprocess.Popen[str]:
    """Start the command, and return when it has written two shards."""
    # If a shell starts the tests in the background, they and their child processes ignore Ctrl-C.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from inspector.cli import dataset, main; main()"
    options = ["-m", "fashion_gap", "-o", str(out), "--batch-size", "1", "--shard-size", "8", "--workers", "1"]
    command = [sys.executable, "-c", code, "batch", str(boots), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    while process.poll() is None and not (out / "part-00001.parquet").exists():
        time.sleep(0.002)
    return process


def assert_resume_completes(boots: Path, out: Path, uninterrupted_rows: list[dict[str, Any]]) -> None:
    whole = count_written_shards(out)
    assert 2 <= whole < len(split_into_shards(MANY, 8)), "it was not stopped in the middle"
    kept: Mapping[str, bytes] = {path.name: path.read_bytes() for path in out.glob("part-*.parquet")}
    counts = run_dataset(boots, inspector.load("fashion_gap"), out, RunOptions(batch_size=1, shard_size=8, resume=True))
    assert counts == Counts(MANY, MANY - MANY // 50, MANY // 50, MANY // 8)
    assert all((out / name).read_bytes() == content for name, content in kept.items())
    assert read_row_dicts(out) == uninterrupted_rows
    assert not list(out.glob("*.tmp"))


def test_a_killed_run_resumes_and_has_every_image_once(
    boots: Path, tmp_path: Path, uninterrupted_rows: list[dict[str, Any]]
) -> None:
    process = start_command(boots, tmp_path / "out")
    process.kill()
    process.communicate()
    assert_resume_completes(boots, tmp_path / "out", uninterrupted_rows)


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is no signal there")
def test_a_run_stopped_by_ctrl_c_ends_with_a_sentence_and_resumes(
    boots: Path, tmp_path: Path, uninterrupted_rows: list[dict[str, Any]]
) -> None:
    process = start_command(boots, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    shards, out = count_written_shards(tmp_path / "out"), tmp_path / "out"
    sentence = f"Stopped: {shards} shards are complete in {out}. Use --resume"
    assert sentence in " ".join(errors.split())
    assert "Traceback" not in errors
    assert_resume_completes(boots, tmp_path / "out", uninterrupted_rows)


# --- the command


def test_help_needs_neither_torch_nor_pyarrow() -> None:
    code = "import sys; from inspector.cli import dataset; assert not {'torch', 'pyarrow', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs the command in this process: exit status, output and errors, each in one line."""
    from inspector.cli import dataset, main

    assert dataset.batch
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: None)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inspector", "batch", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), " ".join(out.split()), " ".join(err.split())

    return run


def test_the_command_prints_the_counts(boots: Path, tmp_path: Path, command: Any) -> None:
    some = [boots / f"{number:03}.png" for number in range(5)]
    status, out, err = command(*some, "-m", "fashion_gap", "-o", tmp_path / "out", "--overlays")
    assert status == 0, err
    assert "5 images: 4 explained, 1 could not be read; 5 rows in 1 shard" in out
    assert (tmp_path / "out" / "gallery.html").is_file()
    assert command(*some, "-m", "fashion_gap", "-o", tmp_path / "out")[0] == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--engine", "spark"], "--engine is 'spark'. Use local or ray."),
        (["--size", "native"], "--size native gives every photo its own grid"),
        (["--overlays", "--engine", "ray"], "Overlays are drawn by the local engine"),
        (["--overlays", "-o", "memory://out"], "Overlays are drawn by the local engine"),
        (["-m", "fashion_gab"], "No network 'fashion_gab'. Nearest names: fashion_gap"),
    ],
)
def test_options_that_do_not_fit_together_get_one_sentence(
    boots: Path, tmp_path: Path, command: Any, options: list[str], sentence: str
) -> None:
    status, _, err = command(boots, "-m", "fashion_gap", "-o", tmp_path / "out", *options)
    assert status == 1
    assert sentence in err
    assert not (tmp_path / "out").exists()


def test_another_backend_gives_the_same_rows(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path / "cache"))
    run_dataset(photos, classifier, tmp_path / "eager")
    run_dataset(photos, classifier, tmp_path / "accelerated", RunOptions(backend="auto"))
    assert read_rows(tmp_path / "accelerated")[1]["backend"] == "onnxruntime"  # the backend that `auto` chose
    for row, other in zip(read_row_dicts(tmp_path / "accelerated"), read_row_dicts(tmp_path / "eager"), strict=True):
        assert row["classes"] == other["classes"]
        assert row["logits"] == (other["logits"] and pytest.approx(other["logits"], abs=1e-4))
        assert row["verdict"] == other["verdict"]


def test_the_backend_that_a_classifier_has_runs_it_unless_another_one_is_named(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier
) -> None:
    folded = inspector.accelerate(classifier, "folded")
    for backend, expected in ((None, "folded"), ("eager", "eager")):
        out = tmp_path / f"out {backend}"
        run_dataset(photos / "cat", folded, out, RunOptions(backend=backend))
        assert read_rows(out)[1]["backend"] == expected


def test_images_that_cannot_be_read_leave_no_gap_in_a_batch(photos: Path, classifier: inspector.Classifier) -> None:
    batch = list(enumerate(list_images(photos)))
    (decoded,) = decoding.decode_ahead([batch], classifier, workers=2)
    assert [image.index for image in decoded.images if image.error] == [5]
    expected = [classifier.inputs(make_view(read_item(item), classifier.preprocessing)) for n, item in batch if n != 5]
    assert torch.equal(decoded.inputs, torch.cat(expected))


def test_an_unknown_backend_leaves_no_folder(photos: Path, tmp_path: Path, classifier: inspector.Classifier) -> None:
    with pytest.raises(NetworkError, match=r"No backend 'quickest'\. Use one of auto"):
        run_dataset(photos, classifier, tmp_path / "out", RunOptions(backend="quickest"))
    assert not (tmp_path / "out").exists()
