"""Whether a page fits into its window."""

from playwright.sync_api import Page, expect

# Beside the sidebar these leave the least room: below, it is folded away.
NARROW = (1000, 800)

# The last thing that is drawn may be the one that is too wide: until nothing has moved for half a second.
_STILL = """element => new Promise(done => {
    let [seen, since] = ["", 0]
    const look = now => {
        const size = `${element.scrollWidth} ${element.clientWidth} ${element.scrollHeight}`
        if (size !== seen) [seen, since] = [size, now]
        now - since > 500 ? done() : requestAnimationFrame(look)
    }
    requestAnimationFrame(look)
})"""


def assert_nothing_is_cut_off(page: Page) -> None:
    """In this window, and in narrower ones."""
    size = page.viewport_size
    assert size is not None
    main = page.get_by_test_id("stMain")
    for width in [size["width"], *(width for width in NARROW if width < size["width"])]:
        page.set_viewport_size({"width": width, "height": size["height"]})
        expect(page.locator("[data-test-script-state=notRunning]")).to_be_attached()
        main.evaluate(_STILL)
        wide, room = main.evaluate("element => [element.scrollWidth, element.clientWidth]")
        assert wide <= room + 1, f"{wide} pixels in {room} of a window of {width}"
    page.set_viewport_size(size)
