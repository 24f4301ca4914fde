import io
import re
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from inspector import Classifier, InspectorError, class_maps, class_maps_of_batch, load, read_image
from inspector.images.examples import list_examples
from inspector.output.colormaps import COLORMAPS, find_colormap
from inspector.output.figure import class_map_figure
from inspector.output.figure_file import encode_figure
from inspector.output.overlay import grid_image
from inspector.output.style import FigureStyle

NAMES = ("red", "green", "neither")


def maps_of(network, photo, names=NAMES, **how):
    return class_maps(Classifier.wrap(network, names, size=(20, 30), name="by hand", **how), photo)


@pytest.fixture
def maps(hand_made_gap, pixels):
    return maps_of(hand_made_gap, read_image(pixels, "my photo.png"))


def texts(figure: Figure) -> list[str]:
    return [text.get_text().strip() for text in figure.findobj(Text) if text.get_text().strip()]


def panels(figure: Figure) -> list:
    return [axis for axis in figure.axes if axis.get_images()]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_figure_has_the_photo_and_a_panel_per_class(maps, count):
    figure = maps.figure(count)
    assert isinstance(figure, Figure)
    assert len(panels(figure)) == 1 + count
    assert len(figure.axes) >= 2 + count, "and a color bar"


def test_panels_have_the_name_the_probability_and_the_sum(maps):
    figure = maps.figure(3)
    photo, *rest = panels(figure)
    shown = "\n".join(texts(figure))
    assert photo.get_title().strip() == "my photo.png"
    assert f"verdict: exact, residual {maps.residual:.1e}" in shown
    for (k, name, probability), panel in zip(maps.top(3), rest, strict=True):
        assert panel.get_title().strip() == f"{name} ({100 * probability:.1f}%)"
        (line,) = [text.get_text() for text in panel.texts]
        assert line == maps.class_map(k).equation()
        total, bias, logit = (float(n) for n in re.findall(r"[-\d.]+", line.replace("\N{MINUS SIGN}", "-")))
        assert total + bias == pytest.approx(logit, abs=2e-4)
        assert logit == pytest.approx(float(maps.logits[k]), abs=1e-4)
    assert "by hand" in shown
    assert "contribution per cell (sums to the logit)" in shown


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"against": "average"}, "logit less the average logit"),
        ({"against": "green"}, "logit less that of green"),
        ({"dense": True}, "class score per cell (before pooling), which does not sum to the logit"),
    ],
)
def test_a_figure_says_which_reading_it_shows(maps, how, words):
    assert words in "\n".join(texts(maps.figure(["red"], **how)))


def test_all_panels_share_the_scale_of_the_color_bar(maps):
    figure = maps.figure(3)
    scale = float(maps.values.abs().max())
    bar = next(axis for axis in figure.axes if not axis.get_images() and axis.get_ylabel())
    assert bar.get_ylim() == pytest.approx((-scale, scale))


def test_the_panels_are_as_large_as_the_photo_and_opacity_zero_shows_it(maps):
    clear = maps.figure(3, opacity=0.0, style=FigureStyle(gray=False))
    photo, *rest = (panel.get_images()[0].get_array() for panel in panels(clear))
    assert photo.shape[1] / photo.shape[0] == pytest.approx(1.5, rel=0.01)
    assert all(np.array_equal(panel, photo) for panel in rest)
    drawn = [panel.get_images()[0].get_array() for panel in panels(maps.figure(3, opacity=1.0))][1:]
    assert not any(np.array_equal(panel, photo) for panel in drawn)


def test_smooth_and_raw_maps_differ(maps):
    smooth, raw = (panels(maps.figure(1, smooth=how))[1].get_images()[0].get_array() for how in (True, False))
    assert not np.array_equal(smooth, raw)


def test_maps_of_a_tensor_are_drawn_on_the_tensor(hand_made_gap):
    classifier = Classifier.wrap(hand_made_gap, size=2, mean=(0.5,) * 3, std=(0.25,) * 3)
    (maps,) = class_maps_of_batch(classifier, torch.tensor([[[[-2.0, 2], [0, 1]]]]).expand(1, 3, 2, 2))
    assert maps.view.photo.pixels[..., 0].tolist() == [[0, 255], [128, 191]]
    assert len(panels(maps.figure())) == 4


def test_all_maps_of_a_tensor_can_be_drawn_as_grids(hand_made_gap):
    (maps,) = class_maps_of_batch(Classifier.wrap(hand_made_gap, size=2), torch.zeros(1, 3, 2, 2))
    assert len(panels(all_maps_figure(maps))) == 3


