"""Maps side by side: how far they agree, and which class of each network is the same."""

import math
from dataclasses import replace

import pytest
import torch

from inspector import Classifier, class_maps
from inspector.analysis.similarity import (
    compare_maps,
    compute_rank_correlation,
    find_class_by_name,
    find_common_class_name,
    find_same_class,
)
from inspector.explain.class_maps import ClassMap


def make_map(*rows: list[float]) -> ClassMap:
    return ClassMap("", torch.tensor(rows), 0.0, 0.0)


def test_a_map_agrees_with_itself_at_any_size_and_disagrees_with_its_negative():
    one = make_map([1.0, 2.0], [4.0, -3.0])
    for factor, expected in ((1, 1), (7.5, 1), (-2, -1)):
        chosen = compare_maps(one, replace(one, values=factor * one.values))
        assert (chosen.cosine, chosen.rank) == pytest.approx((expected, expected))


def test_the_cosine_is_the_angle_between_the_cells():
    # (3, 4) and (4, 3): 24 of 5 * 5.
    assert compare_maps(make_map([3.0, 4.0]), make_map([4.0, 3.0])).cosine == pytest.approx(24 / 25)
    # Cells that no two maps share: as after max pooling.
    assert compare_maps(make_map([5.0, 0.0, 0.0]), make_map([0.0, 0.0, 2.0])).cosine == 0


def test_the_rank_correlation_depends_only_on_the_order_of_the_cells():
    chosen = compare_maps(make_map([1.0, 2.0, 3.0, 4.0]), make_map([0.0, 0.1, 50.0, 5000.0]))
    assert chosen.rank == pytest.approx(1)
    assert chosen.cosine < 0.9
    # Spearman by hand: d = (0, 0, 1, -1), 1 - 6 * 2 / (4 * 15).
    assert compare_maps(make_map([1.0, 2.0, 3.0, 4.0]), make_map([1.0, 2.0, 4.0, 3.0])).rank == pytest.approx(0.8)


def test_equal_cells_share_their_rank():
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: their deviations are (-0.5, -0.5, 1) and (-1, 0, 1).
    expected = 1.5 / (1.5 * 2) ** 0.5
    assert compute_rank_correlation(torch.tensor([7.0, 7.0, 9.0]), torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(
        expected
    )


def test_a_map_that_is_the_same_everywhere_agrees_with_none():
    flat = compare_maps(make_map([2.0, 2.0]), make_map([1.0, 3.0]))
    assert flat.rank is None
    assert flat.cosine == pytest.approx(8 / (8 * 10) ** 0.5)
    assert compare_maps(make_map([0.0, 0.0]), make_map([1.0, 3.0])).cosine is None


def test_maps_on_other_grids_are_not_compared():
    assert compare_maps(make_map([1.0, 2.0]), make_map([1.0], [2.0])) is None


@pytest.mark.parametrize(("name", "expected"), [("Bag", 2), ("bag", 0), ("BAG", 0), ("daisy", 1), ("dais", None)])
def test_a_class_is_found_by_its_exact_name_or_else_in_any_case(name, expected):
    assert find_class_by_name(["bag", "Daisy", "Bag"], name) == expected


@pytest.fixture
def maps_named(hand_made_gap, pixels):
    def maps_named(*names: str):
        return class_maps(Classifier.wrap(hand_made_gap, names, size=(20, 30)), pixels)

    return maps_named


def test_every_network_shows_the_class_of_a_name_or_its_own_top_1(maps_named):
    winner = int(maps_named("a", "b", "c").logits.argmax())
    one, other, stranger = maps_named("a", "b", "c"), maps_named("C", "B", "A"), maps_named("x", "y", "z")
    assert find_same_class([one, other, stranger], "a") == [0, 2, winner]
    top1 = "abc"[winner]
    assert find_common_class_name([one, other]) == top1
    assert find_same_class([one, other]) == [winner, "CBA".index(top1.upper())]
    assert find_common_class_name([one, other, stranger]) is None
    assert find_same_class([one, other, stranger]) == [winner, winner, winner]


def test_ties_share_their_mean_rank():
    # Ranks 1, 2.5, 2.5, 4 and 4, 2, 3, 1: covariances by hand.
    a, b = [-1.5, 0, 0, 1.5], [1.5, -0.5, 0.5, -1.5]
    product = sum(x * y for x, y in zip(a, b, strict=True))
    expected = product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    correlation = compute_rank_correlation(torch.tensor([0.0, 7, 7, 9]), torch.tensor([8.0, -1, 3, -4]))
    assert correlation == pytest.approx(expected)
    assert compute_rank_correlation(torch.zeros(4), torch.arange(4.0)) is None


def test_rank_correlations_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = torch.randint(0, 6, (2, 50), generator=torch.Generator().manual_seed(0)).float()
    assert compute_rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
