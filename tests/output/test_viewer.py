"""What a viewer draws: the numbers of the class maps, unchanged."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest

from inspector import class_maps, load
from inspector.images.examples import list_examples
from inspector.output.viewer import MEAN, make_viewer_data

BAG = list_examples("fashion_mnist")["Bag"]


def decode(text: str, grid: list[int]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(grid)


@pytest.mark.parametrize("network", ["fashion_gap", "fashion_gmp"])
def test_the_numbers_of_a_viewer_sum_to_the_logits(network: str) -> None:
    maps = class_maps(load(network), BAG)
    data = make_viewer_data(maps.to_numpy(), maps.classifier.class_names, range(10), "", 400)
    sent = json.loads(json.dumps(data.to_json()))
    assert set(sent["classes"]) == {*map(str, range(10)), str(MEAN)}
    for k, one in sent["classes"].items():
        logit = float(maps.logits.mean() if int(k) == MEAN else maps.logits[int(k)])
        contributions = decode(one["contributions"], sent["grid"])
        assert contributions.sum() + one["bias"] == pytest.approx(logit, abs=1e-4)
        assert one["logit"] == pytest.approx(logit, abs=1e-4)
        scores = decode(one["scores"], sent["grid"])
        if network == "fashion_gap":
            assert scores.mean() + one["bias"] == pytest.approx(logit, abs=1e-4)
        elif int(k) != MEAN:  # its feature maps are the class maps, so max pooling reads the highest score
            assert scores.max() + one["bias"] == pytest.approx(logit, abs=1e-4)


def test_of_many_classes_the_top_ones_those_asked_for_and_the_mean_are_sent() -> None:
    maps = class_maps(load("efficientnet_lite0"), list_examples("photos")["Cat"])
    data = make_viewer_data(maps.to_numpy(), maps.classifier.class_names, [3, 7], "", 400)
    best = [k for k, _, _ in maps.top(5)]
    assert list(data.top) == best
    assert [one.k for one in data.classes] == [*best, 3, 7, MEAN]
    assert len(data.names) == 1000
    assert max(data.draw_size) == 400
    assert data.contrast_words == "contribution per cell (sums to the difference of logits)"
    assert data.words == ("contribution per cell (sums to the logit)", "class score per cell (before pooling)")
    np.testing.assert_array_equal(data.classes[5].contributions, maps.values[3].numpy())


def test_the_own_cells_of_a_finer_viewer_sum_to_the_logits() -> None:
    maps = class_maps(load("fashion_gap"), BAG, finer=2)
    assert maps.finer is not None
    finer = maps.finer.to_numpy([k for k, _, _ in maps.top(5)], True)
    data = make_viewer_data(maps.to_numpy(), maps.classifier.class_names, [], "", 400, finer=finer)
    sent = json.loads(json.dumps(data.to_json()))
    assert (sent["factor"], sent["grid"]) == (2, [2 * cells for cells in maps.values.shape[1:]])
    assert len(sent["rows"]) == sent["grid"][0]
    for one in sent["classes"].values():
        own = decode(one["contributions"], sent["grid"])[::2, ::2]
        assert own.sum() + one["bias"] == pytest.approx(one["logit"], abs=1e-4)
        scores = decode(one["scores"], sent["grid"])[::2, ::2]
        assert scores.mean() + one["bias"] == pytest.approx(one["logit"], abs=1e-4)
    assert sent["words"]["contributions"] == "contribution per cell (own cells sum to the logit)"


def test_numbers_that_are_not_finite_are_null_in_json() -> None:
    maps = class_maps(load("fashion_gap"), BAG).to_numpy()
    logits, probabilities = maps.logits.copy(), maps.probabilities.copy()
    logits[:], probabilities[:] = np.nan, np.nan
    logits[1] = np.inf
    broken = replace(maps, logits=logits, probabilities=probabilities, residual=float("nan"))
    data = make_viewer_data(broken, maps.classifier.class_names, range(10), "", 400)
    sent = json.loads(json.dumps(data.to_json(), allow_nan=False))
    assert {one[name] for one in sent["classes"].values() for name in ("logit", "probability")} == {None}
    assert sent["residual"] is None
