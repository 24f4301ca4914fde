"""Measure published pages in a real Chromium, each from a plain static server, with all other hosts cut off:

- the size of the folder,
- from the address to the first class map on screen, in a browser without a cache,
- from a chosen file to its class map on screen: photos of 1 and 12 megapixels; and for how long the page did not answer
  meanwhile (the longest task of its main thread),
- class maps per second of a camera (Chromium's fake one),
- the logits against those of Python, file by file: photos as PNG, JPEG and WebP.

The network runs on one thread, as static hosts allow. The photos are the examples of Inspector, and those of a folder.

    python benchmarks/publish.py --photos FOLDER
"""

import base64
import functools
import io
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from report import format_table, write_results

from inspector import Classifier, class_maps, load, publish
from inspector.images.examples import list_examples
from inspector.images.sources import list_images

FLAGS = ("--disable-gpu", "--no-sandbox", "--disable-background-networking", "--disable-component-update")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
NETWORKS = ("efficientnet_lite0", "flowers17_gap")
# As tests/browser/test_published_page.py: the page's own worker answers bytes with the data of the viewer.
OPEN_WORKER = """() => {
    const worker = new Worker("worker.js", { type: "module" })
    const ask = question => new Promise(done => {
        worker.onmessage = ({ data }) => "progress" in data || "picture" in data || done(data)
        worker.postMessage(question)
    })
    window.explain = async content => {
        const file = new Blob([Uint8Array.from(atob(content), letter => letter.charCodeAt(0))])
        const { data, error } = await ask({ id: 1, file, name: "photo" })
        if (error) throw new Error(error)
        return Object.entries(data.classes).filter(([k]) => k >= 0).map(([, one]) => one.logit)
    }
    return ask({ open: true }).then(() => null)
}"""

