"""Boxes and masks written, and read back by readers of each format."""

import csv
import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from inspector.analysis.localization import read_boxes, read_regions
from inspector.errors import ExportError
from inspector.output.box_files import (
    DetectedObject,
    DetectedPhoto,
    check_names,
    check_target,
    decode_runs,
    encode_runs,
    find_format,
    write_boxes,
)

NAMES = ("cat", "dog, wild", "none")
ABOUT = {"network": "tiny", "threshold": 0.3}


def make_mask(*rectangles):
    mask = np.zeros((10, 20), bool)
    for left, top, right, bottom in rectangles:
        mask[top:bottom, left:right] = True
    return mask


CAT, DOG = make_mask((2, 1, 6, 4)), make_mask((10, 5, 20, 10))
PHOTOS = [
    DetectedPhoto(
        "a/b.jpg", (10, 20), {0: 0.75, 1: 0.2},
        (
            DetectedObject(0, (2, 1, 6, 4), 12, 1.5, 0.7, encode_runs(CAT)),
            DetectedObject(1, (10, 5, 20, 10), 50, 0.5, 0.2, encode_runs(DOG)),
        ),
    ),
    DetectedPhoto("c.png", (6, 5), {0: math.nan, 1: math.nan}),
    DetectedPhoto("broken.jpg", (0, 0), error="broken.jpg is broken."),
]  # fmt: skip


