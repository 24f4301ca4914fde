"""Boxes and masks read, and class maps of networks made by hand held against them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inspector import Classifier, class_maps, class_maps_of_batch, read_image
from inspector.analysis import localization
from inspector.analysis.localization import (
    EvidenceInside,
    Regions,
    average_evidence_inside,
    find_border,
    find_object_mask,
    measure_evidence_inside,
    read_boxes,
    read_regions,
)
from inspector.errors import LocalizationError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
NAMES = ("red", "green", "neither")


def classifier_of(network, size=4) -> Classifier:
    # Pixels of 255 come to the network as 1.
    return Classifier.wrap(network, NAMES, size=size, mean=(0.0,) * 3, std=(1.0,) * 3)


def photo(height=4, width=4, **regions) -> np.ndarray:
    """Make a photo that is black except for the regions given by color."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for name, place in regions.items():
        pixels[place] = {"red": RED, "green": GREEN, "blue": BLUE}[name]
    return pixels


def mask_boxes(maps, *boxes) -> np.ndarray:
    assert maps.view is not None
    mask = find_object_mask(Regions({"a.jpg": boxes}), "a.jpg", maps.view.photo.size)
    assert mask is not None
    return mask


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def write_mask(folder: Path, values: np.ndarray, name: str = "a/b.png", mode: str | None = None) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([255, 255, 255] * 256)  # all entries have one color: only the indices differ
    elif mode == "1":
        image = image.point(lambda value: 255 * (value == 1), "1")
    image.save(path)
    return folder


# EvidenceInside


def test_a_box_over_half_of_a_uniform_map_has_half_of_its_evidence(hand_made_gap):
    maps = class_maps(classifier_of(hand_made_gap), photo(red=np.s_[:]))
    assert measure_evidence_inside(maps, "red", mask_boxes(maps, (0, 0, 2, 4))).share == 0.5
    assert measure_evidence_inside(maps, "red", mask_boxes(maps, (0, 0, 2, 4), (1, 0, 3, 4))).share == 0.75
    assert measure_evidence_inside(maps, "red", mask_boxes(maps, (0, 0, 4, 4))) == EvidenceInside(1, True)


def test_negative_values_are_no_evidence(hand_made_gap):
    # Green at (0, 0) and (3, 3) adds 2/16 each, blue beside it takes as much away.
    maps = class_maps(classifier_of(hand_made_gap), photo(green=(np.array([0, 3]), np.array([0, 3])), blue=(0, 1)))
    assert maps.values[1, 0].tolist() == [0.125, -0.125, 0, 0]
    assert measure_evidence_inside(maps, "green", mask_boxes(maps, (0, 0, 2, 2))).share == 0.5


def test_no_evidence_has_no_share_and_points_nowhere(hand_made_gap):
    maps = class_maps(classifier_of(hand_made_gap), photo(red=np.s_[:]))
    assert measure_evidence_inside(maps, "neither", mask_boxes(maps, (0, 0, 4, 4))) == EvidenceInside(None, False)


def test_max_pooling_points_at_the_deciding_cell(hand_made_gmp):
    maps = class_maps(classifier_of(hand_made_gmp), photo(red=(1, 2)))
    assert measure_evidence_inside(maps, "red", mask_boxes(maps, (2, 1, 3, 2))) == EvidenceInside(1, True)
    assert measure_evidence_inside(maps, "red", mask_boxes(maps, (0, 0, 2, 4))) == EvidenceInside(0, False)


def test_the_tolerance_reaches_the_nearest_pixel_of_the_object(hand_made_gmp):
    # From (x, y) = (3, 3) to the box's only pixel (0, 0): 3 * sqrt(2) = 4.24.
    maps = class_maps(classifier_of(hand_made_gmp), photo(red=(3, 3)))
    mask = mask_boxes(maps, (0, 0, 1, 1))
    assert not measure_evidence_inside(maps, "red", mask, tolerance=4.2).pointing
    assert measure_evidence_inside(maps, "red", mask, tolerance=4.3).pointing


