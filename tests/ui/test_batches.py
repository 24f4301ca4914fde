"""Runs over a data set that the app starts: results as those of the command, stopped, resumed, and private."""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from tiny_photos import BACKBONE, write_backbone

from inspector.datasets.features import read_features
from inspector.datasets.listing import read_listed
from inspector.datasets.run import RunOptions, run_dataset
from inspector.datasets.table import count_written_shards, read_rows
from inspector.errors import ImageError
from inspector.images.examples import list_examples
from inspector.images.sources import Item, hash_items
from inspector.networks.load import load
from inspector.ui.components.markdown import plain
from inspector.ui.pages.dataset_batch import describe_progress, list_photo_folders
from inspector.ui.state import batches, folders, keys
from inspector.ui.state.batches import UPLOADED, Batch, BatchRequest

NETWORK = "fashion_gap"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with a subfolder for each of ten classes."""
    for name, path in list_examples("fashion_mnist").items():
        folder = tmp_path / "photos" / name.replace("/", "_")
        folder.mkdir(parents=True)
        shutil.copy(path, folder / "photo.png")
    return tmp_path / "photos"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(folders.RESULTS, str(tmp_path / "results"))
    monkeypatch.delenv(folders.DATA, raising=False)
    return tmp_path / "results"


def make_request(photos: Path | tuple[Item, ...], out: Path, **changed: Any) -> BatchRequest:
    source, items = (UPLOADED, photos) if isinstance(photos, tuple) else (str(photos), ())
    settings = {"network_key": NETWORK, "classifier": load(NETWORK), "top": 2, "is_open": True} | changed
    return BatchRequest(source, items, out=out, **settings)


def make_uploads(photos: Path) -> tuple[Item, ...]:
    class Upload:
        def __init__(self, path: Path) -> None:
            self.name, self.getvalue = path.relative_to(photos).as_posix(), path.read_bytes

    return batches.make_items([Upload(path) for path in photos.rglob("*.png")])  # type: ignore[misc]


def read(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_rows(out)[0].to_table().to_pylist()
    return rows


def test_uploads_and_a_folder_give_the_results_of_the_command(photos: Path, tmp_path: Path) -> None:
    run_dataset(photos, load(NETWORK), tmp_path / "command", RunOptions(top=2))
    expected = read(tmp_path / "command")
    batches.run_request(make_request(photos, tmp_path / "folder"))
    batches.run_request(make_request(make_uploads(photos), tmp_path / "uploads"))
    for out in (tmp_path / "folder", tmp_path / "uploads"):
        rows = read(out)
        assert [row["label"] for row in rows] == [row["label"] for row in expected]
        assert [row["sha256"] for row in rows] == [row["sha256"] for row in expected]
        for row, other in zip(rows, expected, strict=True):
            np.testing.assert_allclose(row["maps"], other["maps"], atol=2e-2)
    assert {row["path"] for row in read(tmp_path / "uploads")} == {
        path.relative_to(photos).as_posix() for path in photos.rglob("*.png")
    }


def test_feature_maps_are_kept_and_a_head_without_a_linear_layer_is_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    monkeypatch.setenv("INSPECTOR_MODELS", str(write_backbone(tmp_path / "models")))
    batches.run_request(make_request(photos, tmp_path / "out", classifier=load(BACKBONE), features=True))
    assert len(read_features(tmp_path / "out").photos) == 10
    listed = read_listed(tmp_path / "out")
    assert listed is not None
    assert listed.has_features
    app = open_page()
    app.text_input(key=keys.BATCH_FOLDER).set_value(str(photos))
    app.toggle(key=keys.BATCH_FEATURES).set_value(True).run()
    press(app, "Start with fashion_gap")
    assert "no channels can be grouped. Expected average or max pooling and one linear layer." in app.error[0].value
    assert keys.BATCH not in app.session_state


def test_uploads_of_the_same_names_and_other_content_are_another_list() -> None:
    one, other = (Item("a.png", None, "", content=content) for content in (b"1", b"2"))
    assert hash_items([one]) == hash_items([one])
    assert hash_items([one]) != hash_items([other])


def test_a_run_that_was_stopped_is_resumed_where_it_was(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_SHARD_SIZE", 2)
    monkeypatch.setattr(batches, "_BATCH_SIZE", 2)
    seen: list[int] = []

    class Stop(Exception):
        pass

    def stop(done: int, images: int) -> None:
        seen.append(done)
        if done >= 6:
            raise Stop

    with pytest.raises(Stop):
        batches.run_request(make_request(photos, tmp_path / "out"), stop)
    assert 2 <= count_written_shards(tmp_path / "out") < 5
    batch = Batch(make_request(photos, tmp_path / "out", resume=True))
    batch.job.thread.join(60)
    assert str(batch.result) == "10 images: 10 explained, 0 could not be read; 10 rows in 5 shards"
    assert batch.first >= 4
    assert describe_progress(batch).startswith("10 of 10 photos")
    assert len({row["path"] for row in read(tmp_path / "out")}) == 10


def test_a_link_in_a_listed_folder_does_not_lead_out_of_it(
    photos: Path, tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "listed"
    (listed / "album").mkdir(parents=True)
    (listed / "album" / "photos").symlink_to(photos)
    (listed / "album" / "secret.png").symlink_to(photos / "Bag" / "photo.png")
    monkeypatch.setenv(folders.DATA, str(listed))
    assert list_photo_folders([listed]) == [listed, listed / "album"]
    with pytest.raises(ImageError, match=r"No image in .* may be read"):
        batches.run_request(make_request(listed / "album", tmp_path / "out", is_open=False))
    shutil.copy(photos / "Bag" / "photo.png", listed / "album" / "own.png")
    batches.run_request(make_request(listed / "album", tmp_path / "out", is_open=False))
    assert [Path(row["path"]).name for row in read(tmp_path / "out")] == ["own.png"]


def test_two_runs_never_write_into_one_folder(photos: Path, tmp_path: Path) -> None:
    with batches._write_alone(tmp_path / "out"):
        batch = Batch(make_request(photos, tmp_path / "out"))
        batch.job.thread.join(30)
    assert batch.result.endswith("is in progress already. Wait until it has ended.")
    assert not (tmp_path / "out").exists()


def _show_page() -> None:
    import streamlit as st

    from inspector.ui.pages import dataset
    from inspector.ui.state import photos
    from inspector.ui.state.networks import list_choices

    for name, data in st.session_state.get("added", {}).items():  # as the bar does
        photos.add_photo(name, data)
    dataset.show(list_choices()["fashion_gap"])


def open_page(**link: str) -> AppTest:
    app = AppTest.from_function(_show_page, default_timeout=120)
    for key, value in link.items():
        app.query_params[key] = value
    return app.run()


def end_batch(app: AppTest) -> AppTest:
    batch: Batch = app.session_state[keys.BATCH]
    batch.job.thread.join(60)
    assert not batch.job.running
    return app.run()


def press(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click()
    return app.run()


def test_the_page_runs_a_batch_shows_its_results_and_lists_them(photos: Path, results: Path) -> None:
    app = open_page()
    assert app.button[0].disabled
    app.text_input(key=keys.BATCH_FOLDER).input(str(photos)).run()
    end_batch(press(app, f"Start with {plain(NETWORK)}"))
    assert not app.exception
    assert not app.error
    (folder,) = results.iterdir()
    assert folder.name.endswith(f"photos {NETWORK}")
    assert app.selectbox(key=keys.RESULTS).value == folder.name
    assert "Images" in [heading.value for heading in app.subheader]
    # Another session lists them, and opens them by a link.
    other = open_page(**{keys.RESULTS: folder.name})
    assert not other.error
    assert folder.name in other.selectbox(key=keys.RESULTS).options
    assert "Images" in [heading.value for heading in other.subheader]


def test_a_run_without_photos_shows_the_reason(tmp_path: Path, results: Path) -> None:
    (tmp_path / "empty").mkdir()
    app = open_page()
    app.text_input(key=keys.BATCH_FOLDER).input(str(tmp_path / "empty")).run()
    end_batch(press(app, f"Start with {plain(NETWORK)}"))
    assert [error.value.startswith("No images in ") for error in app.error] == [True]
    assert not app.exception


def test_a_stopped_run_is_offered_to_be_resumed(photos: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_SHARD_SIZE", 2)
    monkeypatch.setattr(batches, "_BATCH_SIZE", 2)
    batches.run_request(make_request(photos, results / "run"))
    for number in (2, 3, 4):
        (results / "run" / f"part-0000{number}.parquet").unlink()
    app = open_page(**{keys.RESULTS: "run"})
    assert [info.value for info in app.info] == ["This run was stopped: 4 of 10 photos are stored."]
    end_batch(press(app, "Resume"))
    assert not app.info
    assert not app.error
    assert count_written_shards(results / "run") == 5


def test_results_of_uploads_to_an_app_for_others_are_for_their_session_and_those_with_the_link(
    photos: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(folders.DATA, "")
    app = open_page()
    assert not app.text_input, "no folder can be typed"
    assert app.info[0].value == "There are no photos of yours yet: add some in the bar."
    app.session_state["added"] = {path.name: path.read_bytes() for path in list_examples("fashion_mnist").values()}
    app.run()
    end_batch(press(app, f"Start with {plain(NETWORK)}"))
    assert not app.error
    (folder,) = (results / batches.PRIVATE).iterdir()
    name = f"{batches.PRIVATE}/{folder.name}"
    assert app.selectbox(key=keys.RESULTS).options == [name]
    assert len(folder.name.rsplit(" ", 1)[-1]) == 32
    assert open_page().selectbox(key=keys.RESULTS).options == []
    linked = open_page(**{keys.RESULTS: name})
    assert not linked.error
    assert "Images" in [heading.value for heading in linked.subheader]
    guessed = open_page(**{keys.RESULTS: name[:-1]})
    assert ["in the list of this app" in error.value for error in guessed.error] == [True]


def test_progress_tells_the_place_in_the_queue_and_the_speed(photos: Path, tmp_path: Path) -> None:
    with batches._write_alone(tmp_path / "out"):
        batch = Batch(make_request(photos, tmp_path / "out"))
        batch.job.thread.join(30)
    assert describe_progress(batch) == "Listing the photos ..."
    batch.images, batch.first, batch.done = 100, 10, 30
    batch.started = time.monotonic() - 10
    assert describe_progress(batch) == "30 of 100 photos, 2.0 per second, 35 s left"
    batch.job.__class__ = type("Waiting", (type(batch.job),), {"place": 2})
    assert (
        describe_progress(batch) == "30 of 100 photos, 2.0 per second, 35 s left, 2nd in the queue: others work first"
    )
