import math

import numpy as np
import pytest

from inspector.explain.grid import resample_on_photo
from inspector.explain.receptive_field import Axis, ReceptiveField
from inspector.images.photo import read_image
from inspector.images.preprocessing import Preprocessing, View, make_view, make_whole_view
from inspector.output.colormaps import COLORMAPS, find_colormap
from inspector.output.overlay import (
    common_scale,
    dimmed_photo,
    draw_bar,
    draw_map_on_photo,
    find_gray,
    grid_image,
    overlay_map,
    paint_classes,
    robust_scale,
)

PHOTO = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
RED, BLUE = (200, 20, 40), (20, 70, 200)


def view_of(size=(32, 32), resize=(40, 40), pixels=PHOTO) -> View:
    return make_view(read_image(pixels), Preprocessing(size, (0.0,) * 3, (1.0,) * 3, resize))


def even(input_length: int, cells: int) -> Axis:
    return Axis(input_length / cells / 2, input_length / cells, math.inf)


def constant(height: int, width: int, value: float) -> np.ndarray:
    return np.full((height, width), value, np.float32)


@pytest.mark.parametrize("colormap", COLORMAPS)
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("opacity", [0.0, 0.5, 1.0])
def test_zero_is_transparent(scale, opacity, colormap):
    assert np.array_equal(overlay_map(PHOTO, constant(60, 80, 0), scale, opacity, colormap), PHOTO)


@pytest.mark.parametrize("colormap", [name for name, words in COLORMAPS.items() if words.low is None])
def test_a_colormap_of_the_positive_part_draws_nothing_below_zero(colormap):
    assert np.array_equal(overlay_map(PHOTO, constant(60, 80, -3), 3.0, 1.0, colormap), PHOTO)
    assert not np.array_equal(overlay_map(PHOTO, constant(60, 80, 0.3), 3.0, 1.0, colormap), PHOTO)


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_the_color_bar_has_exactly_the_colors_of_a_map_on_a_gray_photo(colormap):
    lowest = COLORMAPS[colormap].lowest
    for gray in (0, 100, 255):
        bar = draw_bar(colormap, 0.7, gray, length=255)
        for value, x in ((lowest, 0), (0, 0 if lowest == 0 else 127), (1, 254)):
            drawn = overlay_map(np.full((1, 1, 3), gray, np.uint8), constant(1, 1, value), 1.0, 0.7, colormap)
            assert (bar[:, x] == drawn[0, 0]).all()


def test_the_gray_below_the_color_bar_is_the_mean_of_what_the_network_sees():
    pixels = np.full((60, 80, 3), 255, np.uint8)
    view = view_of(pixels=pixels)
    left, top, right, bottom = (round(edge) for edge in view.box)
    pixels[top:bottom, left:right] = 90
    assert find_gray(view_of(pixels=pixels).photo, view.crop) == 90


def test_the_gray_photo_has_the_luma_of_the_photo():
    gray = dimmed_photo(view_of().photo, view_of().crop, 80, gray=True)
    color = dimmed_photo(view_of().photo, view_of().crop, 80)
    assert np.abs(gray - (color @ np.array([0.299, 0.587, 0.114]))[..., None]).max() <= 0.51


@pytest.mark.parametrize(("value", "hue"), [(2.0, RED), (-2.0, BLUE), (50.0, RED), (-50.0, BLUE)])
def test_the_sign_gives_the_hue_and_the_scale_is_the_densest(value, hue):
    drawn = overlay_map(PHOTO, constant(60, 80, value), 2.0, opacity=1.0)
    assert np.array_equal(drawn, np.broadcast_to(np.array(hue, np.uint8), PHOTO.shape))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_further_from_zero_the_denser(sign, share):
    drawn = overlay_map(PHOTO, constant(60, 80, sign * share * 3), 3.0, opacity=0.8)
    alpha = 0.8 * share
    expected = PHOTO * (1 - alpha) + np.array(RED if sign > 0 else BLUE) * alpha
    # One level of 127 of the hue, and three roundings.
    assert np.abs(drawn - expected).max() <= 255 * 0.8 / 127 + 2


def test_opacity_zero_leaves_the_photo_unchanged():
    values = np.linspace(-5, 5, 4800, dtype=np.float32).reshape(60, 80)
    assert np.array_equal(overlay_map(PHOTO, values, 5.0, opacity=0.0), PHOTO)


def test_an_overlay_writes_into_none_of_its_arguments():
    canvas, values = PHOTO.copy(), np.linspace(-5, 5, 4800, dtype=np.float32).reshape(60, 80)
    before = values.copy()
    overlay_map(canvas, values, 5.0)
    grid_image(values, 5.0)
    assert np.array_equal(canvas, PHOTO)
    assert np.array_equal(values, before)


def test_compared_maps_share_the_largest_absolute_value_as_their_scale():
    assert common_scale([np.array([[1.0, -3]]), np.array([[2.0, 0.5]])]) == 3
    assert common_scale([np.zeros((2, 2))]) == 0
    assert common_scale([]) == 0


