"""Single cells of the class maps, by hand: red is [[1, 2], [3, 4]], green less blue [[-1, 4], [0, -3]]."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from inspector import Classifier, InspectorError, class_maps_of_batch
from inspector.analysis.positions import (
    NO_WINNER,
    find_decisions,
    find_winners,
    has_deciding_cells,
    inspect_cell,
)

IMAGE = torch.tensor([[[1.0, 2], [3, 4]], [[0, 4], [0, 0]], [[1, 0], [0, 3]]])[None]


def classifier_of(network: nn.Module, size: int | tuple[int, int] = 2, **how: object) -> Classifier:
    return Classifier.wrap(network, size=size, mean=(0.0,) * 3, std=(1.0,) * 3, **how)


def make_max_pooled(*channels: list[list[float]]):
    """The class maps of feature maps given by hand, one class per channel, under global max pooling."""
    network = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
    (maps,) = class_maps_of_batch(classifier_of(network), torch.tensor(channels)[None])
    return maps


@pytest.fixture
def gap(hand_made_gap):
    (maps,) = class_maps_of_batch(classifier_of(hand_made_gap), IMAGE)
    return maps


@pytest.fixture
def gmp(hand_made_gmp):
    (maps,) = class_maps_of_batch(classifier_of(hand_made_gmp), IMAGE)
    return maps


def test_a_cell_lists_its_contribution_to_every_requested_class(gap):
    # At (1, 1): red 4 and green less blue -3, over four cells; weights (1, 0), (0, 2), (-1, 1/2).
    assert inspect_cell(gap, 1, 1, 0, [2, 0, 1]).parts == ((2, -1.375), (0, 1.0), (1, -1.5))


def test_its_channels_come_with_the_largest_absolute_value_first(gap):
    here = inspect_cell(gap, 1, 1, 2)
    assert here.channels == ((0, -1.0), (1, -0.375))
    assert here.rest == 0


def test_channels_that_are_not_listed_are_summed(gap):
    here = inspect_cell(gap, 1, 1, 2, count=1)
    assert here.channels == ((0, -1.0),)
    assert here.rest == -0.375


def test_a_channel_without_a_contribution_is_not_listed(gap):
    # Green less blue is 0 at (1, 0), and has no weight for class 0.
    assert [c for c, _ in inspect_cell(gap, 1, 0, 2).channels] == [0]
    assert [c for c, _ in inspect_cell(gap, 1, 1, 0).channels] == [0]


@pytest.mark.parametrize(("row", "column"), [(2, 0), (0, 2), (-1, 0)])
def test_a_cell_outside_the_grid_is_refused(gap, row, column):
    with pytest.raises(InspectorError, match=r"Rows are 0 to 1, columns 0 to 1"):
        inspect_cell(gap, row, column, 0)


def test_with_max_pooling_a_cell_has_the_channels_that_it_decides(gmp):
    assert inspect_cell(gmp, 0, 1, 2, [2]).channels == ((1, 2.0),)
    assert inspect_cell(gmp, 1, 1, 2, [2]).channels == ((0, -4.0),)
    assert inspect_cell(gmp, 1, 0, 2, [2]).channels == ()


def test_every_channel_is_decided_where_its_maximum_is_ahead_of_the_second_highest(gmp):
    result = find_decisions(gmp)
    # Red: 4 at (1, 1), then 3 at (1, 0). Green less blue: 4 at (0, 1), then 0 at (1, 0).
    assert result.cells.tolist() == [3, 1]
    assert result.gaps.tolist() == [1, 4]
    assert result.runners_up.tolist() == [2, 2]
    assert result.votes.tolist() == [[0, 1], [0, 1]]


def test_a_tie_is_decided_by_the_first_cell_and_its_gap_is_zero():
    result = find_decisions(make_max_pooled([[1.0, 5], [5, 5]], [[7.0, 7], [0, 0]], [[2.0, 1], [1, 0]]))
    assert result.cells.tolist() == [1, 0, 0]
    assert result.gaps.tolist() == [0, 0, 1]
    assert result.runners_up.tolist() == [2, 1, 1]
    assert result.votes.tolist() == [[2, 1], [0, 0]]


def test_no_cell_decides_a_silent_channel():
    result = find_decisions(make_max_pooled([[0.0, 0], [0, 0]], [[0.0, -1], [-2, 0]], [[-1.0, -2], [-3, -4]]))
    assert result.cells.tolist() == [-1, -1, 0]
    assert int(result.votes.sum()) == 1


def test_votes_are_as_many_as_channels_and_their_parts_sum_to_the_map(gmp):
    assert int(find_decisions(gmp).votes.sum()) == len(gmp.feature_maps)
    for k in range(3):
        sums = [[sum(v for _, v in inspect_cell(gmp, y, x, k).channels) for x in (0, 1)] for y in (0, 1)]
        assert sums == gmp.values[k].tolist()


def test_only_max_pooling_decides(gap, gmp):
    assert has_deciding_cells(gmp)
    assert not has_deciding_cells(gap)
    with pytest.raises(InspectorError, match="only pooling is max pooling, got average"):
        find_decisions(gap)


def test_a_single_cell_has_no_runner_up(gmp):
    (branch,) = gmp.decomposition.branches
    single = replace(branch, feature_maps=branch.feature_maps[:, 1:, 1:])
    result = find_decisions(replace(gmp, split=replace(gmp.decomposition, branches=(single,))))
    assert result.cells.tolist() == [0, 0]
    assert result.runners_up.tolist() == [-1, -1]
    assert result.gaps.tolist() == [math.inf, math.inf]


def test_the_winner_of_a_cell_is_the_class_with_the_highest_map_there(gap):
    # Maps: [[.25, .5], [.75, 1]], [[-.5, 2], [0, -1.5]], [[-.375, 0], [-.75, -1.375]].
    won = find_winners(gap)
    assert won.grid.tolist() == [[0, 1], [0, 0]]
    assert won.values.tolist() == [[0.25, 2], [0.75, 1]]
    assert won.classes == (0, 1)


def test_with_max_pooling_the_winner_is_that_of_the_position_scores(gmp):
    # Scores: [[1, 2], [3, 4]], [[-2, 8], [0, -6]], [[-1.5, 0], [-3, -5.5]].
    won = find_winners(gmp)
    assert won.grid.tolist() == [[0, 1], [0, 0]]
    assert won.values.tolist() == [[1, 8], [3, 4]]


def test_equal_values_of_all_classes_have_no_winner_and_other_ties_go_to_the_first():
    maps = make_max_pooled([[0.0, 1], [2, 3]], [[0.0, 1], [2, 3]], [[0.0, 0], [5, 3]])
    assert find_winners(maps).grid.tolist() == [[NO_WINNER, 0], [2, NO_WINNER]]
