"""The protocol of weakly supervised localization: box accuracy and average precision of pixels.

Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020. A score map has values from 0
to 1 over the whole photo, resized to 224 x 224 pixels. All numbers are equal to those of the authors' program on the
same score maps, so also their conventions are kept: scores are rounded down to 256 levels before boxes are made, a box
includes its right and lower edge, and its coordinates are whole pixels of the resized photo.

    MaxBoxAcc(IoU)  share of the photos with a box whose IoU with an object is large enough, at the best threshold
    MaxBoxAccV2     mean of MaxBoxAcc over the IoUs 0.3, 0.5 and 0.7, with a box around every contour
    PxAP            area under precision and recall of all pixels of all photos, over the thresholds
"""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from inspector.analysis.localization import Mask
from inspector.errors import LocalizationError
from inspector.images.preprocessing import Box

Floats = NDArray[np.float64]
Contours = Literal["all", "largest"]

SIDE = 224  # pixels of both sides of a score map
IOUS = (0.3, 0.5, 0.7)
THRESHOLDS: Floats = np.arange(0, 1, 0.001)
_BINS = np.append(THRESHOLDS, [1.0, 2.0, 3.0])  # edges of the bins of scores; the last bins hold the score 1


def resize_box(box: Box, size: tuple[int, int], side: int = SIDE) -> tuple[int, int, int, int]:
    """Return a box in whole pixels of the photo resized to (side, side), rounded down.

    Args:
        box: left, top, right, bottom in pixels of the photo.
        size: (height, width) of the photo.
        side: pixels of both sides of the resized photo.
    """
    height, width = size
    left, top, right, bottom = box
    return (
        int(left * side / width), int(top * side / height), int(right * side / width), int(bottom * side / height)
    )  # fmt: skip


def measure_box_ious(scores: Floats, boxes: Sequence[Box], contours: Contours = "all") -> Floats:
    """Measure how well the best of the boxes that a score map gives fits an object, at each threshold.

    Args:
        scores: (H, W), from 0 to 1.
        boxes: objects (left, top, right, bottom), in pixels of the score map; none: all results are 0.
        contours: a box around every contour above the threshold, or only around that with the largest area.

    Returns:
        (1000,): the largest IoU of any box with any object, at each of THRESHOLDS.

    Raises:
        LocalizationError: the score map is not two-dimensional, or has a value that is not from 0 to 1.
    """
    _check_scores(scores)
    if not boxes:
        return np.zeros(len(THRESHOLDS))
    levels = (scores * 255).astype(np.uint8)
    objects = np.array(boxes, np.int64)
    # Many thresholds fall on the same of the 256 levels.
    lowest, which = np.unique((THRESHOLDS * float(levels.max())).astype(int), return_inverse=True)
    best = [_compute_ious(_find_boxes(levels, int(level), contours), objects).max() for level in lowest]
    return np.array(best)[which]


def _check_scores(scores: Floats) -> None:
    if scores.ndim != 2 or not bool(((scores >= 0) & (scores <= 1)).all()):
        raise LocalizationError(
            f"Expected a score map (H, W) with values from 0 to 1, got shape {scores.shape} with values from "
            f"{np.min(scores):g} to {np.max(scores):g}."
        )


def _find_boxes(levels: NDArray[np.uint8], level: int, contours: Contours) -> NDArray[np.int64]:
    """Return the boxes (N, 4) around the contours of all pixels above a level; (0, 0, 0, 0) if there is none."""
    height, width = levels.shape
    # Inner contours count too: the outline of a hole is one.
    found, _ = cv2.findContours((levels > level).astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not found:
        return np.zeros((1, 4), np.int64)
    chosen = found if contours == "all" else [max(found, key=cv2.contourArea)]
    boxes = np.array([cv2.boundingRect(contour) for contour in chosen], np.int64)
    boxes[:, 2:] = np.minimum(boxes[:, :2] + boxes[:, 2:], [width - 1, height - 1])
    return boxes


def _compute_ious(boxes: NDArray[np.int64], objects: NDArray[np.int64]) -> Floats:
    """Compute the intersection over union (N, M) of boxes and objects, whose right and lower edges are included."""
    starts = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    ends = np.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    shared = np.prod(np.maximum(ends - starts + 1, 0), axis=2)
    areas, object_areas = (np.prod(one[:, 2:] - one[:, :2] + 1, axis=1) for one in (boxes, objects))
    return np.asarray(shared / (areas[:, None] + object_areas - shared), np.float64)


def count_scores(scores: Floats, mask: Mask, ignored: Mask | None = None) -> tuple[Floats, Floats]:
    """Count the scores in each bin of thresholds, inside and outside of the object.

    Args:
        scores: (H, W), from 0 to 1.
        mask: (H, W), true inside the object.
        ignored: (H, W), true where pixels are not judged.

    Returns:
        Counts (1002,) inside, and outside.

    Raises:
        LocalizationError: the score map is not two-dimensional, or has a value that is not from 0 to 1.
    """
    _check_scores(scores)
    outside = ~mask if ignored is None else ~(mask | ignored)
    inside, beyond = (np.histogram(scores[where], bins=_BINS)[0].astype(np.float64) for where in (mask, outside))
    return inside, beyond


def compute_px_ap(inside: Floats, outside: Floats) -> Floats:
    """Compute the average precision of pixels (PxAP) from the counts of all photos.

    Args:
        inside: (..., 1002) from `count_scores`, summed over photos.
        outside: (..., 1002).

    Returns:
        (...), 0-1; NaN if there is no pixel of an object.
    """
    true, false = (counts[..., ::-1].cumsum(-1) for counts in (inside, outside))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = true / (true + false), true / true[..., -1:]
    steps = np.where(true + false > 0, precision, 0)[..., 1:] * np.diff(recall)
    return np.asarray(steps.sum(-1), np.float64)


def compute_mask_ious(inside: Floats, outside: Floats) -> Floats:
    """Compute the intersection over union of the object and the pixels of at least each threshold: (..., 1000)."""
    true, false = (counts[..., ::-1].cumsum(-1)[..., ::-1][..., : len(THRESHOLDS)] for counts in (inside, outside))
    return np.asarray(true / (inside.sum(-1, keepdims=True) + false), np.float64)
