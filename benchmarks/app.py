"""Measure how fast the app is in a real browser. All times are medians over several tries:

- from the start of the server to the controls of the page, and to the first class map (network loaded, photo
  explained); the same for the very first start after `make app`, of a new copy of the project, compiled, with a new
  cache folder in which the default network was built, as `make app` does; and an app of one text, which is what
  Streamlit and the browser need by themselves,
- from choosing a file to its class map on screen, with the network loaded: small photos, and JPEGs of 12 and 48
  megapixels,
- from a click to the new image on screen: another class, another reading, the raw grid, a channel (no forward pass);
  a layer that was not shown before, of EfficientNet-Lite0 and of a ResNet-50 with random weights; and to a PNG on
  disk.

    python benchmarks/app.py
"""

import compileall
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated
from urllib.error import URLError
from urllib.request import urlopen

import cv2
import numpy as np
import torch
import typer
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
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
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        cache = build_default_network(Path(folder))
        time_start(browser, ROOT, cache)  # writes the bytecode that later starts read
        for name, projects in (
            ("server start", [ROOT] * starts),
            ("very first start", [copy_project(Path(folder), i) for i in range(starts)]),
        ):
            controls, first_map = zip(*(time_start(browser, project, cache) for project in projects), strict=True)
            rows += [
                (f"{name} to controls", *summarize_times(controls)),
                (f"{name} to the first class map", *summarize_times(first_map)),
            ]
        texts = [time_text(browser, Path(folder)) for _ in range(starts)]
        rows.append(("start of an app of one text", *summarize_times(texts)))
        with tempfile.TemporaryDirectory() as models, serve_app(add_resnet50(Path(models)), cache=cache) as url:
            page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
            page.goto(f"{url}/{CAT}")
            page.get_by_role("button", name="All (ZIP)").wait_for(timeout=120_000)
            photos = [list_examples("photos")[name] for name in ("Coffee", "Rocket", "Astronaut", "Photographer")]
            large = [make_photo(Path(models), megapixels) for megapixels in (12, 48)]
            for name, chosen in (
                ("upload to class map", photos),
                ("upload of 12 megapixels to class map", large[:1]),
                ("upload of 48 megapixels to class map", large[1:]),
            ):
                times = [time_upload(page, chosen[i % len(chosen)], f"{name} {i}") for i in range(tries)]
                rows.append((name, *summarize_times(times)))
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


def summarize_times(seconds: Sequence[float]) -> tuple[object, ...]:
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


def time_upload(page: Page, photo: Path, number: str) -> float:
    # Bytes that are new to the server: text after the end of the image changes the hash but no pixel.
    data = photo.read_bytes() + f"try {number}".encode()
    file = {"name": f"{number}-{photo.name}", "mimeType": "image/png", "buffer": data}
    seconds = time_until_redrawn(page, lambda: page.locator(".st-key-uploader input[type=file]").set_input_files(file))
    # Remove the photo again: the app keeps 60 photos, and the bar would fill with them.
    page.get_by_role("button", name="remove ").first.click(force=True)
    page.wait_for_timeout(600)
    return seconds


def make_photo(folder: Path, megapixels: int) -> Path:
    """Write a JPEG (4:3) with some noise, as a camera makes them."""
    width, height = round(1000 * (megapixels / 0.75) ** 0.5), round(750 * (megapixels / 0.75) ** 0.5)
    with Image.open(list_examples("photos")["Coffee"]) as source:
        pixels = np.asarray(source.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    noise = np.random.default_rng(0).integers(0, 12, (height, width, 1), np.uint8)
    file = folder / f"{megapixels}-megapixels.jpg"
    Image.fromarray(cv2.add(pixels, np.repeat(noise, 3, 2))).save(file, quality=92)
    return file


def time_start(browser: Browser, project: Path, cache: Path) -> tuple[float, float]:
    """Return the seconds from the start of the server to the controls, and to the first class map."""
    page = browser.new_context().new_page()
    start = time.perf_counter()
    with serve_app(project=project, cache=cache) as url:
        page.goto(url)
        page.get_by_role("radiogroup", name="Photos").wait_for(timeout=120_000)
        controls = time.perf_counter() - start
        page.locator(CLASS_MAP).first.wait_for(timeout=120_000)
        first_map = time.perf_counter() - start
    page.context.close()
    return controls, first_map


def time_text(browser: Browser, folder: Path) -> float:
    """Return the seconds from the start of a server to the text of an app that only shows a text."""
    project = folder / "text"
    project.mkdir(exist_ok=True)
    (project / "app.py").write_text("import streamlit\n\nstreamlit.write('ready')\n")
    page = browser.new_context().new_page()
    start = time.perf_counter()
    with serve_app(project=project) as url:
        page.goto(url)
        page.get_by_text("ready", exact=True).wait_for(timeout=120_000)
        seconds = time.perf_counter() - start
    page.context.close()
    return seconds


def copy_project(folder: Path, number: int) -> Path:
    """Copy what the app runs, and compile it; return the new folder."""
    copy = folder / f"project {number}"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("inspector", "models", ".streamlit"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    shutil.copy(ROOT / "app.py", copy)
    compileall.compile_dir(copy, quiet=1)
    return copy


def build_default_network(folder: Path) -> Path:
    """Build the graph of the default network in a new cache folder, as `make app` does; return the folder."""
    cache, copy = folder / "cache", copy_project(folder, -1)
    command = [Path(sys.executable).with_name("inspector"), "accelerate", "efficientnet_lite0"]
    subprocess.run(command, cwd=copy, env=set_environment(copy, cache), check=True, capture_output=True)
    return cache


def add_resnet50(folder: Path) -> Path:
    """Add a ResNet-50 with random weights; return the new folder of the user's networks."""
    torch.save(get_model("resnet50", weights=None).state_dict(), folder / "resnet50.pth")
    os.environ["INSPECTOR_MODELS"] = str(folder / "models")
    try:
        add_model(folder / "resnet50.pth", "resnet50", "torchvision:resnet50")
    finally:
        del os.environ["INSPECTOR_MODELS"]
    return folder / "models"


def set_environment(project: Path, cache: Path | None = None, models: Path | None = None) -> dict[str, str]:
    """Return the environment of a server that runs a copy of the project, and keeps bytecode as Python usually does."""
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    folders = {"INSPECTOR_CACHE": cache, "INSPECTOR_MODELS": models}
    return usual | {"PYTHONPATH": str(project)} | {name: str(path) for name, path in folders.items() if path}


@contextmanager
def serve_app(models: Path | None = None, project: Path = ROOT, cache: Path | None = None) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless=true", f"--server.port={port}"]
    command += ["--server.address=127.0.0.1", "--server.fileWatcherType=none"]
    environment = set_environment(project, cache, models)
    with subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
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
