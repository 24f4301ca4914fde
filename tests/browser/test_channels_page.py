"""The channels of the page Layers in a real browser: channel contributions, one channel, photos that activate it."""

import re

import pytest
from page_checks import assert_nothing_is_cut_off, expect_heading, press_and_download, show_windows, wait_for_script
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def parse_number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-"))


def read_sums(page: Page) -> tuple[float, float, float]:
    """Return bias, channels and logit as the page shows them."""
    line = page.get_by_text(re.compile("^bias .* channels .* = ")).inner_text()
    bias, parts, total = re.findall(r"[+\N{MINUS SIGN}]\d+\.\d{4}", line)
    return parse_number(bias), parse_number(parts), parse_number(total)


def test_contributions_and_bias_sum_to_the_logit_and_a_row_opens_its_channel(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/layers?view=channels&example=Cat")
    expect_heading(page, "Channel contributions to tiger cat")
    bias, parts, total = read_sums(page)
    assert bias + parts == pytest.approx(total, abs=2e-4)
    chart = page.get_by_test_id("stVegaLiteChart")
    # The bias is the first row; a click anywhere in the third row selects its channel.
    expect(chart.locator("svg, canvas")).to_have_count(1)
    first = page.get_by_role("heading", name=re.compile(r"^Channel \d")).inner_text()
    box = chart.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 250, box["y"] + 48)
    expect(page).to_have_url(re.compile("channel="))
    chosen = re.search(r"channel=(\d+)", page.url)
    assert chosen is not None
    assert f"Channel {chosen[1]}" != first
    expect_heading(page, f"Channel {chosen[1]}")
    expect(page.get_by_text(re.compile("Rank 2 of 1280 by absolute contribution to tiger cat"))).to_be_visible()
    line = page.get_by_text(re.compile("^weight .* x pooled value ")).inner_text()
    weight, pooled, part = (parse_number(text) for text in re.findall(r"[+\N{MINUS SIGN}]?\d+\.\d+", line))
    assert weight * pooled == pytest.approx(part, rel=0.01)


def test_a_contrast_has_channel_contributions_too_and_a_link_reopens_it(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/layers?view=channels&example=Cat")
    expect_heading(page, "Channel contributions to tiger cat")
    page.get_by_role("radio", name="against a class").click()
    expect_heading(page, "Channel contributions to tiger cat against Egyptian cat")
    bias, parts, total = read_sums(page)
    assert bias + parts == pytest.approx(total, abs=2e-4)
    page.get_by_role("spinbutton", name="Channel").fill("112")
    page.keyboard.press("Enter")
    expect_heading(page, "Channel 112")
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    expect_heading(page, "Channel contributions to tiger cat against Egyptian cat")
    expect_heading(page, "Channel 112")


def test_photos_of_the_bar_are_ranked_by_a_channel(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/layers?view=channels&network=fashion_gap&class=Bag")
    expect_heading(page, "Channel 8")
    page.get_by_role("button", name="Search 10 photos").click()
    expect(page.get_by_text("The 10 highest of 10 photos.")).to_be_visible()
    tiles = page.get_by_role("img", name=re.compile("^channel 8 on [A-Z]"))
    expect(tiles).to_have_count(10)
    # Channel 8 of this network is the class map of the class Bag.
    expect(tiles.first).to_have_attribute("alt", "channel 8 on Bag")
    wait_for_script(page)
    page.locator(".st-key-top-photo-menu button").first.click()  # the other one is for narrow screens
    assert b"<svg" in press_and_download(page, page.get_by_test_id("stPopoverBody").get_by_role("button", name="SVG"))
    page.keyboard.press("Escape")
    page.get_by_role("spinbutton", name="Channel").fill("1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("img", name=re.compile("^channel 1 on [A-Z]")).first).to_have_attribute(
        "alt", "channel 1 on Trouser"
    )


def test_a_broken_photo_shows_one_error(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/layers?view=channels&network=fashion_gap")
    expect_heading(page, "Channel 9")
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.locator(".st-key-uploader input[type=file]").set_input_files(broken)
    expect(page.get_by_role("alert")).to_contain_text("broken.png is not an image that can be read")


def test_nothing_is_cut_off(page: Page, app_url: str) -> None:
    address = f"{app_url}/layers?view=channels&network=fashion_gap"
    for width in show_windows(page, address, [(380, "light"), (1400, "dark"), (2560, "light")]):
        expect_heading(page, "Channel 9")
        assert_nothing_is_cut_off(page)
        chart = page.get_by_test_id("stVegaLiteChart").bounding_box()
        assert chart is not None
        assert chart["width"] > 250
        assert chart["x"] + chart["width"] <= width
