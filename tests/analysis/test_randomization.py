"""Maps of networks with shuffled weights."""

import pytest
import torch
from torch import nn

from inspector import Classifier
from inspector.analysis.attribution.methods import compute_attribution
from inspector.analysis.randomization import ALL_LAYERS, LAST_LAYER, measure_randomization, shuffle_weights
from inspector.errors import AttributionError


def test_shuffling_permutes_the_values_and_keeps_the_callers_network(classifier, inputs):
    before = {name: tensor.clone() for name, tensor in classifier.network.state_dict().items()}
    last, every = (shuffle_weights(classifier, inputs, layers, seed=1) for layers in (LAST_LAYER, ALL_LAYERS))
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.network.state_dict().items())
    for name, tensor in before.items():
        for shuffled, changes in ((last, name.startswith("linear")), (every, True)):
            now = shuffled.network.state_dict()[name]
            assert torch.equal(now.flatten().sort().values, tensor.flatten().sort().values)
            assert torch.equal(now, tensor) != changes, name


def test_a_map_of_the_same_network_keeps_all_ranks_and_of_a_shuffled_one_not(inputs):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    classifier = Classifier.wrap(nn.Sequential(*layers), size=8)
    attribution = compute_attribution(classifier, inputs, 0, "Exact map")
    assert measure_randomization(classifier, inputs, 0, attribution).correlation == pytest.approx(1)
    shuffled = shuffle_weights(classifier, inputs, seed=1)
    result = measure_randomization(shuffled, inputs, 0, attribution)
    assert torch.equal(result.attribution.values, compute_attribution(shuffled, inputs, 0, "Exact map").values)
    assert result.correlation is not None
    assert result.correlation < 0.9


def test_what_cannot_be_copied_cannot_be_shuffled(hand_made_gap, inputs):
    hand_made_gap.source = (n for n in range(3))
    with pytest.raises(AttributionError, match="this network cannot be copied"):
        shuffle_weights(Classifier.wrap(hand_made_gap, size=8), inputs)
