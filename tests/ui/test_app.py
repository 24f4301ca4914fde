"""The app in Streamlit's own simulator: states, links, errors. What needs a browser is in browser/."""

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
from inspector.ui.state import cache

APP = Path(__file__).parents[2] / "app.py"


def opened(**link: str) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=120)
    for key, value in link.items():
        app.query_params[key] = value
    return app.run()


def headings(app: AppTest) -> list[str]:
    return [heading.value for heading in app.subheader]


def lines(app: AppTest) -> str:
    return "\n".join(markdown.value for markdown in app.markdown)


def test_the_app_opens_with_a_network_and_a_photo_loaded() -> None:
    app = opened()
    assert not app.exception
    assert not app.error
    assert headings(app)[0] == "tiger cat"
    assert ":green-badge[exact]" in lines(app)
    assert "map 9.25" in lines(app)


def test_a_network_is_heard_through_the_backend_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path))
    cache.accelerate_network.clear()
    cache.compute_class_maps.clear()
    shown = {}
    for backend in ("eager", "onnxruntime", "abacus"):
        monkeypatch.setenv(cache.BACKEND, backend)
        app = opened(network="fashion_gap", example="Bag")
        shown[backend] = [headings(app), lines(app)] if not app.error else [error.value for error in app.error]
        helps = " ".join(markdown.help or "" for markdown in app.markdown)
        assert ("The forward pass ran through onnxruntime." in helps) == (backend == "onnxruntime")
        cache.accelerate_network.clear()
        cache.compute_class_maps.clear()
    assert len(list(tmp_path.glob("*.onnx"))) == 1
    assert shown["eager"][0] == shown["onnxruntime"][0]
    assert shown["abacus"][0].startswith("No backend 'abacus'; there are auto, eager,")


def test_a_link_reopens_network_class_and_reading() -> None:
    app = opened(
        network="fashion_gmp", example="Sandal", reading="against a class", **{"class": "Bag"}, against="Dress"
    )
    assert headings(app)[0] == "Bag against Dress"


def test_the_class_can_be_switched_and_contrasted_with_the_average() -> None:
    app = opened(network="fashion_gap")
    app.selectbox(key="class").set_value("Sneaker").run()
    assert headings(app)[0] == "Sneaker"
    app.segmented_control(key="reading").set_value("against the average").run()
    assert headings(app)[0] == "Sneaker against the average class"


def test_a_class_of_one_network_does_not_stay_when_the_other_has_no_such_class() -> None:
    app = opened(network="fashion_gap", **{"class": "Sneaker"})
    app.selectbox(key="network").set_value("efficientnet_lite0").run()
    assert not app.exception
    assert headings(app)[0] == "tiger cat"


def test_only_max_pooling_offers_position_scores_and_says_that_they_do_not_sum() -> None:
    average = opened(network="fashion_gap")
    assert [toggle.key for toggle in average.toggle] == ["grid"]
    maximum = opened(network="fashion_gmp")
    maximum.toggle(key="dense").set_value(True).run()
    assert "highest score" in lines(maximum)


def test_networks_with_few_classes_show_all_maps() -> None:
    assert "All class maps before pooling" in headings(opened(network="fashion_gap"))
    assert "All class maps before pooling" not in headings(opened())


def test_an_upload_takes_the_place_of_the_example() -> None:
    app = opened(network="fashion_gap")
    app.file_uploader[0].set_value(("bag.png", list_examples("fashion_mnist")["Bag"].read_bytes(), "image/png")).run()
    assert headings(app)[0] == "Bag"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"no image at all", "broken.png is not an image that can be read."),
        (list_examples("fashion_mnist")["Bag"].read_bytes()[:150], "broken.png is broken or cut off"),
    ],
)
def test_a_bad_upload_gets_one_sentence_and_no_old_map(data: bytes, sentence: str) -> None:
    app = opened(network="fashion_gap")
    app.file_uploader[0].set_value(("broken.png", data, "image/png")).run()
    assert not app.exception
    assert [error.value.startswith(sentence) for error in app.error] == [True]
    assert headings(app) == []


@pytest.mark.parametrize("size", ["1.5 times", "the photo's own"])
def test_a_larger_input_gives_other_maps_that_add_up_too(size: str) -> None:
    app = opened(network="fashion_gap", example="Bag", size=size)
    assert not app.exception
    assert ":green-badge[exact]" in lines(app)


def laboratory(monkeypatch: pytest.MonkeyPatch, *folders: Path, **link: str) -> AppTest:
    monkeypatch.setenv("INSPECTOR_RUNS", os.pathsep.join(map(str, folders)))
    # AppTest runs the page that stands first: another is a script of its own.
    app = AppTest.from_function(_laboratory, default_timeout=120)
    for key, value in link.items():
        app.query_params[key] = value
    return app.run()


def _laboratory() -> None:
    from inspector.ui.pages import runs

    runs.show()


def pictures(app: AppTest) -> str:
    return "\n".join(html.body for html in app.get("html"))