def test_maps_of_zeros_can_be_drawn(hand_made_gap):
    maps = maps_of(hand_made_gap, np.zeros((20, 30, 3), np.uint8), mean=(0.0,) * 3, std=(1.0,) * 3)
    assert maps.values.abs().max() == 0
    assert Image.open(io.BytesIO(encode_figure(maps.figure(2), "png"))).format == "PNG"
    assert Image.open(io.BytesIO(encode_figure(all_maps_figure(maps), "png"))).format == "PNG"


@pytest.mark.parametrize("name", ["a $5$ note.png", r"$\frac$.png", "50% $x_1.png", r"back\slash_{x}^y.png", "$"])
def test_names_are_shown_literally_and_not_as_mathematics(hand_made_gap, pixels, name):
    maps = maps_of(hand_made_gap, read_image(pixels, name), names=(f"class {name}", "green", "neither"))
    root = ElementTree.fromstring(encode_figure(maps.figure(["green", 0]), "svg"))
    shown = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert name in shown
    assert f"class {name} ({maps.probabilities[0]:.1%})" in shown


def test_of_a_long_name_the_beginning_is_shown(hand_made_gap, pixels):
    name = "IMG_20240131_" + 20 * "0123456789" + ".jpg"
    names = ("Donaudampfschifffahrtsgesellschaftskapitän" * 2, "b", "c")
    maps = maps_of(hand_made_gap, read_image(pixels, name), names)
    photo, first, *_ = panels(maps.figure(["Donau"]))
    assert photo.get_title().startswith("IMG_20240131_0123")
    assert first.get_title().startswith("Donaudampfschifffahrt")
    assert len(photo.get_title()) < 80
    assert f"{maps.probabilities[0]:.1%}" in first.get_title(), "a number is never cut off"


def all_maps_figure(maps, dense: bool = False) -> Figure:
    return maps.figure(1, dense=dense, style=FigureStyle(("all",), columns=5))


@pytest.mark.parametrize("name", ["fashion_gap", "fashion_gmp"])
@pytest.mark.parametrize("dense", [False, True])
def test_all_class_maps_stand_side_by_side_and_the_winner_is_marked(name, dense):
    maps = class_maps(load(name), list_examples("fashion_mnist")["Trouser"])
    figure = all_maps_figure(maps, dense)
    grid = panels(figure)
    winner = int(maps.logits.argmax())
    values = maps.position_scores() if dense else maps.values
    scale = float(values.abs().max())
    assert len(grid) == 10
    for k, panel in enumerate(grid):
        assert panel.get_title().strip() == maps.classifier.class_names[k]
        (line,) = [text.get_text() for text in panel.texts]
        assert f"{float(maps.logits[k]):.2f}" in line.replace("\N{MINUS SIGN}", "-")
        assert ("top-1" in line) == (k == winner)
        (image,) = panel.get_images()
        np.testing.assert_array_equal(image.get_array(), grid_image(values[k].numpy(), scale))
    bar = next(axis for axis in figure.axes if axis.get_ylabel())
    assert bar.get_ylim() == pytest.approx((-scale, scale))
    widths = [panel.spines["left"].get_linewidth() for panel in grid]
    assert widths.index(max(widths)) == winner
    assert sorted(widths)[-2] < max(widths)


def test_figures_are_drawn_without_pyplot_and_stay_apart(maps):
    import sys

    first, second = maps.figure(1), maps.figure(2)
    assert len(panels(first)) == 2
    assert len(panels(second)) == 3
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


# --- how a figure looks


def styled(maps, count=3, **style) -> Figure:
    return maps.figure(count, style=FigureStyle(**style))


def test_a_figure_without_a_style_has_the_default_style(maps):
    usual = encode_figure(maps.figure(2), "png")
    assert encode_figure(maps.figure(2, style=FigureStyle()), "png") == usual
    assert encode_figure(maps.figure(2, style=FigureStyle(colours="PuOr_r")), "png") != usual


@pytest.mark.parametrize(("width", "dpi"), [(89 / 25.4, 300), (183 / 25.4, 100), (3.5, 150)])
def test_a_figure_is_as_wide_as_the_style_says(maps, width, dpi):
    png = Image.open(io.BytesIO(encode_figure(styled(maps, width=width, font_size=6), "png", dpi)))
    assert png.width == pytest.approx(width * dpi, abs=1)