# From the choice of a file to the painted map: milliseconds, and those of the longest task meanwhile.
MEASURE = """() => {
    let [began, longest] = [0, 0]
    const note = list => list.getEntries().forEach(task => { longest = Math.max(longest, task.duration) })
    const tasks = new PerformanceObserver(note), begin = () => { began = performance.now() }
    tasks.observe({ type: "longtask" })
    document.querySelector("#file").addEventListener("change", begin, { capture: true, once: true })
    window.measured = new Promise(done => {
        const drawn = () => {
            seen.disconnect()
            requestAnimationFrame(() => requestAnimationFrame(() => done([performance.now() - began, longest])))
        }
        const seen = new MutationObserver(drawn)
        seen.observe(document.querySelector(".seen img"), { attributes: true, attributeFilter: ["src"] })
    })
    return null
}"""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def main(
    photos: Annotated[Path | None, typer.Option(help="Folder of more photos, whose logits are compared.")] = None,
    tries: Annotated[int, typer.Option(min=2, help="How often each time is measured.")] = 20,
) -> None:
    """Measure the pages and write results/publish.md."""
    expect.set_options(timeout=120_000)
    times: list[tuple[object, ...]] = []
    differences: list[tuple[object, ...]] = []
    files = [*list_examples("photos").values(), *(Path(item.file) for item in (list_images(photos) if photos else []))]
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, *CAMERA])
        for name in NETWORKS:
            classifier = load(name)
            site = publish(classifier, Path(folder) / name)
            size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
            with serve(site) as address:
                times.append((name, f"{size / 1e6:.1f}", *measure_times(browser, address, tries)))
                differences += [
                    (name, format, *row) for format, row in compare_logits(browser, address, classifier, files).items()
                ]
        browser.close()
    others = "" if photos is None else f" --photos {photos.name}"
    write_results(
        "publish",
        f"python benchmarks/publish.py{others} --tries {tries}",
        format_table(
            (
                "network",
                "folder MB",
                "first map s",
                "1 megapixel ms",
                "12 megapixels ms",
                "longest task ms",
                "camera maps/s",
            ),
            times,
        ),
        f"Medians of {tries} tries (12 megapixels: {tries // 2}, first map: 5), on one thread. First map: from the "
        "address to the map of an example, with an empty cache. The others: from the choice of a JPEG file to its map "
        "on screen, and the longest task of the page's main thread during those of 12 megapixels.",
        format_table(
            ("network", "format", "photos", "largest difference of a logit", "median of the largest", "same top-1"),
            differences,
        ),
        "Difference: of the page's logits from those of Python for the same file, the largest of all classes.",
    )


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder, and yield its address."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def measure_times(browser: Browser, address: str, tries: int) -> tuple[str, ...]:
    first = [time_first_map(browser, address) for _ in range(5)]
    page = open_page(browser, address)
    small = [time_photo(page, make_photo(1000, 1000, n), n)[0] for n in range(tries)]
    large, tasks = zip(
        *(time_photo(page, make_photo(3000, 4000, n), tries + n) for n in range(tries // 2)), strict=True
    )
    rate = measure_camera(page)
    page.context.close()
    return f"{median(first):.2f}", f"{median(small):.0f}", f"{median(large):.0f}", f"{max(tasks):.0f}", f"{rate:.1f}"


def open_page(browser: Browser, address: str) -> Page:
    """Open the page in a browser without a cache, and wait for its first map. Other hosts are cut off."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, service_workers="block")
    context.route(re.compile(f"^(?!{re.escape(address)}|blob:|data:)"), lambda route: route.abort())
    page = context.new_page()
    page.goto(address)
    expect(page.locator(".status")).to_contain_text("Computed on this device")
    return page


def time_first_map(browser: Browser, address: str) -> float:
    start = time.perf_counter()
    page = open_page(browser, address)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    seconds = time.perf_counter() - start
    page.context.close()
    return seconds


def make_photo(height: int, width: int, seed: int) -> bytes:
    """A JPEG of a photo that is enlarged, and another one for each seed."""
    with Image.open(list_examples("photos")["Coffee"]) as photo:
        enlarged = photo.convert("RGB").resize(
            (width, height), box=(seed % 20, 0, photo.width - 20 + seed % 20, photo.height)
        )
    content = io.BytesIO()
    enlarged.save(content, "JPEG", quality=90)
    return content.getvalue()


def time_photo(page: Page, content: bytes, number: int) -> tuple[float, float]:
    """Return the milliseconds from the choice of a file to its painted map, and those of the longest task meanwhile."""
    page.evaluate(MEASURE)
    # A file: Playwright would decode bytes in the page itself.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{number}.jpg"
        file.write_bytes(content)
        page.locator("#file").set_input_files(file)
        painted, longest = page.evaluate("window.measured")
    page.wait_for_timeout(200)
    return painted, longest


def measure_camera(page: Page, seconds: float = 8) -> float:
    page.get_by_role("button", name="Start the camera").click()
    expect(page.locator(".rate")).to_contain_text("maps per second")
    pictures = page.evaluate(
        """seconds => new Promise(done => {
            let count = 0
            const seen = new MutationObserver(() => { count += 1 })
            seen.observe(document.querySelector(".seen img"), { attributes: true, attributeFilter: ["src"] })
            setTimeout(() => done(count), 1000 * seconds)
        })""",
        seconds,
    )
    page.get_by_role("button", name="Stop the camera").click()
    return float(pictures) / seconds


def compare_logits(
    browser: Browser, address: str, classifier: Classifier, photos: Sequence[Path]
) -> dict[str, tuple[object, ...]]:
    """Return for each format: number of photos, largest and median difference of logits, same top-1 classes."""
    page = open_page(browser, address)
    page.evaluate(OPEN_WORKER)
    rows = {}
    formats: dict[str, tuple[str, dict[str, Any]]] = {
        "PNG": ("PNG", {}),
        "JPEG, quality 90": ("JPEG", {"quality": 90}),
        "JPEG, quality 60, no subsampling": ("JPEG", {"quality": 60, "subsampling": 0}),
        "WebP, quality 80": ("WEBP", {"quality": 80}),
    }
    for name, (format, settings) in formats.items():
        found, same = [], 0
        for photo in photos:
            content = io.BytesIO()
            with Image.open(photo) as image:
                image.convert("RGB").save(content, format, **settings)
            answer = np.array(page.evaluate("explain", base64.b64encode(content.getvalue()).decode()))
            logits = class_maps(classifier, content.getvalue()).logits.numpy()
            found.append(float(np.abs(answer - logits).max()))
            same += int(answer.argmax() == logits.argmax())
        rows[name] = len(found), f"{max(found):.1e}", f"{median(found):.1e}", f"{same} of {len(found)}"
    page.context.close()
    return rows


if __name__ == "__main__":
    typer.run(main)
