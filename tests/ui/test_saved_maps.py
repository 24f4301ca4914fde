"""The lines of Python that the menus of the pages Layers and Compare offer draw the same picture as the menu saves."""

from pathlib import Path

import numpy as np
import pytest

from inspector import class_maps, load
from inspector.analysis.attribution.methods import compute_attribution
from inspector.analysis.layers import compute_channel_statistics, compute_layer_maps, find_layer, list_layers
from inspector.images.examples import list_examples
from inspector.ui.components.save import PictureToSave
from inspector.ui.pages.layer_maps_panels import MEAN, LayerSelection, ShownLayer, _list_pictures
from inspector.ui.pages.methods_panels import MethodsSelection, _make_picture

KEY = ("fashion_gap", "", "bag.png", 1)


def run_lines(picture: PictureToSave, folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.chdir(folder)
    Path("bag.png").write_bytes(list_examples("fashion_mnist")["Bag"].read_bytes())
    made: dict[str, np.ndarray] = {}
    exec(picture.python, made)
    return made["pixels"]


def test_maps_of_a_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = load("fashion_gap")
    maps = class_maps(classifier, list_examples("fashion_mnist")["Bag"])
    layer = find_layer(list_layers(classifier), "8")
    layer_maps = compute_layer_maps(classifier, maps.view, layer)
    selection = LayerSelection(layer, MEAN, None, False, True)
    shown = ShownLayer(KEY, maps, layer_maps, selection, compute_channel_statistics(layer_maps), None, None)
    pictures = _list_pictures(shown, 5, float(layer_maps.maps[5].abs().max()))
    assert [picture.name for picture in pictures] == [
        "channel 5 of 8",
        "mean of all channels of 8",
        "highest of all channels of 8",
    ]
    for picture in pictures:
        np.testing.assert_array_equal(run_lines(picture, tmp_path, monkeypatch), picture.draw().pixels)


def test_maps_of_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = load("fashion_gap")
    maps = class_maps(classifier, list_examples("fashion_mnist")["Bag"])
    chosen = MethodsSelection(KEY, 8, ("Exact map", "Saliency"), False, False)
    for name in chosen.names:
        picture = _make_picture(maps, chosen, compute_attribution(classifier, classifier.inputs(maps.view), 8, name))
        np.testing.assert_array_equal(run_lines(picture, tmp_path, monkeypatch), picture.draw().pixels)
