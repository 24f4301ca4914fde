"""The menu that saves a picture of the page."""

from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from inspector import class_maps, load
from inspector.images.examples import list_examples
from inspector.ui.components.save import write_maps_lines

BAG = list_examples("fashion_mnist")["Bag"]


def _page() -> None:
    import numpy as np

    from inspector.output.picture import Picture
    from inspector.ui.components.save import PictureToSave, show_save_menu

    def refuse() -> Picture:
        raise AssertionError("drawn before the user asked for a file")

    show_save_menu([PictureToSave("one/picture", refuse, "one()"), PictureToSave("two", refuse, "two()")], key="both")
    show_save_menu([PictureToSave("alone", lambda: Picture(np.zeros((2, 2, 3), np.uint8), ""), "alone()")], key="alone")


def test_the_menu_shows_the_lines_of_the_chosen_picture_and_draws_nothing_unasked() -> None:
    app = AppTest.from_function(_page).run()
    assert not app.exception
    assert [code.value for code in app.code] == ["one()", "alone()"]
    app.selectbox(key="both picture").set_value("two").run()
    assert [code.value for code in app.code] == ["two()", "alone()"]


@pytest.mark.parametrize(("scale", "size"), [(1, None), (2, (56, 56)), ("native", "native"), ("whole:40", "whole:40")])
def test_the_copied_lines_compute_the_class_maps_of_the_page(
    scale: float | str, size: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = class_maps(load("fashion_gap"), BAG, size)
    monkeypatch.chdir(tmp_path)
    Path("my bag.png").write_bytes(BAG.read_bytes())
    made: dict[str, object] = {}
    exec("\n".join(write_maps_lines(("fashion_gap", "", "my bag.png", scale), maps)), made)
    assert np.array_equal(made["maps"].values, maps.values)
