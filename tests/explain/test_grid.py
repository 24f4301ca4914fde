"""Where cells lie on the photo, and how a map is resampled there."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from inspector import Classifier, ClassMaps, class_maps
from inspector.explain.grid import (
    CellExtent,
    cell_extents,
    fit_size,
    interpolation_weights,
    nearest_cells,
    resample_on_input,
    resample_on_photo,
)
from inspector.explain.receptive_field import Axis, ReceptiveField
from inspector.images.photo import read_image
from inspector.images.preprocessing import Preprocessing, View, make_view

PHOTO = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def view_of(size=(32, 32), resize=(40, 40), pixels=PHOTO) -> View:
    return make_view(read_image(pixels), Preprocessing(size, (0.0,) * 3, (1.0,) * 3, resize))


def even(input_length: int, cells: int) -> Axis:
    return Axis(input_length / cells / 2, input_length / cells, math.inf)


def test_weights_are_linear_between_two_centers_and_constant_beyond_the_outer_ones():
    weights = interpolation_weights([-3, 0, 0.25, 1.5, 2, 9], 3)
    assert weights.tolist() == [[1, 0, 0], [1, 0, 0], [0.75, 0.25, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 0, 1]]


def test_without_interpolation_the_nearest_cell_is_taken_and_halfway_the_later_one():
    weights = interpolation_weights([0.4, 0.5, 1.5, 2.4], 3, smooth=False)
    assert weights.argmax(1).tolist() == [0, 1, 2, 2]
    assert set(weights.flatten()) == {0, 1}


def test_a_map_is_resampled_on_the_input_between_the_true_centers_of_its_cells():
    field = ReceptiveField(Axis(1.5, 4, 5), Axis(3.5, 2, 5))
    # Rows: pixel centers 0.5, 1.5, ..., cells at 1.5 and 5.5. Columns: cells at 3.5 and 5.5.
    down = np.array([0, 0, 0.25, 0.5, 0.75, 1, 1, 1])
    across = np.array([0, 0, 0, 0, 0.5, 1, 1, 1])
    np.testing.assert_allclose(resample_on_input([[0, 2], [8, 10]], field, (8, 8)), 8 * down[:, None] + 2 * across)


def test_on_a_photo_of_the_input_size_both_ways_of_resampling_agree():
    values, field = np.random.default_rng(1).normal(size=(4, 5)), ReceptiveField(Axis(2.5, 7, 40), Axis(6.5, 6, 40))
    view = view_of(size=(32, 32), resize=(32, 32), pixels=np.zeros((32, 32, 3), np.uint8))
    on_photo = resample_on_photo(values, view.crop, field, (32, 32), smooth=True)
    np.testing.assert_allclose(on_photo, resample_on_input(values, field, (32, 32)), atol=1e-6)


@pytest.mark.parametrize(
    ("photo", "side", "expected"), [((60, 80), 800, (600, 800)), ((80, 60), 40, (40, 30)), ((1, 5000), 800, (1, 800))]
)
def test_the_longer_side_of_a_drawing_is_given(photo, side, expected):
    assert fit_size(photo, side) == expected


# 60 x 80 to 40 x 53, cropped to 32 x 32 from (4, 10): in the photo from y 6, x 10 * 80 / 53.
@pytest.mark.parametrize("cell", [(0, 0), (1, 2), (3, 3), (2, 0)])
@pytest.mark.parametrize(
    "field",
    [
        ReceptiveField(even(32, 4), even(32, 4)),
        ReceptiveField(Axis(0.5, 8, 91), Axis(0.5, 8, 91)),
        ReceptiveField(Axis(2.5, 7, 40), Axis(6.5, 8, 40)),
    ],
    ids=["even", "like a ResNet", "unlike"],
)
def test_a_cell_is_drawn_around_the_center_of_its_receptive_field(cell, field):
    values = np.zeros((4, 4))
    values[cell] = 1
    height, width = 600, 800
    drawn = resample_on_photo(values, view_of().crop, field, (height, width), smooth=True)
    y, x = field.y.centre + cell[0] * field.y.stride, field.x.centre + cell[1] * field.x.stride
    across, down = 80 / 53, 60 / 40
    expected_y, expected_x = (4 + y) * down * 10, (10 + x) * across * 10
    peak = drawn >= drawn.max() - 1e-6
    rows, columns = np.nonzero(peak.any(1))[0] + 0.5, np.nonzero(peak.any(0))[0] + 0.5
    # Outer cells are drawn to the border of the crop: their peak is a plateau that begins at the center.
    assert rows.min() - 1 <= expected_y <= rows.max() + 1
    assert columns.min() - 1 <= expected_x <= columns.max() + 1
    if 0 < cell[0] < 3:
        assert rows.max() - rows.min() <= 1
    if 0 < cell[1] < 3:
        assert columns.max() - columns.min() <= 1


def test_between_centers_the_map_is_interpolated():
    pixels = np.zeros((1, 8, 3), np.uint8)
    view = view_of(size=(1, 8), resize=(1, 8), pixels=pixels)
    field = ReceptiveField(Axis(0.5, 1, 1), Axis(1.5, 4, 8))
    drawn = resample_on_photo([[10.0, 50.0]], view.crop, field, (1, 8), smooth=True)
    # Centres at 1.5 and 5.5, pixels at 0.5, 1.5, ...; nothing is extrapolated.
    np.testing.assert_allclose(drawn, [[10, 10, 20, 30, 40, 50, 50, 50]], rtol=1e-6)


def test_without_smoothing_every_pixel_takes_its_nearest_cell():
    grid = np.arange(1.0, 13).reshape(3, 4)
    field = ReceptiveField(Axis(3.5, 10, 40), Axis(2.5, 9, 40))
    view = view_of(size=(32, 32), resize=(32, 32), pixels=np.zeros((32, 32, 3), np.uint8))
    drawn = resample_on_photo(grid, view.crop, field, (32, 32), smooth=False)
    for y in range(32):
        for x in range(32):
            row = min(range(3), key=lambda i: abs(y + 0.5 - (3.5 + 10 * i)))
            column = min(range(4), key=lambda j: abs(x + 0.5 - (2.5 + 9 * j)))
            rows = {row} if (y + 0.5 - 3.5) % 10 != 5 else {row, row + 1}
            columns = {column} if (x + 0.5 - 2.5) % 9 != 4.5 else {column, column + 1}
            assert drawn[y, x] in [grid[i, j] for i in rows for j in columns if i < 3 and j < 4]


@pytest.mark.parametrize("smooth", [True, False])
def test_outside_the_crop_nothing_is_drawn(smooth):
    view = view_of()
    drawn = resample_on_photo(np.ones((4, 4)), view.crop, ReceptiveField(even(32, 4), even(32, 4)), (600, 800), smooth)
    left, top, right, bottom = (10 * edge for edge in view.box)
    y, x = np.mgrid[0:600, 0:800] + 0.5
    inside = (y > top) & (y < bottom) & (x > left) & (x < right)
    np.testing.assert_allclose(drawn[inside], 1, rtol=1e-6)
    assert (drawn[~inside] == 0).all()
    assert inside.any()
    assert not inside.all()


def test_the_axes_are_not_mixed_up():
    pixels = np.zeros((20, 30, 3), np.uint8)
    view = view_of(size=(20, 30), resize=(20, 30), pixels=pixels)
    grid = np.arange(6.0).reshape(2, 3)
    drawn = resample_on_photo(grid, view.crop, ReceptiveField(even(20, 2), even(30, 3)), (20, 30), smooth=False)
    assert np.array_equal(drawn, np.kron(grid, np.ones((10, 10))))


def photographed(network: nn.Module, height: int, width: int, resize: int | None = None):
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return class_maps(Classifier.wrap(network, size=8, mean=(0.0,) * 3, std=(1.0,) * 3, resize=resize), photo)


def extents_of(maps: ClassMaps) -> tuple[tuple[CellExtent, ...], tuple[CellExtent, ...]]:
    assert maps.view is not None
    return cell_extents(maps.values.shape[1:], maps.view.crop, maps.classifier.receptive_field)


def strided() -> nn.Module:
    """Four rows and columns of an 8 x 8 input, centers 0.5, 2.5, 4.5 and 6.5, each of which sees 3 pixels."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_cells_lie_around_true_centers_and_end_with_the_photo():
    # The photo is twice as large as the input: 16 x 16 pixels for 8 x 8.
    rows, columns = extents_of(photographed(strided(), 16, 16))
    assert rows == columns
    assert rows[0] == CellExtent(start=0, end=3, center=1, first=0, last=4)
    assert rows[1] == CellExtent(start=3, end=7, center=5, first=2, last=8)
    assert rows[3] == CellExtent(start=11, end=16, center=13, first=10, last=16)


