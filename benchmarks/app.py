"""How quick the app is in a real browser, medians over several tries:

- from starting the server to the page's controls, and to the first class map (network loaded, photo explained),
- from choosing a file to its class map on screen, the network loaded,
- from a click that needs no forward pass (another class, another reading, the raw grid) to the new picture on screen.

    python benchmarks/app.py
"""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated
from urllib.error import URLError
from urllib.request import urlopen

import typer
from playwright.sync_api import Page, expect, sync_playwright
from report import table, write

from inspector.examples import examples

ROOT = Path(__file__).parent.parent
FLAGS = ("--disable-gpu", "--no-sandbox", "--disable-background-networking", "--disable-component-update")
# The large map's source changes with every new picture.
IMAGE = "document.querySelector('img[alt^=\"class map: \"]')"


def main(
    starts: Annotated[int, typer.Option(min=1, help="How often the server is started.")] = 5,
    tries: Annotated[int, typer.Option(min=1, help="How often each click is made.")] = 20,
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
            with served() as url:
                page.goto(url)
                page.get_by_text("Your photo").wait_for(timeout=120_000)
                controls.append(time.perf_counter() - start)
                page.get_by_role("img", name="class map: tiger cat").wait_for(timeout=120_000)
                first_map.append(time.perf_counter() - start)
            page.context.close()
        rows += [("start to controls", *figures(controls)), ("start to the first class map", *figures(first_map))]
        with served() as url:
            page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
            page.goto(url)
            page.get_by_role("button", name="All (ZIP)").wait_for(timeout=120_000)
            photos = [examples("photos")[name] for name in ("Coffee", "Rocket", "Astronaut", "Photographer")]
            rows.append(("upload to class map", *figures([upload(page, photos[i % 4], i) for i in range(tries)])))
            clicks: dict[str, Callable[[int], None]] = {
                "click: another reading": lambda i: page.get_by_role(
                    "radio", name=("against the average", "logit")[i % 2], exact=True
                ).click(),
                "click: raw grid or smooth": lambda i: page.get_by_text("Raw grid").click(),
            }
            for name, click in clicks.items():
                rows.append(
                    (name, *figures([until_new(page, lambda i=i, click=click: click(i)) for i in range(tries)]))
                )
        browser.close()
    command = f"python benchmarks/app.py --starts {starts} --tries {tries}"
    write("app", command, table(("what", "tries", "median ms", "fastest ms", "slowest ms"), rows))


def figures(seconds: list[float]) -> tuple[object, ...]:
    return len(seconds), *(f"{1000 * value:.0f}" for value in (median(seconds), min(seconds), max(seconds)))


def until_new(page: Page, act: Callable[[], object]) -> float:
    """Seconds from an action until another class map is decoded and painted."""
    before = page.evaluate(f"{IMAGE}?.src")
    start = time.perf_counter()
    act()
    page.wait_for_function(
        f"before => {{ const now = {IMAGE}; return now && now.src !== before && now.complete && now.naturalWidth }}",
        arg=before,
        polling="raf",
    )
    seconds = time.perf_counter() - start
    page.wait_for_timeout(600)  # the rest of the page
    return seconds


def upload(page: Page, photo: Path, number: int) -> float:
    # Bytes that the server has not seen: a comment after the image's end changes the hash and no pixel.
    data = photo.read_bytes() + f"try {number}".encode()
    file = {"name": f"{number}-{photo.name}", "mimeType": "image/png", "buffer": data}
    return until_new(page, lambda: page.locator("input[type=file]").set_input_files(file))


@contextmanager
def served() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless=true", f"--server.port={port}"]
    command += ["--server.address=127.0.0.1", "--server.fileWatcherType=none"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
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
