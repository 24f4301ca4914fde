"""Cells masked at the head and in the photo; feature maps of the 2 x 2 image by hand as in test_class_maps.py."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from inspector import Classifier, InspectorError, class_maps, class_maps_of_batch
from inspector.analysis.masking import (
    find_cells_above,
    find_masked_pixels,
    make_mask,
    make_masked_view,
    mask_at_head,
    mask_in_photo,
)

IMAGE = torch.tensor([[[1.0, 2], [3, 4]], [[0, 4], [0, 0]], [[1, 0], [0, 3]]])[None]


def classifier_of(network: nn.Module, size: int = 2, **how: object) -> Classifier:
    return Classifier.wrap(network.eval(), size=size, **({"mean": (0.0,) * 3, "std": (1.0,) * 3} | how))


def maps_of(network: nn.Module, image: torch.Tensor = IMAGE, **how: object):
    (maps,) = class_maps_of_batch(classifier_of(network, image.shape[-1], **how), image)
    return maps


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Body(nn.Module):
    """A convolution, a pooling that is a function of the feature maps, and a head."""

    def __init__(self, pooling, head: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pooling, self.head_function = nn.Conv2d(3, 6, 3, padding=1), pooling, head

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head_function(self.pooling(self.conv(inputs)))


def linear(inputs: int = 6) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(inputs, 4)


def test_average_pooling_without_a_cell_keeps_its_divisor(hand_made_gap):
    maps = maps_of(hand_made_gap)
    # Red (1 + 2 + 3) / 4 = 1.5 in place of 2.5, green less blue (-1 + 4) / 4 = 0.75 in place of 0; biases 1/2, -1/4, 0.
    after = mask_at_head(maps, make_mask(maps, [(1, 1)]))
    assert after.logits.tolist() == [2, 1.25, -1.125]
    odds = [math.exp(logit) for logit in (2, 1.25, -1.125)]
    assert after.probabilities.tolist() == pytest.approx([odd / sum(odds) for odd in odds])


def test_max_pooling_without_a_cell_takes_the_highest_of_the_others(hand_made_gmp):
    maps = maps_of(hand_made_gmp)
    # Without (1, 1) the maximum of red is 3, that of green less blue stays 4.
    assert mask_at_head(maps, make_mask(maps, [(1, 1)])).logits.tolist() == [3.5, 7.75, -1]
    # Without (0, 1) too, red stays 3 and green less blue is 0.
    assert mask_at_head(maps, make_mask(maps, [(1, 1), (0, 1)])).logits.tolist() == [3.5, -0.25, -3]
    # Without all but (0, 0): 1 and -1.
    assert mask_at_head(maps, make_mask(maps, [(1, 1), (0, 1), (1, 0)])).logits.tolist() == [1.5, -2.25, -1.5]


def test_with_max_pooling_a_cell_that_decides_nothing_can_be_masked(hand_made_gmp):
    maps = maps_of(hand_made_gmp)
    assert torch.equal(mask_at_head(maps, make_mask(maps, [(0, 0), (1, 0)])).logits, maps.logits)


def test_with_all_cells_masked_average_pooling_leaves_only_the_bias(hand_made_gap):
    maps = maps_of(hand_made_gap)
    assert mask_at_head(maps, torch.ones(2, 2, dtype=torch.bool)).logits.tolist() == [0.5, -0.25, 0]


def test_max_pooling_needs_an_unmasked_cell(hand_made_gmp):
    with pytest.raises(InspectorError, match="All cells are masked"):
        mask_at_head(maps_of(hand_made_gmp), torch.ones(2, 2, dtype=torch.bool))


POOLINGS = {
    "average": (lambda maps: maps.mean((2, 3)), 6),
    "max": (lambda maps: maps.amax((2, 3)), 6),
    "flatten": (lambda maps: maps.flatten(1), 6 * 25),
    "sum": (lambda maps: maps.sum((2, 3)), 6),
    "average and max": (lambda maps: torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1), 12),
}
HEADS = {
    "affine": lambda width: linear(width),
    "layer norm": lambda width: nn.Sequential(nn.LayerNorm(width), linear(width)),
    "gates": lambda width: nn.Sequential(linear(width), nn.ReLU(), nn.Linear(4, 3)),
    "bent": lambda width: nn.Sequential(linear(width), nn.Tanh(), nn.Linear(4, 3)),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_it_agrees_with_the_network_run_on_feature_maps_without_the_cells(pooling, head):
    pool, width = POOLINGS[pooling]
    network = Body(pool, HEADS[head](width))
    image, mask = noise(1, 3, 5, 5), torch.zeros(5, 5, dtype=torch.bool)
    mask[1, 2] = mask[3] = True
    maps = maps_of(network, image)
    with torch.no_grad():
        features = network.conv(image)
        # Max pooling leaves a cell out, the others set it to zero.
        emptied, left_out = features.masked_fill(mask, 0), features.masked_fill(mask, -math.inf)
        if pooling == "average and max":
            pooled = torch.cat([pool(emptied)[:, :6], pool(left_out)[:, 6:]], 1)
        else:
            pooled = pool(left_out if pooling == "max" else emptied)
        expected = network.head_function(pooled)[0]
    assert torch.allclose(mask_at_head(maps, mask).logits, expected, atol=1e-5)


def test_nothing_masked_changes_nothing():
    maps = maps_of(Body(POOLINGS["average"][0], HEADS["layer norm"](6)), noise(1, 3, 5, 5))
    assert torch.allclose(mask_at_head(maps, torch.zeros(5, 5, dtype=torch.bool)).logits, maps.logits, atol=1e-6)


def test_probabilities_are_made_as_the_classifier_makes_them(hand_made_gap):
    maps = maps_of(hand_made_gap, probability="sigmoid")
    after = mask_at_head(maps, make_mask(maps, [(1, 1)]))
    assert after.probabilities.tolist() == pytest.approx([1 / (1 + math.exp(-logit)) for logit in (2, 1.25, -1.125)])


def test_a_pooling_that_is_no_weighted_sum_is_refused():
    network = Body(lambda maps: maps.logsumexp((2, 3)), linear())
    maps = maps_of(network, noise(1, 3, 5, 5))
    assert maps.classifier.head.pooling == "other"
    with pytest.raises(InspectorError, match="neither average nor max nor a weighted sum"):
        mask_at_head(maps, torch.zeros(5, 5, dtype=torch.bool))


class TwoGrids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse, self.linear = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 2, 2), linear(12)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.cat([self.fine(inputs).mean((2, 3)), self.coarse(inputs).mean((2, 3))], 1))


def test_poolings_with_different_grids_are_refused():
    maps = maps_of(TwoGrids(), noise(1, 3, 4, 4))
    with pytest.raises(InspectorError, match="different grids, 2 x 2 and 4 x 4 cells"):
        mask_at_head(maps, torch.zeros(4, 4, dtype=torch.bool))


def test_above_a_share_are_the_values_higher_than_that_share_of_the_highest(hand_made_gap):
    maps = maps_of(hand_made_gap)
    # [[0.25, 0.5], [0.75, 1]]
    assert find_cells_above(maps.class_map(0), 0.5).tolist() == [[False, False], [True, True]]
    assert find_cells_above(maps.class_map(0), 0).tolist() == [[True, True], [True, True]]
    # [[-0.375, 0], [-0.75, -1.375]]: no value is positive.
    assert find_cells_above(maps.class_map(2), 0).tolist() == [[False, False], [False, False]]


@pytest.fixture
def patches():
    """Four cells of an 8 x 8 input, each with a receptive field of 4 x 4 pixels; a photo twice as large.

    The photo is dark on the left and light on the right.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(5))
    photo = np.full((16, 16, 3), 40, np.uint8)
    photo[:, 8:] = 220
    return class_maps(classifier_of(network, 8, mean=(0.5, 0.25, 0.2), std=(0.25,) * 3), photo)


