"""A data set calibrates the network in lower precision that explains it, and its results say what that changes."""

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image
from tiny_photos import write_photos
from torch import nn

import inspector
from inspector.analysis.annotations import read_annotations
from inspector.datasets import accelerated
from inspector.datasets.accelerated import make_calibration, sample_items
from inspector.datasets.localize import LocalizeOptions, localize
from inspector.datasets.located import BoxOptions, PassOptions, find_boxes, name_files
from inspector.datasets.run import RunOptions, run_dataset
from inspector.datasets.summarize import summarize
from inspector.errors import InspectorError, NetworkError
from inspector.explain.backends.lower_precision import Calibration
from inspector.images.sources import list_images


@pytest.fixture
def classifier(hand_made_gap: nn.Module) -> inspector.Classifier:
    return inspector.Classifier.wrap(hand_made_gap, class_names=("cat", "dog", "bird"), size=(6, 8), name="by hand")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = write_photos(tmp_path / "photos", {"cat": 4, "dog": 3, "fish": 3})
    (folder / "dog" / "01.png").write_bytes(b"no image")
    return folder


def test_a_run_in_int8_says_how_it_differs_and_can_be_continued(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The network is made by hand, so its classes may change.
    monkeypatch.setattr(accelerated, "Calibration", partial(Calibration, least_agreement=0.0))
    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path / "cache"))
    options = RunOptions(backend="onnxruntime", dtype="int8", shard_size=2)
    counts = run_dataset(photos, classifier, tmp_path / "maps", options)
    assert counts.precision.startswith("Computed in int8. Compared with float32 on ")
    about = json.loads((tmp_path / "maps" / "run.json").read_text())
    assert (about["backend"], about["precision"]) == ("onnxruntime int8", counts.precision)
    (tmp_path / "maps" / "part-00000.parquet").unlink()
    again = run_dataset(photos, classifier, tmp_path / "maps", replace(options, resume=True))
    assert again == counts
    assert again.verdicts.get("not exact", 0) == 0
    summary = summarize(tmp_path / "maps", tmp_path / "summary")
    assert ("precision", counts.precision) in summary.describe()


def test_boxes_and_scores_of_int8_say_how_they_differ(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerated, "Calibration", partial(Calibration, least_agreement=0.0))
    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path / "cache"))
    how, items = PassOptions(backend="onnxruntime", dtype="int8"), list_images(photos)
    _, about, counts = find_boxes(items, classifier, BoxOptions(), how, "csv", name_files(items, photos))
    assert counts.precision.startswith("Computed in int8. Compared with float32 on ")
    assert (about["backend"], about["precision"]) == ("onnxruntime int8", counts.precision)
    (tmp_path / "boxes.csv").write_text("file,x1,y1,x2,y2\ncat/00.png,0,0,9,9\n")
    annotations, wanted = read_annotations(tmp_path / "boxes.csv"), LocalizeOptions("top1", tune=0)
    assert localize(photos, items, annotations, classifier, wanted, how).precision == counts.precision


def test_int8_on_pytorch_leaves_no_folder(photos: Path, tmp_path: Path, classifier: inspector.Classifier) -> None:
    with pytest.raises(NetworkError, match='"eager" runs the network as it is; got int8'):
        run_dataset(photos, classifier, tmp_path / "maps", RunOptions(dtype="int8"))
    assert not (tmp_path / "maps").exists()


def test_photos_that_cannot_be_read_calibrate_nothing(tmp_path: Path, classifier: inspector.Classifier) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    with pytest.raises(InspectorError, match=r"at least 2 photos to build and compare; got 1\. .*broken.png"):
        make_calibration(classifier, list_images(tmp_path))
    Image.new("RGB", (9, 9)).save(tmp_path / "two.png")
    assert len(make_calibration(classifier, list_images(tmp_path)).photos) == 2


def test_labels_count_only_if_all_photos_have_one(tmp_path: Path, classifier: inspector.Classifier) -> None:
    names = classifier.class_names
    for n, folder in enumerate([*names[:2], "no class"]):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (9, 9), (n, 0, 0)).save(tmp_path / folder / "photo.png")
    items = list_images(tmp_path)
    assert make_calibration(classifier, items).labels is None
    known = [item for item in items if item.label in names]
    assert make_calibration(classifier, known).labels == [names.index(item.label) for item in known]


@pytest.mark.parametrize(("count", "chosen"), [(1, 1), (128, 128), (129, 65), (1000, 125)])
def test_the_sample_is_spread_over_the_list(count: int, chosen: int, photos: Path) -> None:
    (first, *_) = list_images(photos)
    items = [replace(first, path=str(n)) for n in range(count)]
    sample = sample_items(items)
    assert len(sample) == chosen
    steps = {int(b.path) - int(a.path) for a, b in pairwise(sample)}
    assert len(steps) <= 1
