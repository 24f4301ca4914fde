"""Files and folders are written completely or not at all, also when a process is killed or two write at once."""

import io
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.errors import ExportError
from inspector.files import check_new_folder, csv_bytes, lock_folder, new_folder, read_csv, temporary_folder
from inspector.networks.labels import read_labels

posix_only = pytest.mark.skipif(os.name == "nt", reason="kills a process, and needs POSIX locks")


def write(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("old")
    return folder


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- replacing a folder

OURS = {"figure.png", "manifest.json"}


def test_a_folder_with_files_is_refused_unless_all_files_are_ours(tmp_path: Path) -> None:
    out = write(tmp_path / "out", "figure.png", "manifest.json")
    with pytest.raises(ExportError, match=r"out exists already and is not empty: nothing was written\. .*--overwrite"):
        check_new_folder(out)
    check_new_folder(out, is_ours=OURS.__contains__)
    write(out, "notes.txt")
    with pytest.raises(ExportError, match=r"out holds notes\.txt, which Inspector did not write there"):
        check_new_folder(out, is_ours=OURS.__contains__)
    with pytest.raises(ExportError, match=r"figure\.png exists already and is not a folder"):
        check_new_folder(out / "figure.png", is_ours=OURS.__contains__)
    check_new_folder(tmp_path / "new")
    check_new_folder(write(tmp_path / "empty"))
    assert list_names(out) == ["figure.png", "manifest.json", "notes.txt"]


@pytest.mark.parametrize("name", [".", "here", "here/../here"])
def test_the_folder_in_which_the_program_runs_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = Path(name) if name == "." else tmp_path / name
    with pytest.raises(ExportError, match="is the folder in which Inspector runs"):
        check_new_folder(folder, is_ours=lambda name: True)


def test_a_folder_is_replaced_when_the_new_one_is_complete(tmp_path: Path) -> None:
    out = write(tmp_path / "out", "figure.png", "manifest.json")
    with new_folder(out, is_ours=OURS.__contains__) as unfinished:
        (unfinished / "figure.png").write_text("new")
        assert (out / "figure.png").read_text() == "old"
    assert list_names(out) == ["figure.png"]
    assert (out / "figure.png").read_text() == "new"
    assert list_names(tmp_path) == ["out"]


def test_a_folder_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    out = write(tmp_path / "out", "figure.png")
    with pytest.raises(ZeroDivisionError), new_folder(out, is_ours=OURS.__contains__):
        raise ZeroDivisionError
    assert (out / "figure.png").read_text() == "old"
    assert list_names(tmp_path) == ["out"]


def test_a_folder_that_was_moved_aside_by_a_killed_process_gets_its_name_back(tmp_path: Path) -> None:
    earlier = write(tmp_path / ".inspector-replaced-out", "figure.png")
    with pytest.raises(ExportError, match="not empty"):
        check_new_folder(tmp_path / "out")
    assert list_names(tmp_path / "out") == ["figure.png"]
    assert not earlier.exists()


def test_a_link_to_a_folder_keeps_pointing_to_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(write(tmp_path / "real" / "out"), target_is_directory=True)
    with new_folder(tmp_path / "link") as unfinished:
        write(unfinished, "figure.png")
    assert (tmp_path / "link").is_symlink()
    assert list_names(tmp_path / "real" / "out") == ["figure.png"]


# --- what killed processes leave

KILLED = """
import pathlib, sys, time
from inspector.files import new_folder
from inspector.networks.labels import read_labels
with new_folder(pathlib.Path(sys.argv[1])) as unfinished:
    (unfinished / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def start_writer(out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@posix_only
def test_the_next_run_removes_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / ".inspector-mine", "notes.txt")
    write(tmp_path / ".inspector-otherhost-1-abc", "half")
    killed, alive = start_writer(tmp_path / "killed"), start_writer(tmp_path / "alive")
    with killed, alive:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(list_names(tmp_path)) == 4
        with new_folder(tmp_path / "out") as unfinished:
            write(unfinished, "figure.png")
        (kept,) = tmp_path.glob(f".inspector-*-{alive.pid}-*")
        assert list_names(tmp_path) == sorted([".inspector-mine", ".inspector-otherhost-1-abc", kept.name, "out"])
        alive.kill()


@posix_only
def test_a_locked_folder_is_kept_even_if_its_process_seems_dead(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        # As another container sees it, in which no process has this number.
        host = folder.name.split("-")[1]
        renamed = folder.rename(tmp_path / f".inspector-{host}-2000000000-abc")
        with temporary_folder(tmp_path):
            assert renamed.is_dir()
    with temporary_folder(tmp_path):
        assert not renamed.exists()


# --- locks


def test_the_lock_of_a_folder_is_held_by_one_thread_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> None:
        with lock_folder(tmp_path):
            inside.append(number)
            time.sleep(0.005)
            assert inside == [number]
            inside.clear()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert list_names(tmp_path) == []


@posix_only
def test_the_lock_of_a_folder_holds_for_other_processes_and_ends_with_them(tmp_path: Path) -> None:
    code = "import pathlib, sys, time\nfrom inspector.files import lock_folder\n"
    code += "with lock_folder(pathlib.Path(sys.argv[1])):\n    print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(BlockingIOError), lock_folder(tmp_path, wait=False):
            pass
        process.kill()
        process.wait()
        with lock_folder(tmp_path, wait=False):
            pass


# --- tables


@pytest.mark.parametrize("text", ["=cmd|'/c calc'!A1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1"])  # noqa: RUF001
def test_a_text_that_a_spreadsheet_would_run_is_quoted(text: str) -> None:
    header, row = csv_bytes([text], [[text]]).decode().split("\n", 1)[0], csv_bytes(["a"], [[text]]).decode()[2:]
    assert header.lstrip('"')[0] == row.lstrip('"')[0] == "'"


def test_numbers_are_not_quoted() -> None:
    assert csv_bytes(["n"], [[-1.5], [-3], ["-1.5"]]) == b"n\n-1.5\n-3\n'-1.5\n"


@given(st.lists(st.text(st.characters(codec="utf-8") | st.sampled_from("'=+-@\t\r\n")), min_size=1, max_size=3))
def test_texts_are_read_back_as_they_were_written(cells: list[str]) -> None:
    text = csv_bytes(cells, [cells]).decode()
    assert list(read_csv(io.StringIO(text, newline=""))) == [cells, cells]


def test_class_names_are_read_back_from_a_table_of_logits(tmp_path: Path) -> None:
    names = ("=cmd|'/c'!A1", "-3", "'=x", "plain")
    (tmp_path / "logits.csv").write_bytes(
        csv_bytes(("index", "name", "logit"), ((k, n, 0.5) for k, n in enumerate(names)))
    )
    assert read_labels(tmp_path / "logits.csv").names == names
