"""Folders of results are found below other folders, the newest first, without reading their rows."""

import os
from pathlib import Path

import numpy as np
import pytest
from made_up_results import Image, make_about, write_results

from inspector.datasets import listing
from inspector.datasets.listing import list_results, read_listed

IMAGE = Image("photo.png", {0: np.ones((1, 1)), 1: np.zeros((1, 1))}, 0)


def write(folder: Path, images: int = 5, changed: float = 1000.0) -> Path:
    write_results(folder, [IMAGE] * images, make_about(["a", "b"], (1, 1), shard_size=4), each=4)
    os.utime(folder / "run.json", (changed, changed))
    os.utime(folder, (changed, changed))
    return folder


def test_results_are_listed_newest_first_at_most_two_levels_below(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old", changed=1000), write(tmp_path / "below" / "new", changed=2000)
    write(tmp_path / "a" / "b" / "deep")
    write(tmp_path / ".hidden")
    (tmp_path / "photos").mkdir()
    assert [one.folder for one in list_results([tmp_path, tmp_path / "below", tmp_path / "absent"])] == [new, old]
    assert [one.folder for one in list_results([old])] == [old]


def test_a_stopped_run_tells_how_far_it_came(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", images=9)
    listed = read_listed(folder)
    assert listed is not None
    assert (listed.images, listed.written, listed.is_complete, listed.network) == (9, 9, True, "hand_made")
    (folder / "part-00001.parquet").unlink()
    (folder / "part-00002.parquet").unlink()
    listed = read_listed(folder)
    assert listed is not None
    assert (listed.written, listed.is_complete) == (4, False)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"images": "many"}'])
def test_a_folder_with_a_broken_description_is_left_out(tmp_path: Path, content: str) -> None:
    folder = write(tmp_path / "run")
    (folder / "run.json").write_text(content)
    assert read_listed(folder) is None
    assert not list_results([tmp_path])


def test_a_folder_of_very_many_entries_is_not_listed_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_MOST_ENTRIES", 3)
    for number in range(6):
        write(tmp_path / f"run{number}")
    assert len(list_results([tmp_path])) == 3
