"""Measure the memory of the app's server: with the network that it opens with, and with networks that sessions upload.

The first table: a new server, whose default network was built ahead as by `make app`, and one session. It shows the
first class map; a click on a cell, as many users do; then the page Layers, which needs PyTorch; then a second session
opens. Resident memory is what `ps` and `top` show. Part of it is file-backed: pages of libraries, which processes share
and the system takes back when memory is short. The rest belongs to the process alone. With `--before COMMIT` the server
of that commit is measured, too, in turn.

The second table: each session uploads a ResNet-50 with weights of its own (100 MB), and opens its class maps. Then all
sessions close.

    python benchmarks/memory.py --networks 5 --before COMMIT
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from before_after import BEFORE, NOW, measure_in_turn
from playwright.sync_api import Browser, Page, expect, sync_playwright
from report import format_table, write_results
from safetensors.torch import save_file
from torchvision.models import resnet50

import inspector
from app import CHANNEL, CLASS_MAP, FLAGS, serve_app, set_environment

# Seconds after which nothing of a closed session is kept: 110 until it counts as ended, and the interval of the watch.
ENDED = 130
SETTLED = 20  # seconds after an action until nothing is computed any more, as a backend that is built in a thread
PACKAGE = Path(inspector.__file__).parents[1]  # the project whose package this is: with --before an earlier one


def main(
    networks: Annotated[int, typer.Option(min=0, help="Own networks of the second table; 0: no such table.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="How many servers the first table has the medians of.")] = 1,
    before: Annotated[str | None, typer.Option(help="Commit whose server is measured, too, in turn.")] = None,
    once: Annotated[bool, typer.Option(hidden=True, help="Measure one server, and print JSON.")] = False,
) -> None:
    """Measure servers and write results/memory.md."""
    expect.set_options(timeout=180_000)
    if once:
        print(json.dumps(measure_default_network()))
        return
    measured = measure_in_turn(__file__, ["--once"], rounds, before)
    tables = [describe_default_network(measured, before)]
    if networks:
        tables.append(measure_own_networks(networks))
    command = f"python benchmarks/memory.py --networks {networks} --rounds {rounds}"
    write_results("memory", command + (f" --before {before}" if before else ""), *tables)


def describe_default_network(measured: dict[str, list[dict[str, tuple[float, float]]]], before: str | None) -> str:
    def format_medians(package: str, moment: str) -> Sequence[str]:
        return [f"{median(one[moment][n] for one in measured[package]):,.0f}" for n in (0, 1)]

    header = ["moment", "resident memory, MB", "of it not file-backed"]
    rows = [[moment, *format_medians(NOW, moment)] for moment in measured[NOW][0]]
    if before is not None:
        header += [f"resident before ({before})", "of it not file-backed"]
        rows = [[*row, *format_medians(BEFORE, row[0])] for row in rows]
    return format_table(header, rows)


def measure_default_network() -> dict[str, tuple[float, float]]:
    """Return the memory of a new server at several moments: resident MB, and those that are not file-backed."""
    memory: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        command = [Path(sys.executable).with_name("inspector"), "accelerate", "efficientnet_lite0"]
        environment = set_environment(PACKAGE, cache)
        subprocess.run(command, cwd=PACKAGE, env=environment, check=True, stdout=subprocess.DEVNULL)
        with open_browser(cache) as (browser, url, server):

            def note(moment: str, settled: int = SETTLED) -> None:
                time.sleep(settled)
                memory[moment] = read_memory(server, "Rss"), read_memory(server, "Anonymous")
                print(moment, *memory[moment], file=sys.stderr, flush=True)

            note("server started, no page opened", settled=2)
            page = open_page(browser, url)
            page.locator(CLASS_MAP).first.wait_for(timeout=180_000)
            note("first class map, of efficientnet_lite0")
            page.locator(CLASS_MAP).first.click()
            expect(page.get_by_text("Strongest channels").first).to_be_visible()
            note("a cell chosen, with its channels")
            page.get_by_role("link", name="Layers").click()
            page.locator(CHANNEL).first.wait_for(timeout=180_000)
            note("the page Layers, with PyTorch")
            second = open_page(browser, url)
            second.locator(CLASS_MAP).first.wait_for(timeout=180_000)
            note("a second session, first class map")
    return memory


@contextmanager
def open_browser(cache: Path | None = None) -> Iterator[tuple[Browser, str, Path]]:
    """Start a server and a browser. Yield the browser, the URL, and the folder in /proc of the server."""
    with sync_playwright() as playwright, serve_app(project=PACKAGE, cache=cache) as url:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser, url, find_server(url)
        browser.close()


def measure_own_networks(networks: int) -> str:
    """Open and close sessions with own networks; return the table."""
    rows: list[tuple[str, str]] = []
    with open_browser() as (browser, url, server), tempfile.TemporaryDirectory() as folder:

        def note(moment: str) -> None:
            rows.append((moment, f"{read_memory(server, 'Rss'):,.0f}"))
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
    return format_table(("moment", "resident memory of the server, MB"), rows)


def open_page(browser: Browser, url: str) -> Page:
    page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    page.goto(url)
    return page


def find_server(url: str) -> Path:
    """Return the folder in /proc of the process that serves a URL (Linux only)."""
    port = f"--server.port={url.rpartition(':')[2]}"
    return next(path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if port in path.read_text().split("\0"))


def read_memory(process: Path, field: str) -> float:
    """Return a field of the memory of a process in MB: Rss, or Anonymous, which is not file-backed."""
    lines = (process / "smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def write_network(folder: Path, seed: int) -> Path:
    """Write a ResNet-50 with random weights."""
    torch.manual_seed(seed)
    path = folder / f"own{seed}.safetensors"
    save_file(resnet50().state_dict(), path)
    return path


def open_own_network(browser: Browser, url: str, checkpoint: Path) -> Page:
    """Upload a network in a new session, and open the class maps of an example."""
    page = open_page(browser, f"{url}/model?network=fashion_gap")
    page.get_by_test_id("stFileUploader").filter(has_text="Checkpoint").locator("input").set_input_files(checkpoint)
    expect(page.get_by_text(checkpoint.name, exact=True)).to_be_visible()
    page.get_by_role("combobox", name="Architecture").click()
    page.keyboard.type("torchvision:resnet50")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Load", exact=True).click()
    expect(page.get_by_text(f"{checkpoint.stem} (yours) is loaded, and chosen for all pages.")).to_be_visible()
    expect(page.get_by_role("heading", name=checkpoint.stem, exact=True)).to_be_visible()
    page.get_by_role("link", name="Image").click()
    expect(page.get_by_role("img", name="class map").first).to_be_visible()
    return page


if __name__ == "__main__":
    typer.run(main)
