"""The page Training runs in Streamlit's simulator: runs are compared, and broken ones do not hide the others."""

import json
import os
import shutil
from pathlib import Path

import pytest
from made_up_runs import write_runs
from streamlit.testing.v1 import AppTest

from inspector.images.examples import list_examples
from inspector.training.compare_runs import group_runs
from inspector.training.read_run import read_run
from inspector.ui.components.charts import make_curve_rows
from inspector.ui.components.markdown import plain
from inspector.ui.pages.runs_photo import may_show_photos


def read_headings(app: AppTest) -> list[str]:
    return [heading.value for heading in app.subheader]


def open_runs_page(monkeypatch: pytest.MonkeyPatch, *folders: Path, **link: str) -> AppTest:
    monkeypatch.setenv("INSPECTOR_RUNS", os.pathsep.join(map(str, folders)))
    # AppTest runs the first page of an app; this page is run as a script of its own.
    app = AppTest.from_function(_show_runs_page, default_timeout=120)
    for key, value in link.items():
        app.query_params[key] = value
    return app.run()


def _show_runs_page() -> None:
    from inspector.ui.pages import runs
    from inspector.ui.state import top_bar

    runs.show(top_bar.draw_bar())


def read_html(app: AppTest) -> str:
    return "\n".join(html.body for html in app.get("html"))


def test_the_page_compares_the_runs_and_their_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_runs_page(monkeypatch, write_runs(tmp_path))
    assert not app.exception
    assert not app.error
    assert read_headings(app) == [
        "Top-1 accuracy on the test images", "Loss in nats", "Evidence inside the object",
        "Confusion matrix", "Average class map of T-shirt/top",
        "One photo by every network",
    ]  # fmt: skip
    assert list(app.dataframe[0].value["run"]) == ["connected", "gap", "gmp"]
    # 0.5 and 0.6 in the two seeds.
    assert list(app.dataframe[1].value["inside the object"]) == pytest.approx([0.55] * 3)
    assert "gap, seed 0" in read_html(app)
    assert "gmp, seed 0" in read_html(app)
    assert "connected, seed 0" not in read_html(app), "it left no weights"


def test_the_page_names_the_most_frequent_confusions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The second run predicts three of ten shirts as coats, in each of two seeds.
    app = open_runs_page(monkeypatch, write_runs(tmp_path, weights=False), matrix="gmp")
    assert "<li>Shirt predicted as Coat: 6 of 20</li>" in read_html(app)
    assert "194 of 200 test images classified correctly, summed over 2 seeds." in [one.value for one in app.caption]
    assert "None of these runs has its weights here" in app.info[0].value


def test_a_run_that_is_not_chosen_is_nowhere_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_runs_page(monkeypatch, write_runs(tmp_path))
    app.pills(key="runs_clothes").set_value(["gmp"]).run()
    assert list(app.dataframe[0].value["run"]) == ["gmp"]
    assert app.selectbox(key="matrix").options == ["gmp"]
    assert "<b>gmp" in read_html(app)
    assert "<b>gap" not in read_html(app)


def test_misclassified_photos_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_runs_page(monkeypatch, write_runs(tmp_path), photos="misclassified")
    assert app.selectbox(key="photo").options == ["Shirt/shirt.png (predicted as Coat by gmp)"]
    assert app.selectbox(key="head_class").placeholder == "Shirt (true class)"
    # The network with max pooling predicts a T-shirt, and the hyphen of that name stays a hyphen.
    assert "top-1: T-shirt/top" in read_html(app)
    app.pills(key="runs_clothes").set_value(["gap"]).run()
    assert "every run classified every test photo correctly" in app.info[0].value


def test_the_photo_of_the_bar_can_be_shown_by_every_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = write_runs(tmp_path, photos=False)
    assert "photo ankle_boot.png" in read_html(open_runs_page(monkeypatch, runs)), "without test photos, the examples"
    app = open_runs_page(monkeypatch, runs, photos="photo of the bar", network="fashion_gap")
    bag = list_examples("fashion_mnist")["Bag"].read_bytes()
    app.file_uploader[0].set_value([("mine.png", bag, "image/png")]).run()
    assert "photo mine.png" in read_html(app)
    assert app.selectbox(key="head_class").placeholder == "Bag (top-1 of the first network)"


