"""Measure the memory of the app's server: own networks that sessions upload, and what is given back when they end.

Each session uploads a ResNet-50 with weights of its own (100 MB), and opens its class maps. Then all sessions close.

    python benchmarks/memory.py --networks 5
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from playwright.sync_api import Browser, Page, expect, sync_playwright
from report import format_table, write_results
from safetensors.torch import save_file
from torchvision.models import resnet50

from app import FLAGS, serve_app

# Seconds after which nothing of a closed session is kept: 110 until it counts as ended, and the interval of the watch.
ENDED = 130


def main(networks: Annotated[int, typer.Option(min=1)] = 5) -> None:
    """Open and close the sessions and write results/memory.md."""
    expect.set_options(timeout=180_000)
    rows: list[tuple[str, str]] = []
    with sync_playwright() as playwright, serve_app() as url, tempfile.TemporaryDirectory() as folder:
        server = find_server(url)
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)

        def note(moment: str) -> None:
            rows.append((moment, f"{read_memory(server):,.0f}"))
            print(*rows[-1], flush=True)

        note("server started, no page opened")
        first = open_page(browser, f"{url}/?network=fashion_gap")
        expect(first.get_by_role("img", name="class map").first).to_be_visible()
        note("first class maps, of fashion_gap")
        # The first own network brings libraries with it that stay: torchvision's table of networks, and a warm torch.
        page = open_own_network(browser, url, write_network(Path(folder), 0))
        note("one own network opened")
        page.context.close()
        time.sleep(ENDED)
        note(f"{ENDED} s after its session was closed")
        checkpoints = [write_network(Path(folder), number) for number in range(1, networks + 1)]
        pages = [open_own_network(browser, url, checkpoint) for checkpoint in checkpoints]
        note(f"{networks} own networks opened in {networks} sessions")
        for page in pages:
            page.context.close()
        time.sleep(ENDED)
        note(f"{ENDED} s after these sessions were closed")
        browser.close()
    table = format_table(("moment", "resident memory of the server, MB"), rows)
    write_results("memory", f"python benchmarks/memory.py --networks {networks}", table)


def open_page(browser: Browser, url: str) -> Page:
    page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    page.goto(url)
    return page


def find_server(url: str) -> Path:
    """Return the folder in /proc of the process that serves a URL (Linux only)."""
    port = f"--server.port={url.rpartition(':')[2]}"
    return next(path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if port in path.read_text().split("\0"))


def read_memory(process: Path) -> float:
    """Return the resident memory of a process in MB."""
    lines = (process / "status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def write_network(folder: Path, seed: int) -> Path:
    """Write a ResNet-50 with random weights."""
    torch.manual_seed(seed)
    path = folder / f"own{seed}.safetensors"
    save_file(resnet50().state_dict(), path)
    return path


def open_own_network(browser: Browser, url: str, checkpoint: Path) -> Page:
    """Upload a network in a new session, and open the class maps of an example."""
    page = open_page(browser, f"{url}/model?network=fashion_gap")
    page.get_by_test_id("stForm").locator("input[type=file]").first.set_input_files(checkpoint)
    expect(page.get_by_text(checkpoint.name, exact=True)).to_be_visible()
    page.get_by_role("combobox", name="Architecture").click()
    page.keyboard.type("torchvision:resnet50")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Load", exact=True).click()
    expect(page.get_by_text(f"{checkpoint.name} is loaded")).to_be_visible()
    page.get_by_role("combobox", name="Model").click()
    page.keyboard.type(f"{checkpoint.stem} (yours)")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=checkpoint.stem, exact=True)).to_be_visible()
    page.get_by_role("link", name="Image").click()
    expect(page.get_by_role("img", name="class map").first).to_be_visible()
    return page


if __name__ == "__main__":
    typer.run(main)
