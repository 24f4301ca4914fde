"""The viewer as a widget in a real browser: in JupyterLab, in marimo, and in an exported notebook without a kernel."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest
from nbconvert import HTMLExporter
from page_checks import assert_drawn_as_in_python, assert_no_serious_violation
from playwright.sync_api import Browser, FrameLocator, Page, expect

from inspector import ClassMaps, class_maps, load
from inspector.images.examples import list_examples
from inspector.output import standalone
from inspector.output.frontend import bundle_javascript, read_frontend

pytestmark = pytest.mark.browser

SOURCE = """import inspector
from inspector.images.examples import list_examples
maps = inspector.class_maps(inspector.load("fashion_gap"), list_examples("fashion_mnist")["Ankle boot"])
widget = maps.widget()
"""
MARIMO = """import marimo

app = marimo.App(width="full")

@app.cell
def _():
    {source}
    widget
    return (widget,)

@app.cell
def _(widget):
    chosen = widget.state["k"], widget.state["cell"]
    print("chosen:", *chosen)

if __name__ == "__main__":
    app.run()
"""


@pytest.fixture(scope="module")
def boot() -> ClassMaps:
    return class_maps(load("fashion_gap"), list_examples("fashion_mnist")["Ankle boot"])


@contextmanager
def serve(folder: Path, *command: str, address: str = "") -> Iterator[str]:
    """Start a server of notebooks that keeps its own files in a folder; yield its URL once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"HOME": str(folder)} | {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"XDG_{name}_HOME": str(folder / name) for name in ("CONFIG", "STATE", "CACHE")}
    environment = os.environ | own | {"IPYTHONDIR": str(folder / "ipython")}
    quiet = subprocess.DEVNULL
    whole = [sys.executable, "-m", *command, f"--port={port}"]
    with subprocess.Popen(whole, cwd=folder, env=environment, stdout=quiet, stderr=quiet) as server:
        try:
            wait_until_ready(f"http://127.0.0.1:{port}{address}", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert server.poll() is None, "the server stopped"
        try:
            with urlopen(url, timeout=5):
                return
        except URLError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1440, "height": 1000}, reduced_motion="reduce")
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


def use_viewer(place: Page | FrameLocator, maps: ClassMaps) -> None:
    """Choose a class and a cell of a viewer by mouse and keys, and check what it shows."""
    viewer = place.locator(".inspector-viewer")
    expect(place.get_by_role("img", name="class map: Ankle boot", exact=True)).to_be_visible()
    assert_drawn_as_in_python(viewer, maps, maps.top(1)[0][0])
    place.get_by_role("radio", name="Sneaker, probability").click()
    expect(place.get_by_role("heading", name="Why Sneaker rather than nothing")).to_be_visible()
    k = maps.classifier.class_names.index("Sneaker")
    assert_drawn_as_in_python(viewer, maps, k)
    photo = viewer.locator(".inspector-photo")
    photo.press("ArrowDown")
    row, column = divmod(int(maps.values[k].argmax()), maps.values.shape[2])
    expect(viewer.locator(".inspector-line")).to_contain_text(f"Row {row}, column {column}: ")
    photo.press("ArrowDown")
    expect(viewer.locator(".chosen")).to_contain_text(f"Cell ({row + 1}, {column})")


def test_the_widget_in_jupyterlab_answers_and_tells_python_what_is_shown(
    tab: Page, boot: ClassMaps, tmp_path: Path
) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in (SOURCE + "widget", 'print("k:", widget.state["k"])')]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "maps.ipynb")
    settings = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--IdentityProvider.token=", "--LabApp.news_url="]
    settings += ["--ServerApp.jpserver_extensions={'jupyter_lsp': False}"]  # it looks for language servers
    with serve(tmp_path, "jupyterlab", *settings, address="/api/status") as url:
        # A cell that is run before the kernel started makes JupyterLab ask which kernel to use: the one that is chosen.
        dialog = tab.locator(".jp-Dialog")
        tab.add_locator_handler(dialog, lambda: dialog.locator(".jp-mod-accept").click())
        tab.goto(f"{url}/lab/tree/maps.ipynb")
        run_cell(tab, 0)
        use_viewer(tab, boot)
        # The arrow keys chose a cell of the map, and moved nothing in the notebook.
        expect(tab.locator(".inspector-photo")).to_be_focused()
        run_cell(tab, 1)
        expect(tab.get_by_text("k: 7", exact=True)).to_be_visible()
        tab.remove_locator_handler(dialog)


