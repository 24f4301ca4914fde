"""Color bars in HTML have the colors of the maps that they explain."""

import re

import numpy as np
import pytest

from inspector.output.colormaps import COLORMAPS
from inspector.output.overlay import OPACITY, overlay_map
from inspector.ui.components.html import make_activation_bar, make_color_bar


def read_colors(fragment: str) -> np.ndarray:
    return np.array([[int(part) for part in one] for one in re.findall(r"rgb\((\d+), (\d+), (\d+)\)", fragment)])


@pytest.mark.parametrize("colormap", COLORMAPS)
@pytest.mark.parametrize("gray", [20, 130, 255])
def test_a_bar_over_a_photo_has_the_colors_of_the_map_on_the_photo(colormap: str, gray: int) -> None:
    colors = read_colors(make_color_bar(2.0, "logits", colormap, gray))
    values = np.linspace(2 * COLORMAPS[colormap].lowest, 2, len(colors), dtype=np.float32)[None]
    drawn = overlay_map(np.full((1, len(colors), 3), gray, np.uint8), values, 2.0, OPACITY, colormap)
    assert np.abs(colors - drawn[0]).max() <= 5  # half a level, where a step of the bar lies between two


def test_zero_is_the_gray_of_the_photo() -> None:
    assert read_colors(make_activation_bar(1.0, True, 90))[16].tolist() == [90, 90, 90]
    assert read_colors(make_activation_bar(1.0, False, 90))[0].tolist() == [90, 90, 90]
    assert read_colors(make_activation_bar(1.0, True)).min(1)[16] > 230  # on no photo