@pytest.mark.parametrize("mask", [CAT, make_mask(), ~make_mask(), make_mask((0, 0, 1, 1)), make_mask((19, 9, 20, 10))])
def test_runs_of_a_mask_are_its_inverse(mask):
    assert np.array_equal(decode_runs(encode_runs(mask), mask.shape), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools, of NumPy
def test_coco_is_read_by_pycocotools_with_its_masks(tmp_path, capsys):
    path = write_boxes(PHOTOS, NAMES, tmp_path / "boxes.json", "coco", ABOUT)
    coco = COCO(str(path))
    capsys.readouterr()
    assert [one["file_name"] for one in coco.loadImgs(coco.getImgIds())] == ["a/b.jpg", "c.png"]
    assert {one["id"]: one["name"] for one in coco.loadCats(coco.getCatIds())} == dict(enumerate(NAMES))
    cat, dog = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert (cat["bbox"], cat["category_id"], cat["score"]) == ([2, 1, 4, 3], 0, 0.75)
    assert np.array_equal(coco.annToMask(cat), CAT)
    assert np.array_equal(coco.annToMask(dog), DOG)
    assert coco.getAnnIds(imgIds=[2]) == []
    assert coco.dataset["info"] == ABOUT


def test_yolo_has_centers_and_sizes_as_shares_of_the_photo(tmp_path):
    folder = write_boxes(PHOTOS, NAMES, tmp_path / "yolo", "yolo", ABOUT)
    assert (folder / "classes.txt").read_text().splitlines() == list(NAMES)
    lines = (folder / "labels/a/b.txt").read_text().splitlines()
    found = []
    for line in lines:
        k, *shares = line.split()
        x, y, width, height = (float(share) * side for share, side in zip(shares, (20, 10, 20, 10), strict=True))
        found.append((int(k), x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    assert found == [pytest.approx((0, 2, 1, 6, 4), abs=1e-4), pytest.approx((1, 10, 5, 20, 10), abs=1e-4)]
    assert (folder / "labels/c.txt").read_text() == ""
    assert not (folder / "labels/broken.txt").exists()


def test_pascal_voc_counts_pixels_from_1_and_includes_the_last(tmp_path):
    folder = write_boxes(PHOTOS, NAMES, tmp_path / "voc", "voc", ABOUT)
    root = ElementTree.parse(folder / "a/b.xml").getroot()
    assert (root.findtext("filename"), root.findtext("size/width"), root.findtext("size/height")) == (
        "b.jpg",
        "20",
        "10",
    )
    cat, dog = root.findall("object")
    assert (cat.findtext("name"), dog.findtext("name")) == NAMES[:2]
    assert [cat.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")] == ["3", "2", "6", "4"]
    assert ElementTree.parse(folder / "c.xml").getroot().findall("object") == []


def test_csv_is_read_by_our_own_reader_of_boxes(tmp_path):
    path = write_boxes(PHOTOS, NAMES, tmp_path / "boxes.csv", "csv", ABOUT)
    assert read_boxes(path) == {"a/b.jpg": [(2, 1, 6, 4), (10, 5, 20, 10)]}
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["class"], row["class_number"], row["probability"]) for row in rows] == [
        ("cat", "0", "0.75"), ("dog, wild", "1", "0.2"),
    ]  # fmt: skip


def test_masks_of_several_classes_have_a_folder_each_and_are_read_as_objects(tmp_path):
    folder = write_boxes(PHOTOS, NAMES, tmp_path / "masks", "masks", ABOUT)
    assert np.array_equal(np.asarray(Image.open(folder / "0_cat/a/b.png")), CAT * 255)
    assert np.array_equal(np.asarray(Image.open(folder / "1_dog_wild/a/b.png")), DOG * 255)
    assert not np.asarray(Image.open(folder / "0_cat/c.png")).any()
    assert read_regions(folder / "0_cat").masks == folder / "0_cat"


def test_masks_of_one_class_stand_in_the_folder_itself(tmp_path):
    one = DetectedPhoto("a.jpg", (10, 20), {0: 0.5}, PHOTOS[0].objects[:1])
    folder = write_boxes([one], NAMES, tmp_path / "masks", "masks", ABOUT)
    assert np.asarray(Image.open(folder / "a.png")).any()


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [("a.json", None, "coco"), ("a.CSV", None, "csv"), ("a", "yolo", "yolo"), ("a.d", "masks", "masks"),
     ("a.json", "coco", "coco")],
)  # fmt: skip
def test_the_format_is_that_of_the_suffix_or_the_one_named(tmp_path, name, format, expected):
    assert find_format(tmp_path / name, format) == expected


@pytest.mark.parametrize(
    ("name", "format", "sentence"),
    [
        ("a", None, "The format of .*a is not clear. Use a name that ends in .json .COCO. or .csv, or --format"),
        ("a.json", "csv", "need a name that ends in .csv; got"),
        ("a", "kitti", "No format 'kitti'. Use one of coco, csv, yolo, voc, masks"),
    ],
)
def test_a_format_that_is_not_clear_is_refused(tmp_path, name, format, sentence):
    with pytest.raises(ExportError, match=sentence):
        find_format(tmp_path / name, format)


@pytest.mark.parametrize("format", ["yolo", "voc", "masks"])
def test_a_folder_is_replaced_only_if_all_its_files_were_written_here(tmp_path, format):
    folder = write_boxes(PHOTOS, NAMES, tmp_path / "out", format, ABOUT)
    with pytest.raises(ExportError, match="is not empty"):
        check_target(folder, format, overwrite=False)
    write_boxes(PHOTOS[:1], NAMES, folder, format, ABOUT, overwrite=True)
    assert "c" not in {path.stem for path in folder.rglob("*")}
    mine = next(path for path in folder.rglob("b.*")).with_name("mine.png")
    mine.write_text("of the user")
    with pytest.raises(ExportError, match="did not write there"):
        write_boxes(PHOTOS, NAMES, folder, format, ABOUT, overwrite=True)
    assert mine.read_text() == "of the user"


def test_a_folder_of_photos_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"")
    with pytest.raises(ExportError, match=r"holds a.png, which Inspector did not write"):
        check_target(tmp_path / "photos", "masks", overwrite=True)


def test_a_file_is_replaced_only_if_asked(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text("earlier")
    with pytest.raises(ExportError, match="exists already"):
        write_boxes(PHOTOS, NAMES, path, "coco", ABOUT)
    write_boxes(PHOTOS, NAMES, path, "coco", ABOUT, overwrite=True)
    assert json.loads(path.read_text())["images"]


def test_two_photos_of_one_name_are_refused_where_they_would_share_a_file():
    with pytest.raises(ExportError, match=r"a.jpg and A.png would get the same file"):
        check_names(["a.jpg", "b/a.jpg", "A.png"], "yolo")
    check_names(["a.jpg", "A.png"], "coco")
