"""Two events at the same time: neither is lost."""

import pytest
from page_checks import wait_for_script
from playwright.sync_api import Page, WebSocketRoute, expect
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from inspector.images.examples import list_examples

HOLD = """() => {
    const [real, delayed] = [window.setTimeout, []]
    window.setTimeout = (run, after, ...rest) => after ? real(run, after, ...rest) : delayed.push(run)
    window.release = () => { window.setTimeout = real; delayed.forEach(run => run()) }
}"""


def test_a_photo_that_arrives_at_the_same_time_as_a_click_is_shown(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?example=Cat")
    expect(page.get_by_role("heading", name="Why tiger cat rather than nothing", exact=True)).to_be_visible()
    # Streamlit's frontend collects messages to the server for a few milliseconds. Hold them back, so that both events
    # are in one batch.
    page.evaluate(HOLD)
    page.get_by_label("keep for the next photo").check()
    with page.expect_response(lambda response: "upload_file" in response.url):
        page.locator(".st-key-uploader input[type=file]").set_input_files(list_examples("photos")["Coffee"])
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.evaluate("release()")
    expect(page.locator(".inspector-viewer .seen img")).to_have_attribute("alt", "photo coffee.png")
    expect(page.get_by_role("heading", name="Why tiger cat rather than nothing", exact=True)).to_be_visible()
    expect(page.get_by_label("keep for the next photo")).to_be_checked()


class LateMessages:
    """What the server sends arrives at the page only when it is released, once `hold` is set."""

    def __init__(self, page: Page) -> None:
        self.hold = False
        self.held: list[str | bytes] = []
        page.route_web_socket("**/stream", self._connect)

    def _connect(self, route: WebSocketRoute) -> None:
        self.route = route
        route.connect_to_server().on_message(
            lambda message: self.held.append(message) if self.hold else route.send(message)
        )

    def has_finished(self) -> bool:
        """Return whether the message is held that a run of the page has finished."""
        messages = [ForwardMsg.FromString(message) for message in self.held if isinstance(message, bytes)]
        return any(message.WhichOneof("type") == "script_finished" for message in messages)

    def release(self) -> None:
        self.hold = False
        while self.held:
            self.route.send(self.held.pop(0))


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_a_download_button_that_a_new_run_has_just_replaced_gives_its_file(
    page: Page, app_url: str, place: str
) -> None:
    tab = page.context.new_page()  # a route of messages cannot be taken from a tab again
    messages = LateMessages(tab)
    tab.goto(f"{app_url}/compare?view=photos&network=fashion_gap&examples=Bag&examples=Dress")
    expect(tab.get_by_text("A logit is the score")).to_be_visible()
    wait_for_script(tab)
    messages.hold = True
    tab.get_by_text("Raw grid" if place == "inside" else "Coat", exact=True).click()
    while not messages.has_finished():
        tab.wait_for_timeout(50)
    tab.wait_for_timeout(300)  # the server deletes files after this message
    with tab.expect_download() as download:
        tab.get_by_role("button", name="SVG", exact=True).click()
        tab.wait_for_timeout(300)
        messages.release()
    assert "bag.png: Bag (" in download.value.path().read_text()
    tab.close()
