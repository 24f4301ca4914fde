"""The page Class maps in Streamlit's simulator: what is below the photo. Clicks are tested in a real browser."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from inspector import class_maps, load
from inspector.analysis.positions import Winners
from inspector.explain.class_maps import ClassMaps
from inspector.images.examples import list_examples
from inspector.ui.components.html import make_class_legend
from inspector.ui.components.photo import ChosenCells, Picture, read_chosen
from inspector.ui.pages import class_maps as page
from inspector.ui.state.selection import label_classes

BOOT = list_examples("fashion_mnist")["Ankle boot"]


def open_page(**link: str) -> AppTest:
    app = AppTest.from_function(_page, default_timeout=120)
    for name, value in ({"network": "fashion_gap", "example": "Ankle boot"} | link).items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def _page() -> None:
    from inspector.ui.pages import class_maps
    from inspector.ui.state.sidebar import draw_bar, read_sidebar

    class_maps.show(*read_sidebar(draw_bar()))


def lines(app: AppTest) -> str:
    return "\n".join(markdown.value for markdown in app.markdown)


def pictures(app: AppTest) -> str:
    return "\n".join(html.body for html in app.get("html"))


def maps_of(network: str, photo: Path = BOOT) -> ClassMaps:
    return class_maps(load(network), photo)


def format_logit(number: float) -> str:
    return f"{number:.3f}".replace("-", "\N{MINUS SIGN}")


def test_a_cell_in_the_link_shows_what_it_adds_to_each_class() -> None:
    app, maps = open_page(position="1,2"), maps_of("fashion_gap")
    assert "**Cell (1, 2)** sees the pixels" in lines(app)
    (classes,) = (table.value for table in app.dataframe if "logit" in table.value)
    by_name = dict(zip(classes["class"], classes["from this cell"], strict=True))
    assert by_name == {name: pytest.approx(float(maps.values[k, 1, 2])) for k, name, _ in maps.top(5)}


@pytest.mark.parametrize("position", ["9,9", "0,3", "1", "one,two", "-1,0", "1,1,1", "\N{SUPERSCRIPT TWO},0"])
def test_a_link_to_a_cell_that_does_not_exist_shows_none(position: str) -> None:
    app = open_page(position=position)
    assert not app.error
    assert "**Cell" not in lines(app)
    assert "position" not in app.query_params


def test_max_pooling_shows_of_how_many_channels_a_cell_has_the_maximum() -> None:
    maps = maps_of("fashion_gmp")
    deciders = [int(channel.argmax()) for channel in maps.feature_maps]
    k = maps.top(1)[0][0]  # the feature maps are the class maps themselves
    app = open_page(network="fashion_gmp", position=f"{deciders[k] // 3},{deciders[k] % 3}")
    assert f"**has the maximum of {deciders.count(deciders[k])} of 10 channels**" in lines(app)
    nowhere = next(place for place in range(9) if place not in deciders)
    app = open_page(network="fashion_gmp", position=f"{nowhere // 3},{nowhere % 3}")
    assert "**has the maximum of none of the 10 channels**" in lines(app)


def test_decisions_and_extents_of_cells_are_computed_once_per_run_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("find_decisions", "cell_extents"):
        compute = getattr(page, name)

        def count(*arguments: Any, name: str = name, compute: Callable[..., Any] = compute) -> Any:
            calls.append(name)
            return compute(*arguments)

        monkeypatch.setattr(page, name, count)
    open_page(network="fashion_gmp", position="1,1")
    assert sorted(calls) == ["cell_extents", "find_decisions"]


def test_the_legend_lists_the_winning_classes_with_their_numbers_of_cells() -> None:
    maps, app = maps_of("fashion_gap"), open_page(show="winning class")
    winning = [maps.classifier.class_names[int(k)] for k in maps.values.argmax(0).flatten()]
    for name in set(winning):
        assert f'{name} <span style="opacity: .7">{winning.count(name)}</span>' in pictures(app)


def test_classes_beyond_the_first_seven_share_the_last_colour() -> None:
    maps = maps_of("fashion_gap")
    # Class 0 wins in two cells, the classes 1 to 8 in one each; the last two share the last color.
    won = Winners(tuple(range(9)), torch.tensor([[0, 0, 1, 2, 3], [4, 5, 6, 7, 8]]), torch.zeros(2, 5))
    shown = make_class_legend(maps, won)
    assert '2 other classes <span style="opacity: .7">2</span>' in shown
    assert maps.classifier.class_names[6] in shown
    assert maps.classifier.class_names[7] not in shown
    assert shown.count("background: #8C8C8C") == 1


def test_what_if_without_a_mask_says_what_to_do() -> None:
    assert "Click cells on the photo" in open_page(show="what if").info[0].value


def test_cells_above_a_threshold_are_masked_and_their_contributions_leave_the_logit() -> None:
    app, maps = open_page(show="what if"), maps_of("fashion_gap")
    button = next(button for button in app.button if button.label == "Mask these cells")
    button.click().run()
    k = maps.top(1)[0][0]
    high = maps.values[k] > 0.5 * maps.values[k].max()
    rows = pictures(app)
    for j in (k, maps.top(2)[1][0]):
        logit = float(maps.logits[j])
        masked = logit - float(maps.values[j][high].sum())
        cells = f"<td>{format_logit(logit)}</td><td>{format_logit(masked)}</td>"
        assert f'<th scope="row">{maps.classifier.class_names[j]}</th>{cells}' in rows
    next(button for button in app.button if button.label == "Clear").click().run()
    assert "Click cells on the photo" in app.info[0].value


def test_max_pooling_with_all_cells_masked_shows_one_error_and_the_masked_photo() -> None:
    app = open_page(network="fashion_gmp", show="what if")
    about, number, _ = app.session_state["mask"]
    app.session_state["mask"] = about, number + 1, tuple((y, x) for y in range(3) for x in range(3))
    app.run()
    assert [error.value.startswith("All cells are masked") for error in app.error] == [True]
    assert "<th>original</th><th>photo</th>" in pictures(app)


def test_another_photo_starts_without_a_mask() -> None:
    app = open_page(show="what if")
    next(button for button in app.button if button.label == "Mask these cells").click().run()
    assert 'table class="what-if"' in pictures(app)
    app.query_params["example"] = "Bag"
    app.run()
    assert 'table class="what-if"' not in pictures(app)


PICTURE = Picture("", {}, 0, None, 10, 10, 10, rows=[None] * 2, columns=[None] * 3, unit="logits")  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, ChosenCells((0, 1), ((1, 1),))),
        ({"cell": None, "revision": "b", "masked": []}, ChosenCells(None, ())),
        ({"cell": [1, 2], "revision": "b", "masked": [[0, 0], [1, 0]]}, ChosenCells((1, 2), ((0, 0), (1, 0)))),
        # What was masked before the last word of the server no longer counts.
        ({"cell": [1, 2], "revision": "a", "masked": [[0, 0]]}, ChosenCells((1, 2), ((1, 1),))),
        # Of a photo with a larger grid.
        ({"cell": [2, 0], "revision": "b", "masked": [[0, 3], [1, 0]]}, ChosenCells(None, ((1, 0),))),
    ],
)
def test_an_answer_of_the_browser_counts_as_far_as_it_fits(answer: object, expected: ChosenCells) -> None:
    assert read_chosen(answer, PICTURE, (0, 1), "b", ((1, 1),)) == expected


def test_classes_of_one_name_are_told_apart_by_their_numbers() -> None:
    three = SimpleNamespace(classifier=SimpleNamespace(class_names=("crane", "ant", "crane")))
    assert label_classes(three) == ["crane (0)", "ant", "crane (2)"]
