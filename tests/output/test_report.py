"""The report: one HTML file that opens offline, with everything in it and every name escaped."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from inspector import Classifier, class_maps, class_maps_of_batch, read_image
from inspector.output.manifest import make_manifest
from inspector.output.report import make_report
from inspector.output.style import FigureStyle

NASTY = '<script>alert("1")</script>'


class Read(HTMLParser):
    """The tags with their attributes, the text, and the rows of the tables of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.within: list[str] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.within.append(tag)
        if tag in ("meta", "img"):
            self.within.pop()
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.within.pop() == tag, "every tag is closed, in its place"

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.within):
            self.text += data
        if {"td", "th"} & set(self.within):
            self.rows[-1][-1] += data

    def images(self) -> list[tuple[str, np.ndarray]]:
        found = [attributes for tag, attributes in self.tags if tag == "img"]
        return [(str(one["alt"]), np.asarray(Image.open(io.BytesIO(of_data_url(str(one["src"])))))) for one in found]


def of_data_url(url: str) -> bytes:
    return base64.b64decode(re.sub(r"^data:image/(png|jpeg);base64,", "", url), validate=True)


@pytest.fixture
def maps(hand_made_gap, pixels):
    classifier = Classifier.wrap(hand_made_gap, (NASTY, "green & blue", "neither"), size=(20, 30), name="by <hand>")
    return class_maps(classifier, read_image(pixels, f"photo {NASTY}.png"))


def number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-").removesuffix("%"))


def test_the_table_shows_that_map_and_bias_are_the_logit(maps):
    page = Read(make_report(maps, maps.figure_content(2)))
    header, *rows = page.rows
    assert header == ["", "class", "probability", "map", "+ bias", "= logit", "residual"]
    assert [int(row[0]) for row in rows] == [k for k, _, _ in maps.top(3)]
    for k, name, probability, total, bias, logit, residual in rows:
        assert name == maps.classifier.class_names[int(k)]
        assert number(probability) == pytest.approx(100 * float(maps.probabilities[int(k)]), abs=0.01)
        assert number(total) + number(bias) == pytest.approx(number(logit), abs=2e-4)
        assert number(logit) == pytest.approx(float(maps.logits[int(k)]), abs=1e-4)
        assert float(residual) <= maps.residual * 1.1


def test_verdict_equations_scale_and_settings_are_in_the_report(maps):
    shown = maps.figure_content([0, 1], against="average")
    settings = make_manifest(maps, shown)
    text = Read(make_report(maps, shown, manifest=settings)).text
    assert "exact: What follows the pooling is affine" in text
    assert f"{maps.residual:.1e} logits" in text
    for k in shown.classes:
        assert maps.class_map(k, "average").equation() in text
    assert "logit less the average logit" in text
    scale = max(float(maps.class_map(k, "average").values.abs().max()) for k in shown.classes)
    assert f"+{scale:.3g}" in text
    assert json.loads(text[text.index("{") : text.rindex("}") + 1]) == json.loads(json.dumps(settings))


def test_the_photo_and_every_map_are_in_the_file(maps):
    style = FigureStyle(("photo", "classes", "contrast"), gray=False)
    page = Read(make_report(maps, maps.figure_content([0, 2], opacity=0.0), style))
    photo, *drawn = page.images()
    names = [f"class map of {NASTY}", "class map of neither", f"class map of {NASTY} against neither"]
    assert [alt for alt, _ in [photo, *drawn[:3]]] == ["photo", *names]
    # Without opacity a map is the photo; and a tiny one keeps every pixel.
    assert all(np.array_equal(image, photo[1]) for _, image in drawn[:3])
    assert {tuple(color) for color in photo[1].reshape(-1, 3)} <= {
        tuple(c) for c in maps.view.photo.pixels.reshape(-1, 3)
    }
    cells = drawn[3:]
    assert [image.shape for _, image in cells] == [(20, 30, 3)] * 3


def test_the_file_loads_nothing_and_runs_only_the_viewer(maps):
    text = make_report(maps, maps.figure_content(3), manifest=make_manifest(maps, maps.figure_content(3)))
    page = Read(text)
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "form", "a"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    references = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert references
    assert all(value.startswith("data:image/") for value in references)
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"url\(|@import|\bfetch\(|\bimport\(|\beval\(|XMLHttpRequest|WebSocket", text)
    assert [a["type"] for tag, a in page.tags if tag == "script"] == ["application/json", "module"]
    (script,) = re.findall(r'<script type="module">(.*?)</script>', text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>", "<!--<script>", "]]>&lt;", "'\"`${alert(1)}"])
def test_a_name_ends_no_element_and_reaches_the_viewer_unchanged(hand_made_gap, pixels, name):
    classifier = Classifier.wrap(hand_made_gap, (name, "green", "neither"), size=(20, 30), name=name)
    maps = class_maps(classifier, read_image(pixels, f"{name}.png"))
    text = make_report(maps, maps.figure_content(3))
    page = Read(text)
    assert [tag for tag, _ in page.tags].count("script") == 2
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert "<" not in data
    assert json.loads(data)["names"] == list(maps.classifier.class_names)
    assert json.loads(data)["photo_name"] == maps.view.photo.name


def test_names_are_shown_literally_and_never_as_tags(maps):
    text = make_report(maps, maps.figure_content(3), manifest=make_manifest(maps, maps.figure_content(3)))
    assert NASTY not in text
    shown = Read(text).text
    for name in (f"photo {NASTY}.png", "green & blue", "by <hand>"):
        assert name in shown


def test_colors_and_page_follow_the_style(maps):
    text = make_report(maps, maps.figure_content(1), FigureStyle(colours="PuOr_r", dark=True))
    assert "Orange is evidence for the class, purple against it." in Read(text).text
    assert "color-scheme: dark;" in text
    usual = make_report(maps, maps.figure_content(1))
    assert "color-scheme: light dark;" in usual
    assert Read(text).images()[-1][1].tolist() != Read(usual).images()[-1][1].tolist()


def test_of_many_classes_the_top_ones_and_those_shown_are_in_the_table(maps):
    many = 40
    names = tuple(f"class {k}" for k in range(many))
    grown = replace(
        maps,
        values=maps.values.repeat(14, 1, 1)[:many],
        bias=maps.bias.repeat(14)[:many],
        logits=-torch.arange(many).float(),
        probabilities=torch.full((many,), 1 / many),
        classifier=replace(maps.classifier, class_names=names),
        split=None,
    )
    page = Read(make_report(grown, grown.figure_content([33, 2])))
    assert [row[0] for row in page.rows[1:]] == [*map(str, range(10)), "33"]
    assert "All 40 classes are in logits.csv" in page.text


def test_a_report_on_a_tensor_says_that_it_was_fed_as_it_is(hand_made_gap):
    (maps,) = class_maps_of_batch(Classifier.wrap(hand_made_gap, size=2), torch.zeros(1, 3, 2, 2))
    assert "fed as it is" in make_report(maps, maps.figure_content())
