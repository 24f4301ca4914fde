"""Promises of all pages: no request to another host, and no violation that axe-core calls serious or critical."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

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
         "dataset", "runs", "about")  # fmt: skip


@pytest.fixture(scope="module", params=["light", "dark"])
def session(request: pytest.FixtureRequest, chromium: Browser) -> Iterator[tuple[Page, list[str]]]:
    """Return a page of a session in one color scheme, and a list of the addresses that it requests."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, color_scheme=request.param)
    context.set_default_timeout(60_000)
    requested: list[str] = []
    context.on("request", lambda sent: requested.append(sent.url))
    page = context.new_page()
    page.on("websocket", lambda socket: requested.append(socket.url))
    yield page, requested
    context.close()


@pytest.mark.parametrize("address", PAGES)
def test_a_page_has_no_serious_violation_and_asks_no_other_host(
    session: tuple[Page, list[str]], app_url: str, address: str
) -> None:
    page, requested = session
    path, _, query = address.partition("?")
    page.goto(f"{app_url}/{path}?network=fashion_gap&{query}")
    # The last but the bar: what the page itself shows.
    expect(page.get_by_test_id("stMain").get_by_test_id("stElementContainer").nth(9)).to_be_visible()
    expect(page.locator("[data-test-script-state=notRunning]")).to_be_attached()
    expect(page.get_by_test_id("stSpinner")).to_have_count(0)
    for _ in range(4):  # what fades in or is about to be replaced may break a rule for a moment: what stays is wrong
        violations = [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
        if not violations:
            break
        page.wait_for_timeout(1500)
    assert not [describe(violation) for violation in violations]
    hosts = {urlsplit(url).netloc for url in requested if urlsplit(url).scheme not in ("data", "blob")}
    assert hosts == {urlsplit(app_url).netloc}, [url for url in requested if app_url.split("/")[2] not in url]


def test_the_focus_of_the_bar_is_visible(session: tuple[Page, list[str]], app_url: str) -> None:
    page, _ = session
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


def describe(violation: dict[str, object]) -> str:
    """Return the rule of a violation, with the elements that break it and why."""
    nodes = [f"{node['target']} {node['html'][:160]} {node['failureSummary'][:300]}" for node in violation["nodes"]]  # type: ignore[attr-defined]
    return "\n".join([f"{violation['id']} ({violation['impact']}): {violation['help']}", *nodes[:8]])
