"""The photos of a folder on which a channel is most active: searched as a job, and kept between visits."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from tiny_photos import copy_examples

from inspector.ui.state import folders, keys


def _show_page() -> None:
    import streamlit as st

    from inspector.ui.components.controls import show_errors
    from inspector.ui.pages.channels_photos import show_photos
    from inspector.ui.state.networks import list_choices

    with show_errors():
        show_photos(list_choices()["fashion_gap"], st.session_state.get("chosen", 8))


def open_folder(folder: Path) -> AppTest:
    app = AppTest.from_function(_show_page, default_timeout=120)
    app.session_state[keys.TOP_FROM] = "a folder"
    app.run()
    app.text_input(key=keys.TOP_FOLDER).input(str(folder)).run()
    assert not app.exception
    return app


def read_html(app: AppTest) -> str:
    return "\n".join(html.body for html in app.get("html"))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(folders.DATA, raising=False)
    return copy_examples(tmp_path / "photos")


def test_a_folder_is_searched_once_and_what_was_found_is_there_at_the_next_visit(photos: Path, tmp_path: Path) -> None:
    app = open_folder(photos)
    assert [button.label for button in app.button] == ["Search 11 photos"]
    app.button(key=keys.TOP_START).click().run()
    app.session_state[keys.TOP_JOB].thread.join(60)
    app.run()
    assert not app.exception
    # Channel 8 of this network is the class map of the class Bag.
    assert read_html(app).index("channel 8 on bag.png") < read_html(app).index("channel 8 on coat.png")
    assert "The 10 highest of 10 photos." in [caption.value for caption in app.caption]
    assert [one.label for one in app.expander] == ["One file was skipped"]
    assert len(list((tmp_path / "cache" / "top-activations").iterdir())) == 1
    again = open_folder(photos)
    assert "channel 8 on bag.png" in read_html(again)
    assert keys.TOP_START not in [button.key for button in again.button]


def test_a_visitor_of_an_app_for_others_searches_listed_folders_only(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(folders.DATA, str(photos))
    app = AppTest.from_function(_show_page, default_timeout=120)
    app.session_state[keys.TOP_FROM] = "a folder"
    app.run()
    assert not app.text_input
    assert app.selectbox(key=keys.TOP_FOLDER).options == [str(photos)]
