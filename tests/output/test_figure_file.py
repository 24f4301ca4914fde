"""A figure as PNG, PDF and SVG: what is written quickly looks as matplotlib writes it."""

import base64
import io
import re
import zlib
from concurrent.futures import ThreadPoolExecutor

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from PIL import Image

from inspector.output.figure_file import encode_figure

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


@pytest.fixture
def figure() -> Figure:
    made = Figure(figsize=(2, 1.5))
    made.add_axes((0, 0, 1, 0.8)).imshow(PIXELS)
    made.suptitle("fluffy caf\N{LATIN SMALL LETTER E WITH ACUTE}")
    return made


def list_svg_images(svg: bytes) -> list[np.ndarray]:
    found = re.findall(r"base64,\s*([A-Za-z0-9+/=\s]+)\"", svg.decode())
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")) for text in found]


def list_pdf_streams(pdf: bytes) -> list[tuple[bytes, bytes]]:
    """The dictionary and the unpacked content of each compressed stream."""
    found = re.findall(rb"(<<(?:(?!endobj).)*?/FlateDecode(?:(?!endobj).)*?)stream\n(.*?)\nendstream", pdf, re.DOTALL)
    return [(about, zlib.decompress(content)) for about, content in found]


def test_a_png_has_the_pixels_of_matplotlib_its_resolution_and_its_software(figure):
    expected = io.BytesIO()
    figure.savefig(expected, format="png", dpi=130)
    with Image.open(expected) as ours, Image.open(io.BytesIO(encode_figure(figure, "png", 130))) as image:
        np.testing.assert_array_equal(image, ours.convert("RGB"))
        assert image.mode == "RGB", "an alpha of 255 everywhere takes place and time"
        assert image.info["dpi"] == pytest.approx((130, 130), abs=0.01)
        assert image.info["Software"].startswith("Matplotlib version")


def test_a_figure_that_is_transparent_stays_so(figure):
    figure.set_facecolor((1, 0, 0, 0.25))
    with Image.open(io.BytesIO(encode_figure(figure, "png", 50))) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0, 64)


def test_the_settings_of_a_notebook_do_not_cut_a_figure(figure):
    with mpl.rc_context({"savefig.bbox": "tight"}), Image.open(io.BytesIO(encode_figure(figure, "png", 50))) as image:
        assert image.size == (100, 75)


def test_images_in_an_svg_are_those_of_matplotlib(figure):
    expected = io.BytesIO()
    figure.savefig(expected, format="svg", dpi=130)
    ((ours,), (theirs,)) = (list_svg_images(svg) for svg in (encode_figure(figure, "svg", 130), expected.getvalue()))
    np.testing.assert_array_equal(ours, theirs)


def test_images_in_a_pdf_are_those_in_an_svg(figure):
    (pixels,) = list_svg_images(encode_figure(figure, "svg", 130))
    (image,) = (data for about, data in list_pdf_streams(encode_figure(figure, "pdf", 130)) if b"/Image" in about)
    height, width, _ = pixels.shape
    rows = np.frombuffer(image, np.uint8).reshape(height, 1 + 3 * width)
    assert (rows[:, 0] == 2).all(), "each row is the difference to the row above"
    values = rows[:, 1:].cumsum(0, dtype=np.uint8).reshape(height, width, 3)
    np.testing.assert_array_equal(values, pixels[::-1])  # matplotlib writes the lowest row first


def test_a_font_in_a_pdf_has_the_glyphs_and_no_tables_that_arrange_them(figure):
    fonts = [data for about, data in list_pdf_streams(encode_figure(figure, "pdf")) if b"/Length1" in about]
    tables = [TTFont(io.BytesIO(font)).keys() for font in fonts]
    assert tables
    assert all("glyf" in one and not {"GSUB", "GPOS", "GDEF"} & set(one) for one in tables)


class Visitor(Artist):
    """Encodes an image in another thread while the figure is drawn, and may then fail."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails, self.encoded = fails, b""

    def draw(self, renderer: object) -> None:
        with ThreadPoolExecutor(1) as pool:
            self.encoded = pool.submit(encode_with_pillow).result()
        if self.fails:
            raise ValueError("cannot be drawn")


def encode_with_pillow() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format="png")
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["svg", "pdf"])
def test_other_threads_and_later_calls_use_pillow_as_it_is(figure, format):
    expected = encode_with_pillow()
    for fails in (False, True):
        visitor = figure.add_artist(Visitor(fails))
        if fails:
            with pytest.raises(ValueError, match="cannot be drawn"):
                encode_figure(figure, format)
        else:
            encode_figure(figure, format)
        assert visitor.encoded == expected
        assert encode_with_pillow() == expected
