"""What is said of a set of images, on networks and images made by hand."""

import dataclasses
import itertools
import math
import weakref

import numpy as np
import pytest
import torch

from inspector import Classifier, class_maps, class_maps_of_batch
from inspector.analysis.averages import average_class_maps
from inspector.analysis.localization import EvidenceInside
from inspector.errors import ClassError, InspectorError, LocalizationError

NAMES = ("red", "green", "neither")

# Red, green and blue of three images of 2 x 2; the parts of class red are red / 4, of green (green - blue) / 2.
BLACK = [[0.0, 0], [0, 0]]
BATCH = torch.tensor(
    [
        [[[1.0, 2], [3, 4]], BLACK, BLACK],
        [[[3.0, 0], [1, -4]], [[1, 1], [1, 1]], BLACK],
        [BLACK, [[0, 2], [0, 4]], [[2, 0], [0, 0]]],
    ]
)
LABELS = (0, 0, 1)
AVERAGE_MAPS = [[[0.5, 0.25], [0.5, 0]], [[-1, 1], [0, 2]], BLACK]


def classifier_of(network, size=2) -> Classifier:
    return Classifier.wrap(network, NAMES, size=size, mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture
def batch(hand_made_gap):
    return class_maps_of_batch(classifier_of(hand_made_gap), BATCH)


def label_images(batch, labels=LABELS):
    return ((maps, label, None) for maps, label in zip(batch, labels, strict=True))


def test_average_maps_agree_with_those_computed_by_hand(batch):
    averages = average_class_maps(label_images(batch))
    assert averages.average_maps.tolist() == AVERAGE_MAPS
    assert averages.average_maps.dtype == torch.float32
    assert averages.counts.tolist() == [2, 1, 0]
    assert (averages.images, averages.residual, averages.verdict) == (3, 0, "exact")
    assert averages.inside == (None, None, None)


def test_an_average_map_and_the_bias_sum_to_the_mean_logit_of_its_class(batch):
    averages = average_class_maps(label_images(batch))
    sums = averages.average_maps.sum((1, 2)) + batch[0].bias
    # Class red: biases of 0.5 and means of 2.5 and 0. Class green: -0.25 and twice (6 - 2) / 4.
    assert sums[:2].tolist() == [(3 + 0.5) / 2, 1.75]
    assert sums[0] == torch.stack([batch[0].logits[0], batch[1].logits[0]]).mean()
    assert sums[1] == batch[2].logits[1]


def test_photos_with_and_without_masks_are_measured_one_by_one(hand_made_gmp):
    classifier = classifier_of(hand_made_gmp)
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 1] = 255, 0, 0
    left, upper = np.array([[True, False], [True, False]]), np.array([[True, True], [False, False]])
    cases = [(0, left), (0, upper), (0, None), (2, upper)]
    averages = average_class_maps((class_maps(classifier, pixels), label, mask) for label, mask in cases)
    # Class "neither" has nothing but -1 there.
    assert averages.inside == (EvidenceInside(0, False), EvidenceInside(1, True), None, EvidenceInside(None, False))
    assert averages.average_maps.tolist() == [[[0, 1], [0, 0]], BLACK, [[0, -1], [0, 0]]]
    # From (1, 0) the left column is one pixel away.
    assert average_class_maps([(class_maps(classifier, pixels), 0, left)], tolerance=1).inside == (
        EvidenceInside(0, True),
    )


def test_the_verdict_is_the_worst_and_the_residual_the_largest(batch):
    order = ("exact", "exact for this image", "not unique", "not exact")
    for better, worse in itertools.pairwise(order):
        for verdicts in ((better, worse, better), (worse, better, better)):
            images = [dataclasses.replace(maps, verdict=v) for maps, v in zip(batch, verdicts, strict=True)]
            assert average_class_maps(label_images(images)).verdict == worse
    images = [dataclasses.replace(maps, residual=r) for maps, r in zip(batch, (1e-6, 3e-6, 2e-6), strict=True)]
    assert average_class_maps(label_images(images)).residual == 3e-6


def test_a_residual_that_is_no_number_is_not_lost(batch):
    images = [dataclasses.replace(maps, residual=r) for maps, r in zip(batch, (0, math.nan, 1), strict=True)]
    assert math.isnan(average_class_maps(label_images(images)).residual)


def test_no_more_than_sums_is_kept_of_the_maps(hand_made_gap):
    classifier, produced = classifier_of(hand_made_gap), []

    def images():
        for _ in range(5):
            (maps,) = class_maps_of_batch(classifier, BATCH[:1])
            produced.append(weakref.ref(maps))
            yield maps, 0, None
            del maps
            # The survey's own loop still names the last one.
            assert not any(one() for one in produced[:-1])

    averages = average_class_maps(images())
    assert averages.images == 5
    assert averages.average_maps[0].tolist() == [[0.25, 0.5], [0.75, 1]]


def test_averaging_leaves_the_maps_as_they_were(batch):
    before = [maps.values.clone() for maps in batch]
    average_class_maps(label_images(batch)).average_maps.add_(1)
    assert all(torch.equal(maps.values, values) for maps, values in zip(batch, before, strict=True))


def test_maps_of_several_grids_are_refused(hand_made_gap, batch):
    other = class_maps_of_batch(classifier_of(hand_made_gap, (2, 3)), torch.ones(1, 3, 2, 3))
    with pytest.raises(
        InspectorError, match="3 classes with 2 x 2 cells and of 3 classes with 2 x 3 cells cannot be averaged"
    ):
        average_class_maps(label_images([*batch, *other], (*LABELS, 0)))


def test_no_image_an_unknown_class_and_a_mask_without_a_photo_are_refused(batch):
    with pytest.raises(InspectorError, match="There is no image to average"):
        average_class_maps([])
    with pytest.raises(ClassError, match="No class -4; they are numbered 0 to 2"):
        average_class_maps([(batch[0], -4, None)])
    with pytest.raises(LocalizationError, match="Use a mask of the size of the photo"):
        average_class_maps([(batch[0], 0, np.ones((2, 3), bool))])
