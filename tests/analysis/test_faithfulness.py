"""Insertion and deletion, worked out by hand or by a second implementation."""

import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from inspector import Classifier
from inspector.analysis.attribution.case import Attribution
from inspector.analysis.attribution.methods import compute_attribution
from inspector.analysis.faithfulness import PatchTest, resample_on_input
from inspector.errors import Cancelled
from inspector.explain.receptive_field import PIXELS, Axis, ReceptiveField


def make_pixel_map(values: Tensor) -> Attribution:
    return Attribution("Exact map", values, "logits", 0, None, "", PIXELS)


def test_deletion_takes_the_highest_patches_first_and_covers_them_with_the_mean_color(hand_made_gap):
    classifier = Classifier.wrap(hand_made_gap, size=4)
    # Four patches of 2 x 2; red is all that differs: its mean is the logit of class 0, less the bias of 0.5.
    red = torch.tensor([[4.0, 8], [-4, 0]])
    inputs = torch.zeros(1, 3, 4, 4)
    inputs[0, 0] = red.repeat_interleave(2, 0).repeat_interleave(2, 1)
    measured = PatchTest(classifier, inputs, 0, patch=2, steps=4).measure(make_pixel_map(inputs[0, 0])).deletion
    # 8 first, then 4, 0 and -4.
    means = [(4 + 8 - 4 + 0) / 4, (4 - 4) / 4, -4 / 4, -4 / 4, 0.0]
    assert measured.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert measured.logits.tolist() == pytest.approx([0.5 + mean for mean in means])
    # The others' logits: class 1 has its bias, class 2 loses what class 0 gains.
    shares = [math.exp(0.5 + m) / (math.exp(0.5 + m) + math.exp(-0.25) + math.exp(-m)) for m in means]
    assert measured.probabilities.tolist() == pytest.approx(shares)
    assert measured.area == pytest.approx(sum(0.25 * (a + b) / 2 for a, b in pairwise(shares)))


def blur(inputs: Tensor, sigma: float) -> Tensor:
    """Blur in one step with a square kernel."""
    reach = math.ceil(2 * sigma)
    line = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    kernel = line.outer(line) / line.outer(line).sum()
    padded = functional.pad(inputs, (reach,) * 4, mode="reflect")
    return functional.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)


