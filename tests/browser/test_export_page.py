"""The page Export in a real browser: design a figure, download it, rebuild it."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from page_checks import assert_nothing_is_cut_off, download_file, expect_heading, show_windows, wait_for_script
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from inspector.output.reproduce import rebuild

pytestmark = pytest.mark.browser


def expect_preview(page: Page) -> None:
    expect(page.get_by_role("img", name="preview of the figure")).to_be_visible()


def expect_redraw(page: Page, act: Callable[[], None]) -> None:
    """Do something, and wait until the preview has changed."""
    image = page.get_by_role("img", name="preview of the figure")
    before = str(image.get_attribute("src"))
    act()
    expect(image).not_to_have_attribute("src", before)


def test_a_figure_is_designed_downloaded_and_rebuilt(page: Page, app_url: str, tmp_path: Path) -> None:
    page.goto(f"{app_url}/export?network=fashion_gap&example=Bag")
    expect_preview(page)
    page.get_by_role("spinbutton", name="Columns").fill("6")
    expect_redraw(page, lambda: page.keyboard.press("Enter"))
    expect_redraw(page, lambda: page.get_by_role("button", name="contrast", exact=True).click())
    expect_redraw(page, lambda: page.get_by_text("Dark", exact=True).click())
    with Image.open(io.BytesIO(download_file(page, "PNG"))) as figure:
        assert f"as PNG {figure.width} x {figure.height} pixels" in page.get_by_test_id("stMain").inner_text()
        assert max(figure.convert("RGB").getpixel((0, 0))) < 40
    (tmp_path / "all.zip").write_bytes(download_file(page, "All (ZIP)"))
    assert rebuild(tmp_path / "all.zip", tmp_path / "again").equal
    assert (tmp_path / "again" / "contributions.csv").read_bytes() == download_file(page, "Maps (CSV)")
    assert download_file(page, "PDF").startswith(b"%PDF")
    assert b"Bag against" in download_file(page, "SVG")
    assert download_file(page, "Logits (CSV)").startswith(b"index,name,probability,logit,bias,map_sum\n")


def test_a_link_reopens_the_figure_with_all_its_settings(page: Page, app_url: str) -> None:
    settings = "panels=photo&panels=classes&panels=all&width=3.5&unit=in&dpi=300&font=5&columns=4&colours=PuOr_r"
    what = (
        "network=fashion_gmp&example=Sandal&classes=Bag&classes=Dress&reading=against+a+class&against=Coat&heading=Ours"
    )
    page.goto(f"{app_url}/export?{what}&{settings}&bar=false&equations=false&grid=true&figure_opacity=0.5")
    expect_preview(page)
    with Image.open(io.BytesIO(download_file(page, "PNG"))) as figure:
        assert figure.width == 1050
    svg = download_file(page, "SVG")
    for words in (b"Ours", b"Bag (", b"Dress (", b"Ankle boot"):
        assert words in svg
    for words in (b"contribution per cell", b"verdict"):
        assert words not in svg
    numbers = download_file(page, "Maps (CSV)")
    assert b"Bag against Coat" in numbers


def test_a_width_is_converted_to_another_unit(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/export?network=fashion_gap&width=89")
    expect(page.get_by_text("89 x")).to_be_visible()
    wait_for_script(page)
    page.get_by_role("radio", name="in", exact=True).click()
    expect(page.get_by_role("spinbutton", name="Width")).to_have_value("3.5")
    expect(page.get_by_text("89 x")).to_be_visible()


def test_the_report_opens_offline_and_requests_nothing(
    page: Page, app_url: str, chromium: Browser, tmp_path: Path
) -> None:
    page.goto(f"{app_url}/export?network=fashion_gap&example=Bag")
    expect_preview(page)
    (tmp_path / "report.html").write_bytes(download_file(page, "Report (HTML)"))
    for width, scheme in ((390, "dark"), (1400, "light")):
        context = chromium.new_context(offline=True, viewport={"width": width, "height": 900}, color_scheme=scheme)
        report = context.new_page()
        requested: list[str] = []
        report.on("request", lambda request, requested=requested: requested.append(request.url))
        messages: list[str] = []
        report.on("console", lambda message, messages=messages: messages.append(message.text))
        report.goto((tmp_path / "report.html").as_uri())
        expect(report.get_by_role("heading", name="bag.png")).to_be_visible()
        assert report.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert [url for url in requested if not url.startswith(("file:", "data:"))] == []
        assert messages == []
        assert report.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        context.close()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("width=40&columns=12", "A figure 40 mm wide has no room for 6 columns and a color bar"),
        ("width=1000&dpi=1200", "has too many pixels"),
        ("width=3", "A figure has a width in mm from 20 to 1500; got 3."),
    ],
)
def test_a_figure_that_cannot_be_drawn_shows_one_error_and_no_files(
    page: Page, app_url: str, settings: str, sentence: str
) -> None:
    page.goto(f"{app_url}/export?{settings}" + ("" if "network" in settings else "&network=fashion_gap&example=Bag"))
    expect(page.get_by_role("alert")).to_contain_text(sentence)
    expect(page.get_by_role("button", name="PNG", exact=True)).to_have_count(0)


def test_a_preview_of_1000_classes_says_what_it_leaves_out_and_draws_the_rest(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/export?network=efficientnet_lite0&example=Cat&panels=photo&panels=all")
    expect_preview(page)
    text = "All 1000 class maps are too many for one figure, so the panel all is not drawn."
    expect(page.get_by_role("alert").filter(has_text=text)).to_be_visible()
    assert download_file(page, "SVG").count(b"verdict") >= 1


def test_export_takes_over_class_and_contrast_from_the_page_before(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/layers?view=channels&network=fashion_gap&class=Sneaker&reading=against+the+average&grid=true")
    expect_heading(page, "Channel contributions to Sneaker against the average class")
    page.get_by_role("link", name="Export").click()
    expect_preview(page)
    expect(page.get_by_role("radio", name="against the average")).to_be_checked()
    expect(page.get_by_role("switch", name="Raw grid")).to_be_checked()
    expect(page).to_have_url(re.compile("classes=Sneaker"))
    assert b"logit less the average logit" in download_file(page, "SVG")


def test_export_takes_over_what_the_page_image_shows(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?network=fashion_gap&class=Sneaker&reading=against+a+class&against=Bag&colours=PuOr_r")
    expect(page.get_by_role("link", name="Export")).to_be_visible()
    wait_for_script(page)
    page.get_by_role("link", name="Export").click()
    expect_preview(page)
    expect(page).to_have_url(re.compile("classes=Sneaker"))
    expect(page).to_have_url(re.compile("colours=PuOr_r"))
    assert b"logit less that of Bag" in download_file(page, "SVG")


def test_a_figure_without_a_panel_says_what_to_do(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/export?network=fashion_gap&panels=photo")
    expect_preview(page)
    page.get_by_role("button", name="photo", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("A figure needs at least one panel. Choose one above.")
    page.get_by_role("button", name="classes", exact=True).click()
    expect_preview(page)


def test_nothing_is_cut_off(page: Page, app_url: str) -> None:
    address = f"{app_url}/export?network=fashion_gap&width=300"
    for width in show_windows(page, address, [(380, "dark"), (1400, "light"), (2560, "light")]):
        expect_preview(page)
        assert_nothing_is_cut_off(page)
        for name in ("photo", "classes", "contrast", "all", "All (ZIP)"):
            box = page.get_by_role("button", name=name, exact=True).bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        image = page.get_by_role("img", name="preview of the figure").bounding_box()
        assert image is not None
        assert image["x"] + image["width"] <= width
