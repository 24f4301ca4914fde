"""The page of class maps in a real browser: upload -> map -> download."""

import io
import json
import zipfile
from typing import Literal

import numpy as np
import pytest
from page_checks import assert_nothing_is_cut_off, download_file, expect_heading
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from inspector import class_maps, load
from inspector.images.examples import list_examples
from inspector.output.overlay import common_scale, dimmed_photo, draw_map_on_photo

pytestmark = pytest.mark.browser

CAT = list_examples("photos")["Cat"]
COFFEE = list_examples("photos")["Coffee"]


def test_upload_to_map_to_download(page: Page, app_url: str) -> None:
    page.goto(app_url)
    expect_heading(page, "tiger cat")
    page.locator(".st-key-uploader input[type=file]").set_input_files(COFFEE)
    expect_heading(page, "espresso")
    expect(page.get_by_role("img", name="class map: espresso")).to_be_visible()
    assert "exact" in page.get_by_test_id("stMain").inner_text()

    with Image.open(io.BytesIO(download_file(page, "PNG"))) as figure:
        assert figure.width > 1000
    assert download_file(page, "PDF").startswith(b"%PDF")
    assert b"espresso" in download_file(page, "SVG")
    numbers = np.load(io.BytesIO(download_file(page, "NPZ")))
    assert numbers["class_names"][numbers["logits"].argmax()] == "espresso"
    assert np.allclose(numbers["values"].sum((1, 2)) + numbers["bias"], numbers["logits"], atol=1e-4)
    with zipfile.ZipFile(io.BytesIO(download_file(page, "All (ZIP)"))) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["photo"]["name"] == COFFEE.name


def test_a_link_reopens_the_same_view(page: Page, app_url: str) -> None:
    page.goto(app_url)
    expect_heading(page, "tiger cat")
    page.get_by_role("radio", name="against the average").click()
    expect_heading(page, "tiger cat against the average class")
    page.get_by_role("combobox", name="Class").click()
    page.keyboard.type("golden ret")
    page.keyboard.press("Enter")
    expect_heading(page, "golden retriever against the average class")
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    expect_heading(page, "golden retriever against the average class")


def test_a_broken_upload_shows_one_error(page: Page, app_url: str) -> None:
    page.goto(app_url)
    expect_heading(page, "tiger cat")
    broken = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": CAT.read_bytes()[:5000]}
    page.locator(".st-key-uploader input[type=file]").set_input_files(broken)
    expect(page.get_by_role("alert")).to_contain_text("broken.jpg is broken or cut off")
    expect(page.get_by_role("heading", name="tiger cat", exact=True)).to_have_count(0)


