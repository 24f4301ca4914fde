"""Promises of all pages: no request to another host, and no violation that axe-core calls serious or critical."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from page_checks import ColorScheme, assert_no_serious_violation, show_windows, wait_for_script
from playwright.sync_api import Page, Request, WebSocket, expect

pytestmark = pytest.mark.browser

# The element that has the focus, and whether it, what it is in or the label beside it has an outline, shadow or border.
_FOCUS = """() => {
    const focused = document.activeElement
    const near = [focused, focused.parentElement, focused.parentElement?.parentElement, focused.nextElementSibling]
    const shows = element => {
        const style = getComputedStyle(element)
        return style.boxShadow !== "none" || (style.outlineStyle !== "none" && style.outlineWidth !== "0px")
            || style.borderTopWidth !== "0px"
    }
    return [`${focused.tagName} ${focused.outerHTML.slice(0, 200)}`, near.filter(Boolean).some(shows)]
}"""

# Addresses of all pages and their parts, with a network that is quick.
PAGES = ("", "layers", "layers?view=channels", "compare", "compare?view=methods&methods=Saliency", "export", "model",
         "dataset", "concepts", "runs", "about")  # fmt: skip


@pytest.fixture
def requested(page: Page) -> Iterator[list[str]]:
    """Return a list of the addresses that the page requests from now on."""
    addresses: list[str] = []

    def note(sent: Request | WebSocket) -> None:
        addresses.append(sent.url)

    page.on("request", note)
    page.on("websocket", note)
    yield addresses
    page.remove_listener("request", note)
    page.remove_listener("websocket", note)


@pytest.mark.parametrize("address", PAGES)
def test_a_page_has_no_serious_violation_and_asks_no_other_host(
    page: Page, requested: list[str], app_url: str, address: str
) -> None:
    path, _, query = address.partition("?")
    backgrounds = set()
    for _ in show_windows(page, f"{app_url}/{path}?network=fashion_gap&{query}", [(1440, "light"), (1440, "dark")]):
        # The last but the bar: what the page itself shows.
        expect(page.get_by_test_id("stMain").get_by_test_id("stElementContainer").nth(9)).to_be_visible()
        wait_for_script(page)
        expect(page.get_by_test_id("stSpinner")).to_have_count(0)
        assert_no_serious_violation(page)
        backgrounds.add(page.get_by_test_id("stApp").evaluate("element => getComputedStyle(element).backgroundColor"))
    assert len(backgrounds) == 2, "the page does not follow the color scheme"
    hosts = {urlsplit(url).netloc for url in requested if urlsplit(url).scheme not in ("data", "blob")}
    assert hosts == {urlsplit(app_url).netloc}, [url for url in requested if app_url.split("/")[2] not in url]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_focus_of_the_bar_is_visible(page: Page, app_url: str, scheme: ColorScheme) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{app_url}/about?network=fashion_gap")
    expect(page.get_by_role("link", name="Compare")).to_be_visible()
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        tag, ring = page.evaluate(_FOCUS)
        if tag.startswith("BODY"):  # behind the last element
            break
        reached.add(tag.split()[0])
        assert ring, f"the focus of {tag} is not visible"
    assert {"A", "BUTTON"} <= reached
