"""Scores of maps over many photos, with numbers worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from inspector.analysis.annotations import PhotoObjects
from inspector.analysis.localization_protocol import THRESHOLDS
from inspector.analysis.localization_scores import (
    CaseMeasures,
    measure_case,
    score_cases,
    split_photos,
    tune_thresholds,
)
from inspector.errors import LocalizationError
from inspector.explain.tracing.receptive_field import make_even_field
from inspector.images.preprocessing import Crop


def make_case(photo="a", name="cat", good_from=0.0, good_to=1.0, iou=1.0, peak=1.0, has_object=True, **others):
    """A case whose boxes have an IoU at thresholds of an interval, and fit nothing at others."""
    ious = np.where((good_from <= THRESHOLDS) & (good_to > THRESHOLDS), iou, 0.0)
    values = {"inside": None, "outside": None, "share": 0.5, "distance": 0.0} | others
    return CaseMeasures(photo, name, has_object, peak, ious, **values)


def test_the_best_threshold_is_one_for_all_photos():
    # Each alone has a threshold with a box that fits; together none fits both.
    cases = [make_case("a", good_to=0.4), make_case("b", good_from=0.5), make_case("c", good_from=0.45)]
    overall = score_cases(cases, draws=10)[-1]
    assert overall.scores["max_box_acc_v2"].value == pytest.approx(2 / 3)


def test_an_iou_counts_where_it_is_large_enough():
    assert score_cases([make_case(iou=0.6)], draws=10)[-1].scores["max_box_acc_v2"].value == pytest.approx(2 / 3)


def test_tuned_thresholds_are_used_on_other_photos():
    tuned = tune_thresholds([make_case(good_from=0.2, good_to=0.3)])
    assert tuned is not None
    assert tuned.box_shares == (0.2,) * 3
    cases = [make_case("a", good_from=0.1, good_to=0.3), make_case("b", good_from=0.4)]
    scores = score_cases(cases, tuned, draws=10)[-1].scores
    assert scores["box_acc_v2"].value == 0.5
    assert tune_thresholds([make_case(has_object=False)]) is None


def test_a_box_on_a_photo_without_the_class_is_an_error():
    # Objects have peaks of 10, boxes above 2 logits fit; a photo without the class has a peak of 5.
    cases = [make_case("a", peak=10, good_from=0.2), make_case("b", peak=5, has_object=False)]
    tuned = tune_thresholds(cases)
    assert tuned is not None
    assert all(5 <= level < 10 for level in tuned.box_logits)
    scores = score_cases(cases, tuned, draws=10)[-1]
    assert (scores.photos, scores.empty) == (1, 1)
    assert scores.scores["box_acc_v2_with_empty"].value == 1
    # With a higher peak there, no threshold is right for both.
    wrong = [make_case("a", peak=10, good_from=0.2), make_case("b", peak=20, has_object=False)]
    assert score_cases(wrong, tuned, draws=10)[-1].scores["box_acc_v2_with_empty"].value == 0.5


def test_a_map_without_evidence_is_right_where_there_is_no_object_and_wrong_elsewhere():
    cases = [make_case("a", peak=0, has_object=False), make_case("b", peak=0, iou=0), make_case("c", peak=3)]
    tuned = tune_thresholds(cases)
    assert score_cases(cases, tuned, draws=10)[-1].scores["box_acc_v2_with_empty"].value == pytest.approx(2 / 3)


def test_classes_are_scored_alone_and_together():
    cases = [
        make_case("a", "dog", distance=20.0),
        make_case("b", "cat", distance=0.0),
        make_case("c", "cat", distance=15.0),
    ]
    cat, dog, overall = score_cases(cases, draws=10)
    assert [one.name for one in (cat, dog, overall)] == ["cat", "dog", "all"]
    assert cat.scores["pointing"].value == 0.5
    assert cat.scores["pointing_15"].value == 1
    assert dog.scores["pointing_15"].value == 0
    assert overall.scores["pointing_15"].value == pytest.approx(2 / 3)


def test_photos_without_evidence_have_no_share_and_lose_the_pointing_game():
    cases = [make_case("a", share=0.75), make_case("b", share=None, distance=math.inf)]
    scores = score_cases(cases, draws=10)[-1].scores
    assert scores["energy"].value == 0.75
    assert scores["pointing_15"].value == 0.5


def test_the_interval_is_that_of_the_photos_and_not_of_their_classes():
    # Two classes on each photo, always both right or both wrong: half of 40 photos.
    cases = [make_case(str(n), name, distance=0.0 if n % 2 else 99.0) for n in range(40) for name in ("cat", "dog")]
    one = score_cases(cases, draws=4000)[-1].scores["pointing"]
    assert one.value == 0.5
    # The normal interval of 40 draws is 0.5 +- 1.96 * 0.5 / sqrt(40) = 0.345 to 0.655.
    assert (one.low, one.high) == pytest.approx((0.345, 0.655), abs=0.03)
    assert score_cases(cases, draws=4000)[-1].scores["pointing"] == one


def test_photos_are_divided_by_class_and_stay_whole():
    cases = [make_case(f"{name}{n}", name) for name in ("cat", "dog") for n in range(10)]
    cases += [make_case("cat0", "dog", has_object=False)]
    tuning, testing = split_photos(cases, 0.3)
    assert sorted(tuning + testing) == list(range(21))
    for name in ("cat", "dog"):
        assert sum(cases[n].name == name and cases[n].has_object for n in tuning) == 3
    assert not {cases[n].photo for n in tuning} & {cases[n].photo for n in testing}
    assert split_photos(cases, 0.3) == (tuning, testing)
    assert split_photos(cases, 0) == ([], list(range(21)))
    with pytest.raises(LocalizationError, match="from 0 to below 1; got 1"):
        split_photos(cases, 1)


def test_a_map_is_measured_against_boxes_and_outlines():
    mask = np.zeros((40, 40), bool)
    mask[:20, :20] = True
    crop, field = Crop((40, 40), (0, 0, 40, 40), (40, 40)), make_even_field((40, 40), (2, 2))
    objects = PhotoObjects(((0, 0, 20, 20),), mask, True)
    case = measure_case("a.jpg", "cat", [[4.0, 0], [0, -4]], crop, field, objects)
    assert (case.peak, case.distance) == (4, 0)
    # By hand, 4 (1 - a - b) with a and b from 0 at 10 pixels to 1 at 30: 300 of 366.7 are in the quarter.
    assert case.share == pytest.approx(300 / 366.67, abs=0.003)
    # The score is 0.5 at the outline of the quarter; the protocol's box includes one more row and column.
    assert case.box_ious[500] == pytest.approx(1, abs=0.03)
    assert case.inside is not None
    assert case.inside.sum() == 112 * 112
    border = np.zeros((40, 40), bool)
    border[:20, 20:] = True
    judged = measure_case("a.jpg", "cat", [[4.0, 0], [0, 0]], crop, field, replace(objects, border=border))
    assert judged.outside is not None
    assert judged.outside.sum() == 112 * 224
    boxed = measure_case("a.jpg", "cat", [[4.0, 0], [0, 0]], crop, field, PhotoObjects(objects.boxes, mask, False))
    assert boxed.inside is None
    empty = measure_case("a.jpg", "cat", [[-4.0, 0], [0, 0]], crop, field, objects)
    assert (empty.peak, empty.share, empty.distance, empty.box_ious.max()) == (0, None, math.inf, 0)
    absent = measure_case("a.jpg", "cat", [[4.0, 0], [0, 0]], crop, field, None)
    assert (absent.peak, absent.has_object) == (4, False)
