"""Two things in one moment: neither is lost."""

from playwright.sync_api import Page, expect

from inspector.images.examples import list_examples

HOLD = """() => {
    const [real, held] = [window.setTimeout, []]
    window.setTimeout = (run, after, ...rest) => after ? real(run, after, ...rest) : held.push(run)
    window.release = () => { window.setTimeout = real; held.forEach(run => run()) }
}"""


def test_a_photo_that_arrives_in_the_moment_of_a_click_is_shown(page: Page, app_url: str) -> None:
    page.goto(app_url)
    expect(page.get_by_role("heading", name="tiger cat", exact=True)).to_be_visible()
    # Streamlit's browser side gathers for a moment what it tells the server: this makes the moment long.
    page.evaluate(HOLD)
    page.get_by_role("radio", name="against the average", exact=True).click()
    with page.expect_response(lambda answer: "upload_file" in answer.url):
        page.locator("input[type=file]").set_input_files(list_examples("photos")["Coffee"])
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.evaluate("release()")
    expect(page.get_by_role("heading", name="espresso against the average class", exact=True)).to_be_visible()