def test_the_laboratory_compares_the_runs_and_their_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = laboratory(monkeypatch, write_runs(tmp_path))
    assert not app.exception
    assert not app.error
    assert headings(app) == [
        "Top-1 accuracy on the test images", "Loss in nats", "Evidence inside the object",
        "Confusion matrix", "Average class map of T\\-shirt/top",
        "One photo by every network",
    ]  # fmt: skip
    assert list(app.dataframe[0].value["run"]) == ["connected", "gap", "gmp"]
    # 0.5 and 0.6 in the two seeds.
    assert list(app.dataframe[1].value["inside the object"]) == pytest.approx([0.55] * 3)
    assert "gap, seed 0" in pictures(app)
    assert "gmp, seed 0" in pictures(app)
    assert "connected, seed 0" not in pictures(app), "it left no weights"


def test_the_laboratory_names_the_most_frequent_confusions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The second run takes three of ten shirts for coats, in each of two seeds.
    app = laboratory(monkeypatch, write_runs(tmp_path, weights=False), matrix="gmp")
    assert "<li>Shirt predicted as Coat: 6 of 20</li>" in pictures(app)
    assert "194 of 200 test images classified correctly, summed over 2 seeds." in [one.value for one in app.caption]
    assert "None of these runs has its weights here" in app.info[0].value


def test_a_run_that_is_left_out_is_nowhere_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = laboratory(monkeypatch, write_runs(tmp_path))
    app.pills(key="runs_clothes").set_value(["gmp"]).run()
    assert list(app.dataframe[0].value["run"]) == ["gmp"]
    assert app.selectbox(key="matrix").options == ["gmp"]
    assert "<b>gmp" in pictures(app)
    assert "<b>gap" not in pictures(app)


def test_photos_that_a_head_took_for_another_class_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = laboratory(monkeypatch, write_runs(tmp_path), photos="misclassified")
    assert app.selectbox(key="photo").options == ["Shirt/shirt.png (predicted as Coat by gmp)"]
    assert app.selectbox(key="head_class").placeholder == "Shirt (true class)"
    # Max pooling's network finds the shirt a T-shirt, and the hyphen of its name stays one.
    assert "top-1: T-shirt/top" in pictures(app)
    app.pills(key="runs_clothes").set_value(["gap"]).run()
    assert "every run classified every test photo correctly" in app.info[0].value


def test_a_photo_of_ones_own_takes_the_place_of_the_test_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = laboratory(monkeypatch, write_runs(tmp_path, photos=False))
    assert "photo ankle_boot.png" in pictures(app), "without test photos, the examples of the network"
    bag = list_examples("fashion_mnist")["Bag"].read_bytes()
    app.file_uploader(key="own photo").set_value(("mine.png", bag, "image/png")).run()
    assert "photo mine.png" in pictures(app)
    assert app.selectbox(key="head_class").placeholder == "Bag (top-1 of the first network)"


@pytest.mark.parametrize("file", ["../secret.png", "/etc/passwd", "Bag/../../secret.png", "link.png", "..\\secret.png"])
def test_a_test_photo_outside_the_folder_of_photos_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    runs = write_runs(tmp_path)
    shutil.copy(list_examples("fashion_mnist")["Bag"], tmp_path / "secret.png")
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "secret.png")
    for tested in runs.rglob("test.csv"):
        tested.write_text(f"file,label,predicted,probability,inside\n{file},Bag,Bag,0.9,\n")
    app = laboratory(monkeypatch, runs)
    assert not app.exception
    assert [error.value for error in app.error] == [
        f"test.csv names {file!r}, which is outside the folder of the photos, so it is not opened."
    ]
    assert "secret.png" not in pictures(app)


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("run.json", "has no entry 'settings'"),
        ("history.csv", "has no entry"),
        ("confusion.csv", "cannot be read"),
        ("average_maps.safetensors", "cannot be read"),
        ("test.csv", "has no entry 'file'"),
    ],
)
def test_a_broken_run_gets_one_sentence_and_the_others_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, sentence: str
) -> None:
    runs = write_runs(tmp_path)
    (runs / "clothes" / "gap" / "seed0" / file).write_text("{\n}\n")
    app = laboratory(monkeypatch, runs)
    assert not app.exception
    (error,) = app.error
    assert sentence in error.value
    # Of gap the other seed is there.
    assert list(app.dataframe[0].value["run"]) == ["connected", "gap", "gmp"]
    assert "gmp, seed 0" in pictures(app)


def test_a_network_that_cannot_be_loaded_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = write_runs(tmp_path)
    (runs / "clothes" / "gap" / "seed0" / "model.json").unlink()
    app = laboratory(monkeypatch, runs)
    assert [warning.value.startswith("gap, seed 0: No network") for warning in app.warning] == [True]
    assert "gmp, seed 0" in pictures(app)


def test_one_name_in_two_folders_is_two_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = (write_runs(tmp_path / name, weights=False) for name in ("here", "there"))
    app = laboratory(monkeypatch, here, there)
    assert not app.error
    assert app.selectbox(key="experiment").options == ["clothes", f"clothes in {there}"]


def test_the_laboratory_without_runs_says_how_to_make_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = laboratory(monkeypatch, tmp_path)
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
    app = laboratory(monkeypatch, write_runs(tmp_path), photos="taken for another class")
    assert app.segmented_control(key="photos").value == "misclassified"
    assert app.selectbox(key="photo").options == ["Shirt/shirt.png (predicted as Coat by gmp)"]
