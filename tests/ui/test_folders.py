"""Which folders the app reads: any on your own machine; where others reach it, only those that the server lists."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_results import Image, make_about, write_results
from streamlit.testing.v1 import AppTest

from inspector.errors import InspectorError
from inspector.networks.build import build, find_preprocessing
from inspector.ui.state import folders, keys

LOCAL = {"Host": "localhost:8501", "Origin": "http://localhost:8501"}
CANARY = "canary-5d21"
TYPED = (
    "/{}", "{}", "../{}", "./{}/../{}", "~/{}", "~{}", "//{}/share", "\\\\{}\\share", "C:\\{}", "file:///{}", "s3://{}/a.tar",
    "http://{}/a", "memory://{}", "/proc/self/root/{}", "{}\0", "*/{}", "{}.csv", "{}.tar", "%2F{}",
)  # fmt: skip


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let others reach the app, which lists one folder; return this folder."""
    (tmp_path / "listed").mkdir()
    monkeypatch.setenv(folders.DATA, str(tmp_path / "listed"))
    monkeypatch.setenv(folders.RESULTS, str(tmp_path / "results"))
    return tmp_path / "listed"


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(folders.DATA, raising=False)
    monkeypatch.setenv(folders.RESULTS, str(tmp_path / "results"))
    monkeypatch.setattr(folders.st, "get_option", {"server.address": "localhost"}.get)


def reach(monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], address: str = "localhost") -> bool:
    """Return whether the app is open to a request with these headers."""
    monkeypatch.delenv(folders.DATA, raising=False)
    monkeypatch.setattr(folders.st, "get_option", {"server.address": address}.get)
    monkeypatch.setattr(folders, "st", type("Streamlit", (), {"get_option": folders.st.get_option}))
    monkeypatch.setattr(folders.st, "context", type("Context", (), {"headers": headers}), raising=False)
    return folders.is_open()


@pytest.mark.parametrize(
    ("headers", "address", "is_open"),
    [
        (LOCAL, "localhost", True),
        ({}, "localhost", True),  # no request, as in tests
        ({"Host": "127.0.0.1:8501", "Origin": "http://127.0.0.1:8501"}, "127.0.0.1", True),
        ({"Host": "[::1]:8501", "Origin": "http://[::1]:8501"}, "::1", True),
        (LOCAL, "0.0.0.0", False),
        (LOCAL, "", False),
        (LOCAL | {"X-Forwarded-For": "10.0.0.7"}, "localhost", False),
        (LOCAL | {"Forwarded": "for=10.0.0.7"}, "localhost", False),
        (LOCAL | {"x-real-ip": "10.0.0.7"}, "localhost", False),
        (LOCAL | {"Via": "1.1 proxy"}, "localhost", False),
        (LOCAL | {"CF-Connecting-IP": "10.0.0.7"}, "localhost", False),
        (LOCAL | {"Origin": "https://maps.example.org"}, "localhost", False),
        (LOCAL | {"Host": "maps.example.org"}, "localhost", False),
        (LOCAL | {"Origin": "http://localhost.example.org"}, "localhost", False),
        (LOCAL | {"Origin": "null"}, "localhost", False),
        ({"Host": "localhost:8501"}, "localhost", False),
        ({"Origin": "http://localhost:8501"}, "localhost", False),
    ],
)
def test_only_a_browser_on_the_same_machine_may_type_any_folder(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], address: str, is_open: bool
) -> None:
    assert reach(monkeypatch, headers, address) is is_open


