"""The page Compare in a real browser: several networks on one photo, several photos by one network."""

import pytest
from page_checks import assert_nothing_is_cut_off, download_file, show_windows
from playwright.sync_api import Page, expect

from inspector.images.examples import list_examples

pytestmark = pytest.mark.browser

CLOTHES = list_examples("fashion_mnist")


def expect_tile(page: Page, title: str, class_name: str) -> None:
    expect(page.get_by_role("img", name=f"class map of {title}: {class_name}", exact=True)).to_be_visible()


def test_one_photo_is_compared_by_networks_with_the_same_classes(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/compare?network=fashion_gap&example=Bag")
    for name in ("fashion_gap", "fashion_gmp", "fashion_gap_sigmoid", "fashion_gmp_sigmoid"):
        expect_tile(page, name, "Bag")
    scale = "contribution per cell (sums to the logit); the same scale for all maps"
    expect(page.get_by_text(scale)).to_be_visible()
    expect(page.get_by_text("The cosine compares the logits of the cells")).to_be_visible()
    page.get_by_role("combobox", name="Class").click()
    page.keyboard.type("Dress")
    page.keyboard.press("Enter")
    expect_tile(page, "fashion_gmp", "Dress")
    page.get_by_text("One scale per map", exact=True).click()
    expect(page.get_by_text("strongest color")).to_have_count(4)
    expect(page.get_by_text("the same scale for all maps")).to_have_count(0)
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    expect_tile(page, "fashion_gmp", "Dress")
    expect(page.get_by_text("strongest color")).to_have_count(4)


def test_the_comparison_is_downloaded_as_a_figure(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/compare?view=photos&network=fashion_gap&examples=Bag&examples=Dress")
    expect_tile(page, "dress.png", "Dress")
    expect(page.get_by_text("A logit is the score")).to_be_visible()
    figure = download_file(page, "SVG").decode()
    assert "bag.png: Bag (" in figure
    assert "dress.png: Dress (" in figure


def test_networks_with_other_classes_show_their_top_class_and_no_similarity(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/compare?view=networks&network=fashion_gap&example=Bag&with=efficientnet_lite0")
    expect_tile(page, "fashion_gap", "Bag")
    expect(page.get_by_role("img", name="class map of efficientnet_lite0:")).to_be_visible()
    expect(page.get_by_placeholder("top-1 of each")).to_be_visible()
    expect(page.get_by_text("cosine")).to_have_count(0)


def test_grids_of_different_size_share_a_scale_per_area_and_can_be_resampled_to_one_grid(
    page: Page, app_url: str
) -> None:
    page.goto(f"{app_url}/compare?view=networks&network=fashion_gap&example=Bag&with=efficientnet_lite0")
    expect(page.get_by_text("contribution divided by the cell's area, in logits per 1 % of the photo")).to_be_visible()
    page.get_by_text("One grid", exact=True).click()
    expect(page.get_by_text("resampled to 3 x 3 cells")).to_be_visible()
    page.get_by_text("One scale per map", exact=True).click()
    expect(page.get_by_text("strongest color")).to_have_count(2)


def test_a_network_alone_says_what_to_do(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/compare?view=networks&network=efficientnet_lite0&example=Cat")
    expect(page.get_by_role("status")).to_contain_text("No other network here has the same classes")
    expect_tile(page, "efficientnet_lite0", "tiger cat")


def test_photos_of_the_bar_are_compared_and_a_broken_one_leaves_the_others(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/compare?view=photos&network=fashion_gap&examples=Bag")
    expect_tile(page, "bag.png", "Bag")
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": CLOTHES["Coat"].read_bytes()[:150]}
    files = [
        {"name": f"my {name}.png", "mimeType": "image/png", "buffer": CLOTHES[name].read_bytes()}
        for name in ("Dress", "Trouser")
    ]
    page.locator(".st-key-uploader input[type=file]").set_input_files([files[0], broken, files[1]])
    expect_tile(page, "my Dress.png", "Dress")
    expect_tile(page, "my Trouser.png", "Trouser")
    expect_tile(page, "bag.png", "Bag")
    alert = page.get_by_role("alert")
    expect(alert).to_have_count(1)
    expect(alert).to_contain_text("broken.png is broken or cut off")
    page.get_by_role("button", name="Bag", exact=True).click()
    expect(page.get_by_role("img", name="class map of bag.png")).to_have_count(0)


def test_without_photos_the_page_says_what_to_do(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/compare?view=photos&network=fashion_gap&examples=Bag")
    expect_tile(page, "bag.png", "Bag")
    page.get_by_role("button", name="Bag", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("Choose photos above, or add some in the bar.")


@pytest.mark.parametrize("mode", ["networks", "photos"])
def test_nothing_is_cut_off(page: Page, app_url: str, mode: str) -> None:
    address = f"{app_url}/compare?view={mode}&network=fashion_gap"
    for width in show_windows(page, address, [(380, "light"), (1400, "dark"), (2560, "light")]):
        images = page.get_by_role("img", name="class map of")
        expect(images).to_have_count(4 if mode == "networks" else 3)
        assert_nothing_is_cut_off(page)
        for image in images.all():
            box = image.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["width"] > 100
