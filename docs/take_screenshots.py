"""Take the screenshots of docs/images in a real Chromium: `python docs/take_screenshots.py [NAME ...]`.

Starts the app with the runs of experiments/flowers17. Needs the test extras. "concepts" and "repair" need the
folders that the tutorial of docs/concepts.md makes, in the folder of the repository.
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
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import nbformat
from nbconvert import HTMLExporter
from playwright.sync_api import Page, expect, sync_playwright

import inspector
from inspector.images.examples import list_examples

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
TWO = {"network": "efficientnet_lite0", "example": "Cat and coffee"}
CAT = {"network": "efficientnet_lite0", "example": "Cat", "class": "tiger cat"}


@contextmanager
def run_app() -> Iterator[str]:
    """Start the app on a free port and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.address=127.0.0.1"]
    command += [f"--server.port={port}", "--server.headless=true", "--server.fileWatcherType=none"]
    environment = os.environ | {"INSPECTOR_RUNS": str(ROOT / "experiments" / "flowers17")}
    environment |= {"INSPECTOR_RESULTS": str(ROOT / "none"), "INSPECTOR_MODELS": str(ROOT / "marked-models")}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as server:
        url = f"http://127.0.0.1:{port}"
        try:
            while True:
                try:
                    urlopen(f"{url}/_stcore/health", timeout=5)
                    break
                except URLError:
                    time.sleep(0.2)
            yield url
        finally:
            server.terminate()


def wait_until_idle(page: Page) -> None:
    """Wait until the run of the page has ended and what it shows is drawn."""
    page.wait_for_timeout(2000)
    expect(page.locator("[data-test-script-state=notRunning]")).to_be_attached(timeout=120_000)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=120_000)
    page.wait_for_timeout(1500)


def wait_for_methods(page: Page) -> None:
    """Wait for the maps of the methods and their curves."""
    expect(page.get_by_text("The sooner the curve falls, the better.")).to_be_visible(timeout=300_000)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0, timeout=300_000)
    wait_until_idle(page)


def test_and_repair(page: Page) -> None:
    """Load the network of the tutorial, flag the tag, test it, and repair the network."""
    page.get_by_text("Folder", exact=True).click()
    page.get_by_role("textbox", name="Folder").fill("runs/marked/gap_efficientnet_lite0/seed0")
    page.keyboard.press("Enter")
    page.wait_for_timeout(1000)
    page.get_by_role("button", name="Load", exact=True).click()
    expect(page.get_by_text("Networks of this session")).to_be_visible(timeout=60_000)
    page.get_by_role("link", name="Concepts").click()
    page.get_by_role("combobox", name="Results").fill("marked-results")
    page.keyboard.press("Enter")
    page.get_by_role("combobox", name="Class").click()
    page.get_by_role("option", name="Daisy").click()
    page.get_by_role("radiogroup", name="Flag of 6.1").get_by_text("shortcut").click()
    page.get_by_role("textbox", name="Name of 6.1").fill("tag")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Open 6.1").click()
    page.get_by_role("button", name="Test 6.1").click()
    expect(page.get_by_role("button", name="Test 6.1 again")).to_be_visible(timeout=300_000)
    page.get_by_role("button", name="Repair", exact=True).click()
    expect(page.get_by_role("button", name="Use this network")).to_be_visible(timeout=300_000)
    page.set_viewport_size({"width": 1400, "height": 1230})
    wait_until_idle(page)
    page.get_by_role("heading", name="Does it decide?").evaluate("element => element.scrollIntoView()")
    page.wait_for_timeout(1000)


def take_published_page(page: Page, file: Path) -> None:
    """Publish the default network, and take its page with a chosen cell."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        subprocess.run(["inspector", "publish", "efficientnet_lite0", "-o", folder], check=True)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "http.server", str(port), "--bind=127.0.0.1", f"--directory={folder}"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
            try:
                time.sleep(2)
                page.goto(f"http://127.0.0.1:{port}/")
                expect(page.locator(".status")).to_contain_text("Computed on this device", timeout=60_000)
                page.get_by_role("button", name="Cat and coffee").click()  # again: the first map takes longer
                page.wait_for_timeout(2000)
                page.locator(".inspector-photo").press("ArrowUp")
                page.wait_for_timeout(1000)
                page.screenshot(path=file)
            finally:
                server.terminate()


def nothing(page: Page) -> None:
    """Do nothing before the screenshot."""


# Name: path of the page, parameters of the link, height of the window, what to do first.
SHOTS: dict[str, tuple[str, dict[str, str], int, Callable[[Page], None]]] = {
    "app": ("", TWO, 900, nothing),
    "position": ("", TWO | {"position": "4,1", "size": "whole photo"}, 900, nothing),
    "boxes": ("", TWO | {"finer": "2", "boxes": "all"}, 900, nothing),
    "layers": ("layers", CAT, 900, nothing),
    "channels": ("layers", CAT | {"view": "channels"}, 960, nothing),
    "compare": ("compare", CAT | {"view": "photos", "examples": ["Cat", "Coffee", "Rocket"]}, 900, nothing),
    "methods": ("compare", CAT | {"view": "methods", "curves": "true"}, 1540, wait_for_methods),
    "export": ("export", CAT, 1270, nothing),
    "network": ("model", {"network": "efficientnet_lite0"}, 1000, nothing),
    "concepts": ("concepts", {"data": "marked-results", "concepts": "Daisy"}, 1010, nothing),
    "repair": ("model", {"network": "flowers17_gap"}, 900, test_and_repair),
    "laboratory": ("runs", {}, 2433, nothing),
    "all-maps": ("", {"network": "fashion_gmp", "example": "Sandal"}, 2000, nothing),
}
# Name: the part of the page that is taken, where it is not the whole page.
PARTS = {"all-maps": ".inspector-class-maps .all"}


def take_notebook(page: Page, file: Path) -> None:
    """Take the picture of a notebook with class maps and their viewer, exported to HTML."""
    maps = inspector.class_maps(inspector.load("efficientnet_lite0"), list_examples("photos")["Cat"])
    widget = maps.widget()
    shown = [({"text/html": maps._repr_html_()}, "maps"), (widget._repr_mimebundle_()[0], "maps.widget()")]
    cells = [
        nbformat.v4.new_code_cell(source, outputs=[nbformat.v4.new_output("display_data", data)])
        for data, source in shown
    ]
    html, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=cells))
    page.set_content(html)
    photo = page.frame_locator("iframe").locator(".inspector-photo")
    for _ in range(2):
        photo.press("ArrowUp")
    page.wait_for_timeout(1500)
    page.screenshot(path=file, full_page=True)


# Name: what takes the picture, where it is not a page of the app.
ALONE: dict[str, Callable[[Page, Path], None]] = {"publish": take_published_page, "notebook": take_notebook}


def main(names: list[str]) -> None:
    """Take the named screenshots, or all."""
    with run_app() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name in names or [*SHOTS, *ALONE]:
            if name in ALONE:
                ALONE[name](browser.new_page(viewport={"width": 1400, "height": 900}), IMAGES / f"{name}.png")
                continue
            place, parameters, height, prepare = SHOTS[name]
            page = browser.new_page(viewport={"width": 1400, "height": height})
            page.goto(f"{url}/{place}?{urlencode(parameters, doseq=True)}")
            wait_until_idle(page)
            prepare(page)
            file = IMAGES / f"{name}.png"
            (page.locator(PARTS[name]) if name in PARTS else page).screenshot(path=file)
            print(file)
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
