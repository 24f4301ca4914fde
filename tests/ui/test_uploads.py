"""The server keeps the limits of uploads by itself, and what a session uploaded ends with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import hostile_onnx
import onnx
import pytest
import streamlit as st
import trials
from starlette import formparsers
from starlette.exceptions import HTTPException
from streamlit.proto.Common_pb2 import FileURLs as FileURLsProto
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.uploaded_file_manager import UploadedFile, UploadedFileRec

from inspector import Classifier
from inspector.errors import NetworkError
from inspector.explain.kinds import OutputChoice
from inspector.networks import isolation
from inspector.ui.pages.network_file import NetworkUpload, load_upload
from inspector.ui.state import cache, sessions, uploads
from inspector.ui.state.memory_file import open_memory_file
from inspector.ui.state.uploads import ArrivingFile, clean_name, find_obstacle, limit_uploads


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> MemoryUploadedFileManager:
    """Streamlit's manager, as limit_uploads changes it."""
    monkeypatch.setattr(formparsers, "SpooledTemporaryFile", formparsers.SpooledTemporaryFile)
    monkeypatch.setattr(uploads, "_asked", {})
    monkeypatch.setattr(sessions, "_callbacks", {})
    monkeypatch.setattr(sessions, "_last_seen", {})
    changed = MemoryUploadedFileManager("/upload")
    limit_uploads(changed)
    return changed


def send(manager: MemoryUploadedFileManager, name: str, size: int, session: str = "session") -> str:
    """Ask for a place and send a file there. Return its place."""
    (place,) = manager.get_upload_urls(session, [name])
    manager.add_file(session, UploadedFileRec(place.file_id, name, "", bytes(size)))
    return place.file_id


def refuse(
    status: int, match: str, manager: MemoryUploadedFileManager, name: str, size: int, session: str = "session"
) -> None:
    with pytest.raises(HTTPException, match=match) as caught:
        send(manager, name, size, session)
    assert caught.value.status_code == status


def list_names(manager: MemoryUploadedFileManager, session: str = "session") -> list[str]:
    return [file.name for file in manager.file_storage.get(session, {}).values()]


def test_the_installed_streamlit_can_be_limited() -> None:
    assert find_obstacle(MemoryUploadedFileManager("")) is None


@pytest.mark.parametrize("manager", [None, object(), MagicMock()])
def test_another_manager_is_left_alone(manager: object) -> None:
    reason = find_obstacle(manager)
    assert reason is not None
    assert reason.startswith("Streamlit's manager of uploaded files is another than expected")


def test_a_file_that_was_not_asked_for_is_refused(manager: MemoryUploadedFileManager) -> None:
    for session in ("session", "stranger"):
        with pytest.raises(HTTPException, match="not announced"):
            manager.add_file(session, UploadedFileRec("invented", "a.png", "", b"1"))
    place = send(manager, "a.png", 1)
    with pytest.raises(HTTPException, match="not announced"):  # the place of another session
        manager.add_file("stranger", UploadedFileRec(place, "a.png", "", b"1"))
    assert list_names(manager) == ["a.png"]


