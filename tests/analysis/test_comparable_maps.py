"""Maps with different grids: one scale per area, and one grid with the same sums."""

from dataclasses import replace

import pytest
import torch

from inspector import Classifier, class_maps, read_image
from inspector.analysis.comparable_maps import PlacedMap, divide_by_area, make_comparable, resample_to_one_grid
from inspector.explain.receptive_field import make_even_field
from inspector.images.preprocessing import Crop

PHOTO = (40, 80)


def place(values: list[list[float]], box: tuple[float, float, float, float] = (20, 0, 60, 40)) -> PlacedMap:
    tensor = torch.tensor(values)
    return PlacedMap(tensor, Crop(PHOTO, box, (32, 32)), make_even_field((32, 32), tensor.shape))


def test_a_value_per_area_does_not_depend_on_the_number_of_cells() -> None:
    # The network sees half of the photo: 50 % of its area. The same evidence in 1 cell and in 4 cells.
    (one,), four = divide_by_area(place([[10.0]])).values, divide_by_area(place([[2.5, 2.5], [2.5, 2.5]])).values
    assert one.tolist() == pytest.approx([10 / 50])
    assert four.flatten().tolist() == pytest.approx([10 / 50] * 4)


def test_resampling_to_one_grid_keeps_the_sums_and_the_places() -> None:
    fine = place([[1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 0.0, -8.0], [0.0] * 4, [0.0] * 4])
    coarse, resampled = place([[10.0, -8.0], [0.0, 0.0]]), None
    for resampled in resample_to_one_grid([fine, coarse]):
        assert resampled.values.tolist() == [[10.0, -8.0], [0.0, 0.0]]
    # 3 x 3 cells do not lie in 2 x 2: the middle ones are divided among several.
    thirds = place([[0.0, 0.0, 0.0], [0.0, 8.0, 0.0], [0.0, 4.0, 0.0]])
    values = resample_to_one_grid([thirds, coarse])[0].values
    torch.testing.assert_close(values, torch.tensor([[2.0, 2.0], [4.0, 4.0]]))


def test_crops_of_different_size_are_resampled_over_all_that_any_network_sees() -> None:
    half, whole = place([[1.0, 2.0]]), place([[5.0, 6.0]], (0, 0, 80, 40))
    first, second = resample_to_one_grid([half, whole])
    assert first.values.tolist() == [[1.0, 2.0]]
    assert second.values.tolist() == [[5.0, 6.0]]
    assert first.crop.box == (0, 0, 80, 40)


def test_maps_whose_place_is_unknown_are_not_resampled() -> None:
    unknown = replace(place([[1.0]]), field=replace(make_even_field((32, 32), (1, 1)), misplaced="cells were moved"))
    assert resample_to_one_grid([unknown, place([[1.0, 2.0]])]) is None


def test_the_unit_says_whether_values_are_per_cell_per_area_or_resampled(hand_made_gap, pixels) -> None:
    names, photo = ("red", "green", "neither"), read_image(pixels)
    maps = [class_maps(Classifier.wrap(hand_made_gap, names, size=size), photo) for size in ((20, 30), (40, 60))]
    both = [one.class_map("red") for one in maps]
    assert both[0].values.shape != both[1].values.shape
    same = make_comparable(maps[:1], both[:1])
    assert same.unit == "contribution per cell (sums to the logit)"
    assert same.values[0] is both[0].values
    assert make_comparable(maps, both).unit == (
        "contribution divided by the cell's area, in logits per 1 % of the photo"
    )
    resampled = make_comparable(maps, both, resample=True)
    rows, columns = both[0].values.shape
    assert resampled.unit == f"contribution per cell (sums to the logit), resampled to {rows} x {columns} cells"
    for class_map, values in zip(both, resampled.values, strict=True):
        assert float(values.sum()) == pytest.approx(float(class_map.values.sum()), abs=1e-5)
