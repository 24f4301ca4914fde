"""The page Training runs in a real browser: curves, a confusion matrix, and one photo by every network."""

import pytest
from page_checks import assert_nothing_is_cut_off, expect_heading, show_windows
from playwright.sync_api import Page, expect

from inspector.images.examples import list_examples

pytestmark = pytest.mark.browser


def test_runs_are_compared_by_curves_a_table_a_matrix_and_average_maps(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/runs")
    for text in ("Top-1 accuracy on the test images", "Confusion matrix", "One photo by every network"):
        expect_heading(page, text)
    expect(page.get_by_text("Shirt predicted as Coat: 8 of 20")).to_be_visible()
    # Two charts of curves, and one matrix.
    expect(page.locator("[data-testid=stVegaLiteChart] svg, [data-testid=stVegaLiteChart] canvas")).to_have_count(3)
    expect_heading(page, "Average class map of T-shirt/top")


def test_a_misclassified_photo_is_shown_by_every_network(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/runs")
    page.get_by_role("radio", name="misclassified").click()
    expect(page.get_by_role("img", name="class map of gap, seed 0")).to_be_visible()
    expect(page.get_by_role("img", name="photo shirt.png")).to_be_visible()
    expect(page.get_by_text("true class: Shirt")).to_be_visible()
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    expect(page.get_by_role("img", name="photo shirt.png")).to_be_visible()


def test_the_photo_of_the_bar_is_shown_by_every_network(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/runs")
    expect_heading(page, "One photo by every network")
    page.locator(".st-key-uploader input[type=file]").set_input_files(list_examples("fashion_mnist")["Bag"])
    page.get_by_role("radio", name="photo of the bar").click()
    expect(page.get_by_role("img", name="photo bag.png")).to_be_visible()
    expect(page.get_by_text("exact, residual")).to_have_count(2)


def test_nothing_is_cut_off(page: Page, app_url: str) -> None:
    for width in show_windows(page, f"{app_url}/runs", [(380, "light"), (1400, "dark"), (2560, "light")]):
        expect(page.get_by_role("img", name="class map of gmp, seed 0")).to_be_visible()
        assert_nothing_is_cut_off(page)
        for chart in page.get_by_test_id("stVegaLiteChart").all():
            box = chart.bounding_box()
            assert box is not None
            assert box["width"] > 200
            assert box["x"] + box["width"] <= width
