"""The login: off by default, and no page without it where it is on."""

import pytest
from streamlit.testing.v1 import AppTest

from inspector.ui.state import login


def _show_page() -> None:
    import streamlit as st

    from inspector.ui.state.login import require_login

    require_login()
    st.write("the page")


def open_page() -> list[str]:
    app = AppTest.from_function(_show_page).run()
    assert not app.exception
    return [button.label for button in app.button] + [text.value for text in app.markdown]


@pytest.mark.parametrize("value", [None, "", "off", "OFF"])
def test_without_the_setting_the_page_opens(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv(login.LOGIN, raising=False)
    if value is not None:
        monkeypatch.setenv(login.LOGIN, value)
    assert open_page() == ["the page"]


@pytest.mark.parametrize("value", ["on", "yes", "1", "of"])
def test_with_the_setting_nobody_sees_the_page_who_is_not_logged_in(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(login.LOGIN, value)
    assert open_page() == ["Log in", "This app is for members of your team."]


def test_who_is_logged_in_sees_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(login.LOGIN, "on")
    monkeypatch.setattr(login.st, "user", type("User", (), {"is_logged_in": True}))
    assert open_page() == ["the page"]