def test_a_large_photo_is_drawn_small_and_its_tolerance_stays_in_its_own_pixels(hand_made_gap):
    # Drawn at 400 the middle is at 199, the box begins at 210: 11 pixels there, 22 of the photo.
    maps = class_maps(classifier_of(hand_made_gap), photo(800, 800, red=np.s_[:]))
    mask = mask_boxes(maps, (420, 0, 800, 800))
    assert measure_evidence_inside(maps, "red", mask, tolerance=22) == EvidenceInside(pytest.approx(190 / 400), True)
    assert not measure_evidence_inside(maps, "red", mask, tolerance=21).pointing


def test_there_is_no_evidence_outside_the_crop(hand_made_gap):
    # The crop is columns 2 to 5 of 8.
    maps = class_maps(classifier_of(hand_made_gap), photo(4, 8, red=np.s_[:]))
    assert measure_evidence_inside(maps, "red", mask_boxes(maps, (0, 0, 2, 4), (6, 0, 8, 4))) == EvidenceInside(
        0, False
    )
    assert measure_evidence_inside(maps, "red", mask_boxes(maps, (0, 0, 3, 4))).share == 0.25


def test_a_cell_at_the_edge_points_at_its_center_and_not_at_the_corner(hand_made_gmp):
    # 2 x 2 cells of 6 x 6 pixels: from the center at 3 outwards the map is constant, so 3 x 3 pixels are the highest.
    maps = class_maps(classifier_of(hand_made_gmp, size=2), photo(12, 12, red=np.s_[:6, :6]))
    assert measure_evidence_inside(maps, "red", mask_boxes(maps, (1, 1, 2, 2))).pointing
    assert not measure_evidence_inside(maps, "red", mask_boxes(maps, (0, 0, 1, 1))).pointing


def test_evidence_inside_a_mask_of_a_tensor_is_measured_too(hand_made_gap):
    (maps,) = class_maps_of_batch(classifier_of(hand_made_gap), torch.ones(1, 3, 4, 4))
    assert measure_evidence_inside(maps, 0, np.ones((4, 4), bool)).pointing


def test_masks_of_another_photo_are_refused(hand_made_gap):
    classifier = classifier_of(hand_made_gap)
    maps = class_maps(classifier, photo())
    with pytest.raises(LocalizationError, match=r"The mask is \(4, 5\), the photo \(4, 4\)"):
        measure_evidence_inside(maps, 0, np.ones((4, 5), bool))


def test_means_are_over_the_images_whose_objects_are_known():
    # Without evidence an image has no share, but the pointing game is lost.
    measured = [
        EvidenceInside(0.5, True),
        None,
        EvidenceInside(None, False),
        EvidenceInside(1, True),
        EvidenceInside(0.75, True),
    ]
    assert average_evidence_inside(measured) == {"share": 0.75, "pointing": 0.75, "images": 4}
    assert average_evidence_inside([EvidenceInside(None, False)]) == {"share": None, "pointing": 0, "images": 1}
    assert average_evidence_inside([None]) is None


# Boxes


@pytest.mark.parametrize("edges", ["x1,y1,x2,y2", "xmin,ymin,xmax,ymax"])
def test_boxes_are_read_in_both_spellings_and_several_per_file(tmp_path: Path, edges):
    path = write(
        tmp_path / "boxes.csv",
        f"\ufeffclass,file,{edges}\ncat,a/b.jpg,1,2,3.5,4\ndog,c.jpg,0,0,1,1\n,a/b.jpg,5,6,7,8\n",
    )
    assert read_boxes(path) == {"a/b.jpg": [(1, 2, 3.5, 4), (5, 6, 7, 8)], "c.jpg": [(0, 0, 1, 1)]}
    assert read_regions(path) == Regions(read_boxes(path))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file,x1,y1,x2\n", "has the columns file, x1, y1, x2. Expected file and x1, y1, x2, y2, or file and xmin"),
        ("x1,y1,x2,y2\n1,2,3,4\n", "has the columns x1, y1, x2, y2. Expected file and"),
        ("", r"has the columns \(none\)"),
        ("file,x1,y1,x2,y2\n", "has no box. Use one row per object"),
        ("file,x1,y1,x2,y2\na,1,2,3,4\na,1,2,three,4\n", r"line 3: expected four numbers, .*; got 1, 2, three, 4"),
        ("file,x1,y1,x2,y2\na,1,2,3\n", r"line 2: .*; got 1, 2, 3, \."),
        ("file,x1,y1,x2,y2\na,nan,2,3,4\n", "line 2: .*; got nan, 2, 3, 4"),
        ("file,x1,y1,x2,y2\na,1,2,inf,4\n", "line 2: .*; got 1, 2, inf, 4"),
        ("file,x1,y1,x2,y2\na,3,2,3,4\n", "the box 3, 2, 3, 4 is empty"),
        ("file,x1,y1,x2,y2\na,1,5,3,4\n", "the box 1, 5, 3, 4 is empty"),
        ("x1,y1,x2,y2,file\n1,2,3,4\n", "line 2 names no file"),
    ],
)
def test_a_broken_file_of_boxes_is_refused(tmp_path: Path, text: str, sentence: str):
    with pytest.raises(LocalizationError, match=sentence):
        read_boxes(write(tmp_path / "boxes.csv", text))


