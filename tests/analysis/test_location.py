"""Points, boxes and masks of maps made by hand, in pixels of the photo."""

import numpy as np
import pytest
import torch

import inspector
from inspector.analysis.location import Point, locate_class, locate_map
from inspector.errors import LocalizationError, PlaceError
from inspector.explain.tracing.receptive_field import make_even_field
from inspector.images.preprocessing import Crop

NAMES = ("red", "green", "neither")


def locate(grid, photo=(40, 40), box=None, **options):
    """Locate a grid of cells that divide the network's input evenly."""
    grid = np.array(grid, np.float32)
    height, width = photo
    crop = Crop(photo, box or (0, 0, width, height), (height, width))
    return locate_map(grid, crop, make_even_field(crop.input_size, grid.shape), **options)


TWO_PEAKS = np.zeros((4, 4))
TWO_PEAKS[0, 0], TWO_PEAKS[3, 3] = 2, 1


def test_points_are_the_centers_of_cells_that_are_local_maxima_with_their_values():
    # Cells of 10 x 10 pixels: the first has its center at 5.
    assert locate(TWO_PEAKS).points == (Point(5, 5, 2), Point(35, 35, 1))
    assert locate(TWO_PEAKS, threshold=0.6).points == (Point(5, 5, 2),)


def test_neighbors_with_the_same_value_are_one_point_between_them():
    assert locate([[0, 0, 0, 0], [0, 3, 3, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).points == (Point(20, 15, 3),)
    assert locate(np.ones((2, 2))).points == (Point(20, 20, 1),)


def test_a_box_is_around_the_pixels_above_the_threshold():
    # From the center at 5, the map falls linearly to 0 at 15: the center 9.5 of pixel 9 has 0.55, that of 10 has 0.45.
    (box,) = locate([[2, 0, 0, 0]], photo=(1, 40), threshold=0.5).boxes
    assert box == (0, 0, 10, 1)


def test_every_part_has_a_box_and_the_largest_part_comes_first():
    found = locate([[1, 0, 0, 0, 3, 3]], photo=(1, 60), threshold=0.3)
    # 0.3 of 3 is 0.9: the part on the right begins where the map rises from 0 at 35 to 3 at 45, and is 0.9 at 38.
    assert found.boxes == ((38, 0, 60, 1), (0, 0, 6, 1))
    assert [region.area for region in found.regions] == [22, 6]
    assert [region.largest for region in found.regions] == pytest.approx([3, 1])
    assert found.threshold == pytest.approx(0.9)
    assert found.mask[0].tolist() == [True] * 6 + [False] * 32 + [True] * 22
    assert found.region_mask(1)[0].tolist() == [True] * 6 + [False] * 54


def test_the_shares_of_the_parts_sum_to_the_evidence_above_the_threshold():
    found = locate(TWO_PEAKS, threshold=0)
    assert sum(region.share for region in found.regions) == pytest.approx(1)
    assert found.regions[0].share > 0.6  # the higher peak has two thirds


def test_parts_that_touch_at_a_corner_are_one():
    assert len(locate([[1, 0], [0, 1]], photo=(2, 2), threshold=0.9).boxes) == 1


def test_a_threshold_in_logits_is_the_same_for_every_map():
    found = locate(TWO_PEAKS, threshold=1.5, unit="logits")
    assert found.threshold == 1.5
    assert len(found.boxes) == 1
    assert locate(TWO_PEAKS / 2, threshold=1.5, unit="logits").boxes == ()


def test_evidence_that_is_nowhere_positive_gives_nothing_and_says_so():
    for grid in (-TWO_PEAKS, np.zeros((2, 2))):
        found = locate(grid)
        assert (found.boxes, found.points, found.mask.any()) == ((), (), False)
        assert found.reason == "No value of the map is positive, so there is no evidence to locate."
    found = locate(TWO_PEAKS, threshold=3, unit="logits")
    assert found.reason == "The largest value, 2 logits per cell, is not above the threshold of 3."
    assert locate(TWO_PEAKS).reason is None


def test_negative_values_never_belong_to_an_object():
    assert locate([[-1, -1], [-1, 5]], threshold=0).mask[0, 0] == np.False_


def test_places_are_those_of_the_photo_also_where_the_network_sees_a_part_of_it():
    # The input of 10 x 10 is the square from (20, 0) to (40, 20).
    crop = Crop((20, 60), (20, 0, 40, 20), (10, 10))
    found = locate_map([[0, 0], [0, 4]], crop, make_even_field((10, 10), (2, 2)), threshold=0.99)
    assert found.points == (Point(35, 15, 4),)
    assert found.boxes == ((35, 15, 40, 20),)
    assert found.mask.shape == (20, 60)


def test_a_cell_beyond_the_photo_is_no_point():
    # The input shows the photo in its right half only.
    crop = Crop((10, 10), (-10, 0, 10, 10), (10, 20))
    found = locate_map([[9, 0, 0, 1]], crop, make_even_field((10, 20), (1, 4)), threshold=0.1)
    assert found.points == (Point(7.5, 5, 1),)


def test_a_large_photo_keeps_its_pixels():
    found = locate([[0, 1]], photo=(100, 5000), threshold=0.5)
    assert found.mask.shape == (100, 5000)
    ((left, top, right, bottom),) = found.boxes
    assert (top, right, bottom) == (0, 5000, 100)
    assert left == pytest.approx(2500, abs=3)
    assert found.regions[0].area == pytest.approx(250_000, rel=0.01)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threshold": 1}, "a share of the largest value from 0 to below 1; got 1"),
        ({"threshold": -0.1}, "got -0.1"),
        ({"threshold": float("nan")}, "got nan"),
        ({"threshold": -1, "unit": "logits"}, "a number of 0 or more; got -1"),
        ({"unit": "percent"}, "as share or logits; got 'percent'"),
    ],
)
def test_a_threshold_that_cannot_be_used_is_refused(options, sentence):
    with pytest.raises(LocalizationError, match=sentence):
        locate(TWO_PEAKS, **options)


def test_class_maps_locate_a_class_or_a_contrast(hand_made_gap):
    classifier = inspector.Classifier.wrap(hand_made_gap, NAMES, size=4, mean=(0.0,) * 3, std=(1.0,) * 3)
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0, 0], pixels[3, 3] = (255, 0, 0), (0, 255, 0)
    maps = inspector.class_maps(classifier, pixels)
    assert maps.locate("red", threshold=0.9).boxes == ((0, 0, 1, 1),)
    assert maps.locate("green", threshold=0.9).points == (Point(3.5, 3.5, 0.125),)
    # Red rather than green: where red adds 1/16 and green nothing; against itself there is nothing.
    assert maps.locate("red", against="green", threshold=0.9).boxes == ((0, 0, 1, 1),)
    assert maps.locate("red", against="red").reason is not None
    assert locate_class(maps, 0).boxes == maps.locate("red").boxes
    assert maps.locate("neither").boxes == ((3, 3, 4, 4),)


def test_a_map_without_a_place_is_not_located():
    field = make_even_field((4, 4), (2, 2))
    field = type(field)(**{**field.__dict__, "misplaced": "its cells are shuffled"})
    with pytest.raises(PlaceError, match="its cells are shuffled"):
        locate_map(torch.ones(2, 2), Crop((4, 4), (0, 0, 4, 4), (4, 4)), field)
