"""The first page in Streamlit's simulator: what it sends to the viewer. Clicks are tested in a real browser."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from viewer_page import open_page, read_title, read_viewer

from inspector import class_maps, load
from inspector.analysis.positions import Winners
from inspector.explain.class_maps import ClassMaps
from inspector.images.examples import list_examples
from inspector.ui.pages import class_maps_panels
from inspector.ui.pages.class_maps_panels import answer_winners
from inspector.ui.state import keys
from inspector.ui.state.selection import label_classes

BOOT = list_examples("fashion_mnist")["Ankle boot"]


def maps_of(network: str, photo: Path = BOOT) -> ClassMaps:
    return class_maps(load(network), photo)


def format_logit(number: float) -> str:
    return f"{number:.3f}".replace("-", "\N{MINUS SIGN}")


def write_part(part: str | dict[str, Any]) -> str:
    return part if isinstance(part, str) else str(part["text"])


def read_card(app: AppTest) -> str:
    card = read_viewer(app)["card"]
    return "" if card is None else "\n".join("".join(map(write_part, line)) for line in card["lines"])


def test_a_cell_in_the_link_shows_what_it_sees_and_its_strongest_channels() -> None:
    app, maps = open_page(position="1,2"), maps_of("fashion_gap")
    assert "It sees the pixels x" in read_card(app)
    k = maps.top(1)[0][0]
    strongest = int(maps.parts(k)[:, 1, 2].abs().argmax())
    value = f"{float(maps.parts(k)[strongest, 1, 2]):+.3f}".replace("-", "\N{MINUS SIGN}")
    assert f"Strongest channels for Ankle boot: {strongest} ({value})" in read_card(app)
    parts = read_viewer(app)["card"]["lines"][0]
    assert parts[1] == {"channel": strongest, "text": str(strongest)}, "the channel is a link"


def test_the_order_of_all_maps_is_in_the_link() -> None:
    assert read_viewer(open_page(sorted="true"), "class_strip")["state"]["by_logit"]
    assert not read_viewer(open_page(), "class_strip")["state"]["by_logit"]


@pytest.mark.parametrize("position", ["9,9", "0,3", "1", "one,two", "-1,0", "1,1,1", "\N{SUPERSCRIPT TWO},0"])
def test_a_link_to_a_cell_that_does_not_exist_shows_none(position: str) -> None:
    app = open_page(position=position)
    assert not app.error
    assert read_viewer(app)["card"] is None
    assert "position" not in app.query_params


def test_max_pooling_shows_of_how_many_channels_a_cell_has_the_maximum() -> None:
    maps = maps_of("fashion_gmp")
    deciders = [int(channel.argmax()) for channel in maps.feature_maps]
    k = maps.top(1)[0][0]  # the feature maps are the class maps themselves
    app = open_page(network="fashion_gmp", position=f"{deciders[k] // 3},{deciders[k] % 3}")
    assert f"has the maximum of {deciders.count(deciders[k])} of 10 channels" in read_card(app)
    nowhere = next(place for place in range(9) if place not in deciders)
    app = open_page(network="fashion_gmp", position=f"{nowhere // 3},{nowhere % 3}")
    assert "has the maximum of none of the 10 channels" in read_card(app)


def test_decisions_of_cells_are_computed_once_per_run_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    compute = class_maps_panels.find_decisions

    def count(*arguments: Any, compute: Callable[..., Any] = compute) -> Any:
        calls.append("find_decisions")
        return compute(*arguments)

    monkeypatch.setattr(class_maps_panels, "find_decisions", count)
    open_page(network="fashion_gmp", position="1,1")
    assert calls == ["find_decisions"]


def test_the_legend_lists_the_winning_classes_with_their_numbers_of_cells() -> None:
    maps, app = maps_of("fashion_gap"), open_page(show="winning class")
    winning = [maps.classifier.class_names[int(k)] for k in maps.values.argmax(0).flatten()]
    legend = {entry["name"]: entry["count"] for entry in read_viewer(app)["winners"]["legend"]}
    assert legend == {name: winning.count(name) for name in winning}


def test_classes_beyond_the_first_seven_share_the_last_color() -> None:
    maps = maps_of("fashion_gap")
    # Class 0 wins in two cells, the classes 1 to 8 in one each; the last two share the last color.
    won = Winners(tuple(range(9)), np.array([[0, 0, 1, 2, 3], [4, 5, 6, 7, 8]]), np.zeros((2, 5)))
    shown = answer_winners(maps, won)
    assert shown["legend"][-1] == {"name": "2 other classes", "color": "#8C8C8C", "count": 2}
    assert [entry["name"] for entry in shown["legend"][:-1]] == list(maps.classifier.class_names[:7])
    assert shown["cells"] == [0, 0, 1, 2, 3, 4, 5, 6, 7, 7]
    assert shown["note_of"] == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_masked_cells_of_a_link_leave_the_logit_without_their_contributions() -> None:
    app, maps = open_page(show="what if", masked="0,0;2,1;9,9"), maps_of("fashion_gap")
    shown = read_viewer(app)["masked_outcome"]
    assert shown["of"] == [[[0, 0], [2, 1]], "blur"]
    assert shown["head"] == ["logit", "original", "head", "photo"]
    rows = {row[0]: row[1:] for row in shown["rows"]}
    for k, name, _ in maps.top(2):
        logit = float(maps.logits[k])
        masked = logit - float(maps.values[k, 0, 0] + maps.values[k, 2, 1])
        assert rows[name][:2] == [format_logit(logit), format_logit(masked)]


def test_no_network_runs_while_no_cell_is_masked_or_the_mask_is_not_shown() -> None:
    assert read_viewer(open_page(show="what if"))["masked_outcome"] is None
    assert read_viewer(open_page(masked="0,0"))["masked_outcome"] is None


def test_max_pooling_with_all_cells_masked_shows_one_error_and_the_masked_photo() -> None:
    cells = ";".join(f"{y},{x}" for y in range(3) for x in range(3))
    shown = read_viewer(open_page(network="fashion_gmp", show="what if", masked=cells))["masked_outcome"]
    assert shown["error"].startswith("All cells are masked")
    assert shown["head"] == ["logit", "original", "photo"]
    assert shown["picture"].startswith("data:image/png;base64,")


def test_another_photo_starts_with_its_top_class_and_without_a_mask() -> None:
    app = open_page(show="what if", masked="0,0", **{"class": "Sneaker"}, reading="against the average")
    assert read_title(app) == "Why Sneaker rather than mean of all classes"
    app.query_params["example"] = "Bag"
    app.run()
    assert read_title(app) == "Why Bag rather than nothing"
    assert read_viewer(app)["state"]["masked"] == []
    assert "masked" not in app.query_params
    assert "class" not in app.query_params


def test_a_pinned_class_is_kept_for_the_next_photo() -> None:
    app = open_page(pinned="true", **{"class": "Sneaker"}, reading="against a class", against="Coat")
    app.query_params["example"] = "Bag"
    app.run()
    assert read_title(app) == "Why Sneaker rather than Coat"
    assert app.query_params["class"] == "Sneaker"


def test_values_of_a_link_that_the_page_does_not_have_are_named() -> None:
    app = open_page(colours="jet", **{"class": "unicorn [x](y)"})
    notes = [sentence for sentence, _ in app.session_state[keys.LINK_NOTES].values()]
    assert sorted(notes) == [
        "The link names the class 'unicorn [x](y)', which is not offered here.",
        "The link names the color map 'jet', which is not offered here.",
    ]


def test_what_is_saved_is_what_is_shown() -> None:
    app = open_page(
        colours="turbo", grid="true", opacity="0.5", **{"class": "Sneaker"}, against="Coat", reading="against a class"
    )
    (code,) = (one.value for one in app.code)
    assert "maps.overlay('Sneaker', against='Coat', cmap='turbo', smooth=False, opacity=0.5," in code


def test_classes_of_one_name_are_told_apart_by_their_numbers() -> None:
    three = SimpleNamespace(classifier=SimpleNamespace(class_names=("crane", "ant", "crane")))
    assert label_classes(three) == ["crane (0)", "ant", "crane (2)"]
