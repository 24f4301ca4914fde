"""Box accuracy and average precision of pixels, held against the program of the authors of the protocol."""

import cv2
import numpy as np
import pytest

from inspector.analysis.localization_protocol import (
    IOUS,
    THRESHOLDS,
    compute_mask_ious,
    compute_px_ap,
    count_scores,
    measure_box_ious,
    resize_box,
)
from inspector.errors import LocalizationError

SIDE = 64  # pixels of both sides of the score maps here; the protocol has 224
# Class maps of EfficientNet-Lite0 for the top-1 classes of two example photos, a cat and an astronaut.
REAL = (
    (
        (0.11, 0.17, 0.14, 0.11, 0.09, 0.18, 0.13),
        (0.18, 0.24, 0.23, 0.2, 0.19, 0.23, 0.15),
        (0.16, 0.31, 0.21, 0.17, 0.13, 0.24, 0.06),
        (0.17, 0.39, 0.25, 0.18, 0.13, 0.21, 0.06),
        (0.17, 0.37, 0.22, 0.25, 0.19, 0.21, 0.07),
        (0.16, 0.32, 0.28, 0.33, 0.31, 0.32, 0.11),
        (0.14, 0.16, 0.1, 0.1, 0.13, 0.18, 0.1),
    ),
    (
        (0.01, 0.01, -0, 0.01, 0.05, 0.04, -0),
        (0.07, 0.11, 0.03, 0.02, 0.11, 0.08, 0.03),
        (0.06, 0.14, 0.12, 0.09, 0.05, 0.03, -0),
        (0.01, 0.08, 0.08, 0.05, 0.02, 0.07, 0.04),
        (-0, 0.04, 0.02, 0.1, 0.18, 0.28, 0.19),
        (0.01, 0.01, 0.05, 0.27, 0.57, 0.58, 0.47),
        (0.01, 0.07, 0.12, 0.35, 0.66, 0.49, 0.44),
    ),
)


def make_cases(seed: int) -> list[tuple[np.ndarray, list[tuple[int, int, int, int]], np.ndarray, np.ndarray]]:
    """Score maps, boxes near their highest parts, masks, and pixels that are not judged."""
    random = np.random.default_rng(seed)
    grids = [np.array(real) for real in REAL] + [random.normal(size=random.integers(3, 9, 2)) for _ in range(4)]
    cases = []
    for grid in grids:
        scores = np.maximum(cv2.resize(grid, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), 0)
        scores /= scores.max()
        left, top, width, height = cv2.boundingRect((scores > random.uniform(0.1, 0.8)).astype(np.uint8))
        # In pixels of a photo of 200 x 300, with one box that is shifted and one anywhere.
        shift = random.integers(0, 40, 4)
        edges = (left * 300 // SIDE, top * 200 // SIDE, (left + width) * 300 // SIDE, (top + height) * 200 // SIDE)
        x1, y1, x2, y2 = (int(edge + by) for edge, by in zip(edges, shift, strict=True))
        other = (int(shift[0]), int(shift[1]), int(shift[2]) + 100, int(shift[3]) + 100)
        boxes = [(x1, y1, max(x1 + 1, min(x2, 299)), max(y1 + 1, min(y2, 199))), other]
        mask = random.random((SIDE, SIDE)) < 0.2 + 0.6 * scores
        cases.append((scores, boxes, mask, (random.random((SIDE, SIDE)) < 0.1) & ~mask))
    return cases


# Computed once, on these cases, by the program that the authors of the protocol published (clovaai/wsolevaluation on
# GitHub, commit 96f4b88): MaxBoxAcc at the IoUs 0.3, 0.5 and 0.7 with all contours, and with the largest; PxAP.
THEIRS = {
    0: (1, 0.333333333333, 0.166666666667, 1, 0.333333333333, 0.166666666667, 0.551243460615),
    1: (0.666666666667, 0.666666666667, 0.5, 0.666666666667, 0.5, 0.5, 0.529468555152),
    2: (1, 0.333333333333, 0.333333333333, 0.833333333333, 0.333333333333, 0.333333333333, 0.524909128342),
}


@pytest.mark.parametrize("seed", THEIRS)
def test_box_accuracy_and_average_precision_equal_those_of_the_authors(seed):
    cases = make_cases(seed)
    measured = []
    for contours in ("all", "largest"):
        ious = [
            measure_box_ious(scores, [resize_box(box, (200, 300), SIDE) for box in boxes], contours)
            for scores, boxes, _, _ in cases
        ]
        measured += [float((np.stack(ious) >= iou).mean(0).max()) for iou in IOUS]
    counts = [count_scores(scores, mask, ignored) for scores, _, mask, ignored in cases]
    measured.append(float(compute_px_ap(*(np.sum(one, 0) for one in zip(*counts, strict=True)))))
    assert measured == pytest.approx(THEIRS[seed], abs=1e-9)


def test_a_box_counts_its_last_row_and_column():
    scores = np.zeros((8, 8))
    scores[2:4, 2:6] = 1
    ious = measure_box_ious(scores, [(2, 2, 6, 4)])
    assert ious.shape == (1000,)
    # Two of the five columns and two of the three rows are shared: 4 of 15 + 15 - 4.
    assert ious[0] == 1
    assert measure_box_ious(scores, [(5, 3, 9, 5)])[0] == pytest.approx(4 / 26)


def test_the_best_of_all_contours_counts_and_the_largest_may_be_another():
    scores = np.zeros((20, 20))
    scores[0:10, 0:10], scores[15:18, 15:18] = 1, 1
    box = [(15, 15, 18, 18)]
    assert measure_box_ious(scores, box, "all")[0] == 1
    assert measure_box_ious(scores, box, "largest")[0] == 0


def test_without_an_object_no_box_fits():
    assert not measure_box_ious(np.ones((4, 4)), []).any()


def test_perfect_scores_have_an_average_precision_of_1_and_fit_the_mask():
    mask = np.zeros((6, 6), bool)
    mask[1:3, 1:5] = True
    inside, outside = count_scores(mask.astype(float), mask)
    assert compute_px_ap(inside, outside) == 1
    ious = compute_mask_ious(inside, outside)
    # At the threshold 0 all 36 pixels are inside, at all others the 8 of the mask.
    assert ious[0] == pytest.approx(8 / 36)
    assert ious[1:].tolist() == [1] * (len(THRESHOLDS) - 1)


def test_pixels_that_are_not_judged_are_not_counted():
    mask = np.eye(4, dtype=bool)
    inside, outside = count_scores(np.ones((4, 4)), mask, ignored=~mask)
    assert (inside.sum(), outside.sum()) == (4, 0)
    assert np.isnan(compute_px_ap(outside, inside))


@pytest.mark.parametrize("scores", [np.full((4, 4), 1.5), np.full((4, 4), np.nan), np.full((4, 4), -0.1), np.ones(4)])
def test_scores_that_are_not_from_0_to_1_are_refused(scores):
    with pytest.raises(LocalizationError, match="Expected a score map"):
        measure_box_ious(scores, [(0, 0, 1, 1)])
    with pytest.raises(LocalizationError, match="Expected a score map"):
        count_scores(scores, np.ones(scores.shape, bool))