def test_insertion_uncovers_the_blurred_photo_in_the_same_order(classifier):
    inputs = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    order = torch.tensor([2, 0, 3, 1])
    measured = PatchTest(classifier, inputs, 1, patch=20, steps=4).measure_order(order).insertion
    images = [blur(inputs, 40 / 8)]
    for number in order.tolist():
        y, x = 20 * (number // 2), 20 * (number % 2)
        images.append(images[-1].clone())
        images[-1][..., y : y + 20, x : x + 20] = inputs[..., y : y + 20, x : x + 20]
    with torch.no_grad():
        expected = classifier.network(torch.cat(images))[:, 1]
    assert torch.allclose(measured.logits, expected, atol=1e-5)
    assert measured.logits[0] != pytest.approx(float(measured.logits[-1]), abs=1e-3)


def test_fractions_count_the_smaller_patches_at_the_edge(classifier, inputs):
    assert PatchTest(classifier, torch.zeros(1, 3, 28, 30), 0).side == 2
    measured = PatchTest(classifier, inputs, 0, patch=3, steps=9).measure_order(torch.arange(9))
    # 8 pixels in patches of 3, 3 and 2.
    sizes = torch.tensor([[a * b for b in (3, 3, 2)] for a in (3, 3, 2)]).flatten()
    assert torch.allclose(measured.deletion.fractions, torch.cat([torch.zeros(1), sizes.cumsum(0) / 64]))


def test_a_map_on_cells_is_interpolated_between_their_centers():
    field = ReceptiveField(Axis(1.5, 4, 5), Axis(3.5, 2, 5))
    measured = resample_on_input(replace(make_pixel_map(torch.tensor([[0.0, 2], [8, 10]])), field=field), (8, 8))
    # Rows: pixel centers 0.5, 1.5, ..., cells at 1.5 and 5.5. Columns: cells at 3.5 and 5.5.
    down = torch.tensor([0, 0, 0.25, 0.5, 0.75, 1, 1, 1])
    across = torch.tensor([0, 0, 0, 0, 0.5, 1, 1, 1])
    assert torch.allclose(measured, 8 * down[:, None] + 2 * across)


def test_the_better_map_gets_the_better_areas(classifier, inputs):
    exact = make_pixel_map(compute_attribution(classifier, inputs, 0, "Exact map").values)
    test = PatchTest(classifier, inputs, 0, patch=1)
    good, bad = (test.measure(replace(exact, values=sign * exact.values)) for sign in (1, -1))
    baseline = test.measure_random_maps(exact)
    assert good.deletion.area < baseline.deletion[0] - 3 * baseline.deletion[1]
    assert bad.deletion.area > baseline.deletion[0] + 3 * baseline.deletion[1]
    assert good.insertion.area > baseline.insertion[0] > bad.insertion.area


def test_random_baseline_is_mean_and_standard_deviation_over_seeds_and_reproducible(classifier, inputs):
    like = make_pixel_map(torch.zeros(8, 8))
    test = PatchTest(classifier, inputs, 1, patch=2)
    measured, again = (test.measure_random_maps(like, seeds=(4, 5, 6)) for _ in range(2))
    areas = [one.deletion.area for one in measured.curves]
    assert len(set(areas)) == 3
    mean = sum(areas) / 3
    assert measured.deletion == pytest.approx((mean, math.sqrt(sum((a - mean) ** 2 for a in areas) / 2)))
    assert again.insertion == measured.insertion
    # The area of the mean is the mean of the areas.
    assert measured.mean("deletion").area == pytest.approx(mean)


@pytest.mark.parametrize("steps", [4, 16, 64])
def test_insertion_and_deletion_agree_with_torchcam(classifier, inputs, steps):
    metrics = pytest.importorskip("torchcam.metrics")
    values = torch.randn(8, 8, generator=torch.Generator().manual_seed(9))

    class GivenMap:
        model = classifier.network

        def __call__(self, class_idx, scores=None, normalized=True, *, targets=None):
            return [values[None]]

        def fuse_cams(self, cams):
            return cams[0]

        def _hooks_off(self):
            return nullcontext()

    wide = functional.interpolate(inputs, (40, 40))
    values = functional.interpolate(values[None, None], (40, 40))[0, 0]
    ours = PatchTest(classifier, wide, 1, patch=1, steps=steps).measure(make_pixel_map(values))
    for baseline, name in ((None, "deletion"), (blur(wide, 40 / 8), "insertion")):
        metric = metrics.DeletionInsertionMetric(
            GivenMap(), lambda logits: logits.softmax(1), steps=steps, baseline=baseline
        )
        metric.update(wide, 1)
        assert getattr(ours, name).area == pytest.approx(metric.summary()[f"{name}_auc"], abs=1e-5)


def test_curves_report_progress_and_stop_on_request(classifier, inputs):
    progress: list[float] = []
    zeros = make_pixel_map(torch.zeros(8, 8))
    PatchTest(classifier, inputs, 0, on_progress=progress.append).measure_random_maps(zeros, seeds=(0, 1))
    assert progress == sorted(progress)
    assert progress[-1] == 1
    with pytest.raises(Cancelled, match="Insertion and deletion were stopped"):
        PatchTest(classifier, inputs, 0, should_stop=lambda: True).measure(zeros)


def test_a_network_that_ends_in_a_sigmoid_is_measured_by_its_sigmoid(hand_made_gap, inputs):
    classifier = Classifier.wrap(nn.Sequential(hand_made_gap, nn.Sigmoid()), size=8)
    measured = PatchTest(classifier, inputs, 2, patch=4).measure_order(torch.arange(4)).deletion
    assert torch.allclose(measured.probabilities, measured.logits.sigmoid())
