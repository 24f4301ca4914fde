"""Class maps as arrays give what the same class maps give as tensors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from inspector import Classifier, class_maps_of_batch
from inspector.analysis.positions import find_decisions, find_winners, inspect_cell
from inspector.explain.map_arrays import ChannelArrays, MapArrays
from inspector.explain.pooling import position_shares

IMAGE = torch.tensor([[[1.0, 2], [3, 4]], [[0, 4], [0, 0]], [[1, 0], [0, 3]]])[None]


def make_arrays(network: torch.nn.Module) -> tuple[object, MapArrays]:
    """Class maps by hand, and the same as arrays with channels."""
    (maps,) = class_maps_of_batch(Classifier.wrap(network, size=2, mean=(0.0,) * 3, std=(1.0,) * 3), IMAGE)
    channels = ChannelArrays(maps.feature_maps.numpy(), maps.classifier.head.weight.numpy())
    return maps, replace(maps.to_numpy(), channels=channels)


@pytest.mark.parametrize("pooling", ["hand_made_gap", "hand_made_gmp"])
def test_a_cell_has_the_same_channels_decisions_and_winners(pooling, request):
    maps, arrays = make_arrays(request.getfixturevalue(pooling))
    for k in range(3):
        np.testing.assert_array_equal(arrays.parts(k), maps.parts(k))
        assert inspect_cell(arrays, 1, 1, k, [0, 2]) == inspect_cell(maps, 1, 1, k, [0, 2])
    ours, theirs = find_winners(arrays), find_winners(maps)
    assert ours.classes == theirs.classes
    np.testing.assert_array_equal(ours.grid, theirs.grid)
    if arrays.maxima is not None:
        for name in ("cells", "gaps", "runners_up", "votes"):
            np.testing.assert_array_equal(getattr(find_decisions(arrays), name), getattr(find_decisions(maps), name))


@pytest.mark.parametrize("pooling", ["average", "max", "flatten"])
def test_the_parts_of_channels_are_shares_of_the_pooled_values_by_their_weights(pooling, hand_made_gap):
    _, arrays = make_arrays(hand_made_gap)
    rng = np.random.default_rng(0)
    feature_maps = rng.normal(size=(5, 2, 3)).astype(np.float32)
    weight = rng.normal(size=(3, 30 if pooling == "flatten" else 5)).astype(np.float32)
    found = replace(
        arrays, classifier=replace(arrays.classifier, pooling=pooling), channels=ChannelArrays(feature_maps, weight)
    ).parts(2)
    shares = position_shares(pooling, torch.from_numpy(feature_maps)[None])[0].numpy()
    expected = shares * (weight[2].reshape(5, 2, 3) if pooling == "flatten" else weight[2, :, None, None])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_where_each_feature_map_is_a_class_map_only_that_of_the_class_adds_to_its_logit(hand_made_gap):
    _, arrays = make_arrays(hand_made_gap)
    feature_maps = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    found = replace(arrays, channels=ChannelArrays(feature_maps, None)).parts(1)
    np.testing.assert_array_equal(found[1], feature_maps[1] / 4)
    assert not found[[0, 2]].any()
