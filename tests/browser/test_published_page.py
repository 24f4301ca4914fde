"""The page without a server in Chromium: the numbers of Python, no other host, no network after the first load."""

import base64
import functools
import io
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from page_checks import assert_drawn_as_in_python, assert_no_serious_violation, read_canvas
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from tiny_networks import make_network
from torch import nn

from inspector import Classifier, class_maps, publish
from inspector.errors import ExportError
from inspector.images.examples import list_examples
from inspector.output.overlay import dimmed_photo
from inspector.output.publish.runtime import fetch_runtime

pytestmark = pytest.mark.browser

ORIENTATION = 0x0112  # EXIF tag
# Ask the page's own worker, as the page does: bytes -> { data, error }.
ASK = """async photos => {
    const worker = new Worker("worker.js", { type: "module" }), answers = {}
    const ask = question => new Promise(done => {
        worker.onmessage = ({ data }) => "progress" in data || "picture" in data || done(data)
        worker.postMessage(question)
    })
    await ask({ open: true })
    for (const [name, content] of Object.entries(photos)) {
        const file = new Blob([Uint8Array.from(atob(content), letter => letter.charCodeAt(0))])
        const { data, error } = await ask({ id: 1, file, name })
        const logits = data && Object.entries(data.classes).filter(([k]) => k >= 0).map(([, one]) => one.logit)
        answers[name] = { error, logits, verdict: data?.verdict, crop: data?.crop }
    }
    worker.terminate()
    return answers
}"""


