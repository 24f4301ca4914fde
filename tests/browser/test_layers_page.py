"""The page Layers in a real browser: a layer, its channels, one of them."""

import re

import pytest
from page_checks import assert_all_inside, assert_nothing_is_cut_off, expect_heading, show_windows
from playwright.sync_api import Locator, Page, expect

from inspector.images.examples import list_examples

pytestmark = pytest.mark.browser

GAP = "?network=fashion_gap"


def test_a_channel_is_chosen_by_mouse_and_keys_and_a_link_reopens_it(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/layers{GAP}&layer=8&sort=number")
    expect_heading(page, "8")
    expect(page.get_by_text("ReLU: 16 feature maps of 14 x 14 cells.")).to_be_visible()
    expect(page.get_by_role("option")).to_have_count(16)
    page.get_by_role("option", name="channel 5,").click()
    expect_heading(page, "Channel 5")
    page.keyboard.press("ArrowRight")
    expect_heading(page, "Channel 6")
    expect(page.get_by_role("option", name="channel 6,")).to_be_focused()
    expect(page).to_have_url(re.compile("channel=6"))
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    expect_heading(page, "Channel 6")
    expect(page.get_by_role("option", name="channel 6,")).to_have_attribute("aria-selected", "true")


def find_chosen(page: Page) -> Locator:
    return page.locator("[role=treeitem][aria-selected=true]")


def test_a_layer_is_chosen_in_the_tree_by_keys_and_by_mouse(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/layers{GAP}")
    # The layer that is pooled.
    expect_heading(page, "15")
    expect(find_chosen(page)).to_contain_text("Conv2d")
    find_chosen(page).focus()
    page.keyboard.press("ArrowUp")
    expect_heading(page, "14")
    expect(page.get_by_text("MaxPool2d: 32 feature maps of 3 x 3 cells.")).to_be_visible()
    expect(find_chosen(page)).to_be_focused()
    page.get_by_role("treeitem", name="0, Conv2d, 8 x 28 x 28", exact=True).click()
    expect_heading(page, "0")
    expect(page).to_have_url(re.compile("layer=0"))


def test_the_tree_opens_the_groups_of_the_layer_that_a_link_names(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/layers?layer=_blocks.14._bn1")
    expect_heading(page, "_blocks.14._bn1")
    expect(find_chosen(page)).to_be_in_viewport(ratio=1)
    expect(page.get_by_role("treeitem", name="0, MBConvBlock, 16 x 112 x 112", exact=True)).to_have_attribute(
        "aria-expanded", "false"
    )
    expect(page.get_by_role("treeitem", name="14, MBConvBlock")).to_have_attribute("aria-expanded", "true")
    find_chosen(page).focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")  # to the block, which is chosen; it closes
    expect_heading(page, "_blocks.14")
    expect(page.get_by_role("treeitem", name="_bn1, BatchNorm2d, 672")).to_have_count(0)


def test_the_arrow_keys_lead_to_the_next_page_of_channels(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/layers?sort=number&channel=63")
    expect_heading(page, "Channel 63")
    page.get_by_role("option", name="channel 63,").focus()
    page.keyboard.press("ArrowRight")
    expect_heading(page, "Channel 64")
    expect(page.get_by_role("option", name="channel 64,")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect_heading(page, "Channel 63")


def test_the_value_that_tiles_are_sorted_by_stays_on_saturated_tiles(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/layers?sort=highest")
    expect(page.get_by_role("option").first).to_contain_text(re.compile(r"6\s*\d+% at 6"))


def test_the_maps_are_drawn_and_dead_channels_are_marked(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/layers?layer=_swish+%28run+2%29&sort=number")
    expect_heading(page, "_swish (run 2)")
    expect(page.get_by_text(re.compile("channels are dead on this photo"))).to_be_visible()
    # An empty canvas is 300 pixels wide.
    page.wait_for_function("document.querySelector('[role=option] canvas')?.width === 7")
    red = page.get_by_role("option", name="channel 4,").locator("canvas")
    pixels = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    colours = red.evaluate(pixels)
    assert len(colours) == 7 * 7 * 4
    # White is zero; the strongest color is red.
    assert max(colours[0::4]) - min(colours[1::4]) > 100
    dead = page.get_by_role("option", name=re.compile(", dead$")).first.locator("canvas").evaluate(pixels)
    assert min(dead) >= 250
    # 1280 channels fill twenty pages.
    page.get_by_role("button", name="Page 20").click()
    expect(page.get_by_role("option", name="channel 1279,")).to_be_visible()


def test_contributions_say_whether_they_are_exact_or_of_first_order(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/layers{GAP}&sort=contribution&class=Sneaker")
    expect(page.get_by_text("Contributions to the logit of Sneaker are exact")).to_be_visible()
    page.get_by_role("treeitem", name="14, MaxPool2d").click()
    expect(page.get_by_text("gradient x activation")).to_be_visible()
    expect(page.get_by_text(re.compile(r"adds .* logits to Sneaker \(first order\)"))).to_be_visible()


def test_another_network_opens_with_the_layer_that_is_pooled(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/layers{GAP}&layer=8")
    expect_heading(page, "8")
    page.get_by_role("combobox", name="Model").click()
    page.keyboard.type("efficientnet_lite0")
    page.keyboard.press("Enter")
    expect_heading(page, "_swish (run 2)")


def test_a_broken_upload_shows_one_error(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/layers{GAP}")
    expect_heading(page, "15")
    bag = list_examples("fashion_mnist")["Bag"].read_bytes()
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": bag[:200]}
    page.locator(".st-key-uploader input[type=file]").set_input_files(broken)
    expect(page.get_by_role("alert")).to_contain_text("broken.png is broken or cut off")
    expect(page.get_by_role("option")).to_have_count(0)


def test_nothing_is_cut_off(page: Page, app_url: str) -> None:
    address = f"{app_url}/layers{GAP}&layer=8"
    for width in show_windows(page, address, [(380, "dark"), (1400, "light"), (2560, "light")]):
        expect(page.get_by_role("option")).to_have_count(16)
        assert_nothing_is_cut_off(page)
        assert_all_inside(page.get_by_role("option"), width)


@pytest.mark.parametrize(
    ("old", "new"), [("channels", "/layers.*view=channels"), ("methods", "/compare.*view=methods")]
)
def test_an_old_address_opens_its_new_place_with_the_whole_link(page: Page, app_url: str, old: str, new: str) -> None:
    page.goto(f"{app_url}/{old}{GAP}&class=Sneaker&methods=Exact+map&methods=Saliency")
    expect(page).to_have_url(re.compile(new))
    expect(page.get_by_role("radio", name=old)).to_be_checked()
    expect(page.get_by_role("combobox", name="Class")).to_have_value("Sneaker")
    if old == "methods":
        expect(page.get_by_role("img", name="Saliency over the photo")).to_be_visible()
