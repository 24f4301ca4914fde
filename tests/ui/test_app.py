"""The app in Streamlit's simulator: states, links, errors. What needs a browser is in browser/."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from inspector.images.examples import list_examples
from inspector.ui.state import cache

APP = Path(__file__).parents[2] / "app.py"


def open_app(**link: str) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=120)
    for key, value in link.items():
        app.query_params[key] = value
    return app.run()


def read_headings(app: AppTest) -> list[str]:
    return [heading.value for heading in app.subheader]


def read_markdown(app: AppTest) -> str:
    return "\n".join(markdown.value for markdown in app.markdown)


def test_the_app_opens_with_a_network_and_a_photo_loaded() -> None:
    app = open_app()
    assert not app.exception
    assert not app.error
    assert read_headings(app)[0] == "tiger cat"
    assert ":green-badge[exact]" in read_markdown(app)
    assert "map 9.25" in read_markdown(app)


def test_the_named_backend_runs_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path))
    cache.accelerate_network.clear()
    cache.compute_class_maps.clear()
    shown = {}
    for backend in ("eager", "onnxruntime", "abacus"):
        monkeypatch.setenv(cache.BACKEND, backend)
        app = open_app(network="fashion_gap", example="Bag")
        shown[backend] = (
            [read_headings(app), read_markdown(app)] if not app.error else [error.value for error in app.error]
        )
        helps = " ".join(markdown.help or "" for markdown in app.markdown)
        assert ("The forward pass ran through onnxruntime." in helps) == (backend == "onnxruntime")
        cache.accelerate_network.clear()
        cache.compute_class_maps.clear()
    assert len(list(tmp_path.glob("*.onnx"))) == 1
    assert shown["eager"][0] == shown["onnxruntime"][0]
    assert shown["abacus"][0].startswith("No backend 'abacus'. Use one of auto, eager,")


def test_a_link_opens_network_class_and_contrast() -> None:
    app = open_app(
        network="fashion_gmp", example="Sandal", reading="against a class", **{"class": "Bag"}, against="Dress"
    )
    assert read_headings(app)[0] == "Bag against Dress"


def test_another_class_can_be_chosen_and_contrasted_with_the_average() -> None:
    app = open_app(network="fashion_gap")
    app.selectbox(key="class").set_value("Sneaker").run()
    assert read_headings(app)[0] == "Sneaker"
    app.segmented_control(key="reading").set_value("against the average").run()
    assert read_headings(app)[0] == "Sneaker against the average class"


def test_a_class_that_the_next_network_lacks_is_dropped() -> None:
    app = open_app(network="fashion_gap", **{"class": "Sneaker"})
    app.selectbox(key="network").set_value("efficientnet_lite0").run()
    assert not app.exception
    assert read_headings(app)[0] == "tiger cat"


def test_only_max_pooling_offers_position_scores_which_have_no_sum() -> None:
    average = open_app(network="fashion_gap")
    assert [toggle.key for toggle in average.toggle] == ["grid"]
    maximum = open_app(network="fashion_gmp")
    maximum.toggle(key="dense").set_value(True).run()
    assert "highest score" in read_markdown(maximum)


def test_networks_with_few_classes_show_all_maps() -> None:
    assert "All class maps before pooling" in read_headings(open_app(network="fashion_gap"))
    assert "All class maps before pooling" not in read_headings(open_app())


def test_an_upload_replaces_the_example() -> None:
    app = open_app(network="fashion_gap")
    bag = list_examples("fashion_mnist")["Bag"].read_bytes()
    app.file_uploader[0].set_value([("bag.png", bag, "image/png")]).run()
    assert read_headings(app)[0] == "Bag"


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
    assert read_headings(app) == []


@pytest.mark.parametrize("size", ["1.5 times", "whole photo", "full resolution", "the photo's own"])
def test_maps_of_a_larger_input_sum_to_their_logits(size: str) -> None:
    app = open_app(network="fashion_gap", example="Bag", size=size)
    assert not app.exception
    assert ":green-badge[exact]" in read_markdown(app)
