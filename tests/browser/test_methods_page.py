"""The methods of the page Compare in a real browser: maps, curves, stopping, shuffled weights, links and errors."""

import io
import re

import pytest
from page_checks import assert_nothing_is_cut_off, download_file, show_windows
from PIL import Image
from playwright.sync_api import Page, expect

from inspector.images.examples import list_examples

pytestmark = pytest.mark.browser

# A network for 28 x 28 pixels is fast: methods that take minutes on a photo take a second.
SMALL = "compare?view=methods&network=fashion_gap"
CAT = list_examples("photos")["Cat"]


def open_page(page: Page, app_url: str, path: str = SMALL) -> None:
    page.goto(f"{app_url}/{path}")
    expect(page.get_by_role("img", name="Exact map over the photo")).to_be_visible()


def wait_for_results(page: Page) -> None:
    expect(page.get_by_text("The sooner the curve falls, the better.")).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)


def test_the_default_methods_are_shown_beside_the_exact_map_with_their_completeness_and_in_the_figure(
    page: Page, app_url: str
) -> None:
    open_page(page, app_url)
    wait_for_results(page)
    for name in ("Grad-CAM", "Saliency", "Integrated gradients"):
        expect(page.get_by_role("img", name=f"{name} over the photo")).to_be_visible()
    tiles = page.locator(".methods").first
    exact = tiles.locator("figure").nth(0).inner_text()
    numbers = re.search(r"sum is complete: ([\d.]+) of ([\d.]+) \(logit minus bias\)", exact)
    assert numbers is not None
    assert numbers[1] == numbers[2]
    assert "this is the exact map without its negative values" in tiles.locator("figure").nth(1).inner_text()
    assert "makes no claim about its sum" in tiles.locator("figure").nth(2).inner_text()
    assert re.search(r"[\d.]+ s\s+time\s+0\.\d{3}\s+insertion\s+0\.\d{3}\s+deletion", exact)
    for kind in ("insertion", "deletion"):
        expect(page.get_by_role("button", name=f"Fullscreen: {kind} curves of Exact map, Grad-CAM")).to_be_attached()
    figure = download_file(page, "SVG").decode()
    for words in ("Exact map", "Saliency", "4 attribution methods, each on its own scale", "insertion 0."):
        assert words in figure
    with Image.open(io.BytesIO(download_file(page, "PNG"))) as image:
        assert image.width > 1000


def test_an_added_method_shows_its_map_and_is_in_the_link(page: Page, app_url: str) -> None:
    open_page(page, app_url)
    wait_for_results(page)
    page.get_by_role("button", name="DeepLIFT", exact=True).click()
    expect(page.get_by_role("img", name="DeepLIFT over the photo")).to_be_visible()
    page.get_by_role("button", name="Saliency", exact=True).click()
    expect(page.get_by_role("img", name="Saliency over the photo")).to_have_count(0)
    expect(page).to_have_url(re.compile("methods=DeepLIFT"))
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    expect(page.get_by_role("img", name="DeepLIFT over the photo")).to_be_visible()
    expect(page.get_by_role("img", name="Saliency over the photo")).to_have_count(0)


def test_shuffled_weights_give_rank_correlations(page: Page, app_url: str) -> None:
    open_page(page, app_url, f"{SMALL}&methods=Exact+map&methods=Saliency&curves=false")
    page.get_by_role("button", name="Shuffle the weights").click()
    expect(page.get_by_text(re.compile("all layers shuffled: ")).first).to_be_visible()
    expect(page.get_by_text(re.compile("all layers shuffled: "))).to_have_count(2)


def test_without_a_method_the_page_says_what_to_do(page: Page, app_url: str) -> None:
    open_page(page, app_url, f"{SMALL}&methods=Exact+map")
    page.get_by_role("button", name="Exact map", exact=True).click()
    expect(page.get_by_text("Choose a method above")).to_be_visible()


def test_a_long_method_shows_its_progress_and_can_be_stopped_and_resumed(page: Page, app_url: str) -> None:
    open_page(page, app_url, "compare?view=methods&methods=Exact+map&methods=Occlusion&curves=false")
    expect(page.get_by_text("Occlusion ...")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    expect(page.get_by_role("img", name="Exact map over the photo")).to_be_visible()
    expect(page.get_by_role("img", name="Occlusion over the photo")).to_have_count(0)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Occlusion ...")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()


def test_a_broken_upload_shows_one_error_and_no_old_map(page: Page, app_url: str) -> None:
    open_page(page, app_url)
    broken = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": CAT.read_bytes()[:5000]}
    page.locator(".st-key-uploader input[type=file]").set_input_files(broken)
    expect(page.get_by_role("alert")).to_contain_text("broken.jpg is broken or cut off")
    expect(page.get_by_role("img", name="Exact map over the photo")).to_have_count(0)


def test_nothing_is_cut_off_at_any_width(page: Page, app_url: str) -> None:
    for width in show_windows(page, f"{app_url}/{SMALL}", [(380, "light"), (1400, "light"), (2560, "light")]):
        expect(page.get_by_role("img", name="Exact map over the photo")).to_be_visible()
        wait_for_results(page)
        assert_nothing_is_cut_off(page)
        for name in ("Exact map", "Integrated gradients"):
            box = page.get_by_role("img", name=f"{name} over the photo").bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
