"""The app in Streamlit's own simulator: states, links, errors. What needs a browser is in browser/."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from inspector.examples import examples

APP = Path(__file__).parent.parent / "app.py"


def opened(**link: str) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=120)
    for key, value in link.items():
        app.query_params[key] = value
    return app.run()


def headings(app: AppTest) -> list[str]:
    return [heading.value for heading in app.subheader]


def lines(app: AppTest) -> str:
    return "\n".join(markdown.value for markdown in app.markdown)


def test_the_app_opens_with_a_network_and_a_photo_loaded() -> None:
    app = opened()
    assert not app.exception
    assert not app.error
    assert headings(app)[0] == "tiger cat"
    assert ":green-badge[exact]" in lines(app)
    assert "map 9.25" in lines(app)


def test_a_link_reopens_network_class_and_reading() -> None:
    app = opened(
        network="fashion_gmp", example="Sandal", reading="against a class", **{"class": "Bag"}, against="Dress"
    )
    assert headings(app)[0] == "Bag against Dress"


def test_the_class_can_be_switched_and_contrasted_with_the_average() -> None:
    app = opened(network="fashion_gap")
    app.selectbox(key="class").set_value("Sneaker").run()
    assert headings(app)[0] == "Sneaker"
    app.segmented_control(key="reading").set_value("against the average").run()
    assert headings(app)[0] == "Sneaker against the average class"


def test_a_class_of_one_network_does_not_stay_when_the_other_has_no_such_class() -> None:
    app = opened(network="fashion_gap", **{"class": "Sneaker"})
    app.selectbox(key="network").set_value("efficientnet_lite0").run()
    assert not app.exception
    assert headings(app)[0] == "tiger cat"


def test_only_max_pooling_offers_position_scores_and_says_that_they_do_not_sum() -> None:
    average = opened(network="fashion_gap")
    assert [toggle.key for toggle in average.toggle] == ["grid"]
    maximum = opened(network="fashion_gmp")
    maximum.toggle(key="dense").set_value(True).run()
    assert "highest score" in lines(maximum)


def test_networks_with_few_classes_show_all_maps() -> None:
    assert "All class maps before pooling" in headings(opened(network="fashion_gap"))
    assert "All class maps before pooling" not in headings(opened())


def test_an_upload_takes_the_place_of_the_example() -> None:
    app = opened(network="fashion_gap")
    app.file_uploader[0].set_value(("bag.png", examples("fashion_mnist")["Bag"].read_bytes(), "image/png")).run()
    assert headings(app)[0] == "Bag"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"no image at all", "broken.png is not an image that can be read."),
        (examples("fashion_mnist")["Bag"].read_bytes()[:150], "broken.png is broken or cut off"),
    ],
)
def test_a_bad_upload_gets_one_sentence_and_no_old_map(data: bytes, sentence: str) -> None:
    app = opened(network="fashion_gap")
    app.file_uploader[0].set_value(("broken.png", data, "image/png")).run()
    assert not app.exception
    assert [error.value.startswith(sentence) for error in app.error] == [True]
    assert headings(app) == []


@pytest.mark.parametrize("size", ["1.5 times", "the photo's own"])
def test_a_larger_input_gives_other_maps_that_add_up_too(size: str) -> None:
    app = opened(network="fashion_gap", example="Bag", size=size)
    assert not app.exception
    assert ":green-badge[exact]" in lines(app)
