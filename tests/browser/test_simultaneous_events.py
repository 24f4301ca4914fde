"""Two events at the same time: neither is lost."""

from playwright.sync_api import Page, expect

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