@pytest.mark.parametrize("width", [380, 800, 1400, 2560])
def test_nothing_is_cut_off_at_any_width(page: Page, app_url: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{app_url}/?network=fashion_gap")
    expect_heading(page, "All class maps before pooling")
    assert_nothing_is_cut_off(page)
    name = page.get_by_role("radio", name="Ankle boot, probability").locator(".name").bounding_box()
    assert name is not None
    assert name["height"] < 50  # at most two lines
    image = page.get_by_role("img", name="class map: Ankle boot").bounding_box()
    assert image is not None
    assert image["x"] >= 0
    assert image["x"] + image["width"] <= width


def test_sessions_do_not_see_each_others_photos(chromium: Browser, app_url: str) -> None:
    photos = [(CAT, "tiger cat"), (COFFEE, "espresso")] * 2
    contexts = [chromium.new_context() for _ in photos]
    pages = [context.new_page() for context in contexts]
    for page in pages:
        page.goto(app_url)
    for page in pages:
        expect_heading(page, "tiger cat")
    for page, (photo, _) in zip(pages, photos, strict=True):
        page.locator(".st-key-uploader input[type=file]").set_input_files(photo)
    for page, (photo, name) in zip(pages, photos, strict=True):
        expect(page.get_by_role("radio", name=f"your photo {photo.name}", exact=True)).to_be_checked()
        expect_heading(page, name)
    for context in contexts:
        context.close()


@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "raw"])
def test_the_browser_draws_the_same_pixels_as_the_library(page: Page, app_url: str, smooth: bool) -> None:
    page.goto(f"{app_url}/?example=Coffee&grid={str(not smooth).lower()}")
    expect_heading(page, "espresso")
    canvas = page.get_by_role("img", name="class map: espresso")
    data = canvas.evaluate("c => [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
    drawn = np.array(data[2:], float).reshape(data[0], data[1], 4)
    maps = class_maps(load("efficientnet_lite0"), COFFEE)
    assert maps.view is not None
    read = [maps.class_map(k) for k, _, _ in maps.top(5)]
    scale = common_scale([one.values for one in read])
    base = dimmed_photo(maps.view.photo, maps.view.crop, max(data[:2]))
    field = maps.classifier.receptive_field
    expected = draw_map_on_photo(base, maps.view.crop, read[0].values, field, scale, smooth)
    part = drawn[..., 3:] / 255
    # The tolerance: two roundings, and one level where a value lies between two colors.
    assert np.abs(base * (1 - part) + drawn[..., :3] * part - expected).max() <= 4


def test_a_class_of_the_list_is_drawn_without_waiting_for_the_server(page: Page, app_url: str) -> None:
    page.goto(app_url)
    expect_heading(page, "tiger cat")
    expect(page.get_by_role("radio", name="tabby, probability")).to_be_visible()
    # In one turn of the browser's event loop, no response can arrive.
    before, after = page.evaluate(
        """() => {
            const canvas = document.querySelector(".inspector-photo canvas");
            const shown = () => [canvas.getAttribute("aria-label"), canvas.toDataURL()];
            const before = shown();
            document.querySelectorAll(".inspector-classes [role=radio]")[2].click();
            return [before, shown()];
        }"""
    )
    assert (before[0], after[0]) == ("class map: tiger cat", "class map: tabby")
    assert before[1] != after[1]
    expect_heading(page, "tabby")
    page.keyboard.press("ArrowUp")
    expect_heading(page, "Egyptian cat")
    expect(page.get_by_role("radio", name="Egyptian cat, probability")).to_be_focused()
    assert "class=Egyptian" in page.url
    # A class is drawn once, after any number of runs of the page.
    drawn = page.evaluate(
        """() => {
            const context = CanvasRenderingContext2D.prototype, put = context.putImageData;
            let drawn = 0;
            context.putImageData = function (...image) { drawn += 1; return put.apply(this, image); };
            document.querySelectorAll(".inspector-classes [role=radio]")[0].click();
            context.putImageData = put;
            return drawn;
        }"""
    )
    assert drawn == 1


def photo(page: Page) -> Locator:
    return page.get_by_role("application")


def value_line(page: Page) -> Locator:
    return page.locator(".inspector-line")


def panel(page: Page, text: str = "Cell (") -> Locator:
    return page.get_by_test_id("stMain").get_by_text(text)


def point(page: Page, x: float, y: float) -> tuple[float, float]:
    """Return a place on the photo in pixels of the window; x and y are fractions of its width and height."""
    photo(page).scroll_into_view_if_needed()
    box = photo(page).bounding_box()
    assert box is not None
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def marks(page: Page, name: str) -> int:
    """Return how many outlines of this name are drawn."""
    return (photo(page).locator(f"path.{name}").get_attribute("d") or "").count("M")


BOOT = "network=fashion_gap&example=Ankle+boot"


def value_at(row: int, column: int) -> str:
    """Return the value of a cell for the top-1 class of the boot, as the browser writes it."""
    maps = class_maps(load("fashion_gap"), list_examples("fashion_mnist")["Ankle boot"])
    value = float(maps.values[maps.top(1)[0][0], row, column])
    return f"{float(f'{value:.3g}'):+g}".replace("-", "\N{MINUS SIGN}")


def test_pointing_shows_the_value_of_a_cell_and_a_click_selects_it(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?{BOOT}")
    expect_heading(page, "Ankle boot")
    expect(value_line(page)).to_contain_text("use the arrow keys")
    # Cells are 8 pixels wide, on 28 pixels; the last is wider: the center of the right column is at 22.
    page.mouse.move(*point(page, 22 / 28, 12 / 28))
    expect(value_line(page)).to_have_text(f"Row 1, column 2: {value_at(1, 2)} logits")
    expect(panel(page)).to_have_count(0)
    page.mouse.click(*point(page, 4 / 28, 22 / 28))
    expect(panel(page, "Cell (2, 0)")).to_be_visible()
    assert "position=2%2C0" in page.url
    assert marks(page, "cell") == marks(page, "field") == marks(page, "center") == 1
    # Another class keeps the selected cell.
    page.get_by_role("combobox", name="Class").click()
    page.keyboard.type("Bag")
    page.keyboard.press("Enter")
    expect_heading(page, "Bag")
    expect(panel(page, "Cell (2, 0)")).to_be_visible()
    assert marks(page, "cell") == 1


def test_there_is_no_cell_outside_the_input_of_the_network(page: Page, app_url: str) -> None:
    page.goto(app_url)
    expect_heading(page, "tiger cat")
    page.mouse.move(*point(page, 0.01, 0.5))
    expect(value_line(page)).to_have_text("The network does not see this part of the photo.")
    page.mouse.click(*point(page, 0.01, 0.5))
    page.mouse.move(*point(page, 0.5, 0.5))
    expect(value_line(page)).to_contain_text("Row 3, column 3")
    assert marks(page, "cell") == 0


def test_the_arrow_keys_move_the_selection_and_escape_clears_it(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?{BOOT}&position=0,0")
    expect(panel(page, "Cell (0, 0)")).to_be_visible()
    expect_heading(page, "All class maps before pooling")
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0)
    # While the page is still drawn, the focus may get lost.
    for _ in range(20):
        page.get_by_role("slider").press("Tab")
        page.wait_for_timeout(500)
        if photo(page).evaluate("element => element.matches(':focus')"):
            break
    expect(photo(page)).to_be_focused()
    assert photo(page).evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
    # The third step down stops at the edge.
    expect(panel(page, "Cell (2, 1)")).to_be_visible()
    expect(value_line(page)).to_have_text(f"Row 2, column 1: {value_at(2, 1)} logits")
    link = page.url
    page.keyboard.press("Escape")
    expect(panel(page)).to_have_count(0)
    assert marks(page, "cell") == 0
    assert "position" not in page.url
    page.goto(link)
    expect(panel(page, "Cell (2, 1)")).to_be_visible()


def test_a_click_runs_only_the_part_of_the_page_below_the_photo(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?{BOOT}")
    expect_heading(page, "All class maps before pooling")
    photo(page).evaluate("element => { element.seen = true; element.querySelector('img').seen = true }")
    source = photo(page).locator("img").get_attribute("src")
    page.mouse.click(*point(page, 0.5, 0.5))
    expect(panel(page, "Cell (1, 1)")).to_be_visible()
    # The elements and the picture are the same: nothing was removed and drawn again.
    assert photo(page).evaluate("element => element.seen && element.querySelector('img').seen")
    assert photo(page).locator("img").get_attribute("src") == source


def test_what_if_shows_the_logits_without_the_masked_cells(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?{BOOT}&show=what+if")
    expect(panel(page, "Click cells on the photo")).to_be_visible()
    table = page.locator("table.what-if")
    page.mouse.click(*point(page, 4 / 28, 4 / 28))
    maps = class_maps(load("fashion_gap"), list_examples("fashion_mnist")["Ankle boot"])
    k = maps.top(1)[0][0]
    for gone in ([(0, 0)], [(0, 0), (0, 1)]):
        left = float(maps.logits[k] - sum(maps.values[k, y, x] for y, x in gone))
        expect(table.locator("tr", has_text="Ankle boot").locator("td").nth(1)).to_have_text(
            f"{left:.3f}".replace("-", "\N{MINUS SIGN}")
        )
        assert marks(page, "masked") == len(gone)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
    # The last key press masked a third cell; Enter unmasks it.
    expect(value_line(page)).to_contain_text("masked")
    page.keyboard.press("Enter")
    expect(value_line(page)).not_to_contain_text("masked")
    blurred = table.inner_text()
    expect(page.get_by_role("img", name="masked input of the network")).to_be_visible()
    page.get_by_role("radio", name="grey").click()
    expect(table).not_to_have_text(blurred, use_inner_text=True)
    page.get_by_role("button", name="Clear").click()
    expect(panel(page, "Click cells on the photo")).to_be_visible()
    assert marks(page, "masked") == 0


def test_no_click_is_lost_when_clicks_follow_quickly(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?{BOOT}&show=what+if")
    expect(panel(page, "Click cells on the photo")).to_be_visible()
    places = [point(page, x / 28, y / 28) for x in (4, 12, 22) for y in (4, 12)]
    for place in places:
        page.mouse.click(*place)
    maps = class_maps(load("fashion_gap"), list_examples("fashion_mnist")["Ankle boot"])
    k = maps.top(1)[0][0]
    left = float(maps.bias[k] + maps.values[k, 2].sum())
    expect(page.locator("table.what-if tr", has_text="Ankle boot").locator("td").nth(1)).to_have_text(
        f"{left:.3f}".replace("-", "\N{MINUS SIGN}")
    )
    assert marks(page, "masked") == 6


@pytest.mark.parametrize(("width", "scheme"), [(380, "dark"), (2560, "light")])
@pytest.mark.parametrize("show", ["winning class", "what if"])
def test_nothing_below_the_photo_is_cut_off(
    chromium: Browser, app_url: str, width: int, scheme: Literal["dark", "light"], show: str
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{app_url}/?network=flowers17_gmp&position=3,3&show={show}")
    expect(panel(page, "Cell (3, 3)")).to_be_visible()
    if show == "what if":
        page.get_by_role("button", name="Mask these cells").click()
        expect(page.locator("table.what-if")).to_be_visible()
    assert_nothing_is_cut_off(page)
    for element in page.locator(".inspector-photo, .what-if, .inspector-line").all():
        box = element.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    context.close()