@pytest.mark.parametrize(
    ("panels", "titles"),
    [
        (("photo",), ["my photo.png"]),
        (("classes",), ["A", "B"]),
        (("classes", "contrast"), ["A", "B", "A against B"]),
        (("contrast", "photo"), ["my photo.png", "A against B"]),
        (("all",), ["red", "green", "neither"]),
    ],
)
def test_a_figure_has_the_panels_that_the_style_names(maps, panels, titles):
    (_, a, p), (_, b, q) = maps.top(2)
    names = {"A": f"{a} ({p:.1%})", "B": f"{b} ({q:.1%})", "A against B": f"{a} against {b}"}
    shown = [panel.get_title().strip() for panel in panels_of(maps, panels)]
    assert shown == [names.get(title, title) for title in titles]


def panels_of(maps, panels) -> list:
    return [axis for axis in styled(maps, 2, panels=panels).axes if axis.get_images()]


def test_the_contrast_of_one_class_is_with_the_other_top_class(maps):
    winner, second, least = (k for k, _, _ in maps.top(3))
    assert maps.contrast_map([winner]).title == maps.class_map(winner, second).title
    assert maps.contrast_map([least]).title == maps.class_map(least, winner).title
    assert maps.contrast_map([least, second]).title == maps.class_map(least, second).title


def test_among_all_class_maps_the_winner_is_bold_and_all_share_one_scale(maps):
    winner = int(maps.logits.argmax())
    figure = styled(maps, panels=("all",))
    weights = [panel.title.get_fontweight() for panel in panels(figure)]
    assert [weight == "bold" for weight in weights] == [k == winner for k in range(3)]
    # The densest cell of all maps has the color at an end of the colormap, in its own panel.
    k, y, x = np.unravel_index(int(maps.values.abs().argmax()), maps.values.shape)
    end = find_colormap().colors[-1 if maps.values[k, y, x] > 0 else 0]
    np.testing.assert_array_equal(panels(figure)[k].get_images()[0].get_array()[y, x], end)


@pytest.mark.parametrize(("columns", "expected"), [(None, (2, 3)), (1, (4, 1)), (2, (2, 2)), (12, (1, 4))])
def test_panels_stand_in_as_many_columns_as_the_style_says(maps, columns, expected):
    grid = panels(styled(maps, 3, columns=columns))[0].get_gridspec()
    assert (grid.nrows, grid.ncols) == expected


SIGNED = [name for name, words in COLORMAPS.items() if words.low is not None]
POSITIVE = [name for name, words in COLORMAPS.items() if words.low is None]


@pytest.mark.parametrize("name", [name for name in SIGNED if name != "inspector"])
def test_the_other_colormaps_are_those_of_matplotlib(name):
    expected = (255 * colormaps[name](np.linspace(0, 1, 255))[:, :3]).round().astype(np.uint8)
    assert np.array_equal(FigureStyle(colours=name).palette, expected)


@pytest.mark.parametrize("name", POSITIVE)
def test_a_colormap_of_the_positive_part_is_that_of_matplotlib_from_zero_on(name):
    palette = FigureStyle(colours=name).palette.astype(int)
    expected = 255 * colormaps[name](np.linspace(0, 1, 128))[:, :3]
    # OpenCV's table and matplotlib's differ by one step of 256 at most.
    assert np.abs(palette[127:] - expected).max() <= 4
    assert (palette[:127] == palette[127]).all()


@pytest.mark.parametrize("name", SIGNED)
def test_every_colormap_has_a_light_middle_at_zero_and_a_warm_end_for_the_class(name):
    palette = FigureStyle(colours=name).palette.astype(int)
    assert palette.shape == (255, 3)
    assert palette[127].min() > 240
    against, in_favour = palette[0], palette[-1]
    assert in_favour[0] > in_favour[2]
    assert against[2] > against[0]
    # Distinguishable in gray too, from the middle to both ends: not every printer has color.
    assert (np.diff(palette[127:].sum(1)) <= 2).all()
    assert (np.diff(palette[:128].sum(1)) >= -2).all()


@pytest.mark.parametrize("name", POSITIVE)
def test_the_color_bar_of_the_positive_part_begins_at_zero(maps, name):
    figure = styled(maps, colours=name)
    (bar,) = (axis for axis in figure.axes if axis.get_ylabel())
    assert bar.get_ylim()[0] == 0
    np.testing.assert_allclose(bar.collections[-1].cmap(0.0)[:3], FigureStyle(colours=name).palette[127] / 255)


