"""Measure how fast the app is in a real browser. All times are medians over several tries:

- from the start of the server to the controls of the page, and to the first class map (network loaded, photo
  explained),
- from choosing a file to its class map on screen, with the network loaded,
- from a click to the new image on screen: another class, another reading, the raw grid, a channel (no forward pass);
  a layer that was not shown before, of EfficientNet-Lite0 and of a ResNet-50 with random weights; and to a PNG on
  disk.

    python benchmarks/app.py
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated
from urllib.error import URLError
from urllib.request import urlopen

import torch
import typer
from playwright.sync_api import Page, expect, sync_playwright
from report import format_table, write_results
from torchvision.models import get_model

from inspector.images.examples import list_examples
from inspector.networks.register import add_model

ROOT = Path(__file__).parent.parent
FLAGS = ("--disable-gpu", "--no-sandbox", "--disable-background-networking", "--disable-component-update")
# The canvases on which maps are drawn.
CLASS_MAP, CHANNEL = 'canvas[aria-label^="class map: "]', 'canvas[aria-label^="channel "]'
LAYER = "[role=treeitem]:not(.group):not([aria-expanded])"
CAT = "?example=Cat"

# Channels of EfficientNet-Lite0 that are active on the photo of the cat: all dead channels look the same.
ACTIVE = (549, 451, 287, 345, 795, 977, 1044, 254, 1236, 241, 1156, 1144, 819, 1269, 420, 582, 899, 214, 745, 769)


def main(
    starts: Annotated[int, typer.Option(min=1, help="How often the server is started.")] = 5,
    tries: Annotated[int, typer.Option(min=2, help="How often each action is repeated.")] = 20,
) -> None:
    """Time the app and write results/app.md."""
    expect.set_options(timeout=120_000)
    rows: list[tuple[object, ...]] = []
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        controls, first_map = [], []
        for _ in range(starts):
            page = browser.new_context().new_page()
            start = time.perf_counter()
            with serve_app() as url:
                page.goto(url)
                page.get_by_role("radiogroup", name="Photos").wait_for(timeout=120_000)
                controls.append(time.perf_counter() - start)
                page.locator(CLASS_MAP).first.wait_for(timeout=120_000)
                first_map.append(time.perf_counter() - start)
            page.context.close()
        rows += [
            ("server start to controls", *summarize_times(controls)),
            ("server start to the first class map", *summarize_times(first_map)),
        ]
        with tempfile.TemporaryDirectory() as models, serve_app(add_resnet50(Path(models))) as url:
            page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
            page.goto(f"{url}/{CAT}")
            page.get_by_role("button", name="All (ZIP)").wait_for(timeout=120_000)
            photos = [list_examples("photos")[name] for name in ("Coffee", "Rocket", "Astronaut", "Photographer")]
            rows.append(
                ("upload to class map", *summarize_times([time_upload(page, photos[i % 4], i) for i in range(tries)]))
            )
            others = ("mean of all classes", "nothing")
            clicks: list[tuple[str, str, str, Callable[[int], object]]] = [
                (CAT, CLASS_MAP, "click: another class", lambda i: click_class(page, 1 - i % 2)),
                (CAT, CLASS_MAP, "another contrast", lambda i: choose_contrast(page, others[i % 2])),
                (CAT, CLASS_MAP, "click: raw grid or smooth", lambda i: page.get_by_label("Raw grid").click()),
                (CAT, CLASS_MAP, "another color map",
                 lambda i: page.get_by_label("Colors").select_option(("turbo", "inspector")[i % 2])),
                (f"layers{CAT}&view=channels", CHANNEL, "another channel, by number",
                 lambda i: enter_channel(page, i)),
                (f"layers{CAT}", CHANNEL, "click: another channel of a layer",
                 lambda i: page.get_by_role("option").nth(1 + i % 20).click()),
                (f"layers{CAT}", CHANNEL, "click: another layer", lambda i: click_layer(page, i)),
                (f"layers{CAT}&network=resnet50", CHANNEL, "click: another layer, ResNet-50",
                 lambda i: click_layer(page, i)),
            ]  # fmt: skip
            current = ""
            for path, picture, name, click in clicks:
                if path != current:
                    page.goto(f"{url}/{path}")
                    page.locator(picture).first.wait_for(timeout=120_000)
                    page.wait_for_timeout(3000)
                    current = path
                times = [time_until_redrawn(page, lambda i=i, click=click: click(i), picture) for i in range(tries)]
                rows.append((name, *summarize_times(times)))
            page.goto(f"{url}/{CAT}")
            page.locator(CLASS_MAP).first.wait_for(timeout=120_000)
            page.wait_for_timeout(3000)
            rows.append(("export as PNG to disk", *summarize_times([time_png_download(page) for _ in range(tries)])))
        browser.close()
    command = f"python benchmarks/app.py --starts {starts} --tries {tries}"
    write_results("app", command, format_table(("action", "tries", "median ms", "fastest ms", "slowest ms"), rows))


def summarize_times(seconds: list[float]) -> tuple[object, ...]:
    return len(seconds), *(f"{1000 * value:.0f}" for value in (median(seconds), min(seconds), max(seconds)))


def time_until_redrawn(page: Page, action: Callable[[], object], picture: str = CLASS_MAP) -> float:
    """Measure the seconds from an action until another map is drawn and painted, by the clock of the browser.

    The action begins with the last event of the mouse, the keyboard or a changed input before the map is drawn.
    """
    # The app sets the size of a canvas each time it draws on it.
    page.evaluate(
        """picture => {
            window.painted = null;
            let began = performance.now();
            const begin = () => { began = performance.now() };
            const events = ["pointerdown", "keydown", "change"];
            events.forEach(name => document.addEventListener(name, begin, { capture: true }));
            const drawn = changes => {
                if (!changes.some(({ target }) => target.matches(picture))) return;
                observer.disconnect();
                events.forEach(name => document.removeEventListener(name, begin, { capture: true }));
                const note = () => { window.painted = performance.now() - began };
                requestAnimationFrame(() => requestAnimationFrame(note));
            };
            const observer = new MutationObserver(drawn);
            observer.observe(document, { attributes: true, attributeFilter: ["width"], subtree: true });
        }""",
        picture,
    )
    action()
    page.wait_for_function("window.painted !== null", polling="raf")
    milliseconds: float = page.evaluate("window.painted")
    page.wait_for_timeout(600)  # time for the rest of the page to update
    return milliseconds / 1000


def click_class(page: Page, number: int) -> None:
    """Click a row of the top classes; the first is row 0."""
    page.get_by_role("radiogroup", name="Top classes").get_by_role("radio").nth(number).click()


def choose_contrast(page: Page, name: str) -> None:
    box = page.get_by_label("Rather than", exact=True)
    box.fill(name)
    box.press("Enter")


def enter_channel(page: Page, number: int) -> None:
    box = page.get_by_role("spinbutton", name="Channel")
    box.fill(str(ACTIVE[number % len(ACTIVE)]))
    box.press("Enter")


def click_layer(page: Page, number: int) -> None:
    """Click the layer that is so far above the last but one; no layer is clicked twice."""
    if number == 0:
        for _ in range(5):  # open the groups, and the groups in them
            page.evaluate("document.querySelectorAll('[aria-expanded=false] > i').forEach(mark => mark.click())")
    layers = page.locator(LAYER)
    layers.nth(layers.count() - 2 - number).click()


def time_png_download(page: Page) -> float:
    button = page.get_by_role("button", name="PNG", exact=True).first
    button.wait_for()
    start = time.perf_counter()
    with page.expect_download() as download:
        button.click()
    download.value.path()
    seconds = time.perf_counter() - start
    page.wait_for_timeout(300)
    return seconds


def time_upload(page: Page, photo: Path, number: int) -> float:
    # Bytes that are new to the server: text after the end of the image changes the hash but no pixel.
    data = photo.read_bytes() + f"try {number}".encode()
    file = {"name": f"{number}-{photo.name}", "mimeType": "image/png", "buffer": data}
    return time_until_redrawn(page, lambda: page.locator(".st-key-uploader input[type=file]").set_input_files(file))


def add_resnet50(folder: Path) -> Path:
    """Add a ResNet-50 with random weights; return the new folder of the user's networks."""
    torch.save(get_model("resnet50", weights=None).state_dict(), folder / "resnet50.pth")
    os.environ["INSPECTOR_MODELS"] = str(folder / "models")
    try:
        add_model(folder / "resnet50.pth", "resnet50", "torchvision:resnet50")
    finally:
        del os.environ["INSPECTOR_MODELS"]
    return folder / "models"


@contextmanager
def serve_app(models: Path | None = None) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless=true", f"--server.port={port}"]
    command += ["--server.address=127.0.0.1", "--server.fileWatcherType=none"]
    environment = os.environ | ({"INSPECTOR_MODELS": str(models)} if models else {})
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).close()
                break
            except URLError:
                time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


if __name__ == "__main__":
    typer.run(main)
