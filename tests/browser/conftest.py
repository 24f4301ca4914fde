"""Fixtures: the running app, and a real Chromium."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from made_up_runs import write_runs
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

ROOT = Path(__file__).parent.parent.parent

_APP_LOG = pytest.StashKey[Path]()
_LOG_END = 5_000  # characters of the log that are shown when a test fails

expect.set_options(timeout=60_000)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of the app's log, and the text of the page, to the report of a test that failed."""
    report = yield
    if report.when == "call" and report.failed:
        if log := item.config.stash.get(_APP_LOG, None):
            report.sections.append(("log of the app", log.read_text(errors="replace")[-_LOG_END:]))
        if isinstance(item, pytest.Function) and isinstance(page := item.funcargs.get("page"), Page):
            with suppress(Error):
                report.sections.append((f"text of {page.url}", page.inner_text("body", timeout=5_000)))
    return report


@pytest.fixture(scope="session")
def user_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the networks that a user of the app has added: none at first."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def app_url(tmp_path_factory: pytest.TempPathFactory, user_models: Path, pytestconfig: pytest.Config) -> Iterator[str]:
    runs = write_runs(tmp_path_factory.mktemp("runs"))
    environment = os.environ | {"INSPECTOR_RUNS": str(runs), "INSPECTOR_ISOLATION": "on"}
    environment |= {f"INSPECTOR_{name}": str(tmp_path_factory.mktemp(name)) for name in ("CACHE", "RESULTS")}
    environment["INSPECTOR_MODELS"] = str(user_models)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "streamlit", "run", "app.py", "--server.address=127.0.0.1", f"--server.port={port}",
        "--server.headless=true", "--server.fileWatcherType=none",
    ]  # fmt: skip
    log = pytestconfig.stash[_APP_LOG] = tmp_path_factory.mktemp("log") / "app.txt"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT) as server,
    ):
        try:
            yield _wait_until_ready(f"http://127.0.0.1:{port}", server)
        finally:
            server.terminate()


def _wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> str:
    for _ in range(600):
        assert server.poll() is None, "the app stopped"
        try:
            with urlopen(f"{url}/_stcore/health", timeout=5) as response:
                if response.read() == b"ok":
                    return url
        except URLError:
            time.sleep(0.1)
    raise AssertionError("the app did not start")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    arguments = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    arguments += ["--disable-component-update", "--disable-sync"]
    arguments += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a camera that is allowed
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium refuses its sandbox for root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tab(chromium: Browser) -> Iterator[Page]:
    """Return the tab of all tests: a second page load in it takes a third of the time of the first in a new one."""
    context = chromium.new_context(accept_downloads=True, reduced_motion="reduce")  # animations only cost time
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def page(tab: Page) -> Iterator[Page]:
    """Return an empty tab, which keeps nothing of an earlier test but files in the browser's cache.

    Streamlit's session ends with the document.
    """
    tab.set_viewport_size({"width": 1400, "height": 900})
    tab.emulate_media(color_scheme="light")
    yield tab
    tab.mouse.move(0, 0)
    if not tab.url.startswith("about:"):
        tab.evaluate("() => { sessionStorage.clear(); localStorage.clear() }")
    tab.context.clear_cookies()
    tab.goto("about:blank")
