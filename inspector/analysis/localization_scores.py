"""Score how well class maps locate objects, over many photos: per class and in all, with confidence intervals.

A case is one map: of one class, on one photo. The score map of the protocol is the evidence of the class, which is the
positive part of its map resampled over the photo, divided by its largest value.

A box where no object of the class is counts as an error only in `box_acc_v2_with_empty`. A threshold that is a share
of the largest value always gives a box, so its thresholds are logits per cell, which are the same for all photos.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from inspector.analysis.annotations import PhotoObjects
from inspector.analysis.localization import measure_share_and_distance, resize_mask
from inspector.analysis.localization_protocol import (
    IOUS,
    SIDE,
    THRESHOLDS,
    Contours,
    Floats,
    compute_mask_ious,
    compute_px_ap,
    count_scores,
    measure_box_ious,
    resize_box,
)
from inspector.errors import LocalizationError
from inspector.explain.grid import resample_on_photo
from inspector.explain.receptive_field import ReceptiveField
from inspector.images.preprocessing import Crop

TOLERANCE = 15  # pixels of the photo by which the highest value may miss an object (Zhang et al., ECCV 2016)
_DRAWS = 1000  # bootstrap samples
_LEVELS = 1000  # thresholds in logits per cell that are tried

# What each score is. docs/localization.md explains them.
METRICS: Mapping[str, str] = {
    "max_box_acc_v2": "MaxBoxAccV2",
    "box_acc_v2": "BoxAccV2 at tuned thresholds",
    "box_acc_v2_with_empty": "BoxAccV2 with photos without the class",
    "px_ap": "PxAP",
    "max_mask_iou": "mask IoU at the best threshold",
    "mask_iou": "mask IoU at the tuned threshold",
    "energy": "evidence inside",
    "pointing": "pointing game",
    "pointing_15": f"pointing game, {TOLERANCE} px",
}


@dataclass(frozen=True, eq=False)
class CaseMeasures:
    """What is measured of one class map on one photo."""

    photo: str
    name: str  # class in the results
    has_object: bool
    peak: float  # largest value of the map over the photo, in logits per cell; 0 if none is positive
    box_ious: Floats  # (1000,), the best at each of THRESHOLDS; 0 without an object
    inside: Floats | None  # (1002,), from `count_scores`; None if no outline is known
    outside: Floats | None
    share: float | None  # of the evidence inside; None without evidence or object
    distance: float  # of the highest value from the object, in pixels of the photo; infinite without either


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % confidence interval from a bootstrap over photos."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Tuned:
    """Thresholds that were the best on the photos for tuning."""

    box_shares: tuple[float, ...]  # share of the largest value, for each of IOUS
    box_logits: tuple[float, ...]  # logits per cell, for each of IOUS
    mask_share: float | None  # share of the largest value; None without outlines


@dataclass(frozen=True)
class LocalizationScores:
    """The scores of one class, or of all."""

    name: str
    photos: int  # with an object of the class; in all: cases
    empty: int  # photos without an object of the class, for which a box is an error
    scores: Mapping[str, Estimate] = field(default_factory=dict)  # by the keys of METRICS; those that are known


def measure_case(
    photo: str,
    name: str,
    values: ArrayLike,
    crop: Crop,
    field: ReceptiveField,
    objects: PhotoObjects | None,
    contours: Contours = "all",
) -> CaseMeasures:
    """Measure one class map against the objects of its class on the photo.

    Args:
        photo: path of the photo; cases with the same path are resampled together.
        name: class of the results to which the case counts.
        values: map (h, w), signed.
        crop: where the network's input lies on the photo.
        field: receptive fields of the cells.
        objects: the objects of the class; None if the photo has none.
        contours: as for `measure_box_ious`.

    Raises:
        PlaceError: the place of the cells is unknown.
    """
    drawn = resample_on_photo(values, crop, field, (SIDE, SIDE), smooth=True).astype(np.float64)
    peak = max(0.0, float(drawn.max()))
    if objects is None:
        return CaseMeasures(photo, name, False, peak, np.zeros(len(THRESHOLDS)), None, None, None, math.inf)
    scores = np.clip(drawn / peak, 0, 1) if peak else np.zeros_like(drawn)
    boxes = [resize_box(box, crop.photo_size) for box in objects.boxes]
    inside, outside = None, None
    if objects.is_outlined:
        border = None if objects.border is None else resize_mask(objects.border, scores.shape)
        inside, outside = count_scores(scores, resize_mask(objects.mask, scores.shape), border)
    share, distance = measure_share_and_distance(values, crop, field, objects.mask)
    # Without evidence there is no box; the protocol would take a box at the corner of the photo.
    ious = measure_box_ious(scores, boxes, contours) if peak else np.zeros(len(THRESHOLDS))
    return CaseMeasures(photo, name, True, peak, ious, inside, outside, share, distance)


def split_photos(cases: Sequence[CaseMeasures], share: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """Divide cases into those for tuning and those for testing; all cases of one photo stay together.

    Args:
        cases: all cases.
        share: part of the photos for tuning, from 0 to below 1, the same for every class.
        seed: of the random choice.

    Returns:
        Indices of the cases for tuning, and for testing.

    Raises:
        LocalizationError: the share cannot be used.
    """
    if not 0 <= share < 1:
        raise LocalizationError(f"Expected the share of photos for tuning from 0 to below 1; got {share}.")
    groups: dict[str, str] = {}  # photo -> class of its first object
    for case in sorted(cases, key=lambda case: (case.photo, not case.has_object)):
        groups.setdefault(case.photo, case.name if case.has_object else "")
    random, chosen = np.random.default_rng(seed), set[str]()
    for name in sorted(set(groups.values())):
        photos = sorted(photo for photo, group in groups.items() if group == name)
        chosen.update(photos[i] for i in random.permutation(len(photos))[: round(share * len(photos))])
    tuning = [n for n, case in enumerate(cases) if case.photo in chosen]
    return tuning, [n for n, case in enumerate(cases) if case.photo not in chosen]


def tune_thresholds(cases: Sequence[CaseMeasures]) -> Tuned | None:
    """Find the thresholds with the best scores; None if no case has an object."""
    found = [case for case in cases if case.has_object]
    if not found:
        return None
    ious = np.stack([case.box_ious for case in found])
    shares = tuple(float(THRESHOLDS[(ious >= iou).mean(0).argmax()]) for iou in IOUS)
    levels = np.linspace(0, max(case.peak for case in cases), _LEVELS, endpoint=False)
    right = np.stack([_judge_levels(cases, levels, iou) for iou in IOUS])
    logits = tuple(float(levels[rates.mean(0).argmax()]) for rates in right)
    outlined = [case for case in found if case.inside is not None]
    mask_share = float(THRESHOLDS[compute_mask_ious(*_stack_counts(outlined)).mean(0).argmax()]) if outlined else None
    return Tuned(shares, logits, mask_share)


def _judge_levels(cases: Sequence[CaseMeasures], levels: Floats, iou: float) -> Floats:
    """Return 1 where a case is right at a threshold in logits, 0 where it is wrong: (cases, levels)."""
    judged = np.zeros((len(cases), len(levels)))
    for row, case in zip(judged, cases, strict=True):
        above = levels < case.peak
        if case.has_object:
            shares = levels[above] / case.peak if case.peak else np.zeros(0)
            row[above] = case.box_ious[(shares * len(THRESHOLDS)).astype(int)] >= iou
        else:
            row[~above] = 1
    return judged


def _stack_counts(cases: Sequence[CaseMeasures]) -> tuple[Floats, Floats]:
    pairs = [(case.inside, case.outside) for case in cases if case.inside is not None and case.outside is not None]
    inside, outside = (np.stack(counts) for counts in zip(*pairs, strict=True))
    return inside, outside


def score_cases(
    cases: Sequence[CaseMeasures], tuned: Tuned | None = None, draws: int = _DRAWS, seed: int = 0
) -> list[LocalizationScores]:
    """Score cases for each class and in all.

    Args:
        cases: the cases to test.
        tuned: thresholds from `tune_thresholds`, for other photos; None leaves out the scores that need them.
        draws: number of bootstrap samples.
        seed: of the bootstrap.

    Returns:
        The scores of each class in the order of names, and then those in all, named "all".
    """
    names = sorted({case.name for case in cases})
    groups = [(name, [case for case in cases if case.name == name]) for name in names]
    return [_score_group(name, group, tuned, draws, seed) for name, group in [*groups, ("all", list(cases))]]


def _score_group(
    name: str, cases: Sequence[CaseMeasures], tuned: Tuned | None, draws: int, seed: int
) -> LocalizationScores:
    found = [case for case in cases if case.has_object]
    scores: dict[str, Estimate] = {}

    def add(key: str, chosen: Sequence[CaseMeasures], score: Callable[[Floats], Floats]) -> None:
        if chosen:
            scores[key] = _bootstrap(chosen, score, draws, seed)

    if found:
        ious = np.stack([case.box_ious for case in found])
        right = [(ious >= iou).astype(np.float64) for iou in IOUS]
        add("max_box_acc_v2", found, lambda w: np.mean([(w @ one).max(1) for one in right], 0))
        if tuned is not None:
            at = np.mean(
                [one[:, round(t * len(THRESHOLDS))] for one, t in zip(right, tuned.box_shares, strict=True)], 0
            )
            add("box_acc_v2", found, lambda w: w @ at)
    if tuned is not None:
        levels = np.array(tuned.box_logits)
        judged = np.mean([_judge_levels(cases, levels[i : i + 1], iou)[:, 0] for i, iou in enumerate(IOUS)], 0)
        add("box_acc_v2_with_empty", cases, lambda w: w @ judged)
    outlined = [case for case in found if case.inside is not None]
    if outlined:
        inside, outside = _stack_counts(outlined)
        add("px_ap", outlined, lambda w: compute_px_ap(w @ inside, w @ outside))
        mask_ious = compute_mask_ious(inside, outside)
        add("max_mask_iou", outlined, lambda w: (w @ mask_ious).max(1))
        if tuned is not None and tuned.mask_share is not None:
            mask_iou = mask_ious[:, round(tuned.mask_share * len(THRESHOLDS))]
            add("mask_iou", outlined, lambda w: w @ mask_iou)
    shared = [case for case in found if case.share is not None]
    shares = np.array([case.share for case in shared], np.float64)
    add("energy", shared, lambda w: w @ shares)
    distances = np.array([case.distance for case in found])
    add("pointing", found, lambda w: w @ (distances <= 0).astype(np.float64))
    add("pointing_15", found, lambda w: w @ (distances <= TOLERANCE).astype(np.float64))
    return LocalizationScores(name, len(found), len(cases) - len(found), {k: scores[k] for k in METRICS if k in scores})


def _bootstrap(cases: Sequence[CaseMeasures], score: Callable[[Floats], Floats], draws: int, seed: int) -> Estimate:
    """Return a score with its percentile interval, where the photos are drawn again with replacement.

    Args:
        cases: the cases of the score.
        score: takes weights (samples, cases), each row with the sum 1, and returns (samples,).
        draws: number of samples.
        seed: of the draws.
    """
    numbers = {photo: n for n, photo in enumerate(dict.fromkeys(case.photo for case in cases))}
    which = np.array([numbers[case.photo] for case in cases])
    value = float(score(np.full((1, len(cases)), 1 / len(cases)))[0])
    random, size = np.random.default_rng(seed), len(numbers)
    counts = random.multinomial(size, np.full(size, 1 / size), draws)[:, which].astype(np.float64)
    counts = counts[counts.sum(1) > 0]
    low, high = np.quantile(score(counts / counts.sum(1, keepdims=True)), (0.025, 0.975))
    return Estimate(value, float(low), float(high))
