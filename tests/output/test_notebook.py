"""What notebooks show of class maps: a picture with numbers, and the widget; without the library, one sentence."""

import base64
import io
import re
import sys
from html import unescape

import numpy as np
import pytest
from PIL import Image
from torch import nn

from inspector import Classifier, ClassMaps, InspectorError, class_maps, read_image
from inspector.analysis.layers import compute_layer_maps
from inspector.output import notebook
from inspector.output.overlay import grid_image

NASTY = '<script>alert("1")</script>'


@pytest.fixture
def maps(hand_made_gap: nn.Module, pixels: np.ndarray) -> ClassMaps:
    classifier = Classifier.wrap(hand_made_gap, (NASTY, "green", "neither"), size=(20, 30), name="by <hand>")
    return class_maps(classifier, read_image(pixels, f"{NASTY}.png"))


def test_the_picture_has_a_text_and_its_numbers_and_runs_nothing(maps: ClassMaps) -> None:
    html = maps._repr_html_()
    assert "<script" not in html
    (alt,) = re.findall(r'alt="([^"]*)"', html)
    name, outcome = maps.top(1)[0][1], maps.outcome(maps.top(1)[0][0])
    assert unescape(alt) == f"Class maps of {maps.view.photo.name} by by <hand>: {name} ({outcome})"
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]*)"', html)
    assert base64.b64decode(picture) == maps._repr_png_()
    with Image.open(io.BytesIO(maps._repr_png_())) as figure:
        assert figure.width > 300
    names = [unescape(text) for text in re.findall(r'<th scope="row">(.*?)</th>', html)]
    numbers = [float(text.replace("\N{MINUS SIGN}", "-")) for text in re.findall(r"<td>([^%<]*)</td>", html)]
    assert names == [name for _, name, _ in maps.top(3)]
    for (k, _, _), total, bias, logit in zip(maps.top(3), numbers[::3], numbers[1::3], numbers[2::3], strict=True):
        assert total + bias == pytest.approx(logit, abs=2e-4)
        assert logit == pytest.approx(float(maps.logits[k]), abs=1e-4)
    assert "exact: What follows the pooling is affine" in html


def test_feature_maps_of_a_layer_are_shown_with_the_numbers_of_their_channels(maps: ClassMaps) -> None:
    html = compute_layer_maps(maps.classifier, maps.view, "conv")._repr_html_()
    assert "conv: 2 channels of 20 x 30 cells" in html
    assert "<script" not in html
    layer = compute_layer_maps(maps.classifier, maps.view, "conv")
    highest = layer.maps.abs().amax((1, 2))
    order = highest.argsort(descending=True).tolist()
    assert re.findall(r'alt="feature map of channel (\d+)"', html) == [str(c) for c in order]
    pictures = re.findall(r'src="data:image/png;base64,([^"]*)"', html)
    for c, picture in zip(order, pictures, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            np.testing.assert_array_equal(image, grid_image(layer.maps[c].numpy(), float(highest.max())))


def test_the_widget_begins_with_what_it_is_asked_for_and_has_a_page_for_exports(maps: ClassMaps) -> None:
    widget = maps.widget(["green"], against="neither", opacity=0.5)
    assert (widget.state["k"], widget.state["against"], widget.state["opacity"]) == (1, 2, 0.5)
    assert widget.data["names"] == maps.classifier.class_names
    data, _ = widget._repr_mimebundle_()
    assert list(data) == ["text/plain", "application/vnd.jupyter.widget-view+json", "text/html"]
    (page,) = re.findall(r'<iframe srcdoc="([^"]*)"', data["text/html"])
    assert NASTY not in unescape(page)
    assert "default-src 'none'" in unescape(page)
    assert NASTY not in data["text/html"]
    widget.close()


def test_the_widget_of_no_class_shows_the_top_class_and_an_opacity_is_from_0_to_1(maps: ClassMaps) -> None:
    assert maps.widget([]).state["k"] == maps.top(1)[0][0]
    assert "iframe" in maps.widget(opacity=np.float32(1))._repr_mimebundle_()[0]["text/html"]
    for opacity in (-0.1, 1.1, float("nan"), "1", None):
        for show in (maps.widget, maps.figure):
            with pytest.raises(InspectorError, match="opacity is a number from 0 to 1; got"):
                show(opacity=opacity)


def test_without_anywidget_one_sentence_says_what_to_install(maps: ClassMaps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    notebook._make_widget_class.cache_clear()
    with pytest.raises(InspectorError, match=r"widget of class maps needs anywidget .*class-map-inspector\[notebook\]"):
        maps.widget()
