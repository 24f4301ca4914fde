"""The page of class maps in a real browser: upload -> map -> download."""

import io
import json
import re
import zipfile

import numpy as np
import pytest
from page_checks import (
    MIDDLE,
    ColorScheme,
    assert_all_inside,
    assert_drawn_as_in_python,
    assert_nothing_is_cut_off,
    download_file,
    expect_heading,
    open_saved_files,
    show_windows,
)
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from inspector import ClassMaps, class_maps, load
from inspector.images.examples import list_examples

pytestmark = pytest.mark.browser

CAT = list_examples("photos")["Cat"]
COFFEE = list_examples("photos")["Coffee"]


def test_upload_to_map_to_download(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?example=Cat")
    expect_heading(page, "Why tiger cat rather than nothing")
    page.locator(".st-key-uploader input[type=file]").set_input_files(COFFEE)
    expect_heading(page, "Why espresso rather than nothing")
    expect(page.get_by_role("img", name="class map: espresso")).to_be_visible()
    expect(page.locator(".verdict")).to_contain_text("exact: map + bias = logit")

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
    page.goto(f"{app_url}/?example=Cat")
    expect_heading(page, "Why tiger cat rather than nothing")
    search(page, "Rather than", "mean of")
    expect_heading(page, "Why tiger cat rather than mean of all classes")
    search(page, "Any class", "golden ret")
    expect_heading(page, "Why golden retriever rather than mean of all classes")
    page.get_by_label("Colors").select_option("turbo")
    page.get_by_role("radio", name="color", exact=True).click()
    page.get_by_label("Raw grid").check()
    page.get_by_role("slider", name="Opacity").fill("0.5")
    page.get_by_label("keep for the next photo").check()
    expect(page).to_have_url(re.compile("colours=turbo.*gray=false.*grid=true.*opacity=0.5.*pinned=true"))
    link, shown = page.url, read_controls(page)
    page.goto("about:blank")
    page.goto(link)
    expect_heading(page, "Why golden retriever rather than mean of all classes")
    assert read_controls(page) == shown == ["turbo", "color", True, "0.5", True]


def search(page: Page, label: str, text: str) -> None:
    """Choose the first name that a text field of the viewer finds."""
    page.get_by_label(label, exact=True).click()
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def read_controls(page: Page) -> list[object]:
    return [
        page.get_by_label("Colors").input_value(),
        page.get_by_role("radiogroup", name="Photo", exact=True).get_by_role("radio", checked=True).inner_text(),
        page.get_by_label("Raw grid").is_checked(),
        page.get_by_role("slider", name="Opacity").input_value(),
        page.get_by_label("keep for the next photo").is_checked(),
    ]


def test_a_broken_upload_shows_one_error(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?example=Cat")
    expect_heading(page, "Why tiger cat rather than nothing")
    broken = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": CAT.read_bytes()[:5000]}
    page.locator(".st-key-uploader input[type=file]").set_input_files(broken)
    expect(page.get_by_role("alert")).to_contain_text("broken.jpg is broken or cut off")
    expect(page.get_by_role("heading", name="Why tiger cat rather than nothing")).to_have_count(0)


def test_nothing_is_cut_off_at_any_width(page: Page, app_url: str) -> None:
    windows: list[tuple[int, ColorScheme]] = [(width, "light") for width in (380, 800, 1400, 2560)]
    for width in show_windows(page, f"{app_url}/?network=fashion_gap", windows):
        expect_heading(page, "All class maps before pooling")
        assert_nothing_is_cut_off(page)
        name = page.get_by_role("radio", name="Ankle boot, probability").locator(".name").bounding_box()
        assert name is not None
        assert name["height"] < 50  # at most two lines
        image = page.get_by_role("img", name="class map: Ankle boot").bounding_box()
        assert image is not None
        assert image["x"] >= 0
        assert image["x"] + image["width"] <= width


def test_sessions_do_not_see_each_others_photos(page: Page, chromium: Browser, app_url: str) -> None:
    photos = [(CAT, "tiger cat"), (COFFEE, "espresso")]
    another = chromium.new_context()
    pages = [page, another.new_page()]
    for page in pages:
        page.goto(f"{app_url}/?example=Cat")
    for page in pages:
        expect_heading(page, "Why tiger cat rather than nothing")
    for page, (photo, _) in zip(pages, photos, strict=True):
        page.locator(".st-key-uploader input[type=file]").set_input_files(photo)
    for page, (photo, name) in zip(pages, photos, strict=True):
        expect(page.get_by_role("radio", name=f"your photo {photo.name}", exact=True)).to_be_checked()
        expect_heading(page, f"Why {name} rather than nothing")
    another.close()


@pytest.fixture(scope="module")
def coffee() -> ClassMaps:
    """Return the class maps that the app shows of the example Coffee."""
    return class_maps(load("efficientnet_lite0"), COFFEE)


@pytest.mark.parametrize("link", ["", "&grid=true&colours=turbo&opacity=0.6", "&gray=false&colours=PuOr_r"])
def test_the_browser_draws_the_same_pixels_as_the_library(
    page: Page, app_url: str, coffee: ClassMaps, link: str
) -> None:
    page.goto(f"{app_url}/?example=Coffee{link}")
    expect_heading(page, "Why espresso rather than nothing")
    settings = dict(re.findall(r"(\w+)=([\w.]+)", link))
    colormap, opacity = settings.get("colours", "inspector"), float(settings.get("opacity", "0.85"))
    k = coffee.top(1)[0][0]
    expect(page.get_by_role("img", name="class map: espresso", exact=True)).to_be_visible()
    smooth, gray = "grid" not in settings, "gray" not in settings
    assert_drawn_as_in_python(page.locator(".inspector-viewer"), coffee, k, smooth, opacity, colormap, gray)


def test_boxes_follow_the_threshold_on_a_finer_grid_and_back(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?{BOOT}&boxes=all&position=1,2")
    viewer = page.locator(".inspector-viewer")
    rows, finer = viewer.locator(".found tr"), viewer.locator("p.finer")
    expect(rows.nth(1)).to_contain_text("Ankle boot")
    viewer.get_by_role("radio", name="4x").click()
    expect(finer).to_contain_text("4x finer by dilating the last strides")
    expect(viewer.locator(".inspector-line")).to_contain_text("Row 4, column 8: ")
    maps = class_maps(load("fashion_gap"), list_examples("fashion_mnist")["Ankle boot"], finer=4)
    threshold = viewer.locator("[data-name=threshold] input")
    for share in (0.3, 0.9):
        threshold.fill(str(share))
        left, top, right, bottom = maps.locate("Ankle boot", threshold=share).boxes[0]
        numbers = (f"{number:.0f}" for number in (left, top, right - left, bottom - top))
        expect(rows.nth(1)).to_have_text(re.compile(r"Ankle boot" + "".join(numbers) + r"\d"))
        path = f"M{left:g} {top:g}H{right:g}V{bottom:g}H{left:g}Z"
        for picture in (".seen", ".mapped"):
            assert path in (viewer.locator(f"{picture} path.box").get_attribute("d") or "")
    expect(page).to_have_url(re.compile("finer=4.*threshold=0.9"))
    viewer.get_by_role("radio", name="own").click()  # fewer rows and columns: the chosen cell is on them
    expect(finer).to_be_hidden()
    expect(viewer.locator(".inspector-line")).to_contain_text("Row 1, column 2: ")


def test_a_class_of_the_list_is_drawn_without_waiting_for_the_server(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?example=Cat")
    expect_heading(page, "Why tiger cat rather than nothing")
    expect(page.get_by_role("radio", name="tabby, probability")).to_be_visible()
    # In one turn of the browser's event loop, no response can arrive.
    before, *after = page.evaluate(
        """() => {
            const canvas = document.querySelector(".inspector-photo canvas.map");
            const find = selector => document.querySelector(`.inspector-viewer ${selector}`);
            const shown = () => [canvas.getAttribute("aria-label"), canvas.toDataURL()];
            const change = (element, value) => {
                element.value = value;
                element.dispatchEvent(new Event(element.type === "range" ? "input" : "change"));
                return shown();
            };
            const all = [shown()];
            document.querySelectorAll(".inspector-classes [role=radio]")[2].click();
            all.push(shown());
            const against = find("input.against");
            against.focus();
            against.value = "tiger cat";
            against.dispatchEvent(new Event("input"));
            all.push(shown());
            all.push(change(find("[data-name=colors] select"), "inferno"));
            all.push(change(find("[data-name=opacity] input"), "0.4"));
            find("[data-name=raw] input").click();
            all.push(shown());
            return all;
        }"""
    )
    assert before[0] == "class map: tiger cat"
    assert [label for label, _ in after] == ["class map: tabby", *["class map: tabby rather than tiger cat"] * 4]
    assert len({picture for _, picture in [before, *after]}) == 6
    expect_heading(page, "Why tabby rather than tiger cat")
    expect(page).to_have_url(re.compile("class=tabby.*reading=against.a.class.*against=tiger.cat.*colours=inferno"))


def test_the_arrow_keys_walk_the_list_of_classes(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?example=Cat&class=tabby")
    expect_heading(page, "Why tabby rather than nothing")
    page.get_by_role("radio", name="tabby, probability").press("ArrowUp")
    expect_heading(page, "Why Egyptian cat rather than nothing")
    expect(page.get_by_role("radio", name="Egyptian cat, probability")).to_be_focused()
    expect(page).to_have_url(re.compile("class=Egyptian"))
    # A class is drawn once, after any number of runs of the page.
    drawn = page.evaluate(
        """() => {
            const canvas = document.querySelector(".inspector-photo canvas.map"), context = canvas.getContext("2d");
            const put = context.putImageData;
            let drawn = 0;
            context.putImageData = function (...image) { drawn += 1; return put.apply(this, image); };
            document.querySelectorAll(".inspector-classes [role=radio]")[0].click();
            return drawn;
        }"""
    )
    assert drawn == 1


def test_a_click_on_a_map_below_chooses_its_class(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?{BOOT}")
    tile = page.get_by_role("button", name="class map of Sneaker, logit")
    tile.click()
    expect_heading(page, "Why Sneaker rather than nothing")
    expect(tile).to_have_attribute("aria-pressed", "true")
    names = page.locator(".inspector-class-maps .all .name")
    page.get_by_label("sort by logit").check()
    maps = class_maps(load("fashion_gap"), list_examples("fashion_mnist")["Ankle boot"])
    assert names.all_inner_texts() == [name for _, name, _ in maps.top(10)]
    page.locator(".inspector-class-maps .top").get_by_role("button", name="Sandal").click()
    expect_heading(page, "Why Sandal rather than nothing")


def test_all_class_maps_hold_their_numbers_and_frame_the_maximum(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?network=fashion_gmp&example=Ankle+boot")
    maps = class_maps(load("fashion_gmp"), list_examples("fashion_mnist")["Ankle boot"])
    cells = page.get_by_role("button", name="class map of Sneaker, logit").locator(".cells span")
    k = maps.classifier.class_names.index("Sneaker")
    scores = maps.position_scores([k])[0].flatten()
    texts = [f"{value:.{1 if abs(value) >= 9.95 else 2}f}" for value in scores.tolist()]
    expect(cells).to_have_text([text.replace("-", "\N{MINUS SIGN}") for text in texts])
    assert cells.evaluate_all("all => all.findIndex(cell => cell.className.includes('maximum'))") == int(
        scores.argmax()
    )


def test_every_picture_of_the_page_is_saved_as_it_is_shown(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?{BOOT}&colours=inferno&opacity=0.6")
    expect_heading(page, "Why Ankle boot rather than nothing")
    page.get_by_role("button", name="Save the picture").click()
    menu = page.get_by_test_id("stPopoverBody")
    for name in ("^class map Ankle boot", "^photo "):
        menu.get_by_role("combobox").click()
        page.get_by_role("option", name=re.compile(name)).click()
        expect(menu.get_by_text("class_maps(classifier, ")).to_be_visible()
        open_saved_files(page, menu, 1000)


def test_a_channel_of_the_card_opens_on_the_page_layers_and_the_order_of_all_maps_is_in_the_link(
    page: Page, app_url: str
) -> None:
    page.goto(f"{app_url}/?{BOOT}&position=1,2")
    page.get_by_role("checkbox", name="sort by logit").check()
    expect(page).to_have_url(re.compile("sorted=true"))
    channel = page.locator(".inspector-viewer .chosen a").first
    number = channel.inner_text()
    channel.click()
    expect_heading(page, f"Channel {number}")
    expect(page).to_have_url(re.compile(f"/layers.*channel={number}"))
    expect_heading(page, "Channel contributions to Ankle boot")


@pytest.mark.parametrize("link", ["", "position=3,3&show=what+if&masked=3,3"])
def test_everything_that_answers_a_click_is_above_the_fold(page: Page, app_url: str, link: str) -> None:
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"{app_url}/?example=Cat&{link}")
    expect_heading(page, "Why tiger cat rather than nothing")
    for part in ("h2", ".inspector-photo", ".bar", ".controls", ".inspector-classes", ".sum"):
        expect(page.locator(f".inspector-viewer {part}").first).to_be_in_viewport(ratio=1)
    if link:
        expect(page.locator(".chosen")).to_be_in_viewport(ratio=1)
        expect(page.locator("table.what-if")).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize(("shape", "least"), [((2000, 250), 240), ((250, 2000), 150)], ids=["tall", "wide"])
def test_tall_and_wide_photos_keep_a_readable_size(
    page: Page, app_url: str, shape: tuple[int, int], least: int
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)).save(buffer, "JPEG")
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"{app_url}/?example=Cat")
    upload = {"name": "thin.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()}
    page.locator(".st-key-uploader input[type=file]").set_input_files(upload)
    expect(page.locator(".seen img")).to_have_attribute("alt", "photo thin.jpg")
    boxes = [page.locator(selector).bounding_box() for selector in (".seen .picture", ".inspector-photo")]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert min(boxes[0]["width"], boxes[0]["height"] * 2) >= least
    assert (boxes[0]["width"], boxes[0]["height"]) == (boxes[1]["width"], boxes[1]["height"])


def photo(page: Page) -> Locator:
    return page.get_by_role("application")


def value_line(page: Page) -> Locator:
    return page.locator(".inspector-line")


def panel(page: Page, text: str = "Cell (") -> Locator:
    return page.locator(".inspector-viewer .card").get_by_text(text)


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
    expect_heading(page, "Why Ankle boot rather than nothing")
    expect(value_line(page)).to_contain_text("use the arrow keys")
    # Cells are 8 pixels wide, on 28 pixels; the last is wider: the center of the right column is at 22.
    page.mouse.move(*point(page, 22 / 28, 12 / 28))
    expect(value_line(page)).to_have_text(f"Row 1, column 2: {value_at(1, 2)} logits")
    expect(panel(page)).to_have_count(0)
    page.mouse.click(*point(page, 4 / 28, 22 / 28))
    expect(panel(page, "Cell (2, 0)")).to_be_visible()
    expect(page).to_have_url(re.compile("position=2%2C0"))
    assert marks(page, "cell") == marks(page, "field") == marks(page, "center") == 1
    # Another class keeps the selected cell.
    search(page, "Class", "Bag")
    expect_heading(page, "Why Bag rather than nothing")
    expect(panel(page, "Cell (2, 0)")).to_be_visible()
    assert marks(page, "cell") == 1


def test_there_is_no_cell_outside_the_input_of_the_network(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?example=Cat")
    expect_heading(page, "Why tiger cat rather than nothing")
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
    page.get_by_label("Rather than", exact=True).focus()
    page.keyboard.press("Tab")
    expect(photo(page)).to_be_focused()
    assert photo(page).evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
    # The third step down stops at the edge.
    expect(panel(page, "Cell (2, 1)")).to_be_visible()
    expect(value_line(page)).to_have_text(f"Row 2, column 1: {value_at(2, 1)} logits")
    expect(page).to_have_url(re.compile("position=2%2C1"))
    link = page.url
    page.keyboard.press("Escape")
    expect(panel(page)).to_have_count(0)
    assert marks(page, "cell") == 0
    expect(page).not_to_have_url(re.compile("position"))
    page.goto(link)
    expect(panel(page, "Cell (2, 1)")).to_be_visible()


def test_a_click_keeps_the_pictures_of_the_page(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?{BOOT}")
    expect_heading(page, "All class maps before pooling")
    photo(page).evaluate("element => { element.seen = true; element.querySelector('canvas').seen = true }")
    page.mouse.click(*point(page, 0.5, 0.5))
    expect(panel(page, "Cell (1, 1)")).to_be_visible()
    # The elements and the picture are the same: nothing was removed and drawn again.
    assert photo(page).evaluate("element => element.seen && element.querySelector('canvas').seen")


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
    page.get_by_label("In the photo, masked cells are").select_option("gray")
    expect(table).to_be_visible()
    expect(table).not_to_have_text(blurred, use_inner_text=True)
    expect(page).to_have_url(re.compile("masked="))
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


@pytest.mark.parametrize("show", ["winning class", "what if"])
def test_nothing_below_the_photo_is_cut_off(page: Page, app_url: str, show: str) -> None:
    address = f"{app_url}/?network=flowers17_gmp&position=3,3&show={show}"
    for width in show_windows(page, address, [(380, "dark"), (MIDDLE, "light"), (2560, "light")]):
        expect(panel(page, "Cell (3, 3)")).to_be_visible()
        if show == "what if":
            page.get_by_role("button", name="Mask these cells").click()
            expect(page.locator("table.what-if")).to_be_visible()
        assert_nothing_is_cut_off(page)
        assert_all_inside(page.locator(".picture, .what-if, .inspector-line, .card:not(:empty), .controls"), width)
