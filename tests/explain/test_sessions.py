"""A file that is open in a runtime is not opened again: its session is shared."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from inspector.explain.backends import sessions
from inspector.explain.backends.sessions import open_once


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int]]:
    """What is opened, in place of a runtime."""
    calls: list[tuple[Path, int]] = []

    def open_file(file: Path, threads: int) -> Callable[..., list[object]]:
        calls.append((file, threads))
        return lambda inputs: []

    monkeypatch.setitem(sessions.OPEN, "onnxruntime", open_file)
    return calls


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"graph")
    return path


def test_a_file_that_is_open_is_not_opened_again(opened: list[tuple[Path, int]], file: Path) -> None:
    first = open_once("onnxruntime", file, 0)
    assert open_once("onnxruntime", file, 2) is first
    assert open_once("onnxruntime", file.parent / "." / file.name) is first
    assert opened == [(file, 0)]


def test_another_number_of_threads_has_a_session_of_its_own(opened: list[tuple[Path, int]], file: Path) -> None:
    one, two = open_once("onnxruntime", file, 1), open_once("onnxruntime", file, 2)
    assert one is not two
    assert open_once("onnxruntime", file, 2) is two
    assert opened == [(file, 1), (file, 2)]


def test_a_file_that_has_changed_is_opened_again(opened: list[tuple[Path, int]], file: Path) -> None:
    before = open_once("onnxruntime", file)
    os.utime(file, ns=(1, 1))
    assert open_once("onnxruntime", file) is not before
    assert len(opened) == 2


def test_a_session_that_nobody_uses_is_closed(opened: list[tuple[Path, int]], file: Path) -> None:
    session = open_once("onnxruntime", file)
    del session
    gc.collect()
    again = open_once("onnxruntime", file)
    assert len(opened) == 2
    assert again([]) == []
