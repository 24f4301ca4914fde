"""What the browser tests of all pages share."""

import base64
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from inspector import ClassMaps
from inspector.output.overlay import OPACITY, common_scale, dimmed_photo, draw_bar, draw_map_on_photo, find_gray

ColorScheme: TypeAlias = Literal["light", "dark"]

# From this width, a window is made narrower, to where rows begin to wrap.
MIDDLE = 1400
NARROW = (1000, 800)

# Wait until nothing has moved for a while: the last element that is drawn may be the one that is too wide.
_STILL = """element => new Promise(done => {
    let [last, since] = ["", 0]
    const check = now => {
        const size = `${element.scrollWidth} ${element.clientWidth} ${element.scrollHeight}`
        if (size !== last) [last, since] = [size, now]
        now - since > 300 ? done() : requestAnimationFrame(check)
    }
    requestAnimationFrame(check)
})"""


def wait_for_script(page: Page) -> None:
    """Wait until the script has ended: before, a click or a text may go to an element that is being replaced."""
    expect(page.locator("[data-test-script-state=notRunning]")).to_be_attached()


def expect_heading(page: Page, text: str) -> None:
    """Wait until a heading of exactly this text is visible."""
    expect(page.get_by_role("heading", name=text, exact=True)).to_be_visible()


def open_saved_files(page: Page, menu: Locator, least: int) -> None:
    """Save the chosen picture of an open menu as PNG and SVG, and open both files.

    `least` is the number of pixels that both sides of the PNG exceed.
    """
    with Image.open(io.BytesIO(press_and_download(page, menu.get_by_role("button", name="PNG")))) as image:
        assert min(image.size) > least
    assert b"<svg" in press_and_download(page, menu.get_by_role("button", name="SVG"))


def download_file(page: Page, label: str) -> bytes:
    """Press the download button of this label and return the bytes of the file."""
    return press_and_download(page, page.get_by_role("button", name=label, exact=True))


def press_and_download(page: Page, button: Locator) -> bytes:
    """Press a download button and return the bytes of the file.

    Once in thousands Chromium cancels a download: it is tried again.
    """
    failure = None
    for _ in range(2):
        wait_for_script(page)
        with page.expect_download() as download:
            button.click()
        failure = download.value.failure()
        if failure is None:
            break
    assert failure is None
    return Path(download.value.path()).read_bytes()


def show_windows(page: Page, address: str, windows: Iterable[tuple[int, ColorScheme]]) -> Iterator[int]:
    """Open a page in a window, and show it in others: widths and color schemes. Yield the width of each."""
    for number, (width, scheme) in enumerate(windows):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        if number == 0:
            page.goto(address)
        yield width


def assert_nothing_is_cut_off(page: Page) -> None:
    """Check that the page is not wider than its window; from a window of MIDDLE pixels, in narrower ones, too."""
    size = page.viewport_size
    assert size is not None
    main = page.get_by_test_id("stMain")
    for width in (size["width"], *(NARROW if size["width"] == MIDDLE else ())):
        page.set_viewport_size({"width": width, "height": size["height"]})
        wait_for_script(page)
        main.evaluate(_STILL)
        wide, room = main.evaluate("element => [element.scrollWidth, element.clientWidth]")
        assert wide <= room + 1, f"{wide} pixels in {room} of a window of {width}"
    page.set_viewport_size(size)


def assert_all_inside(elements: Locator, width: int) -> None:
    """Check that no element is cut off at the left or the right of a window of this width."""
    for element in elements.all():
        box = element.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def read_canvas(canvas: Locator) -> NDArray[np.float64]:
    """Return the RGBA pixels (H, W, 4) of a canvas."""
    # As one text: a list of a million numbers takes ten seconds on its way to Python.
    height, width, data = canvas.evaluate(
        """c => {
            const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
            let text = "";
            for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
            return [c.height, c.width, btoa(text)];
        }"""
    )
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4).astype(float)


def assert_drawn_as_in_python(
    viewer: Locator,
    maps: ClassMaps,
    k: int,
    smooth: bool = True,
    opacity: float = OPACITY,
    colormap: str = "inspector",
    gray: bool = True,
) -> None:
    """Check that a viewer, in whatever home, draws the map of class k, the photo and the color bar as Python does.

    The pixels of map and bar may differ by 4 of 255.
    """
    drawn = read_canvas(viewer.locator(".inspector-photo canvas.map"))
    listed = [maps.class_map(j) for j in (k, *(j for j, _, _ in maps.top(5)))]
    scale, side = common_scale([one.values for one in listed]), max(drawn.shape[:2])
    base = dimmed_photo(maps.view.photo, maps.view.crop, side, gray)
    field = maps.classifier.receptive_field
    expected = draw_map_on_photo(base, maps.view.crop, listed[0].values, field, scale, smooth, opacity, colormap)
    part = drawn[..., 3:] / 255
    # The tolerance: two roundings, and one level where a value lies between two colors.
    limit = 4 if colormap != "turbo" else 12  # turbo's neighboring levels differ more
    assert np.abs(base * (1 - part) + drawn[..., :3] * part - expected).max() <= limit
    # The photo below it. JPEG is decoded by another library.
    photo = read_canvas(viewer.locator(".inspector-photo canvas.base"))[..., :3]
    assert np.abs(photo - base).mean() < 3
    bar = read_canvas(viewer.locator(".below .bar canvas"))[..., :3]
    brightness = find_gray(maps.view.photo, maps.view.crop)
    assert np.abs(bar - draw_bar(colormap, opacity, brightness, bar.shape[1], bar.shape[0])).max() <= limit


def assert_no_serious_violation(page: Page) -> None:
    """Check that axe-core finds nothing serious or critical on a page."""
    for _ in range(4):  # what fades in or is about to be replaced may break a rule for a moment: what stays is wrong
        found = [one for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
        if not found:
            break
        page.wait_for_timeout(1500)
    assert not [describe(violation) for violation in found]


def describe(violation: dict[str, object]) -> str:
    """Return the rule of a violation, with the elements that break it and why."""
    nodes = [f"{node['target']} {node['html'][:160]} {node['failureSummary'][:300]}" for node in violation["nodes"]]  # type: ignore[attr-defined]
    return "\n".join([f"{violation['id']} ({violation['impact']}): {violation['help']}", *nodes[:8]])
