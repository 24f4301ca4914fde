import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from inspector import Classifier, InspectorError, class_maps, class_maps_of_batch, load, read_image
from inspector.examples import examples
from inspector.export import figure_bytes
from inspector.figure import all_maps_figure, class_map_figure

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
def test_a_figure_has_the_photo_and_a_panel_a_class(maps, count):
    figure = maps.figure(count)
    assert isinstance(figure, Figure)
    assert len(panels(figure)) == 1 + count
    assert len(figure.axes) >= 2 + count, "and a colour bar"


def test_panels_have_the_name_the_probability_and_the_sum(maps):
    figure = maps.figure(3)
    photo, *rest = panels(figure)
    shown = "\n".join(texts(figure))
    assert photo.get_title().strip() == "my photo.png"
    assert f"verdict: exact, residual {maps.residual:.1e}" in shown
    for (k, name, probability), panel in zip(maps.top(3), rest, strict=True):
        assert panel.get_title().strip() == f"{name} ({100 * probability:.1f}%)"
        (line,) = [text.get_text() for text in panel.texts]
        assert line == maps.read(k).equation()
        total, bias, logit = (float(n) for n in re.findall(r"[-\d.]+", line.replace("\N{MINUS SIGN}", "-")))
        assert total + bias == pytest.approx(logit, abs=2e-4)
        assert logit == pytest.approx(float(maps.logits[k]), abs=1e-4)
    assert "by hand" in shown
    assert "part of the logit" in shown


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"against": "average"}, "logit less the average logit"),
        ({"against": "green"}, "logit less that of green"),
        ({"dense": True}, "as if it alone were pooled"),
    ],
)
def test_a_figure_says_which_reading_it_shows(maps, how, words):
    assert words in "\n".join(texts(maps.figure(["red"], **how)))


def test_all_panels_share_the_scale_of_the_colour_bar(maps):
    figure = maps.figure(3)
    scale = float(maps.values.abs().max())
    bar = next(axis for axis in figure.axes if not axis.get_images() and axis.get_ylabel())
    assert bar.get_ylim() == pytest.approx((-scale, scale))


def test_the_panels_are_as_large_as_the_photo_and_opacity_zero_shows_it(maps):
    photo, *rest = (panel.get_images()[0].get_array() for panel in panels(maps.figure(3, opacity=0.0)))
    assert photo.shape[1] / photo.shape[0] == pytest.approx(1.5, rel=0.01)
    assert all(np.array_equal(panel, photo) for panel in rest)
    drawn = [panel.get_images()[0].get_array() for panel in panels(maps.figure(3, opacity=1.0))][1:]
    assert not any(np.array_equal(panel, photo) for panel in drawn)


def test_smooth_and_raw_maps_differ(maps):
    smooth, raw = (panels(maps.figure(1, smooth=how))[1].get_images()[0].get_array() for how in (True, False))
    assert not np.array_equal(smooth, raw)


def test_maps_of_a_tensor_have_no_photo_to_be_drawn_on(hand_made_gap):
    classifier = Classifier.wrap(hand_made_gap, size=2)
    (maps,) = class_maps_of_batch(classifier, torch.zeros(1, 3, 2, 2))
    with pytest.raises(InspectorError, match=r"came from a tensor: there is no photo to draw them on"):
        maps.figure()
    with pytest.raises(InspectorError, match=r"came from a tensor"):
        class_map_figure(maps, maps.shown())


def test_maps_of_zeros_can_be_drawn(hand_made_gap):
    maps = maps_of(hand_made_gap, np.zeros((20, 30, 3), np.uint8), mean=(0.0,) * 3, std=(1.0,) * 3)
    assert maps.values.abs().max() == 0
    assert Image.open(io.BytesIO(figure_bytes(maps.figure(2), "png"))).format == "PNG"
    assert Image.open(io.BytesIO(figure_bytes(all_maps_figure(maps), "png"))).format == "PNG"


@pytest.mark.parametrize("name", ["a $5$ note.png", r"$\frac$.png", "50% $x_1.png", r"back\slash_{x}^y.png", "$"])
def test_names_are_shown_as_they_stand_and_not_set_as_mathematics(hand_made_gap, pixels, name):
    maps = maps_of(hand_made_gap, read_image(pixels, name), names=(f"class {name}", "green", "neither"))
    root = ElementTree.fromstring(figure_bytes(maps.figure(["green", 0]), "svg"))
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


@pytest.mark.parametrize("name", ["fashion_gap", "fashion_gmp"])
@pytest.mark.parametrize("dense", [False, True])
def test_all_class_maps_stand_side_by_side_and_the_winner_is_marked(name, dense):
    maps = class_maps(load(name), examples("fashion_mnist")["Trouser"])
    figure = all_maps_figure(maps, dense)
    grid = panels(figure)
    winner = int(maps.logits.argmax())
    values = maps.position_scores() if dense else maps.values
    scale = float(values.abs().max())
    assert len(grid) == 10
    for k, panel in enumerate(grid):
        assert panel.get_title() == maps.classifier.class_names[k]
        assert f"{float(maps.logits[k]):.2f}" in panel.get_xlabel().replace("\N{MINUS SIGN}", "-")
        assert ("winner" in panel.get_xlabel()) == (k == winner)
        (image,) = panel.get_images()
        np.testing.assert_array_equal(image.get_array(), values[k].numpy())
        assert image.get_clim() == pytest.approx((-scale, scale))
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