def test_on_a_shared_scale_equal_values_have_equal_colors():
    small, large = np.array([[1.0, 0.0]]), np.array([[1.0, -4.0]])
    scale = common_scale([small, large])
    assert np.array_equal(grid_image(small, scale)[0, 0], grid_image(large, scale)[0, 0])
    assert not np.array_equal(grid_image(small, 1.0)[0, 0], grid_image(large, scale)[0, 0])


def test_the_colormap_has_zero_as_its_middle():
    colors = find_colormap().colors
    assert len(colors) % 2 == 1
    assert colors[len(colors) // 2].min() >= 240
    assert tuple(colors[-1]) == RED
    assert tuple(colors[0]) == BLUE
    brightness = colors.astype(int).sum(1)
    middle = len(colors) // 2
    assert (np.diff(brightness[: middle + 1]) >= 0).all()
    assert (np.diff(brightness[middle:]) <= 0).all()


def test_a_grid_image_has_one_pixel_per_cell():
    drawn = grid_image(np.array([[-2.0, 0, 2], [9, -9, 1]]), 2.0)
    assert drawn.shape == (2, 3, 3)
    assert tuple(drawn[0, 0]) == tuple(drawn[1, 1]) == BLUE
    assert tuple(drawn[0, 2]) == tuple(drawn[1, 0]) == RED
    assert drawn[0, 1].min() >= 240


@pytest.mark.parametrize("smooth", [True, False])
def test_a_map_of_zeros_is_drawn_as_the_photo(smooth):
    view = view_of()
    drawn = resample_on_photo(np.zeros((4, 4)), view.crop, ReceptiveField(even(32, 4), even(32, 4)), (60, 80), smooth)
    assert np.array_equal(overlay_map(PHOTO, drawn, common_scale([drawn])), PHOTO)
    assert grid_image(np.zeros((2, 2)), 0.0).min() >= 240


def test_the_canvas_is_the_whole_photo_dimmed_outside_the_crop():
    view = view_of()
    drawn = dimmed_photo(view.photo, view.crop, side=80)
    left, top, right, bottom = (round(edge) for edge in view.box)
    assert drawn.shape == PHOTO.shape
    assert np.array_equal(drawn[top:bottom, left:right], PHOTO[top:bottom, left:right])
    outside = np.ones((60, 80), bool)
    outside[top:bottom, left:right] = False
    expected = 0.35 * PHOTO[outside] + 0.25 * 128
    assert np.abs(drawn[outside] - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("size", "drawn"), [((60, 80), (600, 800)), ((80, 60), (800, 600)), ((1600, 40), (800, 20)), ((1, 5000), (1, 800))]
)
def test_the_longer_side_of_the_canvas_is_given(size, drawn):
    pixels = np.full((*size, 3), 9, np.uint8)
    view = make_whole_view(read_image(pixels), pixels)
    assert dimmed_photo(view.photo, view.crop).shape == (*drawn, 3)
    assert (dimmed_photo(view.photo, view.crop) == 9).all()


def test_enlarged_pixels_stay_pixels():
    pixels = PHOTO[:4, :4]
    view = make_whole_view(read_image(pixels), pixels)
    assert np.array_equal(dimmed_photo(view.photo, view.crop, side=20), pixels.repeat(5, 0).repeat(5, 1))


def test_pixels_are_painted_by_number_and_below_zero_stay():
    canvas = np.full((1, 3, 3), 100, np.uint8)
    image = paint_classes(canvas, [[-1, 1, 0]], [(200, 0, 0), (0, 20, 100)], 0.25)
    # Three quarters of 100 and a quarter of the color.
    assert image.tolist() == [[[100, 100, 100], [75, 80, 100], [125, 75, 75]]]
    assert canvas.tolist() == [[[100] * 3] * 3]


def test_the_scale_of_a_map_of_pixels_leaves_out_the_few_far_above_all_others():
    values = np.append(np.linspace(-1, 1, 999), 100.0)
    assert robust_scale(values) == pytest.approx(0.99, abs=0.01)
    # Of a map that is zero nearly everywhere, the highest is all there is.
    assert robust_scale(np.append(np.zeros(999), 3.0)) == 3


@pytest.mark.parametrize("smooth", [True, False])
def test_a_map_over_the_photo_is_resampled_and_then_colored(smooth):
    view, field = view_of(), ReceptiveField(even(32, 4), even(32, 4))
    values = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    canvas = dimmed_photo(view.photo, view.crop, side=80)
    image = draw_map_on_photo(canvas, view.crop, values, field, 2.0, smooth, 0.7, "PuOr_r")
    expected = resample_on_photo(values, view.crop, field, (60, 80), smooth)
    assert np.array_equal(image, overlay_map(canvas, expected, 2.0, 0.7, "PuOr_r"))
    assert not np.array_equal(image, draw_map_on_photo(canvas, view.crop, values, field, 2.0, smooth, 0.7))