def test_maps_lie_on_the_photo_in_gray_and_the_photo_beside_them_keeps_its_colors(maps):
    def is_gray(image: np.ndarray) -> bool:
        return bool((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all())

    for gray in (True, False):
        style = FigureStyle(gray=gray)
        photo, drawn = (axis.get_images()[0].get_array() for axis in panels(maps.figure(1, opacity=0, style=style)))
        assert not is_gray(photo)
        assert is_gray(drawn) == gray


def test_the_color_bar_has_the_colours_of_the_maps(maps):
    figure = styled(maps, colours="BrBG_r", panels=("all",))
    (bar,) = (axis for axis in figure.axes if axis.get_ylabel())
    colors = bar.collections[-1].cmap(np.linspace(0, 1, 255))[:, :3] * 255
    np.testing.assert_allclose(colors, FigureStyle(colours="BrBG_r").palette, atol=0.5)


def test_a_dark_figure_has_light_text_on_a_dark_page(maps):
    figure = styled(maps, dark=True)
    assert sum(to_rgb(figure.get_facecolor())) < 0.5
    drawn = [text for text in figure.findobj(Text) if text.get_text().strip()]
    assert len(drawn) > 8
    assert all(sum(to_rgb(text.get_color())) > 1.5 for text in drawn)


def test_title_equations_and_color_bar_can_be_left_out(maps):
    everything, nothing = styled(maps), styled(maps, title="", equations=False, colour_bar=False)
    everywhere, nowhere = "\n".join(texts(everything)), "\n".join(texts(nothing))
    for words in ("contribution per cell (sums to the logit)", "bias", "verdict"):
        assert words in everywhere
        assert words not in nowhere
    assert "Ours" in texts(styled(maps, title="Ours"))


def test_a_figure_without_the_photo_says_how_exact_it_is_too(maps):
    (title,) = (text for text in texts(styled(maps, panels=("classes",), width=12)) if "verdict" in text)
    assert f"verdict: exact, residual {maps.residual:.1e}" in title


def test_the_font_size_is_that_of_the_panels_titles_and_the_rest_follows(maps):
    figure = styled(maps, font_size=18)
    photo, *_ = panels(figure)
    assert photo.title.get_fontsize() == 18
    assert photo.texts[0].get_fontsize() == 16
    (bar,) = (axis for axis in figure.axes if axis.get_ylabel())
    assert bar.yaxis.label.get_fontsize() == 20


@pytest.mark.parametrize(
    ("width", "columns", "font_size", "against"),
    [
        (120, 1, 5, None),
        (120, 3, 5, "average"),
        (120, 3, 9, None),
        (89, 3, 7, None),
        (89, None, 9, None),
        (89, 2, 9, "average"),
        (89, 1, 9, None),
    ],
)
def test_no_text_leaves_the_figure_or_overlaps_another(hand_made_gap, pixels, width, columns, font_size, against):
    names = ("a class with a very long name indeed", "green", "neither of the two")
    maps = maps_of(hand_made_gap, read_image(pixels, "a photo with a long name.png"), names)
    style = FigureStyle(("photo", "classes", "contrast"), columns, width=width / 25.4, font_size=font_size)
    figure = class_map_figure(maps, maps.figure_content(3, against), style)
    figure.draw_without_rendering()
    page, drawn = figure.bbox, [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    beyond = list_ticks_beyond_the_bar(figure)
    boxes = {text: measure_text(text) for text in drawn if text not in beyond}
    for text, box in boxes.items():
        assert page.x0 <= box.x0 <= box.x1 <= page.x1, text
        assert page.y0 <= box.y0 <= box.y1 <= page.y1, text
    overlapping = [(a, b) for a, b in combinations(boxes, 2) if boxes[a].overlaps(boxes[b])]
    assert not overlapping


def list_ticks_beyond_the_bar(figure: Figure) -> list[Text]:
    """The labels of ticks beyond the ends of the color bar, which matplotlib makes and does not draw."""
    (bar,) = (axis for axis in figure.axes if axis.get_ylabel())
    low, high = bar.get_ylim()
    ticks = [tick for tick in bar.yaxis.get_major_ticks() if not low <= tick.get_loc() <= high]
    return [label for tick in ticks for label in (tick.label1, tick.label2)]


def measure_text(text: Text) -> Bbox:
    """The box of a text. Titles end in empty lines, where the small print stands."""
    box, lines = text.get_window_extent(), text.get_text().split("\n")
    empty = len(lines) - len("\n".join(lines).rstrip().split("\n"))
    return Bbox([[box.x0, box.y0 + empty * box.height / len(lines)], [box.x1, box.y1]])


@pytest.mark.parametrize(
    ("style", "sentence"),
    [
        ({"panels": ()}, r"^A figure has panels, some of photo, classes, contrast, all; got none\.$"),
        ({"panels": ("phto",)}, r"got phto\.$"),
        ({"colours": "jet"}, r"^No colormap 'jet'\. Use one of inspector, PuOr_r, RdBu_r, BrBG_r, turbo, inferno\.$"),
        ({"columns": 0}, r"^A figure has columns from 1 to 12; got 0\.$"),
        ({"width": 0.1}, r"a width in mm from 20 to 1500; got 2\.54\.$"),
        ({"dpi": 5000}, r"a resolution in dpi from 30 to 1200; got 5000\.$"),
        ({"font_size": 1}, r"a font size in points from 3 to 40; got 1\.$"),
    ],
)
def test_a_style_that_cannot_be_drawn_is_refused(style, sentence):
    with pytest.raises(InspectorError, match=sentence):
        FigureStyle(**style)


def test_a_figure_in_which_the_panels_do_not_fit_says_how_many_do(maps):
    with pytest.raises(
        InspectorError, match=r"60 mm wide has no room for 4 columns and a color bar\. Use at most 2 columns\."
    ):
        styled(maps, columns=4, width=60 / 25.4)
    # 60 mm less the color bar's 1.25 inches leave 28 mm, and a panel has at least 10.
    styled(maps, columns=2, width=60 / 25.4)
    with pytest.raises(InspectorError, match=r"Use a larger width or a smaller font\.$"):
        styled(maps, width=1, font_size=20)


def test_a_figure_of_too_many_pixels_says_which_resolution_to_use(maps):
    with pytest.raises(InspectorError, match=r"at 1200 dpi has too many pixels\. Use at most (\d+) dpi\."):
        styled(maps, width=20, dpi=1200)


def test_a_thousand_class_maps_are_too_many_for_one_figure(hand_made_gap, pixels):
    maps = maps_of(hand_made_gap, read_image(pixels), NAMES)
    many = replace(maps, classifier=replace(maps.classifier, class_names=NAMES * 30))
    with pytest.raises(InspectorError, match=r"^All 90 class maps are too many for one figure"):
        class_map_figure(many, maps.figure_content(1), FigureStyle(panels=("all",)))
    with pytest.raises(InspectorError, match=r"^62 panels are too many for one figure\. Use at most 60\.$"):
        class_map_figure(maps, replace(maps.figure_content(1), classes=(0,) * 61), FigureStyle())


def test_a_contrast_needs_two_classes(hand_made_gap, pixels):
    maps = maps_of(hand_made_gap, read_image(pixels))
    with pytest.raises(InspectorError, match=r"^A contrast needs two classes\. Show one more class\.$"):
        maps.contrast_map(())


def test_long_titles_wrap_into_three_lines_at_most_and_keep_their_outcome(hand_made_gap, pixels):
    names = ("a class with a very long name indeed, of many words", "green", "n" * 60)
    maps = maps_of(hand_made_gap, read_image(pixels, "my photo.png"), names)
    figure = class_map_figure(maps, maps.figure_content(3), FigureStyle(("classes",), 3, width=120 / 25.4))
    for panel, (k, name, _) in zip(panels(figure), maps.top(3), strict=True):
        title = panel.get_title().rstrip("\n")
        assert title.count("\n") <= 2
        assert title.endswith(f"({maps.outcome(k)})")
        assert title.startswith(name[:6])


@pytest.mark.parametrize(
    ("how", "style"),
    [
        ({}, FigureStyle()),
        ({"against": "average", "smooth": False}, FigureStyle(("photo", "classes", "contrast"))),
        ({"dense": True}, FigureStyle(("all",))),
    ],
)
def test_a_figure_of_arrays_is_that_of_tensors(maps, how, style):
    content = maps.figure_content(2, **how)
    of_tensors, of_arrays = (class_map_figure(one, content, style) for one in (maps, maps.to_numpy()))
    assert texts(of_arrays) == texts(of_tensors)
    assert encode_figure(of_arrays, "png") == encode_figure(of_tensors, "png")


def test_any_size_is_written_as_png_in_the_pixels_of_matplotlib():
    # Sides and resolutions whose product is a whole number, or nearly one.
    sizes = [(inches / 10, dpi) for inches in range(11, 100, 7) for dpi in (72, 100, 150, 200, 333)] + [(4.6, 200)]
    for inches, dpi in sizes:
        figure, buffer = Figure(figsize=(inches, 1), facecolor="red"), io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        written = Image.open(io.BytesIO(encode_figure(figure, "png", dpi)), formats=["PNG"])
        assert written.size == Image.open(buffer, formats=["PNG"]).size
        assert figure.get_dpi() == Figure().get_dpi()
