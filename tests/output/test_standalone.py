"""What a viewer without a server gets: numbers from which the browser computes what the app asks Python for."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from inspector import Classifier, class_maps, load, read_image
from inspector.analysis.masking import make_mask, mask_at_head
from inspector.analysis.positions import inspect_cell
from inspector.images.examples import list_examples
from inspector.output import standalone
from inspector.output.standalone import make_standalone_data
from inspector.output.style import FigureStyle
from inspector.output.viewer import MEAN

BOOT = list_examples("fashion_mnist")["Ankle boot"]


def decode(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(float)


def test_the_maps_of_all_thousand_classes_are_there_and_each_sums_to_its_logit() -> None:
    maps = class_maps(load("efficientnet_lite0"), list_examples("photos")["Cat"])
    data = json.loads(json.dumps(make_standalone_data(maps, maps.figure_content())))
    assert set(data["classes"]) == {*map(str, range(1000)), str(MEAN)}
    for one in data["classes"].values():
        assert decode(one["contributions"]).sum() + one["bias"] == pytest.approx(one["logit"], abs=1e-4)
    shares = decode(data["channels"]["shares"]).reshape(1280, *data["grid"])
    assert set(data["channels"]["weights"]) == {str(k) for k, _, _ in maps.top(5)}
    for k, weight in data["channels"]["weights"].items():
        np.testing.assert_allclose(np.tensordot(decode(weight), shares, 1), maps.values[int(k)], atol=1e-4)


def test_of_a_network_with_more_maps_than_the_limit_the_top_classes_and_those_asked_for_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    maps = class_maps(load("fashion_gap"), BOOT)
    shown = maps.figure_content([0], against="Bag")
    count = 4 * maps.values.numel() * 2  # with the class scores
    monkeypatch.setattr(standalone, "LIMIT", count)
    assert len(make_standalone_data(maps, shown)["classes"]) == 11
    monkeypatch.setattr(standalone, "LIMIT", count - 1)
    data = make_standalone_data(maps, shown)
    assert set(data["classes"]) == {*(str(k) for k, _, _ in maps.top(5)), "0", "8", "-1"}
    assert len(data["names"]) == 10


@pytest.mark.parametrize("network", ["fashion_gap", "fashion_gmp"])
def test_the_strongest_channels_and_the_masked_logits_follow_from_the_numbers(network: str) -> None:
    maps = class_maps(load(network), BOOT)
    data = make_standalone_data(maps, maps.figure_content())
    k, (_, width) = maps.top(1)[0][0], data["grid"]
    shares = decode(data["channels"]["shares"]).reshape(-1, *data["grid"])
    parts = decode(data["channels"]["weights"][str(k)])[:, None, None] * shares
    for c, value in inspect_cell(maps, 1, 2, k).channels:
        assert parts[c, 1, 2] == pytest.approx(value, abs=1e-6)
    masked = [(0, 0), (1, 2)]
    expected = mask_at_head(maps, make_mask(maps, masked)).logits
    rows = [row * width + column for row, column in masked]
    for j, logit in enumerate(expected.tolist()):
        one = data["classes"][str(j)]
        if network == "fashion_gap":
            assert data["masked_at_head"] == "subtract"
            assert one["logit"] - decode(one["contributions"])[rows].sum() == pytest.approx(logit, abs=1e-4)
        else:
            assert data["masked_at_head"] == "maximum"
            assert np.delete(decode(one["scores"]), rows).max() + one["bias"] == pytest.approx(logit, abs=1e-4)


def test_masks_are_offered_only_where_the_maps_alone_give_the_logits(
    hand_made_gmp: nn.Module, pixels: np.ndarray
) -> None:
    photo = read_image(pixels)
    shared = class_maps(Classifier.wrap(hand_made_gmp, size=(20, 30)), photo)  # its classes share feature maps
    assert make_standalone_data(shared, shared.figure_content())["masked_at_head"] is None
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    curved = nn.Sequential(nn.Conv2d(3, 4, 3), *head)
    maps = class_maps(Classifier.wrap(curved.eval(), size=(20, 30)), photo)
    data = make_standalone_data(maps, maps.figure_content())
    assert maps.verdict == "not unique"
    assert data["masked_at_head"] is None
    assert data["channels"] is not None


def test_a_finer_viewer_and_one_without_feature_maps_hold_no_channels() -> None:
    maps = class_maps(load("fashion_gap"), BOOT, finer=2)
    data = make_standalone_data(maps, maps.figure_content())
    assert (data["factor"], data["channels"]) == (2, None)
    without = replace(maps, finer=None, split=None)
    data = make_standalone_data(without, without.figure_content())
    assert (data["channels"], data["masked_at_head"]) == (None, None)


def test_what_is_shown_at_first_is_the_first_map_of_the_figure(hand_made_gmp: nn.Module, pixels: np.ndarray) -> None:
    maps = class_maps(Classifier.wrap(hand_made_gmp, ("a", "b", "b"), size=(20, 30)), read_image(pixels))
    shown = maps.figure_content(["a"], against="average", dense=True, smooth=False, opacity=0.5)
    data = make_standalone_data(maps, shown, FigureStyle(colours="BrBG_r", gray=False))
    assert data["state"] == {
        "k": 0, "against": MEAN, "number": "scores", "colors": "BrBG_r", "gray": False, "smooth": False, "opacity": 0.5,
        "cell": None,
    }  # fmt: skip
    assert "BrBG_r" in data["colormaps"]
    assert data["names"] == ("a", "b (1)", "b (2)")