@pytest.mark.parametrize("file", ["../secret.png", "/etc/passwd", "Bag/../../secret.png", "link.png", "..\\secret.png"])
def test_a_test_photo_outside_the_folder_of_photos_is_not_open_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    runs = write_runs(tmp_path)
    shutil.copy(list_examples("fashion_mnist")["Bag"], tmp_path / "secret.png")
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "secret.png")
    for table in runs.rglob("test.csv"):
        table.write_text(f"file,label,predicted,probability,inside\n{file},Bag,Bag,0.9,\n")
    app = open_runs_page(monkeypatch, runs)
    assert not app.exception
    assert [error.value for error in app.error] == [
        plain(f"test.csv names {file!r}, which is outside the folder of the photos, so it is not opened.")
    ]
    assert "secret.png" not in read_html(app)


def test_photos_are_shown_from_no_root_and_from_no_folder_that_visitors_may_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(tmp_path.anchor)
    assert not may_show_photos(root)
    (tmp_path / "link").symlink_to(root)
    assert not may_show_photos(tmp_path / "link")
    assert not may_show_photos(tmp_path / "absent")
    assert may_show_photos(tmp_path)
    monkeypatch.setenv("INSPECTOR_DATA", str(tmp_path / "photos"))
    assert not may_show_photos(tmp_path)
    (tmp_path / "photos").mkdir()
    assert may_show_photos(tmp_path / "photos")


def test_a_run_whose_photos_are_the_whole_disk_shows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = write_runs(tmp_path)
    secret = tmp_path / "secret.png"
    shutil.copy(list_examples("fashion_mnist")["Bag"], secret)
    for path in runs.rglob("run.json"):
        path.write_text(path.read_text().replace(json.dumps(str(tmp_path / "photos")), json.dumps(tmp_path.anchor)))
        assert json.dumps(tmp_path.anchor) in path.read_text()
    for table in runs.rglob("test.csv"):
        file = secret.relative_to(tmp_path.anchor).as_posix()
        table.write_text(f"file,label,predicted,probability,inside\n{file},Bag,Bag,0.9,\n")
    app = open_runs_page(monkeypatch, runs)
    assert not app.exception
    assert "secret.png" not in read_html(app)
    assert not [box for box in app.selectbox if "secret" in str(box.options)]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("run.json", "has no entry 'settings'"),
        ("history.csv", "has no entry"),
        ("confusion.csv", "cannot be read"),
        ("average_maps.safetensors", "cannot be read"),
        ("test.csv", "has no entry 'file'"),
    ],
)
def test_a_broken_run_shows_one_error_and_the_other_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, message: str
) -> None:
    runs = write_runs(tmp_path)
    (runs / "clothes" / "gap" / "seed0" / file).write_text("{\n}\n")
    app = open_runs_page(monkeypatch, runs)
    assert not app.exception
    (error,) = app.error
    assert message in error.value
    # The other seed of gap is not broken.
    assert list(app.dataframe[0].value["run"]) == ["connected", "gap", "gmp"]
    assert "gmp, seed 0" in read_html(app)


def test_a_network_that_cannot_be_loaded_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = write_runs(tmp_path)
    (runs / "clothes" / "gap" / "seed0" / "model.json").unlink()
    app = open_runs_page(monkeypatch, runs)
    assert [warning.value.startswith(plain("gap, seed 0: No network")) for warning in app.warning] == [True]
    assert "gmp, seed 0" in read_html(app)


def test_one_name_in_two_folders_is_two_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = (write_runs(tmp_path / name, weights=False) for name in ("here", "there"))
    app = open_runs_page(monkeypatch, here, there)
    assert not app.error
    assert app.selectbox(key="experiment").options == ["clothes", f"clothes in {there}"]


def test_without_runs_the_page_says_how_to_make_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_runs_page(monkeypatch, tmp_path)
    assert not app.error
    assert f"No finished run in {tmp_path}. Use `inspector train" in app.info[0].value


def test_a_run_that_diverged_leaves_a_gap_in_its_line(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, weights=False) / "clothes" / "gap" / "seed0"
    (folder / "history.csv").write_text(
        "epoch,training_loss,validation_loss,top1,top2,seconds\n1,2.5,2.25,0.5,0.5,1\n2,nan,inf,0.1,0.1,1\n"
    )
    (diverged,) = group_runs([read_run(folder)])
    assert [row["mean"] for row in make_curve_rows(diverged, "test images", "validation_loss")] == [2.25, None]
    assert [row["mean"] for row in make_curve_rows(diverged, "training images", "training_loss")] == [2.5, None]


def test_a_link_with_a_value_of_an_earlier_version_opens_the_same_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_runs_page(monkeypatch, write_runs(tmp_path), photos="taken for another class")
    assert app.segmented_control(key="photos").value == "misclassified"
    assert app.selectbox(key="photo").options == ["Shirt/shirt.png (predicted as Coat by gmp)"]