def run_cell(tab: Page, number: int) -> None:
    """Run a cell of a notebook in JupyterLab, which ignores this while it connects to the kernel."""
    for _ in range(30):
        tab.locator(".jp-Notebook .cm-content").nth(number).click()
        tab.keyboard.press("Shift+Enter")
        tab.wait_for_timeout(500)
        if tab.locator(".jp-InputPrompt").nth(number).inner_text() != "[ ]:":
            return
    raise AssertionError("the cell was not run")


def test_the_widget_in_marimo_answers(tab: Page, boot: ClassMaps, tmp_path: Path) -> None:
    notebook = tmp_path / "maps.py"
    notebook.write_text(MARIMO.format(source=SOURCE.replace("\n", "\n    ")), "utf-8")
    settings = ["--headless", "--no-token", "--host=127.0.0.1"]
    with serve(tmp_path, "marimo", "run", str(notebook), *settings, address="/health") as url:
        tab.goto(url)
        use_viewer(tab, boot)


# Fill an element with a widget, and put it on the page afterwards, as Jupyter does.
RENDER = """async ([source, data]) => {
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const { default: widget } = await import(url), el = document.createElement("div");
    window.stored = {};
    const set = (name, value) => { stored[name] = value; }, nothing = () => {};
    widget.render({ model: { get: () => data, set, save_changes: nothing, on: nothing, off: nothing }, el });
    document.body.append(el);
}"""


def test_the_widget_is_light_or_dark_as_the_notebook_and_says_which_classes_it_has(
    tab: Page, boot: ClassMaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standalone, "LIMIT", 0)  # as with a network of 100,000 classes
    page = "<html lang=en><title>notebook</title><body style='color: #eee; background: #111'></body></html>"
    tab.set_content(page)
    tab.add_style_tag(content=read_frontend("viewer.css"))
    tab.evaluate(RENDER, [bundle_javascript("widget.js"), standalone.make_standalone_data(boot, boot.figure_content())])
    viewer = tab.locator(".inspector-viewer")
    expect(viewer).to_have_css("color-scheme", "dark")
    assert_no_serious_violation(tab)
    tab.evaluate("document.body.style.color = '#111'; document.body.style.background = '#fff'")
    expect(viewer).to_have_css("color-scheme", "light")
    tab.get_by_role("radio", name="Sneaker, probability").click()
    tab.wait_for_function("stored.state?.k === 7")
    expect(
        tab.get_by_text("The maps of 5 of 10 classes are here: the top ones and those chosen before.")
    ).to_be_visible()
    tab.get_by_label("Any class", exact=True).fill("trouser")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", name="Why Sneaker rather than nothing")).to_be_visible()
    expect(tab.get_by_role("radio", name="top class per cell")).to_have_count(0)
    tab.get_by_role("radio", name="Sneaker, probability").focus()
    # Where an element that has the focus lacks this, Jupyter takes its keys.
    expect(tab.locator(":focus")).to_have_attribute("data-lm-suppress-shortcuts", "true")


def test_an_exported_notebook_answers_without_a_kernel_and_without_a_network(
    chromium: Browser, boot: ClassMaps, tmp_path: Path
) -> None:
    widget = boot.widget()
    data, metadata = widget._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data, metadata=metadata)
    cells = [nbformat.v4.new_code_cell("maps.widget()", outputs=[output])]
    html, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=cells))
    path = tmp_path / "maps.html"
    path.write_text(html, "utf-8")
    context = chromium.new_context(offline=True, color_scheme="dark", viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(path.as_uri())
    frame = page.frame_locator("iframe")
    use_viewer(frame, boot)
    viewer = frame.locator(".inspector-viewer")
    # The exported page is light, whatever the system prefers, and the frame is as high as the viewer.
    assert viewer.evaluate("element => getComputedStyle(element).colorScheme") == "light"
    for width in (360, 2560):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function("""() => {
            const frame = document.querySelector("iframe"), inner = frame.contentDocument;
            return Math.abs(frame.clientHeight - inner.body.getBoundingClientRect().height) < 2
                && inner.documentElement.scrollWidth <= frame.clientWidth;
        }""")
    page.close()
    # axe-core fetches nothing, but it cannot enter the frame of a file: the page in it is checked by itself.
    page = context.new_page()
    inner = tmp_path / "inner.html"
    inner.write_text(frame_source(html), "utf-8")
    page.goto(inner.as_uri())
    expect(page.get_by_role("img", name="class map: Ankle boot", exact=True)).to_be_visible()
    assert_no_serious_violation(page)
    context.close()
    widget.close()


def frame_source(html: str) -> str:
    return unescape(html.split('<iframe srcdoc="')[1].split('"')[0])
