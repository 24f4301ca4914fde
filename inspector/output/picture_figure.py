"""Draw one picture with its title and color bar as a PNG or SVG file. A pixel of the picture is a pixel of the PNG."""

from collections.abc import Iterator

from inspector.images.decode import Pixels
from inspector.output.figure_file import Format, InlineFigure, encode_figure
from inspector.output.figure_text import wrap_text
from inspector.output.picture import ColorBar, Picture

_DPI = 192  # twice the 96 pixels per inch of a web page
_MIN_WIDTH = 480  # pixels, so that a title of some words fits above a small picture
_TITLE, _SMALL = 9.5, 8  # points
_LINE = 1.35  # height of a line, in heights of its letters
_GAP, _BAR = 14, 22  # pixels


def encode_picture(picture: Picture, format: Format) -> bytes:
    """Return a picture as the bytes of a file, with its title above and its color bar below.

    Args:
        picture: the picture. Each of its pixels is one pixel of a PNG. If it is less than 480 pixels wide, it is
            enlarged by a whole factor.
        format: "png", "svg" or "pdf". In SVG and PDF the texts stay texts.
    """
    factor = -(-_MIN_WIDTH // picture.pixels.shape[1])
    pixels = picture.pixels.repeat(factor, 0).repeat(factor, 1)
    height, width = pixels.shape[:2]
    above = list(_list_lines(picture, width / _DPI - 0.1))
    top = round(sum(_measure_line(size) for _, size, _ in above)) + (_GAP if above else 0)
    bottom = 0 if picture.bar is None else round(_GAP + _BAR + 2 * _measure_line(_SMALL))
    total = top + height + bottom
    figure = InlineFigure(figsize=(width / _DPI, total / _DPI), dpi=_DPI)
    y = total - _GAP / 2
    for text, size, weight in above:
        figure.text(8 / width, y / total, text, fontsize=size, fontweight=weight, va="top", parse_math=False)
        y -= _measure_line(size)
    _add_image(figure, pixels, (0, bottom / total, 1, height / total))
    if picture.bar is not None:
        _add_bar(figure, picture.bar, (bottom - _GAP - _BAR) / total, total)
    return encode_figure(figure, format, _DPI)


def _list_lines(picture: Picture, inches: float) -> Iterator[tuple[str, float, str]]:
    """Yield text, font size and weight of each line above the picture."""
    for text in wrap_text(picture.title, 1.1 * _TITLE, inches):
        yield text, _TITLE, "bold"
    for line in picture.lines:
        for text in wrap_text(line, _SMALL, inches):
            yield text, _SMALL, "normal"


def _measure_line(size: float) -> float:
    """Return the height of a line in pixels. `size` is the size of its letters, in points."""
    return size / 72 * _DPI * _LINE


def _add_image(figure: InlineFigure, pixels: Pixels, box: tuple[float, float, float, float]) -> None:
    axes = figure.add_axes(box)
    axes.set_axis_off()
    # "none" keeps the pixels in every format, also where a viewer shows an SVG larger.
    axes.imshow(pixels, interpolation="none", aspect="auto")


def _add_bar(figure: InlineFigure, bar: ColorBar, bottom: float, total: int) -> None:
    left, width = 0.03, 0.94
    _add_image(figure, bar.colors, (left, bottom, width, _BAR / total))
    line = _measure_line(_SMALL) / total
    below = bottom - 4 / total
    for place, text in bar.ticks:
        align = "left" if place < 0.1 else "right" if place > 0.9 else "center"
        figure.text(left + width * place, below, text, fontsize=_SMALL, ha=align, va="top", parse_math=False)
    figure.text(0.5, below - line, bar.label, fontsize=_SMALL, ha="center", va="top", parse_math=False)