def test_the_masked_pixels_are_those_nearest_to_masked_cells(patches):
    region = find_masked_pixels(patches, make_mask(patches, [(0, 1)]))
    assert region.shape == (8, 8)
    assert region[:4, 4:].all()
    assert region.sum() == 16


def test_gray_pixels_are_zero_after_normalization(patches):
    mask = make_mask(patches, [(0, 1)])
    view = make_masked_view(patches, mask, "grey")
    inputs = patches.classifier.inputs(view)[0]
    # 0.5 * 255 = 127.5 is rounded to a whole number of 255ths, an error of at most 0.5 / 255 / 0.25.
    assert inputs[:, :4, 4:].abs().max() <= 0.5 / 255 / 0.25 + 1e-6
    assert np.array_equal(view.pixels[4:], patches.view.pixels[4:])
    assert np.array_equal(view.pixels[:, :4], patches.view.pixels[:, :4])
    assert patches.view.pixels[0, 7].tolist() == [220, 220, 220]  # the photo's own view stays


def test_blur_mixes_what_is_near_and_only_there(patches):
    view = make_masked_view(patches, make_mask(patches, [(0, 1)]), "blur")
    blurred = view.pixels[:4, 4:].astype(int)
    assert blurred.min() > 40
    assert blurred.max() < 220
    assert blurred[0, 0, 0] < blurred[0, 3, 0]  # nearer to the dark half
    assert np.array_equal(view.pixels[4:], patches.view.pixels[4:])
    assert np.array_equal(view.pixels[:, :4], patches.view.pixels[:, :4])


