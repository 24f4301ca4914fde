"""Objects with their classes, read from CSV, masks and COCO JSON."""

import json

import numpy as np
import pytest
from PIL import Image

from inspector.analysis.annotations import Annotation, find_box_of_mask, find_photo_objects, read_annotations
from inspector.errors import LocalizationError

MISSING = object()


def write_coco(tmp_path, **changes):
    """COCO JSON of a photo with a polygon and run lengths, and one without an object."""
    content = {
        "images": [{"id": 7, "file_name": "a/b.jpg", "height": 4, "width": 6}, {"id": 8, "file_name": "none.jpg"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 2], "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]},
            # By columns: 20 pixels outside, which are five columns, and the last column of 4 inside.
            {
                "image_id": 7,
                "category_id": 5,
                "bbox": [5, 0, 1, 4],
                "segmentation": {"size": [4, 6], "counts": [20, 4]},
            },
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
    }
    content |= changes
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not MISSING}))
    return path


@pytest.mark.parametrize("column", ["object", "class", "label"])
def test_a_csv_may_name_the_class_of_each_box(tmp_path, column):
    path = tmp_path / "boxes.csv"
    path.write_text(f"file,{column},x1,y1,x2,y2\na.jpg,cat,0,0,2,2\na.jpg,dog,1,1,3,3\nb.jpg,,0,0,1,1\n")
    annotations = read_annotations(path)
    assert annotations.objects["a.jpg"] == [Annotation((0, 0, 2, 2), "cat"), Annotation((1, 1, 3, 3), "dog")]
    found = find_photo_objects(annotations, "a.jpg", (4, 4), "mixed")
    assert list(found) == ["cat", "dog"]
    assert found["dog"].boxes == ((1, 1, 3, 3),)
    assert found["dog"].mask.sum() == 4
    assert not found["dog"].is_outlined
    assert list(find_photo_objects(annotations, "b.jpg", (4, 4), "bird")) == ["bird"]
    assert find_photo_objects(annotations, "c.jpg", (4, 4), "bird") == {}


def test_the_column_object_goes_before_class(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text("file,class,object,x1,y1,x2,y2\na.jpg,mixed,apple,0,0,2,2\n")
    assert list(find_photo_objects(read_annotations(path), "a.jpg", (4, 4), None)) == ["apple"]


def test_the_box_of_a_mask_is_around_its_pixels(tmp_path):
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 255
    Image.fromarray(mask).save(tmp_path / "a.png")
    (objects,) = find_photo_objects(read_annotations(tmp_path), "a.jpg", (4, 6), "cat").values()
    assert objects.boxes == ((2, 1, 5, 3),)
    assert objects.is_outlined
    assert find_box_of_mask(objects.mask) == (2, 1, 5, 3)


def test_coco_has_boxes_polygons_and_run_lengths(tmp_path):
    annotations = read_annotations(write_coco(tmp_path))
    assert annotations.objects["none.jpg"] == []
    found = find_photo_objects(annotations, "a/b.jpg", (4, 6), None)
    assert found["cat"].boxes == ((1, 1, 3, 3),)
    assert found["cat"].is_outlined
    assert found["dog"].mask.tolist() == [[False] * 5 + [True]] * 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": MISSING}, "has no 'images'. Use a JSON file with images, annotations and categories"),
        ({"annotations": [{"image_id": 7, "category_id": 3}]}, "has no 'bbox'"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 1, 0, 2]}]}, "bbox of annotation 0 is empty"),
        ({"annotations": [{"image_id": 9, "category_id": 3, "bbox": [1, 1, 2, 2]}]}, "that is not listed"),
        ({"categories": {}}, "expected a list of objects for categories"),
    ],
)
def test_broken_coco_is_refused(tmp_path, changes, sentence):
    with pytest.raises(LocalizationError, match=sentence):
        read_annotations(write_coco(tmp_path, **changes))


@pytest.mark.parametrize(
    ("outline", "sentence"),
    [
        ({"size": [4, 6], "counts": "PQ1"}, "Expected polygons, or run lengths as a list of numbers"),
        ({"size": [2, 2], "counts": [4]}, r"is of \[2, 2\], the photo of \[4, 6\]"),
        ([[1, 2, 3]], "Expected polygons"),
    ],
)
def test_a_segmentation_that_cannot_be_drawn_is_refused(tmp_path, outline, sentence):
    one = {"image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 2], "segmentation": outline}
    with pytest.raises(LocalizationError, match=sentence):
        find_photo_objects(read_annotations(write_coco(tmp_path, annotations=[one])), "a/b.jpg", (4, 6), None)
