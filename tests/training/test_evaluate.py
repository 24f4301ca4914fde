"""What a run on photos leaves of its test images, against class maps of each photo by itself."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from tiny_photos import BACKBONE, write_backbone, write_photos

import inspector
from inspector.analysis.localization import find_object_mask, measure_evidence_inside, read_regions
from inspector.errors import LocalizationError
from inspector.training import evaluate
from inspector.training.data import read_photos
from inspector.training.recipe import recipe_for_photos
from inspector.training.train import train

CLASSES = ("apple", "pear, green", "plum")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INSPECTOR_MODELS", str(write_backbone(tmp_path / "models")))
    return write_photos(tmp_path / "fruit", dict.fromkeys(CLASSES, 16))


@pytest.fixture
def masks(photos: Path, tmp_path: Path) -> Path:
    """Of all photos of two classes, the left half."""
    values = np.zeros((18, 20), np.uint8)
    values[:, :10] = 255
    for path in photos.rglob("*.png"):
        if path.parent.name != CLASSES[2]:
            mask = tmp_path / "masks" / path.relative_to(photos)
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(mask)
    return tmp_path / "masks"


def trained(photos: Path, out: Path, head: str = "gap", masks: Path | None = None) -> Path:
    recipe = recipe_for_photos(photos, BACKBONE, head, True, epochs=2)
    (folder,) = train(recipe, photos, out, device="cpu", regions=read_regions(masks) if masks else None)
    return folder


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def records_of(folder: Path) -> list[dict[str, str]]:
    header, *rows = rows_of(folder / "test.csv")
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_the_confusion_counts_every_test_photo_and_its_diagonal_is_top_1(photos: Path, tmp_path: Path) -> None:
    folder = trained(photos, tmp_path / "runs")
    header, *rows = rows_of(folder / "confusion.csv")
    counts = np.array(rows, int)
    assert tuple(header) == CLASSES
    assert counts.sum(1).tolist() == [2, 2, 2]
    header, *_, last = rows_of(folder / "history.csv")
    assert counts.trace() / 6 == pytest.approx(float(last[header.index("top1")]))
    again = np.zeros((3, 3), int)
    for record in records_of(folder):
        again[CLASSES.index(record["label"]), CLASSES.index(record["predicted"])] += 1
    assert np.array_equal(counts, again)


@pytest.mark.parametrize("head", ["gap", "gmp", "fc"])
def test_every_test_photo_is_recorded_as_the_loaded_network_predicts_it(
    head: str, photos: Path, tmp_path: Path
) -> None:
    folder = trained(photos, tmp_path / "runs", head)
    classifier = inspector.load(folder)
    records = records_of(folder)
    expected = read_photos(photos, classifier.preprocessing, torch.device("cpu"))
    assert tuple(record["file"] for record in records) == expected.files
    averages = np.zeros((3, 4, 4))
    for record in records:
        maps = inspector.class_maps(classifier, photos / record["file"])
        _, name, probability = maps.top(1)[0]
        assert record["label"] == Path(record["file"]).parent.name
        assert record["predicted"] == name
        assert float(record["probability"]) == pytest.approx(probability, abs=6e-5)
        assert record["inside"] == ""
        k = CLASSES.index(record["label"])
        averages[k] += maps.values[k].numpy() / 2
    kept = load_file(folder / "average_maps.safetensors")["average_maps"]
    np.testing.assert_allclose(kept, averages, rtol=1e-4, atol=1e-6)
    assert np.abs(kept).max() > 1e-3


def test_a_run_tells_its_photos_and_what_their_class_maps_are_worth(photos: Path, tmp_path: Path) -> None:
    (photos / CLASSES[0] / "notes.txt").write_text("not a photo")
    about = json.loads((trained(photos, tmp_path / "runs") / "run.json").read_text())
    assert about["images"] == str(photos)
    assert {key: about["photos"][key] for key in ("training", "test")} == {"training": 42, "test": 6}
    (skipped,) = about["photos"]["skipped"]
    assert skipped.startswith("apple/notes.txt: ")
    maps = about["class_maps"]
    assert (maps["verdict"], maps["images"], maps["inside"]) == ("exact", 6, None)
    assert 0 <= maps["residual"] < 1e-4


def test_the_share_inside_the_object_is_recorded_where_the_object_is_known(
    photos: Path, masks: Path, tmp_path: Path
) -> None:
    folder = trained(photos, tmp_path / "runs", masks=masks)
    classifier, regions = inspector.load(folder), read_regions(masks)
    found = []
    for record in records_of(folder):
        if record["label"] == CLASSES[2]:
            assert record["inside"] == ""
            continue
        maps = inspector.class_maps(classifier, photos / record["file"])
        mask = find_object_mask(regions, record["file"], (18, 20))
        assert mask is not None
        found.append(measure_evidence_inside(maps, record["label"], mask))
        share = found[-1].share
        assert record["inside"] == ("" if share is None else f"{share:.4f}")
    assert len(found) == 4
    shares = [one.share for one in found if one.share is not None]
    assert shares
    inside = json.loads((folder / "run.json").read_text())["class_maps"]["inside"]
    assert inside["images"] == 4
    assert inside["share"] == pytest.approx(np.mean(shares))
    assert inside["pointing"] == pytest.approx(np.mean([one.pointing for one in found]))


def test_of_many_test_images_the_first_of_each_class_have_class_maps(
    photos: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "MAX_CLASS_MAPS", 3)
    folder = trained(photos, tmp_path / "runs", masks=masks)
    assert json.loads((folder / "run.json").read_text())["class_maps"]["images"] == 3
    records = records_of(folder)
    assert len(records) == 6
    assert [record["inside"] != "" for record in records][1::2] == [False] * 3


def test_objects_of_no_test_photo_are_reported_before_training(photos: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("file,x1,y1,x2,y2\nelsewhere.png,0,0,5,5\n")
    with pytest.raises(
        LocalizationError,
        match=r"No object is known for any of the 6 test photos. Use file names relative to .*, such as apple/",
    ):
        trained(photos, tmp_path / "runs", masks=boxes)
    assert not (tmp_path / "runs").exists()


def test_a_box_outside_its_photo_is_reported_before_training(photos: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.csv"
    files = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    boxes.write_text("\n".join(["file,x1,y1,x2,y2", *(f'"{file}",0,0,50,5' for file in files), ""]))
    with pytest.raises(LocalizationError, match=r"has 20 x 18 pixels, but a box 0, 0, 50, 5\. Use boxes inside"):
        trained(photos, tmp_path / "runs", masks=boxes)
    assert not (tmp_path / "runs").exists()