@pytest.mark.parametrize("name", ["a.png", "A.JPEG", "a.tiff"])
def test_photos_and_class_names_have_limits_of_their_own(
    manager: MemoryUploadedFileManager, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(uploads, "_LIMITS", {"png": 9, "jpeg": 9, "tiff": 9, "pth": 100})
    send(manager, name, 9)
    refuse(413, "larger than", manager, name, 10)
    send(manager, "a.pth", 100)
    refuse(413, "larger than", manager, "a.pth", 101)


def test_the_limits_are_those_that_the_widgets_show() -> None:
    assert uploads._LIMITS["jpg"] == uploads.MAX_PHOTO == 50_000_000
    assert uploads._LIMITS["onnx"] == uploads.MAX_NETWORK == st.get_option("server.maxUploadSize") * 1_000_000
    assert uploads._LIMITS["txt"] == uploads.MAX_LABELS


def test_a_session_and_all_sessions_together_have_a_limit(
    manager: MemoryUploadedFileManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_SESSION", 100)
    monkeypatch.setattr(uploads, "MAX_SERVER", 250)
    first = send(manager, "a.png", 60)
    refuse(413, "All files together", manager, "b.png", 60)
    send(manager, "b.png", 40)
    for session in ("second", "third"):
        send(manager, "a.png", 75, session)
    refuse(507, "full of files of all visitors", manager, "a.png", 1, "fourth")
    manager.remove_file("session", first)
    send(manager, "a.png", 1, "fourth")


def test_files_of_a_session_are_given_back_when_it_has_ended(
    manager: MemoryUploadedFileManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    for session in ("open", "closed"):
        send(manager, "a.png", 10, session)
    networks = {"mine": "network"}
    sessions.register("closed", networks.clear)
    start = sessions._last_seen["closed"]
    sessions.end_sessions(lambda session: session == "open", start + 100)
    assert list_names(manager, "closed") == ["a.png"]
    sessions.end_sessions(lambda session: session == "open", start + 120)
    assert list(manager.file_storage) == ["open"]
    assert not networks
    # The open session is counted from when it was last connected.
    sessions.end_sessions(lambda session: False, start + 220)
    assert list(manager.file_storage) == ["open"]
    sessions.end_sessions(lambda session: False, start + 240)
    assert not manager.file_storage
    assert not uploads._asked


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat.png", "cat.png"),
        ("猫.png", "猫.png"),
        ("../../a.png", "../../a.png"),
        ("a\0b.png", "a\\x00b.png"),
        ("a\ud800.png", "a\\ud800.png"),
        ("a\nb.png", "a b.png"),
    ],
)
def test_names_are_made_printable(manager: MemoryUploadedFileManager, name: str, expected: str) -> None:
    send(manager, name, 1)
    assert list_names(manager) == [expected]


def test_long_names_are_shortened_and_keep_their_ending() -> None:
    name = clean_name("é" * 5_000 + ".safetensors")
    assert len(name) == 200
    assert name.endswith("é.safetensors")


def test_arriving_files_stay_in_memory_and_are_limited_together(
    manager: MemoryUploadedFileManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert formparsers.SpooledTemporaryFile is ArrivingFile
    monkeypatch.setattr(uploads, "MAX_ARRIVING", ArrivingFile.total + 10_000_000)
    one, two = ArrivingFile(max_size=1), ArrivingFile(max_size=1)
    one.write(bytes(6_000_000))
    assert not one._rolled  # type: ignore[attr-defined]
    with pytest.raises(HTTPException, match="Too many files arrive"):
        two.write(bytes(6_000_000))
    one.close()
    one.close()
    two.write(bytes(6_000_000))
    two.close()


@pytest.mark.parametrize("name", ["a.onnx", "a.h5", "a.KERAS", "../x", "a" * 300 + ".pth", "a\0.pth", "a/b.pt", ".."])
def test_bytes_have_a_path_whatever_the_name_is(name: str) -> None:
    with open_memory_file(b"content", name) as path:
        assert path.read_bytes() == b"content"
        assert path.is_file()
        code = f"import pathlib; print(pathlib.Path({str(path)!r}).read_bytes().decode())"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "content"
    assert not path.parent.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no files in memory")
def test_nothing_of_an_upload_is_left_when_the_process_is_killed() -> None:
    code = (
        "import os, signal\nfrom inspector.ui.state.memory_file import open_memory_file\n"
        "with open_memory_file(b'1' * 1000, 'a.onnx') as path:\n"
        "    print(path, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    path = Path(done.stdout.strip())
    assert path.is_symlink()
    assert not path.exists()
    with open_memory_file(b"", "b.onnx"):  # removes the link of the killed process, too
        assert not path.is_symlink()


def test_no_room_for_an_upload_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "memfd_create", full, raising=False)
    no_room = pytest.raises(
        NetworkError, match=r"There is no room for a.onnx on this server \(No space left on device\)"
    )
    with no_room, open_memory_file(b"1", "a.onnx"):
        pass


def test_results_of_private_networks_are_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    results: cache.CachedResults[[str], str] = cache.cache_results(max_entries=2)(lambda key: key)
    kept: dict[str, list[str]] = {name: [] for name in ("shared", "private")}
    for name, calls in kept.items():
        monkeypatch.setattr(results, f"_{name}", calls.append)
    results("fashion_gap")
    results(f"{cache.PRIVATE}1234")
    assert kept == {"shared": ["fashion_gap"], "private": [f"{cache.PRIVATE}1234"]}


def test_private_networks_run_on_pytorch_and_leave_nothing_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inspector import load

    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path))
    monkeypatch.setenv(cache.BACKEND, "onnxruntime")
    classifier = load("fashion_gap")
    accelerate = cache.accelerate_network.__wrapped__
    private = accelerate(f"{cache.PRIVATE}1234", lambda: classifier)
    assert "PyTorch" in private.backend_status
    assert not list(tmp_path.iterdir())
    assert "onnxruntime" in accelerate("fashion_gap", lambda: classifier).backend_status
    assert list(tmp_path.iterdir())


def upload(model: onnx.ModelProto, name: str) -> Classifier:
    """Load a network as the page Model does."""
    record = UploadedFileRec("id", name, "", model.SerializeToString())
    file = UploadedFile(record, FileURLsProto())
    return load_upload(NetworkUpload(file, None, None, 32, "0 to 1", OutputChoice()))


def test_an_upload_that_crashes_onnx_runtime_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path))
    monkeypatch.setenv(isolation.SWITCH, "on")
    # The list of operators refuses this file; this trial is one without the list.
    monkeypatch.setattr("inspector.networks.load._try_network", trials.run_by_onnx_runtime)
    with pytest.raises(NetworkError, match=r"^mine\.onnx is not loaded: a trial of it by ONNX Runtime .* crashed"):
        upload(hostile_onnx.MODELS["divide"], "mine.onnx")
    assert upload(hostile_onnx.MODELS["harmless"], "next.onnx").name == "next"
    assert not list(tmp_path.iterdir()), "the hash of an upload is not kept on the disk"


@pytest.mark.parametrize("name", ["a" * 300 + ".onnx", "a\0.onnx", "../../a.onnx", "\ud800.onnx"])
def test_an_upload_may_have_any_name(name: str) -> None:
    assert upload(hostile_onnx.MODELS["harmless"], name).class_names == ("class 0", "class 1", "class 2")