def test_boxes_that_cannot_be_read_are_refused(tmp_path: Path):
    with pytest.raises(LocalizationError, match=r"Cannot read .*none.csv \(.*No such file"):
        read_regions(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"file,x1,y1,x2,y2\n\xe9.jpg,1,2,3,4\n")
    with pytest.raises(LocalizationError, match=r"Cannot read .*latin.csv \('utf-8' codec"):
        read_boxes(tmp_path / "latin.csv")


def test_a_mask_of_boxes_is_every_pixel_that_one_of_them_touches():
    regions = Regions({"a.jpg": [(0, 0, 1, 1), (1.5, 1, 2.5, 2)]})
    mask = find_object_mask(regions, "a.jpg", (3, 4))
    assert mask is not None
    assert mask.tolist() == [[True, False, False, False], [False, True, True, False], [False] * 4]
    assert find_object_mask(regions, "b.jpg", (3, 4)) is None


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((-2, 0, 22, 10), np.s_[0:10, 0:20]),
        ((0, 9, 20, 12), np.s_[9:10, :]),
        ((-1, -1, 0, 0), np.s_[0:1, 0:1]),
        ((20, 10, 21, 11), np.s_[9:10, 19:20]),
    ],
)
def test_a_box_that_reaches_out_by_rounding_is_cut(box, pixels):
    expected = np.zeros((10, 20), bool)
    expected[pixels] = True
    mask = find_object_mask(Regions({"a.jpg": [box]}), "a.jpg", (10, 20))
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize("box", [(0, 0, 40, 10), (0, 0, 20, 13), (-3, 0, 5, 5), (0, -3, 5, 5)])
def test_a_box_outside_its_photo_is_refused(box):
    with pytest.raises(LocalizationError, match=r"a.jpg has 20 x 10 pixels, but a box .*. Use boxes inside the photo"):
        find_object_mask(Regions({"a.jpg": [box]}), "a.jpg", (10, 20))


# Masks


TRIMAP = np.array([[1, 2, 3], [2, 1, 1]], np.uint8)
OBJECT = [[True, False, False], [False, True, True]]


@pytest.mark.parametrize("mode", [None, "P", "1"])
@pytest.mark.parametrize("values", [TRIMAP, np.where(TRIMAP == 1, 1, 0).astype(np.uint8)], ids=["trimap", "0 and 1"])
def test_trimaps_and_masks_of_0_and_1_are_read_in_gray_palette_and_bits(tmp_path: Path, values, mode):
    regions = read_regions(write_mask(tmp_path, values, mode=mode))
    mask = find_object_mask(regions, "a/b.jpg", (2, 3))
    assert mask is not None
    assert mask.tolist() == OBJECT
    assert find_object_mask(regions, "a/c.jpg", (2, 3)) is None


def test_only_trimaps_have_a_border(tmp_path: Path):
    regions = read_regions(write_mask(tmp_path, TRIMAP))
    border = find_border(regions, "a/b.jpg", (2, 3))
    assert border is not None
    assert border.tolist() == [[False, False, True], [False] * 3]
    assert find_border(regions, "a/c.jpg", (2, 3)) is None
    write_mask(tmp_path, np.array([[0, 1, 3]], np.uint8))
    assert find_border(regions, "a/b.jpg", (1, 3)) is None


