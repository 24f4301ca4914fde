"""A page begins with the class, contrast and colors of the page before it."""

from streamlit.testing.v1 import AppTest

from inspector.ui.state import keys


def _show_page() -> None:
    from importlib import import_module

    import streamlit as st

    from inspector.ui.state import top_bar

    page = st.radio("page", ["class_maps", "channels", "export", "compare", "about"], key=f"{'page'}")
    if page != "about":
        import_module(f"inspector.ui.pages.{page}").show(*top_bar.read_selection(top_bar.draw_bar()))


def open_page(app: AppTest, page: str) -> AppTest:
    for key in set(app.query_params) - {keys.NETWORK, keys.EXAMPLE}:  # as the link to another page does
        del app.query_params[key]
    app.radio(key="page").set_value(page).run()
    assert not app.exception
    assert not app.error
    return app


def test_class_contrast_and_colors_follow_from_page_to_page() -> None:
    app = AppTest.from_function(_show_page, default_timeout=120)
    link = {"network": "fashion_gap", "example": "Bag", "class": "Sneaker", "reading": "against a class"}
    for key, value in (link | {"against": "Dress", "colours": "PuOr_r", "grid": "true"}).items():
        app.query_params[key] = value
    app.run()
    open_page(app, "channels")
    assert app.selectbox(key=keys.CLASS).value == "Sneaker"
    assert app.selectbox(key=keys.AGAINST).value == "Dress"
    assert app.toggle(key=keys.RAW_GRID).value
    assert app.query_params[keys.AGAINST] in ("Dress", ["Dress"]), "the link says what the page shows"
    app.selectbox(key=keys.CLASS).set_value("Coat").run()
    open_page(app, "about")
    open_page(app, "export")
    assert app.multiselect(key=keys.FIGURE_CLASSES).value == ["Coat"]
    assert app.selectbox(key=keys.AGAINST).value == "Dress"
    assert app.selectbox(key=keys.COLORMAP).value == "PuOr_r"
    app.selectbox(key=keys.COLORMAP).set_value("turbo").run()
    open_page(app, "compare")
    assert app.selectbox(key=keys.compared_class("networks")).value == "Coat"
    assert app.selectbox(key=keys.COLORMAP).value == "turbo"
    titles = [table.value["class"].tolist() for table in app.dataframe if "class" in table.value]
    assert titles == [["Coat against Dress"] * 4]
    # What the page Image begins with.
    state = app.session_state[keys.VIEW_STATE].state
    assert (state.k, state.against, state.colors, state.smooth) == (4, 3, "turbo", False)


def test_a_finer_grid_follows_to_the_figure_and_back() -> None:
    app = AppTest.from_function(_show_page, default_timeout=120)
    for key, value in {"network": "fashion_gap", "example": "Bag", "finer": "2", "position": "3,2"}.items():
        app.query_params[key] = value
    app.run()
    open_page(app, "export")
    assert app.segmented_control(key=keys.FINER).value == 2
    assert "finer=2" in app.code[-1].value
    app.segmented_control(key=keys.FINER).set_value(1).run()
    assert "finer" not in app.code[-1].value
    state = app.session_state[keys.VIEW_STATE].state
    assert (state.finer, state.cell) == (1, (1, 1)), "the cell is where it was"
