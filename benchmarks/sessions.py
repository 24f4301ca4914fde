"""Test many sessions at once on one server: each shows the numbers of its own photo, and memory stays constant.

Every session has its own browser context and uploads photos that no other session has, one after the other. Once a
photo is shown, the session switches the reading, and each time compares the sum on its page with the sum that this
script computes for the photo. Every second session uses the default network. The others use networks whose heads are
not affine: ConvNeXt-T (LayerNorm after the pooling) and MobileNetV3-L (a hard-swish), with random weights.

    python benchmarks/sessions.py --sessions 20 --seconds 180
"""

import asyncio
import io
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from playwright.async_api import Page, async_playwright
from report import format_table, write_results
from torchvision.models import get_model

import inspector
from app import FLAGS, serve_app
from inspector.images.examples import list_examples
from inspector.networks.catalog import DEFAULT
from inspector.networks.register import add_model

READINGS = {"nothing": None, "mean of all classes": "average"}  # what the class is contrasted with
PHOTOS = 3  # per session
NONLINEAR = ("convnext_tiny", "mobilenet_v3_large")  # networks of torchvision whose heads are not affine
SUM = re.compile(r"(\S+) = map (\S+) \+ bias (\S+)")


@dataclass(frozen=True)
class Expected:
    """A photo and, for each reading, the sum of its top-1 class."""

    name: str
    png: bytes
    sums: dict[str, tuple[float, ...]]


