"""The start of the app: a network that was built for a runtime shows its first class map before torch is imported."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest
from viewer_page import read_title, read_viewer

from inspector import load
from inspector.explain.backends.accelerate import accelerate
from inspector.images.examples import list_examples
from inspector.networks.stored import keep_network, read_files
from inspector.ui.state import cache, photo_choice, stored_networks

ROOT = Path(__file__).parents[2]
# Opens the first page in a new process, and does there what needs the network. Prints the components that were shown at
# first with the large modules that were imported, and then whether torch was.
ACTIONS = f"""
import sys
from streamlit.testing.v1 import AppTest
from inspector.ui.pages import class_maps
menus, buttons = [], []
class_maps.show_save_menu = lambda pictures, *_: menus.append(pictures)
class_maps.show_download_buttons = lambda files, make, *_: buttons.append((files, make))
def open_page(**link):
    app = AppTest.from_file({str(ROOT / "app.py")!r}, default_timeout=120)
    for name, value in dict(network="fashion_gmp", **link).items():
        app.query_params[name] = value
    app.run()
    assert not app.exception and not app.error
    return app
app = open_page()
shown = [one.proto.component_name for one in app.get("bidi_component")]
print(*sorted(shown), *sorted({{"torch", "matplotlib", "pandas"}} & set(sys.modules)))
from viewer_page import read_viewer
from inspector.ui.components.save import encode_drawing
assert read_viewer(open_page(position="1,1"))["card"] is not None
assert read_viewer(open_page(show="winning class"))["winners"] is not None
assert read_viewer(open_page(boxes="all"))["located"]["classes"]
open_page(example="Bag", **{{"class": "Coat", "reading": "against the average", "grid": "true", "opacity": "0.5"}})
for pictures in menus:
    for picture in pictures:
        assert encode_drawing(picture.draw(), "svg")
for files, make in buttons:
    for label in ("PNG", "SVG"):
        assert make(files[label])
print("torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which a network is kept for ONNX Runtime."""
    folder, classifier, files = tmp_path_factory.mktemp("cache"), load("fashion_gmp"), read_files("fashion_gmp")
    accelerate(classifier, "onnxruntime", folder, on_built=partial(keep_network, files, classifier))
    return folder


@pytest.fixture
def _new_server(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSPECTOR_CACHE", str(built))
    monkeypatch.setenv(cache.BACKEND, "onnxruntime")
    monkeypatch.setattr(stored_networks, "_opened", {})


def open_page(**link: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    for name, value in ({"network": "fashion_gmp"} | link).items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def test_the_first_page_and_its_actions_need_no_torch(built: Path) -> None:
    """Another photo, class, contrast and opacity, a cell, boxes, winning classes, saved pictures and figures."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = os.environ | {"INSPECTOR_CACHE": str(built), cache.BACKEND: "auto", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", ACTIONS], stdout=subprocess.PIPE, text=True, env=environment, check=True
    )
    first, has_torch = done.stdout.splitlines()
    assert first.split() == ["inspector.class_strip", "inspector.class_viewer", "inspector.photo_strip"]
    assert has_torch == "False"


@pytest.mark.usefixtures("_new_server")
def test_a_kept_network_and_torch_show_the_same_page(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = []
    for backend in ("onnxruntime", "eager"):
        monkeypatch.setenv(cache.BACKEND, backend)
        cache.accelerate_network.clear()
        cache.compute_class_maps.clear()
        app = open_page(position="1,1")
        data = read_viewer(app)
        assert ("ran through onnxruntime." in data["verdict_sentence"]) == (backend == "onnxruntime")
        code = re.sub(r"scale=[\d.]+", "", app.code[0].value)
        pages.append([read_title(app), data["top"], data["card"]["lines"], data["note_of"], code])
    assert pages[0] == pages[1]
    cache.accelerate_network.clear()
    cache.compute_class_maps.clear()


@pytest.mark.usefixtures("_new_server")
def test_only_a_few_networks_are_open_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_networks, "MAX_OPEN", 2)
    monkeypatch.setattr(stored_networks, "read_files", lambda name: name)
    files = SimpleNamespace(are_unchanged=lambda: True)
    monkeypatch.setattr(
        stored_networks, "open_network", lambda name, backend: SimpleNamespace(backend=backend, files=files)
    )
    assert all(stored_networks.find_stored(name, "onnxruntime") for name in ("a", "b", "c"))
    assert [bool(stored_networks.find_stored(name, "onnxruntime")) for name in ("a", "b", "c")] == [False, True, True]


@pytest.mark.usefixtures("_new_server")
def test_torch_is_imported_in_a_thread_once_the_user_is_about_to_mask_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(stored_networks, "import_torch_in_background", asked.append)
    open_page(position="1,1")
    assert asked == []
    open_page(show="what if")
    assert len(asked) == 1


def test_torch_and_the_network_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    imports: list[Thread] = []
    monkeypatch.setattr(stored_networks, "_imports", imports)
    monkeypatch.setattr(stored_networks, "has_torch", lambda: False)
    for name in ("a", "b"):
        stored_networks.import_torch_in_background(partial(loaded.append, name))
    (thread,) = imports
    thread.join()
    assert loaded == ["a"]


@pytest.mark.usefixtures("_new_server")
def test_a_network_that_the_app_builds_is_kept_for_the_next_photo(built: Path) -> None:
    for file in built.glob("*.npz"):
        file.unlink()
    for kept_by_app in (cache.load_network, cache.accelerate_network, cache.compute_class_maps):
        kept_by_app.clear()
    assert stored_networks.find_stored("fashion_gmp", "onnxruntime") is None
    open_page()
    kept = stored_networks.find_stored("fashion_gmp", "onnxruntime")
    assert kept is not None
    assert list(built.glob("*.npz"))
    assert stored_networks.find_stored("fashion_gmp", "openvino") is None
    assert stored_networks.find_stored("fashion_gmp", "eager") is None


def test_the_small_picture_of_an_example_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path))
    path = list_examples("fashion_mnist")["Bag"]
    photo_choice._make_thumbnail_of_file.clear()
    first = photo_choice._make_thumbnail_of_file(path)
    photo_choice._make_thumbnail_of_file.clear()
    monkeypatch.setattr(cache, "read_example", lambda path: pytest.fail("read again"))
    assert photo_choice._make_thumbnail_of_file(path) == first
    assert first.startswith("data:image/jpeg;base64,")
