"""Whatever a link says, the page opens: unreadable values are ignored, or reported in one sentence."""

import pytest
from streamlit.testing.v1 import AppTest

from inspector.ui.state import keys
from inspector.ui.state.view_state import read_cell

LONG = "9" * 5_000
VALUES = (LONG, "1e999", "inf", "nan", "-1", "x", "", f"{LONG},{LONG}", "\0", "![i](http://evil.example/x.png)")


def _show_page(name: str, reader: str) -> None:
    from importlib import import_module

    from inspector.ui.components.controls import show_errors
    from inspector.ui.state import top_bar

    with show_errors():
        import_module(f"inspector.ui.pages.{name}").show(*getattr(top_bar, reader)(top_bar.draw_bar(), lambda: None))


def open_page(name: str, reader: str, **link: str) -> AppTest:
    app = AppTest.from_function(_show_page, default_timeout=120, args=(name, reader))
    for key, value in link.items():
        app.query_params[key] = value
    return app.run()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("class_maps", (keys.CELL, keys.CLASS, keys.EXAMPLE, keys.INPUT_SIZE, keys.VIEW)),
        (
            "class_maps",
            (keys.OPACITY, keys.MASKED, keys.MASK_ABOVE, keys.COLORMAP, keys.GRAY, keys.READING, keys.AGAINST),
        ),
        ("channels", (keys.CHANNEL, keys.BARS)),
        ("layers", (keys.SUBPAGE, keys.LAYER, keys.CHANNEL)),
        ("compare", (keys.SUBPAGE, "compare")),
        ("export", (keys.WIDTH, keys.COLUMNS, keys.FONT_SIZE, keys.DPI, keys.TOP_COUNT, keys.FIGURE_CLASSES)),
    ],
)
def test_values_that_cannot_be_read_are_ignored(page: str, names: tuple[str, ...], value: str) -> None:
    app = open_page(page, "read_selection", network="fashion_gap", **dict.fromkeys(names, value))
    assert not app.exception
    assert not app.error


@pytest.mark.parametrize("folder", ["~nosuchuser", "\0", "a" * 5_000, "![i](http://evil.example/x.png)", "/etc/passwd"])
def test_a_folder_that_cannot_be_opened_is_one_sentence(folder: str) -> None:
    app = open_page("dataset", "read_network", data=folder)
    assert not app.exception
    assert len(app.error) == 1
    assert "![" not in app.error[0].value


def test_a_cell_is_read_from_the_link_if_it_may_be_one() -> None:
    for text, cell in {"3,12": (3, 12), "": None, "3": None, "3,12,1": None, "-1,2": None, f"{LONG},1": None}.items():
        assert read_cell(text) == cell