def main(
    sessions: Annotated[int, typer.Option(min=1)] = 20,
    seconds: Annotated[int, typer.Option(min=1)] = 180,
) -> None:
    """Run the sessions and write results/sessions.md."""
    with tempfile.TemporaryDirectory() as folder:
        models = add_nonlinear(Path(folder))
        networks = [DEFAULT if session % 2 == 0 else NONLINEAR[session // 2 % 2] for session in range(sessions)]
        classifiers = {name: inspector.load(models / name if name in NONLINEAR else name) for name in set(networks)}
        photos = [
            [compute_expected(classifiers[name], session, number) for number in range(PHOTOS)]
            for session, name in enumerate(networks)
        ]
        right, wrong, waits, memory = asyncio.run(run_sessions(networks, photos, seconds, models))
    minute = [mb for at, mb in memory if at <= 60]
    later = [mb for at, mb in memory if at > 60]
    rows = [
        ("sessions, seconds, photos", f"{sessions}, {seconds}, {sessions * PHOTOS}"),
        ("sums read and right, by network", ", ".join(f"{name} {right[name]}" for name in sorted(set(networks)))),
        ("sums read and wrong", len(wrong)),
        ("median seconds from a switch to the right sum (2 cores, all sessions switching)", f"{median(waits):.2f}"),
        ("server memory after the first minute, MB", f"{minute[-1] if minute else 0:.0f}"),
        ("highest server memory after that, MB", f"{max(later, default=0):.0f}"),
        ("server memory at the end, MB", f"{memory[-1][1]:.0f}"),
    ]
    write_results("sessions", f"python benchmarks/sessions.py --sessions {sessions} --seconds {seconds}",
          format_table(("what", "measured"), rows), *(f"Wrong: {one}" for one in wrong[:5]))  # fmt: skip


def add_nonlinear(folder: Path) -> Path:
    """Add the networks of NONLINEAR with random weights; return the new folder of the user's networks."""
    os.environ["INSPECTOR_MODELS"] = str(folder / "models")
    try:
        for name in NONLINEAR:
            torch.manual_seed(0)
            torch.save(get_model(name, weights=None).state_dict(), folder / f"{name}.pth")
            add_model(folder / f"{name}.pth", name, f"torchvision:{name}")
    finally:
        del os.environ["INSPECTOR_MODELS"]
    return folder / "models"


def compute_expected(classifier: inspector.Classifier, session: int, number: int) -> Expected:
    """Make a crop of an example photo, different for each session and number, and compute its sums."""
    random = np.random.default_rng([session, number])
    source = Image.open(list(list_examples("photos").values())[(session + number) % 5]).convert("RGB")
    left, top = (int(random.integers(0, length // 4)) for length in source.size)
    photo = source.crop((left, top, left + source.width * 3 // 4, top + source.height * 3 // 4)).resize((320, 240))
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    maps = inspector.class_maps(classifier, buffer.getvalue())
    k = maps.top(1)[0][0]
    read = {name: maps.class_map(k, against) for name, against in READINGS.items()}
    sums = {name: (float(one.values.sum()), one.bias, one.total or 0.0) for name, one in read.items()}
    return Expected(f"session-{session}-photo-{number}.png", buffer.getvalue(), sums)


async def run_sessions(
    networks: list[str], photos: list[list[Expected]], seconds: int, models: Path
) -> tuple[Counter[str], list[str], list[float], list[tuple[float, float]]]:
    """Return the right sums by network, the wrong ones, the seconds to each sum, and (seconds, MB of the server)."""
    right, wrong, waits = Counter[str](), list[str](), list[float]()
    memory: list[tuple[float, float]] = []
    with serve_app(models) as url:
        async with async_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("google-chrome")
            browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            # The first session loads torch and the network, so the time starts when the server is ready.
            pages = [await (await browser.new_context()).new_page() for _ in photos]
            for page, network in zip(pages, networks, strict=True):
                page.set_default_timeout(300_000)
                await page.goto(f"{url}/?network={network}")
                await page.get_by_role("radiogroup", name="Photos").wait_for()
            start = time.perf_counter()
            watch = asyncio.create_task(watch_memory(start, memory))
            await asyncio.gather(
                *(
                    run_session(page, name, session_photos, start + seconds, right, wrong, waits)
                    for page, name, session_photos in zip(pages, networks, photos, strict=True)
                )
            )
            watch.cancel()
            await browser.close()
    return right, wrong, waits, memory


async def run_session(
    page: Page,
    network: str,
    photos: list[Expected],
    end: float,
    right: Counter[str],
    wrong: list[str],
    waits: list[float],
) -> None:
    turn = 0
    while time.perf_counter() < end:
        photo = photos[turn % len(photos)]
        file = {"name": photo.name, "mimeType": "image/png", "buffer": photo.png}
        # While the page is updated, the uploader that took the photo before stands after the new one.
        await page.locator(".st-key-uploader input[type=file]").first.set_input_files(file)
        for reading, sums in photo.sums.items():
            switched = time.perf_counter()
            await page.get_by_label("Rather than", exact=True).fill(reading)
            await page.get_by_label("Rather than", exact=True).press("Enter")
            shown = await wait_for_sums(page, sums)
            waits.append(time.perf_counter() - switched)
            if shown == "right":
                right[network] += 1
            else:
                wrong.append(f"{network}, {photo.name}, {reading}: expected {sums}, the page shows {shown}")
        turn += 1
        await asyncio.sleep(1)


async def wait_for_sums(page: Page, sums: tuple[float, ...]) -> str:
    """Return "right" as soon as the page shows these sums, else what it shows after a minute."""
    found = ""
    for _ in range(300):
        # While the page is updated, it still shows the previous numbers.
        text = await page.get_by_test_id("stMain").inner_text()
        if match := SUM.search(text):
            found = match[0]
            total, *parts = (float(number.replace("\N{MINUS SIGN}", "-")) for number in match.groups())
            shown = (*parts, total)
            # The page writes at least three decimals.
            if all(abs(a - b) < 6e-4 for a, b in zip(shown, sums, strict=True)):
                return "right"
        await asyncio.sleep(0.2)
    return found


async def watch_memory(start: float, memory: list[tuple[float, float]]) -> None:
    server = max(
        (
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if b"streamlit\0run" in path.read_bytes()
        ),
        default=0,
    )
    while True:
        status = Path(f"/proc/{server}/status").read_text()
        megabytes = int(status.split("VmRSS:")[1].split()[0]) / 1000
        memory.append((time.perf_counter() - start, megabytes))
        await asyncio.sleep(2)


if __name__ == "__main__":
    torch.set_num_threads(2)
    typer.run(main)