@pytest.mark.parametrize("value", ["", "/srv/data"])
def test_a_list_of_folders_closes_all_others_also_on_the_same_machine(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    assert reach(monkeypatch, LOCAL)
    monkeypatch.setenv(folders.DATA, value)
    assert not folders.is_open()


def test_links_and_dots_do_not_lead_out_of_a_listed_folder(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").mkdir()
    (served / "out").symlink_to(tmp_path / "secret")
    (served / "inside").mkdir()
    (served / "in").symlink_to(served / "inside")
    (served / "loop").symlink_to(served / "loop")
    monkeypatch.chdir(served)
    for allowed in (served, served / "inside" / "photo.png", served / "in", served / "absent", Path("inside")):
        assert folders.may_read(allowed), allowed
    outside = (
        tmp_path, tmp_path / "secret", served / "out", served / "out" / "photo.png", served / ".." / "secret",
        Path("..") / "secret", Path("out"), tmp_path / "listed2", served / "loop", Path("//host/share"),
        Path("\\\\host\\share"), Path("/"), served / "a\0b",
    )  # fmt: skip
    for path in outside:
        assert not folders.may_read(path), path


def test_several_folders_may_be_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, served: Path) -> None:
    monkeypatch.setenv(folders.DATA, os.pathsep.join([str(tmp_path / "a"), "", str(tmp_path / "b")]))
    assert folders.may_read(tmp_path / "b" / "photo.png")
    assert folders.may_read(tmp_path / "results" / "run")
    assert not folders.may_read(Path())
    assert not folders.may_read(served)


@pytest.mark.parametrize("typed", TYPED)
def test_what_a_visitor_types_is_compared_with_the_list_and_never_looked_at(
    served: Path, typed: str, watched: list[str]
) -> None:
    with pytest.raises(InspectorError, match="in the list of this app"):
        folders.find_typed(typed.replace("{}", CANARY), [served / "run"])
    assert not watched


def test_a_listed_folder_is_found_by_its_path_and_by_its_name(served: Path, tmp_path: Path) -> None:
    offered = [served / "run", tmp_path / "results" / "uploads" / "mine"]
    assert folders.find_typed(str(served / "run"), offered) == offered[0]
    assert folders.find_typed("uploads/mine", offered) == offered[1]
    assert folders.find_typed(str(offered[1]), offered) == offered[1]
    for other in ("run", f"{served}/run/", f"{served}/./run", f"{served}/run/../run"):
        with pytest.raises(InspectorError, match="in the list of this app"):
            folders.find_typed(other, offered)


def test_on_your_own_machine_any_folder_may_be_typed_but_no_address(local: None) -> None:
    assert folders.find_typed("../photos", []) == Path("../photos")
    assert folders.find_typed("~/photos", []) == Path.home() / "photos"
    with pytest.raises(InspectorError, match="No folder ~nobody-of-this-name on this machine"):
        folders.find_typed("~nobody-of-this-name", [])
    for address in (
        "s3://bucket/photos",
        "https://example.org/a.tar",
        "file:///photos",
        "//host/share",
        "\\\\host\\share",
    ):
        with pytest.raises(InspectorError, match="is an address"):
            folders.find_typed(address, [])


_watching: list[list[str]] = []


def _note(name: object) -> None:
    for watched in _watching:
        if CANARY in os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else False:
            watched.append(os.fsdecode(name))  # type: ignore[arg-type]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return a list of the paths with the canary's name that are opened, listed or looked at."""
    if not getattr(sys, "_canary_is_watched", False):
        sys.addaudithook(lambda event, arguments: _note(arguments[0]) if _watching and arguments else None)
        monkeypatch.setattr(sys, "_canary_is_watched", True, raising=False)
    for name in ("stat", "lstat", "readlink"):
        original = getattr(os, name)

        def look(path: Any, *arguments: Any, original: Any = original, **settings: Any) -> Any:
            _note(path)
            return original(path, *arguments, **settings)

        monkeypatch.setattr(os, name, look)
    seen: list[str] = []
    _watching.append(seen)
    yield seen
    _watching.remove(seen)


@pytest.mark.parametrize("look", [Path.exists, Path.is_dir, Path.resolve, lambda path: list(path.iterdir()), open])
def test_the_watch_notices_every_way_to_look_at_a_path(look: Any, watched: list[str], tmp_path: Path) -> None:
    with suppress(OSError):
        look(tmp_path / CANARY)
    assert watched


def _show_page(name: str) -> None:
    from importlib import import_module

    from inspector.ui.components.controls import show_errors
    from inspector.ui.state import top_bar
    from inspector.ui.state.networks import list_choices

    with show_errors():
        arguments = [list_choices()["fashion_gap"]] if name == "dataset" else [top_bar.draw_bar()]
        import_module(f"inspector.ui.pages.{name}").show(*arguments)


# All keys of links, of all pages: a link may hold anything.
LINK_KEYS = sorted(
    value
    for name, values in vars(keys).items()
    if name.isupper()
    for value in (values if isinstance(values, tuple) else (values,))
    if isinstance(value, str) and " " not in value
)


@pytest.mark.parametrize("page", ["dataset", "runs"])
@pytest.mark.parametrize("typed", ["/{}", "../{}", "\\\\{}\\share", "s3://{}/a"])
def test_no_page_looks_at_a_path_in_its_link_or_its_text_boxes(
    page: str, typed: str, served: Path, watched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSPECTOR_RUNS", str(served))
    write_results(served / "run", [Image("photo.png", {})], make_about(["a"], (1, 1)), rows=[])
    app = AppTest.from_function(_show_page, default_timeout=60, args=(page,))
    for key in LINK_KEYS:
        app.query_params[key] = typed.replace("{}", CANARY)
    app.run()
    assert not app.exception
    assert not app.text_input, "a box for text would have to be tried here, too"
    assert not watched
    if page == "dataset":
        assert ["in the list of this app" in error.value for error in app.error] == [True]


def test_results_in_the_list_open_and_the_link_of_an_older_version_does_too(served: Path) -> None:
    image = Image("photo.png", {0: np.ones((1, 1)), 1: np.zeros((1, 1))}, 0)
    write_results(served / "deep" / "run", [image], make_about(["a", "b"], (1, 1)))
    app = AppTest.from_function(_show_page, default_timeout=60, args=("dataset",))
    app.query_params[keys.RESULTS] = str(served / "deep" / "run")
    app.run()
    assert not app.exception
    assert not app.error
    assert app.selectbox(key=keys.RESULTS).options == [str(served / "deep" / "run")]
    assert "Images" in [heading.value for heading in app.subheader]


@pytest.mark.parametrize("typed", [*TYPED, "timm:local-dir:/{}", "timm:/{}", "torchvision:/{}", "timm:hf-hub:{}/x"])
def test_the_name_of_an_architecture_is_never_a_path(typed: str, watched: list[str]) -> None:
    name = typed.replace("{}", CANARY)
    for look_up in (build, find_preprocessing):
        with suppress(InspectorError):
            assert look_up(name) is None
    assert not watched
