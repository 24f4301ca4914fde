"""Download buttons that were replaced by a new run. What the browser does is in browser/test_simultaneous_events.py."""

import threading

import pytest
from streamlit.runtime import media_file_manager
from streamlit.runtime.media_file_manager import MediaFileManager
from streamlit.runtime.media_file_storage import MediaFileStorageError
from streamlit.runtime.memory_media_file_storage import MemoryMediaFileStorage

from inspector.ui.state.downloads import find_obstacle, keep_replaced_downloads


class Server:
    """Streamlit's manager of files, with sessions that run a page of download buttons."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.manager = MediaFileManager(MemoryMediaFileStorage("/media"))
        self.active = {"mine", "other"}
        self.now = 0.0
        keep_replaced_downloads(self.manager, self.active.__contains__, lambda: self.now)
        self.set_session = lambda session: monkeypatch.setattr(media_file_manager, "_get_session_id", lambda: session)

    def run_page(self, session: str, *contents: str, fragment: bool = False) -> list[str]:
        """Run a page with one button for each content. Return the ids of the files."""
        self.set_session(session)
        if not fragment:
            self.manager.clear_session_refs()
        files = [self.add_button(content, str(place)) for place, content in enumerate(contents)]
        self.manager.remove_orphaned_files()
        return files

    def add_button(self, content: str, place: str) -> str:
        return self.manager.add_deferred(content.encode, "text/plain", place)

    def press(self, file: str) -> str | None:
        """Return the address of the file; None if it was deleted."""
        try:
            return self.manager.execute_deferred(file)
        except MediaFileStorageError:
            return None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


@pytest.mark.parametrize("fragment", [False, True])
def test_a_button_that_was_just_replaced_gives_its_own_file(server: Server, fragment: bool) -> None:
    [before] = server.run_page("mine", "before")
    [after] = server.run_page("mine", "after", fragment=fragment)
    assert before != after
    old, new = server.press(before), server.press(after)
    assert old is not None
    assert new is not None
    assert old != new


def test_it_is_deleted_by_the_first_run_after_some_seconds_of_any_session(server: Server) -> None:
    [before] = server.run_page("mine", "before")
    [after] = server.run_page("mine", "after")
    server.now = 9.0
    server.run_page("other", "other")
    assert server.press(before)
    server.now = 11.0
    server.run_page("other", "other")
    assert server.press(before) is None
    assert server.press(after), "a button that is shown was deleted"


def test_files_of_a_closed_page_are_deleted_at_once(server: Server) -> None:
    files = server.run_page("mine", "before") + server.run_page("mine", "after")
    server.active.remove("mine")
    server.manager.clear_session_refs("mine")
    server.manager.remove_orphaned_files()
    assert [server.press(file) for file in files] == [None, None]
    assert not server.manager._deferred_callables
    assert not server.manager._files_by_session_and_coord


def test_a_run_that_another_session_interrupts_keeps_the_buttons_on_the_screen(server: Server) -> None:
    [shown] = server.run_page("mine", "shown")
    server.manager.clear_session_refs("mine")  # my next run begins
    server.run_page("other", "other")
    assert server.press(shown)


def test_many_runs_at_once_lose_no_button_that_is_shown() -> None:
    manager = MediaFileManager(MemoryMediaFileStorage("/media"))
    keep_replaced_downloads(manager, lambda session: True)
    owner = threading.local()
    lost: list[str] = []

    def run_page_often(session: str) -> None:
        owner.session = session
        for number in range(50):
            manager.clear_session_refs(session)
            file = manager.add_deferred(str(number).encode, "text/plain", "0")
            manager.remove_orphaned_files()
            try:
                manager.execute_deferred(file)
            except MediaFileStorageError as error:
                lost.append(str(error))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media_file_manager, "_get_session_id", lambda: owner.session)
        threads = [threading.Thread(target=run_page_often, args=(f"session {number}",)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not lost


class OtherManager:
    _deferred_callables: tuple[()] = ()

    def _remove_orphaned_deferred_callables(self) -> None:
        """Remove nothing."""


@pytest.mark.parametrize("manager", [OtherManager(), None])
def test_a_manager_of_another_kind_is_left_alone(manager: object) -> None:
    assert find_obstacle(manager) == "Streamlit's manager of media files is another than expected."


def test_the_manager_of_the_installed_streamlit_is_the_expected_one() -> None:
    assert find_obstacle(MediaFileManager(MemoryMediaFileStorage("/media"))) is None
