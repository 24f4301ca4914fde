"""Grids of photos where only one photo can contribute to a logit: which methods keep to it."""

import pytest
import torch
from torch import nn

import inspector
from inspector.analysis.attribution.methods import METHODS, compute_attribution
from inspector.analysis.known_answers import GridNetwork, measure_share_in_cell
from inspector.errors import AttributionError

# Maps that a photo outside of the class's cell can change, or whose weights are means over all cells.
INEXACT = {"Grad-CAM", "Grad-CAM++", "Ablation-CAM", "Score-CAM", "Occlusion"}


def make_classifier(kind) -> inspector.Classifier:
    """A small network on 2 x 2 photos of 16 x 16 pixels, for four of its six classes."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    network = GridNetwork(features, torch.rand(6, 8), torch.zeros(6), (5, 3, 1, 0), (2, 2), (4, 4), kind)
    return inspector.Classifier.wrap(network.eval(), size=32, mean=0.5, std=0.5)


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def separate() -> inspector.Classifier:
    return make_classifier("DiFull")


@pytest.mark.parametrize("method", METHODS)
def test_methods_without_means_over_the_grid_keep_to_the_only_photo_that_contributes(method, separate, photos):
    share = measure_share_in_cell(compute_attribution(separate, photos, 1, method), (2, 2), 1)
    assert share is not None
    if method in INEXACT:
        assert share < 0.999
    else:
        assert share == pytest.approx(1, abs=1e-6)


def test_the_exact_map_keeps_to_its_photo_where_only_the_pooling_is_separate(photos):
    classifier = make_classifier("DiPart")
    for number in range(4):
        attribution = compute_attribution(classifier, photos, number, "Exact map")
        assert measure_share_in_cell(attribution, (2, 2), number) == pytest.approx(1, abs=1e-6)
    # A pixel of another photo may be in a receptive field.
    assert measure_share_in_cell(compute_attribution(classifier, photos, 0, "Saliency"), (2, 2), 0) < 1


def test_the_logits_of_separate_photos_are_those_of_the_network_on_each_alone(photos):
    grid = make_classifier("DiFull").network
    tiles = [photos[..., y : y + 16, x : x + 16] for y in (0, 16) for x in (0, 16)]
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    weight = torch.rand(6, 8)
    with torch.no_grad():
        expected = [
            float(weight[k] @ features(tile).mean((2, 3))[0]) for tile, k in zip(tiles, (5, 3, 1, 0), strict=True)
        ]
    assert grid(photos)[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_pooling_of_the_whole_grid_is_the_network_itself(photos):
    classifier = make_classifier("GridPG")
    assert classifier.head.pooling == "average"
    shares = [
        measure_share_in_cell(compute_attribution(classifier, photos, 0, "Exact map"), (2, 2), number)
        for number in range(4)
    ]
    assert sum(shares) == pytest.approx(1)


def test_a_share_is_of_the_positive_values():
    values = torch.tensor([[1.0, 3, -5, 0], [0, 0, 4, -9]])
    assert measure_share_in_cell(values, (1, 2), 0) == 0.5
    assert measure_share_in_cell(-values.abs(), (1, 2), 0) is None


def test_wrong_grids_are_refused():
    with pytest.raises(AttributionError, match="A map of 2 x 3 values cannot be divided among 1 x 2 photos"):
        measure_share_in_cell(torch.ones(2, 3), (1, 2), 0)
    with pytest.raises(AttributionError, match="a class for each of 2 x 2 photos, got 1"):
        GridNetwork(nn.Identity(), torch.ones(2, 3), torch.ones(2), (0,), (2, 2), (4, 4), "DiFull")
    with pytest.raises(AttributionError, match="No kind 'Full'"):
        GridNetwork(nn.Identity(), torch.ones(2, 3), torch.ones(2), (0,), (1, 1), (4, 4), "Full")
