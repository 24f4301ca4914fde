"""Promises of all pages: no request to another host, and nothing that axe-core calls a serious or critical violation."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.browser

# Addresses of all pages, with networks and classes that are quick to draw.
PAGES = {
    "image": "?network=fashion_gap",
    "large network": "?network=efficientnet_lite0",
    "layers": "layers?network=fashion_gap",
    "channels": "layers?network=fashion_gap&view=channels",
    "compare": "compare?network=fashion_gap",
    "methods": "compare?network=fashion_gap&view=methods&methods=Saliency",
    "export": "export?network=fashion_gap",
    "model": "network?network=fashion_gap",
    "runs": "laboratory",
    "data set": "survey",
}


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


@pytest.mark.parametrize("address", PAGES.values(), ids=PAGES)
def test_a_page_has_no_serious_violation_and_asks_no_other_host(
    session: tuple[Page, list[str]], app_url: str, address: str
) -> None:
    page, requested = session
    page.goto(f"{app_url}/{address}")
    expect(page.get_by_test_id("stMain").locator("h1, h2, h3").first).to_be_visible()
    expect(page.locator("[data-test-script-state=notRunning]")).to_be_attached()
    violations = [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    assert not [describe(violation) for violation in violations]
    hosts = {urlsplit(url).netloc for url in requested if urlsplit(url).scheme not in ("data", "blob")}
    assert hosts == {urlsplit(app_url).netloc}


def describe(violation: dict[str, object]) -> str:
    """Return the rule of a violation, with the elements that break it and why."""
    nodes = [f"{node['target']} {node['html'][:160]} {node['failureSummary'][:300]}" for node in violation["nodes"]]  # type: ignore[attr-defined]
    return "\n".join([f"{violation['id']} ({violation['impact']}): {violation['help']}", *nodes[:8]])