def test_cells_stay_inside_the_crop():
    # A photo of 8 x 16: the network sees the middle 8 x 8.
    rows, columns = extents_of(photographed(strided(), 8, 16))
    assert rows[0] == CellExtent(start=0, end=1.5, center=0.5, first=0, last=2)
    assert columns[0] == CellExtent(start=4, end=5.5, center=4.5, first=4, last=6)
    assert columns[3] == CellExtent(start=9.5, end=12, center=10.5, first=9, last=12)


def test_the_receptive_field_of_a_cell_that_sees_everything_is_the_crop():
    network = nn.Sequential(Attending(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    _, columns = extents_of(photographed(network, 8, 16))
    assert {(extent.first, extent.last) for extent in columns} == {(4, 12)}


class Attending(nn.Module):
    """Every cell depends on all others, and most on its own part of the image."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        tokens = inputs.flatten(2)
        return (tokens + 0.02 * tokens @ torch.ones(64, 64)).unflatten(2, (8, 8))


def test_cells_are_where_the_map_is_drawn():
    """Every drawn pixel has the value of the cell whose extent holds its center."""
    maps = photographed(strided(), 24, 40, resize=10)
    rows, columns = extents_of(maps)
    numbers = torch.arange(1.0, 17).view(4, 4)
    drawn = resample_on_photo(numbers, maps.view.crop, maps.classifier.receptive_field, (24, 40), smooth=False)
    for y, x in np.ndindex(24, 40):
        row = [i for i, extent in enumerate(rows) if extent.start <= y + 0.5 < extent.end]
        column = [i for i, extent in enumerate(columns) if extent.start <= x + 0.5 < extent.end]
        expected = float(numbers[row[0], column[0]]) if row and column else 0
        on_edge = any(abs(y + 0.5 - extent.start) < 1e-6 for extent in rows)
        on_edge |= any(abs(x + 0.5 - extent.start) < 1e-6 for extent in columns)
        assert on_edge or drawn[y, x] == expected


def test_every_pixel_of_the_input_has_a_nearest_center():
    # Centres 0.5, 2.5, 4.5, 6.5; the center of pixel 1 is as near to the first as to the second.
    assert nearest_cells(Axis(0.5, 2, 3), 4, 8).tolist() == [0, 1, 1, 2, 2, 3, 3, 3]
    assert nearest_cells(Axis(4, 4, 4), 1, 5).tolist() == [0] * 5