def test_masks_of_0_and_255_are_read_and_go_before_boxes(tmp_path: Path):
    write_mask(tmp_path, np.where(TRIMAP == 1, 255, 0).astype(np.uint8))
    mask = find_object_mask(Regions({"a/b.jpg": [(0, 0, 3, 2)]}, tmp_path), "a/b.jpg", (2, 3))
    assert mask is not None
    assert mask.tolist() == OBJECT


def test_a_mask_of_the_photos_shape_takes_its_size(tmp_path: Path):
    regions = Regions({}, write_mask(tmp_path, TRIMAP.repeat(4, 0).repeat(4, 1)))
    mask = find_object_mask(regions, "a/b.jpg", (2, 3))
    assert mask is not None
    assert mask.tolist() == OBJECT
    larger = find_object_mask(regions, "a/b.jpg", (16, 24))
    assert np.array_equal(larger, np.array(OBJECT).repeat(8, 0).repeat(8, 1))


def test_a_mask_of_a_scaled_photo_may_miss_its_shape_by_rounding(tmp_path: Path):
    # 400 x 600, scaled to a width of 320, is 213.3 high.
    mask = find_object_mask(Regions({}, write_mask(tmp_path, np.ones((400, 600), np.uint8))), "a/b.jpg", (213, 320))
    assert mask is not None
    assert mask.shape == (213, 320)


def test_a_mask_of_another_shape_is_refused(tmp_path: Path):
    regions = Regions({}, write_mask(tmp_path, np.ones((30, 20), np.uint8)))
    with pytest.raises(
        LocalizationError, match=r"b.png has 20 x 30 pixels, its photo 30 x 20. Use a mask of the size of the photo"
    ):
        find_object_mask(regions, "a/b.jpg", (20, 30))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.zeros((2, 3, 3), np.uint8), "has pixels of mode RGB. Expected one number from 0 to 255 per pixel"),
        (np.full((2, 3), 65535, np.uint16), "has pixels of mode I;16"),
        (np.array([[0, 5, 7]], np.uint8), "has no object: expected pixels of 1 or 255, got 0, 5, 7"),
    ],
)
def test_a_mask_that_does_not_say_where_the_object_is_is_refused(tmp_path: Path, values, sentence):
    with pytest.raises(LocalizationError, match=sentence):
        find_object_mask(Regions({}, write_mask(tmp_path, values)), "a/b.jpg", values.shape[:2])


def test_a_mask_that_cannot_be_read_is_refused(tmp_path: Path):
    regions = Regions({}, write_mask(tmp_path, np.tile(np.arange(256, dtype=np.uint8), (64, 1))))
    path = tmp_path / "a/b.png"
    whole = path.read_bytes()
    for broken in (b"", b"GIF89a", whole[: len(whole) // 2]):
        path.write_bytes(broken)
        with pytest.raises(LocalizationError, match=r"Cannot read the mask .*b.png \(.*\). Use a PNG file"):
            find_object_mask(regions, "a/b.jpg", (64, 256))


def test_a_mask_too_large_to_be_one_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch):
    regions = Regions({}, write_mask(tmp_path, TRIMAP))
    monkeypatch.setattr(localization, "MAX_PIXELS", 5)
    with pytest.raises(LocalizationError, match=r"has 3 x 2 pixels\. At most 0 megapixels are read"):
        find_object_mask(regions, "a/b.jpg", (2, 3))
    monkeypatch.setattr(localization, "MAX_BYTES", 5)
    with pytest.raises(LocalizationError, match=r"MB\. At most 0 MB are read"):
        find_object_mask(regions, "a/b.jpg", (2, 3))


def test_a_folder_without_masks_is_refused(tmp_path: Path):
    with pytest.raises(
        LocalizationError, match=r"No mask in .*. Use PNG files named as the photos, a/b.png for a/b.jpg"
    ):
        read_regions(tmp_path)


def test_masks_have_the_size_of_the_upright_photo(tmp_path: Path):
    # Turned by EXIF, a photo of 2 x 3 pixels is 3 x 2: its boxes are those of the upright one.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    mask = find_object_mask(Regions({"a.jpg": [(1, 2, 2, 3)]}), "a.jpg", read_image(tmp_path / "a.jpg").size)
    assert mask is not None
    assert mask.tolist() == [[False, False], [False, False], [False, True]]