class HostHandler(SimpleHTTPRequestHandler):
    """A host as there are some: index.html is redirected to the folder, and answers vary with headers."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/index.html":
            self.send_response(308)
            self.send_header("Location", "/")
            self.end_headers()
        else:
            super().do_GET()

    def end_headers(self) -> None:
        self.send_header("Vary", "Accept")
        super().end_headers()


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return make_network(nn.AdaptiveAvgPool2d)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, classifier: Classifier) -> Iterator[str]:
    """The address of a published page, on a plain static server."""
    try:
        fetch_runtime()
    except ExportError as error:
        if not str(error).startswith(("npm is needed once", "npm could not fetch")):
            raise  # such as another package than the one whose hash is known
        pytest.skip(f"needs onnxruntime-web in the cache folder, or npm and its registry: {error}")
    folder = publish(classifier, tmp_path_factory.mktemp("published") / "site")
    handler = functools.partial(HostHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def context(chromium: Browser) -> Iterator[BrowserContext]:
    context = chromium.new_context(reduced_motion="reduce")
    yield context
    context.close()


@pytest.fixture(scope="module")
def opened(context: BrowserContext, site: str) -> tuple[Page, list[str]]:
    """The page after its first map, with the addresses that were requested. Other hosts are cut off."""
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        if route.request.url.startswith(site):
            route.continue_()
        else:
            route.abort()

    context.route("**/*", answer)
    page = context.new_page()
    page.on("console", lambda message: asked.append(message.text) if message.type == "error" else None)
    page.goto(site)
    expect(page.locator(".status")).to_contain_text("Computed on this device")
    page.evaluate("() => navigator.serviceWorker.ready.then(() => null)")  # it has all files: the network may end
    return page, asked


def encode(image: Image.Image, format: str, **settings: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **settings)
    return content.getvalue()


def turn(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return {"exif": exif}


def make_files() -> dict[str, bytes]:
    """Noise in files that are decoded without a loss: every kind of PNG, and each EXIF turn."""
    rng = np.random.default_rng(0)

    def noise(height: int, width: int, channels: int = 3) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (height, width, channels), np.uint8))

    files = {f"{h}x{w}.png": encode(noise(h, w), "PNG") for h, w in ((1, 1), (61, 70), (300, 7), (480, 640), (24, 32))}
    rgba = noise(50, 63, 4)
    files |= {f"{mode}.png": encode(rgba.convert(mode), "PNG") for mode in ("RGBA", "LA", "L", "P", "1")}
    files["lossless.webp"] = encode(rgba, "WEBP", lossless=True, exact=True)
    files["still.gif"] = encode(rgba.convert("P"), "GIF", save_all=True, append_images=[noise(50, 63).convert("P")])
    files["plain.bmp"] = encode(rgba.convert("RGB"), "BMP")
    for k in range(1, 9):
        files[f"turned {k}.png"] = encode(noise(40, 31), "PNG", **turn(k))
        files[f"turned {k}.webp"] = encode(noise(40, 31), "WEBP", lossless=True, **turn(k))
    return files


def make_lossy_files() -> dict[str, bytes]:
    """Photos in files whose decoders may differ: JPEG also with EXIF turns, and WebP."""
    with Image.open(list_examples("photos")["Cat and coffee"]) as photo:
        files = {f"{q}.jpg": encode(photo, "JPEG", quality=q, subsampling=n) for n, q in ((0, 95), (2, 60))}
        files |= {"lossy.webp": encode(photo, "WEBP", quality=80), "gray.jpg": encode(photo.convert("L"), "JPEG")}
        small = photo.resize((90, 60))
        return files | {f"turned {k}.jpg": encode(small, "JPEG", quality=95, **turn(k)) for k in range(1, 9)}


def test_the_logits_are_those_of_python_file_by_file(opened: tuple[Page, list[str]], classifier: Classifier) -> None:
    page, _ = opened
    exact, lossy = make_files(), make_lossy_files()
    sent = {name: base64.b64encode(content).decode() for name, content in (exact | lossy).items()}
    for name, answer in page.evaluate(ASK, sent).items():
        maps = class_maps(classifier, (exact | lossy)[name])
        assert answer["error"] is None, (name, answer["error"])
        assert answer["verdict"] == maps.verdict == "exact"
        assert answer["crop"] == pytest.approx(maps.view.box), name
        difference = np.abs(np.array(answer["logits"]) - maps.logits.numpy()).max()
        # JPEG and WebP are decoded by other code than Pillow's: a level or two apart, the class is the same.
        assert difference <= (1e-4 if name in exact else 2e-2), (name, difference)
        assert int(np.argmax(answer["logits"])) == int(maps.logits.argmax()), name


def test_files_that_are_no_photos_are_refused_in_one_sentence(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    photo = encode(Image.fromarray(np.zeros((40, 50, 3), np.uint8)), "PNG")
    deep = encode(Image.fromarray(np.zeros((4, 5), np.uint16)), "PNG")
    large = photo[:16] + (20_000).to_bytes(4) * 2 + photo[24:]
    tiff = encode(Image.new("RGB", (4, 4)), "TIFF")
    files = {"empty.png": b"", "text.jpg": b"no image", "deep.png": deep, "large.png": large, "a.tiff": tiff}
    files |= {"thin.png": encode(Image.new("L", (1, 65_000)), "PNG")}
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 80, 3), np.uint8))
    whole = {"cut.png": encode(noise, "PNG"), "cut.jpg": encode(noise, "JPEG"), "cut.webp": encode(noise, "WEBP")}
    files |= {name: content[: len(content) * 2 // 3] for name, content in whole.items()}
    answers = page.evaluate(ASK, {name: base64.b64encode(content).decode() for name, content in files.items()})
    for name, message in {
        "empty.png": "empty.png is empty (0 bytes). Choose a photo, for example a JPEG or a PNG.",
        "text.jpg": "text.jpg is not an image that this page can read. JPEG, PNG, WebP, GIF, BMP and AVIF can.",
        "deep.png": "deep.png has 16 bits per channel, and this page reads 8. Save it with 8, or use Inspector itself.",
        "large.png": "large.png has 20000 x 20000 pixels; at most 80 megapixels are read.",
        "a.tiff": "a.tiff is not an image that this page can read. JPEG, PNG, WebP, GIF, BMP and AVIF can.",
        "thin.png": "thin.png is too thin for this network: 1 x 65000 pixels. Crop it first.",
    }.items():
        assert answers[name]["error"] == message
    for name in whole:
        assert answers[name]["error"] == f"{name} is broken or cut off. Save it again or choose another.", name


def upload(page: Page, name: str, content: bytes) -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": "", "buffer": content})
    expect(page.locator(".status")).to_contain_text(f"{name}: ")


def test_the_picture_is_that_of_python_without_a_network(
    opened: tuple[Page, list[str]], context: BrowserContext, classifier: Classifier
) -> None:
    page, asked = opened
    requested = len(asked)
    context.set_offline(True)
    content = encode(Image.open(list_examples("photos")["Coffee"]).resize((1000, 660)), "PNG")
    upload(page, "<b>coffee</b>.png", content)
    expect(page.locator(".verdict")).to_contain_text("exact")
    best, _, share = class_maps(classifier, content).top(1)[0]
    chosen = page.locator(".inspector-classes").get_by_role("radio", checked=True)
    expect(chosen).to_contain_text(f"{share:.1%}")
    maps = class_maps(classifier, content)
    assert_drawn_as_in_python(page.locator(".inspector-viewer"), maps, best)
    # The photo, too, though the browser has decoded and reduced it.
    drawn = read_canvas(page.locator("canvas.base"))[..., :3]
    assert np.abs(drawn - dimmed_photo(maps.view.photo, maps.view.crop, 800, gray=True)).max() <= 2
    # The channels of the head and the bias sum to the logit.
    numbers = [text.replace("\N{MINUS SIGN}", "-") for text in page.locator(".ledger td").all_inner_texts()]
    *parts, logit = map(float, numbers)
    assert sum(parts) == pytest.approx(logit, abs=0.01)
    assert logit == pytest.approx(float(maps.logits[best]), abs=1e-3)
    # A cell and its channels, by the keyboard.
    page.locator(".inspector-photo").press("ArrowRight")
    expect(page.locator(".card.chosen")).to_contain_text("Strongest channels")
    context.set_offline(False)
    assert asked[requested:] == []


# Paste or drop a file. False: the page takes it. True: the browser opens it in place of the page.
HAND_OVER = """(event, name, content) => {
    const files = new DataTransfer(), bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0))
    files.items.add(new File([bytes], name))
    const given = event === "paste" ? { clipboardData: files } : { dataTransfer: files }
    const kind = event === "paste" ? ClipboardEvent : DragEvent
    return document.body.dispatchEvent(new kind(event, { ...given, bubbles: true, cancelable: true }))
}"""
RED = base64.b64encode(encode(Image.new("RGB", (40, 30), "red"), "PNG")).decode()


def test_photos_can_be_pasted_and_dropped(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    for event, name in (("paste", "pasted.png"), ("drop", "dropped.png")):
        assert page.evaluate(f"given => ({HAND_OVER})(...given)", [event, name, RED]) is False
        expect(page.locator(".status")).to_contain_text(f"{name}: 40 \N{MULTIPLICATION SIGN} 30 pixels")
    # Colors stay for the next photo; the class only if it is pinned.
    page.get_by_label("Raw grid").check()
    for pinned in (False, True):
        page.locator(".inspector-classes").get_by_role("radio").last.click()
        page.get_by_label("keep for the next photo").set_checked(pinned)
        upload(page, f"again {pinned}.png", base64.b64decode(RED))
        expect(page.locator(".inspector-classes").get_by_role("radio").nth(2 if pinned else 0)).to_be_checked()
        expect(page.get_by_label("Raw grid")).to_be_checked()
    page.get_by_label("keep for the next photo").uncheck()
    page.locator("#file").set_input_files({"name": "broken.png", "mimeType": "image/png", "buffer": b"no image"})
    expect(page.get_by_role("alert")).to_contain_text("broken.png is not an image")


def test_the_camera_gives_maps_until_it_is_stopped(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    page.get_by_role("button", name="Start the camera").click()
    expect(page.locator(".rate")).to_contain_text("maps per second")
    before = page.locator(".seen img").get_attribute("src")
    expect(page.locator(".seen img")).not_to_have_attribute("src", str(before))
    # The class of the user stays, while the pictures change.
    page.locator(".inspector-classes").get_by_role("radio", checked=False).last.click()
    name = page.locator(".inspector-classes").get_by_role("radio", checked=True).locator(".name").inner_text()
    before = page.locator(".seen img").get_attribute("src")
    expect(page.locator(".seen img")).not_to_have_attribute("src", str(before))
    expect(page.get_by_role("heading", name=f"Why {name} rather than nothing")).to_be_visible()
    page.get_by_role("button", name="Stop the camera").click()
    expect(page.locator(".status")).to_contain_text("The camera is stopped")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_page_has_no_serious_violation_is_not_cut_off_and_asked_no_other_host(
    opened: tuple[Page, list[str]], site: str
) -> None:
    page, asked = opened
    page.get_by_role("button", name="Cat and coffee").click()
    expect(page.locator(".status")).to_contain_text("Cat and coffee: ")
    backgrounds = set()
    for width, scheme in ((1440, "light"), (1440, "dark"), (360, "dark"), (2560, "light")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        wide, room = page.evaluate("() => [document.body.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room
        if width < 2560:
            assert_no_serious_violation(page)
        backgrounds.add(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2
    assert {address for address in asked if not address.startswith((site, "blob:", "data:"))} == set()


@pytest.fixture
def fresh(chromium: Browser, site: str) -> Iterator[Page]:
    """A page before it is opened, whose requests no service worker answers."""
    context = chromium.new_context(service_workers="block")
    yield context.new_page()
    context.close()


def test_a_photo_dropped_while_the_network_loads_is_explained_and_the_last_choice_is_shown(
    fresh: Page, site: str
) -> None:
    drop = f"window.isOpened = ({HAND_OVER})('drop', 'early.png', '{RED}')"
    fresh.add_init_script(f"document.addEventListener('DOMContentLoaded', () => {{ {drop} }})")
    fresh.goto(site)
    assert fresh.evaluate("() => window.isOpened") is False
    expect(fresh.locator(".status")).to_contain_text("early.png: 40")
    # An example photo that comes late does not replace what was chosen after it.
    fresh.evaluate("""() => {
        const get = window.fetch
        window.fetch = file => new Promise(done => {
            window.fetch = get
            window.arrive = () => done(get(file))
        })
    }""")
    fresh.get_by_role("button", name="Cat", exact=True).click()
    fresh.get_by_role("button", name="Coffee", exact=True).click()
    expect(fresh.locator(".status")).to_contain_text("Coffee: 600")
    fresh.evaluate("() => window.arrive()")
    fresh.wait_for_timeout(200)
    expect(fresh.locator(".status")).to_contain_text("Coffee: 600")
    # A camera whose permission is asked for does not keep a photo waiting.
    fresh.evaluate("() => { navigator.mediaDevices.getUserMedia = () => new Promise(() => {}) }")
    fresh.get_by_role("button", name="Start the camera").click()
    expect(fresh.locator(".status")).to_contain_text("Waiting for the camera")
    fresh.get_by_role("button", name="Rocket").click()
    expect(fresh.locator(".status")).to_contain_text("Rocket: ")
    expect(fresh.get_by_role("button", name="Start the camera")).to_be_visible()


def test_maps_whose_place_is_unknown_are_drawn_on_no_photo(fresh: Page, site: str) -> None:
    def change(route: Route) -> None:
        facts = route.fetch().json()
        facts["receptive_field"]["misplaced"] = facts["viewer"]["misplaced"] = "the cells are sorted"
        route.fulfill(json=facts)

    fresh.context.route("**/network.json", change)
    fresh.goto(site)
    expect(fresh.locator(".status")).to_contain_text("Computed on this device")
    assert np.unique(read_canvas(fresh.locator("canvas.base"))[..., :3]).tolist() == [255]


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize("address", ["", "index.html"])
def test_the_page_opens_again_without_a_network(context: BrowserContext, site: str, address: str) -> None:
    context.set_offline(True)
    page = context.new_page()
    page.goto(site + address)
    expect(page.locator(".status")).to_contain_text("Computed on this device")
    page.close()
    context.set_offline(False)
