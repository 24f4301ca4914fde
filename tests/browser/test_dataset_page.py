"""The page Dataset in a real browser: from a folder of results to one image, and its errors."""

import hashlib
import re
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from made_up_results import Image, make_about, write_results
from page_checks import assert_nothing_is_cut_off, expect_heading, show_windows
from PIL import Image as Picture
from playwright.sync_api import Browser, Page, expect

from inspector.images.examples import list_examples

pytestmark = pytest.mark.browser

NAMES = ("cat", "dog", "crane", "crane")
GRID = (2, 3)
IMAGES = 60  # more than a page of the table


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write results of cats, every tenth predicted as dog; then a crane, a deleted photo, a changed one, an error."""
    folder = tmp_path_factory.mktemp("data set")
    random = np.random.default_rng(0)
    images = []
    for number in range(IMAGES):
        path = folder / f"photo{number:02d}.png"
        Picture.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        first, second = (1, 0) if number % 10 == 5 else (0, 1)
        maps = {first: random.random(GRID), second: random.random(GRID) / 2}
        label = 0
        if number == IMAGES - 4:
            maps, label = {3: np.ones(GRID), 0: np.zeros(GRID)}, 3
        elif number == IMAGES - 3:
            path.unlink()
        elif number == IMAGES - 2:
            sha256 = "1" * 64
        error = "photo59.png is broken" if number == IMAGES - 1 else None
        images.append(Image(str(path), maps, label, None, (40, 60), (0, 0, 60, 40), error=error, sha256=sha256))
    return write_results(folder / "results", images, make_about(NAMES, GRID, shard_size=25), each=25)


def make_url(app_url: str, folder: Path, **more: object) -> str:
    query = "".join(f"&{key}={quote(str(value))}" for key, value in more.items())
    return f"{app_url}/dataset?data={quote(str(folder))}{query}"


def expect_image(page: Page, photo: str) -> None:
    expect(page.get_by_role("strong").filter(has_text=photo)).to_be_visible()


def test_a_typed_folder_shows_counts_average_maps_and_confusions(page: Page, app_url: str, results: Path) -> None:
    page.goto(f"{app_url}/dataset")
    expect(page.get_by_text("inspector batch PHOTOS")).to_be_visible()
    page.get_by_role("combobox", name="Results").fill(str(results))
    page.keyboard.press("Enter")
    expect_heading(page, "Extreme images")
    # 6 of 59 are predicted as dog.
    expect(page.get_by_text("89.8% of 59 whose label is a class")).to_be_visible()
    expect_heading(page, "Average class map of cat")
    expect(page.get_by_text("predicted as this class: 52 images")).to_be_visible()
    expect(page.get_by_role("img", name="contrast map of cat predicted as dog")).to_be_visible()
    expect(page.get_by_text("6 of 58 images")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("class map of .* over photo"))).to_have_count(12)
    expect(page).to_have_url(re.compile("data="))
    assert not (results / "survey").exists(), "a link does not write into the folder that it opens"


def test_a_batch_of_the_photos_of_the_bar_runs_is_listed_and_keeps_its_photos(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/dataset?network=fashion_gap")
    photos = sorted(list_examples("fashion_mnist").values())
    page.locator(".st-key-uploader input[type=file]").set_input_files(photos)
    page.get_by_role("radio", name="the bar").click()
    start = page.get_by_role("button", name="Start with fashion_gap")
    expect(start).to_be_enabled()
    start.click()
    expect_heading(page, "Images")
    expect(page.get_by_text("Page of 1 with 10 images")).to_be_visible()
    # The photo is drawn under its map, though it is in no file.
    expect_image(page, photos[0].name)
    expect(page.get_by_text("Only its grid is shown.")).to_have_count(0)
    name = page.get_by_role("combobox", name="Results").input_value()
    assert name.endswith("uploaded photos fashion_gap")
    # Another session lists the results; the photos are those of the first session alone.
    page.goto("about:blank")
    page.goto(f"{app_url}/dataset")
    page.get_by_role("combobox", name="Results").click()
    page.get_by_role("option", name=name).click()
    expect(page.get_by_text("The photo was uploaded, and is not stored. Only its grid is shown.")).to_be_visible()


def test_a_visitor_of_an_app_for_others_reads_no_folder_of_the_link(
    chromium: Browser, app_url: str, results: Path
) -> None:
    # As a proxy passes on the request of a visitor.
    context = chromium.new_context(extra_http_headers={"X-Forwarded-For": "10.0.0.7"})
    page = context.new_page()
    page.goto(make_url(app_url, results))
    expect(page.get_by_text(f"No folder {results} in the list of this app.")).to_be_visible()
    expect(page.get_by_role("textbox")).to_have_count(0)
    context.close()


def test_filters_page_and_image_are_in_the_link(page: Page, app_url: str, results: Path) -> None:
    page.goto(make_url(app_url, results))
    expect(page.get_by_text("Page of 2 with 60 images")).to_be_visible()
    expect_image(page, "photo00.png")
    page.get_by_role("spinbutton", name="Page of 2").fill("2")
    page.keyboard.press("Enter")
    expect_image(page, "photo50.png")
    page.get_by_role("radio", name="misclassified").click()
    expect(page.get_by_text("Page of 1 with 6 images")).to_be_visible()
    expect_image(page, "photo05.png")
    expect(page.get_by_text("label cat (rank 2, 25.0%); top-1 dog (50.0%)")).to_be_visible()
    page.get_by_role("spinbutton", name="Image number").fill("15")
    page.keyboard.press("Enter")
    expect_image(page, "photo15.png")
    expect(page).to_have_url(re.compile("image=15"))
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    expect(page.get_by_text("Page of 1 with 6 images")).to_be_visible()
    expect_image(page, "photo15.png")


def test_a_row_of_the_table_opens_its_image_and_another_class_map_can_be_chosen(
    page: Page, app_url: str, results: Path
) -> None:
    page.goto(make_url(app_url, results))
    expect_image(page, "photo00.png")
    table = page.get_by_test_id("stDataFrame").first
    expect(table.locator("canvas").first).to_be_visible()
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    assert box is not None
    # The check box of the third row: the heading and each row are 35 pixels high.
    page.mouse.click(box["x"] + 20, box["y"] + 35 * 3.5)
    expect_image(page, "photo02.png")
    expect(page.get_by_role("img", name="class map of cat", exact=True)).to_be_visible()
    # The radio button of the previous image stays until the new one is drawn.
    expect(page.get_by_test_id("stRadio")).to_have_count(1)
    page.get_by_test_id("stRadio").locator("label").filter(has_text=re.compile("^dog$")).click()
    expect(page.get_by_role("img", name="class map of dog", exact=True)).to_be_visible()
    expect(page.get_by_text(re.compile(r"^map .* \+ bias 0\.250 = "))).to_be_visible()


def test_a_photo_that_cannot_be_shown_has_its_reason(page: Page, app_url: str, results: Path) -> None:
    page.goto(make_url(app_url, results, image=999))
    expect(page.get_by_text("There is no image number 999.").first).to_be_visible()
    for number, text in (
        (IMAGES - 4, "top-1 crane (50.0%)"),
        (IMAGES - 3, "The photo is not at its path any more. Only its grid is shown."),
        (IMAGES - 2, "The file at the path of the photo has changed. Only the grid is shown."),
        (IMAGES - 1, "photo59.png is broken"),
    ):
        page.get_by_role("spinbutton", name="Image number").fill(str(number))
        page.keyboard.press("Enter")
        expect(page.get_by_text(text).first).to_be_visible()
    expect_heading(page, "Extreme images")


def test_two_classes_with_one_name_have_different_labels(page: Page, app_url: str, results: Path) -> None:
    page.goto(make_url(app_url, results, predicted="crane (3)"))
    expect(page.get_by_text("Page of 1 with 1 image")).to_be_visible()
    page.goto(make_url(app_url, results, predicted="crane (2)"))
    expect(page.get_by_text("No image matches these filters.")).to_be_visible()


def test_results_that_grew_are_summarized_again(page: Page, app_url: str, tmp_path: Path) -> None:
    image = Image("a.png", {0: np.ones(GRID), 1: np.zeros(GRID)}, label=0)
    folder = write_results(tmp_path / "results", [image], make_about(NAMES, GRID))
    page.goto(make_url(app_url, folder))
    expect(page.get_by_text("Page of 1 with 1 image")).to_be_visible()
    write_results(folder, [image] * 5, make_about(NAMES, GRID))
    page.reload()
    expect(page.get_by_text("Page of 1 with 5 images")).to_be_visible()


def test_a_folder_without_results_shows_one_error(page: Page, app_url: str, tmp_path: Path) -> None:
    page.goto(make_url(app_url, tmp_path / "nowhere"))
    expect(page.get_by_text(re.compile("^No folder .*nowhere on this machine"))).to_be_visible()
    page.goto(make_url(app_url, tmp_path))
    expect(page.get_by_text("no file there is named part-")).to_be_visible()
    (tmp_path / "part-00000.parquet").write_bytes(b"no Parquet")
    page.reload()
    expect(page.get_by_text(re.compile("^Cannot read .*part-00000.parquet"))).to_be_visible()


def test_nothing_is_cut_off(page: Page, app_url: str, results: Path) -> None:
    for width in show_windows(page, make_url(app_url, results), [(390, "light"), (1400, "dark"), (2560, "light")]):
        expect(page.get_by_role("img", name=re.compile("class map of .* over photo")).first).to_be_visible()
        assert_nothing_is_cut_off(page)
        for picture in page.get_by_role("img", name=re.compile("^(class|contrast) map of")).all():
            box = picture.bounding_box()
            assert box is not None
            assert box["width"] > 80
            assert box["x"] + box["width"] <= width