@pytest.mark.parametrize("change", ["blur", "grey"])
def test_in_the_photo_is_the_network_run_on_the_changed_pixels(patches, change):
    mask = make_mask(patches, [(0, 1), (1, 0)])
    photo = mask_in_photo(patches, mask, change)
    pixels = torch.from_numpy(make_masked_view(patches, mask, change).pixels.copy()).permute(2, 0, 1)[None] / 255
    mean = torch.tensor([0.5, 0.25, 0.2]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = patches.classifier.network((pixels - mean) / 0.25)[0]
    assert torch.allclose(photo.logits, expected, atol=1e-6)
    assert float(photo.probabilities.sum()) == pytest.approx(1)
    assert not torch.allclose(photo.logits, patches.logits)


def test_where_no_receptive_fields_overlap_the_photo_changes_its_own_cell_only(patches):
    """Gray is the mean. Without a bias before the pooling, head and photo give the same logits."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 4, 4, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    # A mean of 51 / 255 is a whole number, so the input is exactly zero.
    maps = class_maps(classifier_of(nn.Sequential(network, linear(5)), 8, mean=(0.2,) * 3), patches.view.photo)
    mask = make_mask(maps, [(0, 1), (1, 1)])
    assert torch.allclose(mask_in_photo(maps, mask, "grey").logits, mask_at_head(maps, mask).logits, atol=1e-6)


def test_where_receptive_fields_overlap_head_and_photo_differ(patches):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 7, 4, 2, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    maps = class_maps(classifier_of(nn.Sequential(network, linear(5)), 8, mean=(0.2,) * 3), patches.view.photo)
    mask = make_mask(maps, [(0, 1)])
    assert not torch.allclose(mask_in_photo(maps, mask, "grey").logits, mask_at_head(maps, mask).logits, atol=1e-3)


def test_a_gray_network_gets_gray_pixels(hand_made_gap):
    network = nn.Sequential(nn.Conv2d(1, 3, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    photo = np.full((8, 8, 3), 200, np.uint8)
    maps = class_maps(classifier_of(network, 8, mean=(0.4,), std=(1.0,)), photo)
    for change in ("blur", "grey"):
        after = mask_in_photo(maps, make_mask(maps, [(0, 0)]), change)
        assert after.pixels.shape == (8, 8)
    assert (after.pixels[:4, :4] == 102).all()
    assert (after.pixels[4:] == 200).all()
