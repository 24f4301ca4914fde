"""Finer grids and boxes on the first page, in Streamlit's simulator: the numbers are those of the library."""

import base64
from functools import cache
from typing import Any

import numpy as np
import pytest
from viewer_page import open_page, read_viewer

from inspector import class_maps, load
from inspector.analysis.location import DEFAULT_THRESHOLD
from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMaps
from inspector.images.examples import list_examples
from inspector.ui.state import keys
from inspector.ui.state.top_bar import PageSelection
from inspector.ui.state.view_state import THRESHOLDS, ViewState

BOOT = list_examples("fashion_mnist")["Ankle boot"]
PAIR = {"class": "Sneaker", "reading": "against a class", "against": "Coat"}
SNEAKER, COAT = 7, 4


@cache
def compute_maps(network: str = "fashion_gap", finer: int = 2) -> ClassMaps:
    return class_maps(load(network), BOOT, finer=finer)


def decode(values: str, grid: list[int]) -> Any:
    return np.frombuffer(base64.b64decode(values), "<f4").reshape(grid)


@pytest.mark.parametrize("network", ["fashion_gap", "fashion_gmp"])
def test_the_cells_of_a_finer_grid_are_those_of_the_library(network: str) -> None:
    app, maps = open_page(network=network, finer="2"), compute_maps(network)
    data = read_viewer(app)
    assert maps.finer is not None
    assert (data["factor"], data["grid"]) == (2, [6, 6])
    assert app.query_params["finer"] == "2"
    for k, one in data["classes"].items():
        expected = maps.finer.values.mean(0) if k == "-1" else maps.finer.values[int(k)]
        drawn = decode(one["contributions"], data["grid"])
        assert np.allclose(drawn, expected, atol=1e-6)
        assert float(drawn[::2, ::2].sum()) + one["bias"] == pytest.approx(one["logit"], abs=1e-4)
        mean = float(maps.finer.mean_logits.mean() if k == "-1" else maps.finer.mean_logits[int(k)])
        assert data["finer"]["mean_logits"][k] == pytest.approx(mean, abs=1e-5)
    assert data["finer"]["description"] == maps.finer.describe()
    assert data["notes"][-1] == ", between the network's own cells"
    between = np.array(data["note_of"]).reshape(6, 6) == len(data["notes"]) - 1
    assert between.sum() == 27
    assert not between[::2, ::2].any()


def test_a_cell_of_a_finer_grid_says_what_it_is() -> None:
    own = read_viewer(open_page(position="1,2"))["card"]["lines"]
    assert read_viewer(open_page(finer="2", position="2,4"))["card"]["lines"] == own
    (first, *_, extent) = read_viewer(open_page(finer="2", position="3,4"))["card"]["lines"]
    assert "it is cell (1, 2) of the pass of the photo moved 4 pixels up in the input" in first[0]
    assert extent != own[-1]
    assert read_viewer(open_page(finer="2", position="6,0"))["card"] is None


def test_masks_and_winning_classes_are_those_of_the_networks_own_cells() -> None:
    for view in ("what if", "winning class"):
        data = read_viewer(open_page(finer="4", show=view, masked="2,2"))
        assert (data["factor"], data["grid"], data["state"]["finer"]) == (1, [3, 3], 4)


def test_a_refused_grid_is_named_with_its_reason_and_the_own_grid_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(chosen: PageSelection, factor: int) -> ClassMaps:
        raise InspectorError("There is no finer map.")

    monkeypatch.setattr(PageSelection, "compute_finer", refuse)
    app = open_page(finer="4", position="8,4")
    data = read_viewer(app)
    assert data["refused"] == {"finer": 4, "sentence": "There is no finer map."}
    assert (data["factor"], data["state"]["finer"], data["state"]["cell"]) == (1, 1, [2, 1])
    assert "finer" not in app.query_params


def test_boxes_at_every_threshold_are_those_of_the_library() -> None:
    assert ViewState(0).threshold == DEFAULT_THRESHOLD
    located = read_viewer(open_page(boxes="largest", finer="2", **PAIR))["located"]
    assert located["thresholds"] == list(THRESHOLDS)
    maps = compute_maps()
    assert [one["k"] for one in located["classes"]] == [SNEAKER, COAT]
    for one, k, other in zip(located["classes"], (SNEAKER, COAT), (COAT, SNEAKER), strict=True):
        for at, threshold in zip(one["at"], THRESHOLDS, strict=True):
            found = maps.locate(k, other, threshold)
            boxes = [[left, top, right - left, bottom - top] for left, top, right, bottom in found.boxes]
            assert [box[:4] for box in at["boxes"]] == boxes
            assert [box[4] for box in at["boxes"]] == pytest.approx([region.share for region in found.regions])
            assert np.allclose(at["points"], [[point.x, point.y, point.value] for point in found.points], atol=1e-5)
    assert read_viewer(open_page())["located"] is None


def test_values_of_a_link_that_are_no_choice_are_named() -> None:
    app = open_page(finer="3", boxes="round", threshold="0.33")
    notes = sorted(sentence for sentence, _ in app.session_state[keys.LINK_NOTES].values())
    assert notes == [
        "The link names the boxes 'round', which is not offered here.",
        "The link names the finer grid '3', which is not offered here.",
        "The link names the threshold of boxes '0.33', which is not offered here.",
    ]


def test_the_lines_of_python_draw_the_boxes_and_the_finer_map(monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_page(finer="2", boxes="largest", threshold="0.5", points="true", **PAIR)
    (code,) = (one.value for one in app.code)
    assert "finer=2)" in code
    assert "found = maps.locate('Sneaker', against='Coat', threshold=0.5)" in code
    monkeypatch.chdir(BOOT.parent)
    made: dict[str, Any] = {}
    lines, saving = code.rsplit("\n", 1)
    assert saving == 'Image.fromarray(pixels).save("class-map.png")'
    exec(lines, made)
    (box,) = made["found"].boxes
    left, top = (round(edge) for edge in box[:2])
    assert made["pixels"].shape == made["maps"].overlay("Sneaker", against="Coat").shape
    assert made["pixels"][top, left].tolist() == [77, 216, 255]  # the box of the other class is drawn last
