"""The app in Streamlit's simulator: states, links, errors. What needs a browser is in browser/."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from viewer_page import has_viewer, read_title, read_viewer

from inspector.images.examples import list_examples
from inspector.ui.state import cache

APP = Path(__file__).parents[2] / "app.py"


def open_app(**link: str) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=120)
    for key, value in link.items():
        app.query_params[key] = value
    return app.run()


def test_the_app_opens_with_a_photo_of_two_objects_and_the_contrast_of_their_classes() -> None:
    app = open_app()
    assert not app.exception
    assert not app.error
    assert read_title(app) == "Why espresso rather than Egyptian cat"
    assert "against" not in app.query_params
    cat = open_app(example="Cat")
    assert read_title(cat) == "Why tiger cat rather than nothing"
    data = read_viewer(cat)
    assert data["verdict"] == "exact"
    assert data["classes"][str(data["state"]["k"])]["logit"] == pytest.approx(9.247, abs=1e-3)
    assert read_title(open_app(reading="logit")) == "Why espresso rather than nothing"


def test_the_named_backend_runs_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path))
    cache.accelerate_network.clear()
    cache.compute_class_maps.clear()
    shown = {}
    for backend in ("eager", "onnxruntime", "abacus"):
        monkeypatch.setenv(cache.BACKEND, backend)
        app = open_app(network="fashion_gap", example="Bag")
        shown[backend] = (
            [read_title(app), read_viewer(app)["top"]] if not app.error else [error.value for error in app.error]
        )
        named = has_viewer(app) and "ran through onnxruntime." in read_viewer(app)["verdict_sentence"]
        assert named == (backend == "onnxruntime")
        cache.accelerate_network.clear()
        cache.compute_class_maps.clear()
    assert len(list(tmp_path.glob("*.onnx"))) == 1
    assert shown["eager"][0] == shown["onnxruntime"][0]
    assert shown["abacus"][0].startswith("No backend 'abacus'. Use one of auto, eager,")


def test_a_link_opens_network_class_and_contrast() -> None:
    app = open_app(
        network="fashion_gmp", example="Sandal", reading="against a class", **{"class": "Bag"}, against="Dress"
    )
    assert read_title(app) == "Why Bag rather than Dress"


def test_a_link_opens_the_contrast_with_the_mean_of_all_classes() -> None:
    app = open_app(network="fashion_gap", reading="against the average", **{"class": "Sneaker"})
    assert read_title(app) == "Why Sneaker rather than mean of all classes"


def test_a_class_that_the_next_network_lacks_is_dropped() -> None:
    app = open_app(network="fashion_gap", example="Cat", **{"class": "Sneaker"})
    app.selectbox(key="network").set_value("efficientnet_lite0").run()
    assert not app.exception
    assert read_title(app) == "Why tiger cat rather than nothing"


@pytest.mark.parametrize(("network", "number"), [("fashion_gap", "contributions"), ("fashion_gmp", "scores")])
def test_only_max_pooling_offers_class_scores_in_place_of_contributions(network: str, number: str) -> None:
    assert read_viewer(open_app(network=network, dense="true"))["state"]["number"] == number


def test_networks_with_few_classes_show_all_maps() -> None:
    assert len(read_viewer(open_app(network="fashion_gap"), "class_strip")["all"]) == 10
    assert read_viewer(open_app(), "class_strip")["all"] == []


def test_an_upload_replaces_the_example() -> None:
    app = open_app(network="fashion_gap")
    bag = list_examples("fashion_mnist")["Bag"].read_bytes()
    app.file_uploader[0].set_value([("bag.png", bag, "image/png")]).run()
    assert read_title(app) == "Why Bag rather than nothing"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no image at all", "broken.png is not an image that can be read."),
        (list_examples("fashion_mnist")["Bag"].read_bytes()[:150], "broken.png is broken or cut off"),
    ],
)
def test_a_bad_upload_shows_one_error_and_no_old_map(data: bytes, message: str) -> None:
    app = open_app(network="fashion_gap")
    app.file_uploader[0].set_value([("broken.png", data, "image/png")]).run()
    assert not app.exception
    assert [error.value.startswith(message) for error in app.error] == [True]
    assert not has_viewer(app)


@pytest.mark.parametrize("size", ["1.5 times", "whole photo", "full resolution", "the photo's own"])
def test_maps_of_a_larger_input_sum_to_their_logits(size: str) -> None:
    app = open_app(network="fashion_gap", example="Bag", size=size)
    assert not app.exception
    assert read_viewer(app)["verdict"] == "exact"
