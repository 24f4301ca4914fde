"""One picture saved as PNG and SVG."""

import io

import numpy as np
import pytest
from PIL import Image

from inspector.output.picture import ColorBar, Picture, encode_png
from inspector.output.picture_figure import encode_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (300, 520, 3), dtype=np.uint8)
BAR = ColorBar(
    np.array([[[0, 0, 255], [255, 255, 255], [255, 0, 0]]], np.uint8), ((0, "-1"), (0.5, "0"), (1, "+1")), "x"
)


def open_png(picture: Picture) -> np.ndarray:
    with Image.open(io.BytesIO(encode_picture(picture, "png"))) as image:
        return np.asarray(image.convert("RGB"))


def holds(image: np.ndarray, part: np.ndarray) -> bool:
    """Tell whether the image has the part at its left edge, at any height."""
    height, width = part.shape[:2]
    return any(np.array_equal(image[y : y + height, :width], part) for y in range(len(image) - height + 1))


@pytest.mark.parametrize("bar", [None, BAR])
@pytest.mark.parametrize("lines", [(), ("map 1 + bias 2 = 3",)])
def test_a_png_has_the_pixels_of_the_picture_unchanged(bar: ColorBar | None, lines: tuple[str, ...]) -> None:
    image = open_png(Picture(PIXELS, "tiger cat", lines, bar))
    assert image.shape[1] == 520
    assert holds(image, PIXELS)


def test_a_small_picture_is_enlarged_by_a_whole_factor() -> None:
    assert holds(open_png(Picture(PIXELS[:7, :7], "grid")), PIXELS[:7, :7].repeat(69, 0).repeat(69, 1))


def test_the_color_bar_has_the_colors_that_it_is_given() -> None:
    below = open_png(Picture(PIXELS, "", bar=BAR))[300:]
    shown = {tuple(color) for color in below.reshape(-1, 3)}
    assert {tuple(color) for color in BAR.colors[0]} <= shown


@pytest.mark.parametrize("title", ["tiger cat", "$x^2$ <b> & a very long name of a class " * 4])
def test_an_svg_has_its_texts_as_text(title: str) -> None:
    text = encode_picture(Picture(PIXELS, title, ("map 1",), BAR), "svg").decode()
    assert "map 1" in text
    assert title.split()[0].replace("<", "&lt;") in text
    assert "data:image/png;base64," in text


@pytest.mark.parametrize("channels", [3, 4])
def test_a_png_has_the_pixels_that_it_is_made_of(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 41, channels), dtype=np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        np.testing.assert_array_equal(image, pixels)


def test_further_chunks_of_a_png_are_read_by_other_programs() -> None:
    with Image.open(io.BytesIO(encode_png(PIXELS, {b"tEXt": b"Author\0me"}))) as image:
        image.load()
        assert image.info == {"Author": "me"}
