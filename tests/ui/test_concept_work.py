"""The page Concepts in Streamlit's simulator: find, flag, link, test, repair, and what it refuses."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from tiny_photos import BACKBONE, write_backbone, write_photos

import inspector
from inspector.datasets.concepts.files import read_concepts, read_flags, write_concepts
from inspector.datasets.concepts.find import concepts
from inspector.datasets.concepts.model import ConceptOptions
from inspector.datasets.run import RunOptions, run_dataset
from inspector.images.sources import Item
from inspector.networks.catalog import list_models
from inspector.ui.state import folders, keys
from inspector.ui.state.batches import UPLOADED, Batch, BatchRequest
from inspector.ui.state.concept_work import ConceptWork


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with models/, photos/ of two classes, and results/ with features, in which nothing was found yet."""
    folder = tmp_path_factory.mktemp("concepts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSPECTOR_MODELS", str(write_backbone(folder / "models")))
        photos = write_photos(folder / "photos", {"a": 6, "b": 6}, (16, 16))
        run_dataset(photos, inspector.load(BACKBONE), folder / "results", RunOptions(features=True))
        yield folder


@pytest.fixture
def results(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the results, of an app on one's own machine."""
    monkeypatch.setenv("INSPECTOR_MODELS", str(shutil.copytree(made / "models", tmp_path / "models")))
    monkeypatch.setenv(folders.RESULTS, str(tmp_path / "own"))
    monkeypatch.delenv(folders.DATA, raising=False)
    return shutil.copytree(made / "results", tmp_path / "results")


@pytest.fixture
def found(results: Path) -> Path:
    """Results in which concepts were found."""
    write_concepts(results / "concepts", concepts(results, options=ConceptOptions(rank=2, seeds=1)))
    return results


def _page() -> None:
    from inspector.ui.pages import concepts
    from inspector.ui.state.top_bar import draw_bar

    concepts.show(draw_bar())


def open_page(results: Path | None = None, **link: str) -> AppTest:
    app = AppTest.from_function(_page, default_timeout=120)
    app.query_params["network"] = BACKBONE
    if results is not None:
        app.query_params["data"] = str(results)
    for key, value in link.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception
    return app


def press(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click()
    app.run()
    assert not app.exception
    return app


def end_work(app: AppTest) -> AppTest:
    work: ConceptWork = app.session_state[keys.CONCEPT_WORK]
    work.job.thread.join(60)
    assert not work.job.running
    app.run()
    assert not app.exception
    return app


def list_texts(app: AppTest) -> str:
    kinds = (app.markdown, app.caption, app.info, app.warning, app.error, app.subheader, app.success)
    return "\n".join(str(one.value) for kind in kinds for one in kind).replace("\\", "")


def list_errors(app: AppTest) -> list[str]:
    return [str(one.value).replace("\\", "") for one in app.error]


def test_without_results_the_page_says_how_to_make_some(results: Path) -> None:
    app = open_page()
    assert "inspector batch PHOTOS --features -o results" in list_texts(app)
    assert not app.error


def test_concepts_are_found_and_shown_and_the_same_files_are_written_as_by_the_command(results: Path) -> None:
    app = open_page(results)
    app.number_input(key=keys.FIND_SEEDS).set_value(1)
    app.selectbox(key=keys.FIND_RANK).set_value(2)
    app = end_work(press(app, "Find concepts on 12 photos"))
    stored = read_concepts(results / "concepts")
    assert stored.sha256 == concepts(results, options=ConceptOptions(rank=2, seeds=1)).sha256
    assert "mean logit" in list_texts(app)
    assert "0.1" in list_texts(app)
    assert sum("<img" in one.proto.body for one in app.get("html")) >= 2


def test_a_flag_and_a_name_are_written_at_once_and_a_link_opens_one_card(found: Path) -> None:
    app = open_page(found)
    app.segmented_control(key="flag 0.2").set_value("shortcut").run()
    app.text_input(key="name 0.2").set_value("*ruler*").run()
    assert not app.exception
    flags = read_flags(found / "concepts" / "flags.json", read_concepts(found / "concepts"))
    assert [(key, one.flag, one.name) for key, one in flags.items()] == [("0.2", "shortcut", "*ruler*")]
    assert "0.2 *ruler*" in list_texts(app)
    press(app, "Open 0.1")
    assert app.query_params[keys.CONCEPT] in ("0.1", ["0.1"])
    # Another session, by the link; the flag was changed by the command line meanwhile.
    (found / "concepts" / "flags.json").unlink()
    app = open_page(found, concept="1.2")
    assert app.selectbox(key=keys.CONCEPT_CLASS).value == "b"
    assert "flag 1.2" in {one.key for one in app.segmented_control}
    assert "flag 1.1" not in {one.key for one in app.segmented_control}
    assert app.segmented_control(key="flag 1.2").value is None
    press(app, "All concepts of the class")
    assert keys.CONCEPT not in app.query_params
    assert {"flag 1.1", "flag 1.2"} <= {one.key for one in app.segmented_control}
    app.selectbox(key=keys.CONCEPT_CLASS).set_value("a").run()
    assert "flag 0.1" in {one.key for one in app.segmented_control}
    assert "flag 0.1" in {one.key for one in open_page(found, concept="9.9").segmented_control}


def test_cards_add_up_on_photos_of_the_class_and_on_the_photo_of_the_bar(found: Path) -> None:
    app = open_page(found, concept="0.1", on="00.png (0)")
    assert "Concepts + rest (left, against, common) + bias = " in list_texts(app)
    assert "The network's own logit is " in list_texts(app)
    app.selectbox(key=keys.CONCEPT_PHOTO).set_value("the photo of the bar").run()
    assert not app.exception
    assert "The network's own logit is " in list_texts(app)
    other = open_page(found, concept="0.1", on="the photo of the bar", network="fashion_gap")
    assert "The bar has the network fashion_gap, and these concepts are of tiny." in list_texts(other)
    press(other, "Choose tiny")
    assert other.selectbox(key=keys.NETWORK).value == BACKBONE
    assert "The network's own logit is " in list_texts(other)


def test_a_concept_is_tested_and_a_shortcut_is_repaired_away(found: Path) -> None:
    app = open_page(found, concept="0.1")
    assert "Flag a concept as a shortcut first." in list_texts(app)
    app.number_input(key=keys.TRIAL_PHOTOS).set_value(2)
    app.number_input(key=keys.TRIAL_PLACES).set_value(1)
    app = end_work(press(app, "Test 0.1"))
    (trial,) = json.loads((found / "concepts" / "trials.json").read_text())["trials"]
    assert trial["options"] == {"photos": 2, "places": 1, "removal": "inpaint", "seed": 0}
    assert "tested: " in list_texts(app)
    app.segmented_control(key="flag 0.1").set_value("shortcut").run()
    app.text_input(key=keys.REPAIR_NAME).set_value("../escape")
    press(app, "Repair")
    assert list_errors(app) == ["../escape cannot be the name of a network. Use letters, digits, '_', '-' and '.'."]
    app.text_input(key=keys.REPAIR_NAME).set_value("")
    app = end_work(press(app, "Repair"))
    assert "**tiny_repaired** is without 0.1." in list_texts(app)
    heads = app.dataframe[-2].value
    assert list(heads["head"]) == ["before", "repaired", "without refit"]
    assert "tiny_repaired" in list_models()
    app = press(app, "Use this network")
    assert app.selectbox(key=keys.NETWORK).value == "tiny_repaired"
    # A second one gets another name.
    assert app.text_input(key=keys.REPAIR_NAME).placeholder == "tiny_repaired_2"
    again = open_page(found)
    assert [one.label for one in again.expander] == ["Find again", "Repaired before: 1"]
    assert press(again, "Use this network").selectbox(key=keys.NETWORK).value == "tiny_repaired"
    # It belongs to the concepts that were flagged, not to others.
    write_concepts(found / "concepts", concepts(found, options=ConceptOptions(rank=1, seeds=1)))
    (found / "concepts" / "flags.json").unlink()
    app.run()
    assert not app.exception
    assert "is without 0.1" not in list_texts(app)


def test_a_visitor_of_an_app_for_others_reads_listed_results_and_changes_none(
    found: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(folders.DATA, str(found.parent / "none"))
    app = open_page(found)
    assert "in the list of this app" in list_errors(app)[0]
    monkeypatch.setenv(folders.DATA, str(found))
    app = open_page(found, concept="0.1")
    assert "These results may only be read here. Find their concepts on the command line." in list_texts(app)
    assert all(one.disabled for one in app.segmented_control if one.key.startswith("flag"))
    assert not {"Test 0.1", "Repair"} & {button.label for button in app.button}
    # Its photos are in no folder of the list.
    assert "The photo is not in a folder that this app may open." in list_texts(app)


def test_crops_of_uploaded_photos_are_shown_to_the_session_that_uploaded_them(
    made: Path, results: Path, tmp_path: Path
) -> None:
    photos = sorted((made / "photos").rglob("*.png"))
    items = tuple(
        Item(f"{path.parent.name}/{path.name}", path.parent.name, "", content=path.read_bytes()) for path in photos
    )
    out = tmp_path / "own" / "uploads"
    batch = Batch(BatchRequest(UPLOADED, items, BACKBONE, inspector.load(BACKBONE), 2, out, features=True))
    batch.job.thread.join(60)
    write_concepts(out / "concepts", concepts(out, options=ConceptOptions(rank=2, seeds=1)))
    app = open_page(out)
    assert "The photo was uploaded, and is not stored." in list_texts(app)
    assert not any("inspector-crops" in one.proto.body for one in app.get("html"))
    app = AppTest.from_function(_page, default_timeout=120)
    app.session_state[keys.BATCH] = batch
    for key, value in {"network": BACKBONE, "data": str(out)}.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception
    assert sum("inspector-crops" in one.proto.body for one in app.get("html")) == 2


def test_what_does_not_fit_is_one_sentence(
    made: Path, found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = found / "concepts" / "flags.json"
    other = concepts(found, options=ConceptOptions(rank=1, seeds=1))
    path.write_text(
        json.dumps({"network": "x", "network_sha256": other.network_sha256, "concepts_sha256": "0", "flags": []})
    )
    app = open_page(found)
    assert "are of other concepts of this network" in str(app.warning[0].value)
    press(app, "Begin new flags")
    assert not app.warning
    assert (path.parent / "flags-before.json").is_file()
    (path.parent / "flags.json").write_text("{}")
    press(open_page(found), "Begin new flags")  # an earlier one is not lost
    assert (path.parent / "flags-before1.json").read_text() == "{}"
    plain = tmp_path / "plain"
    run_dataset(made / "photos", inspector.load(BACKBONE), plain, RunOptions())
    assert "have no features" in list_errors(open_page(plain))[0]
    for name, start in (("n" * 3000, "Cannot open nnn"), ("none", "No folder none"), ("a\0b", "No folder a")):
        assert list_errors(open_page(Path(name)))[0].startswith(start)
    shutil.copytree(found / "concepts", found.parent / "others" / "concepts")
    for file in found.iterdir():
        if file.is_file():
            shutil.copy(file, found.parent / "others")
    cards = found.parent / "others" / "concepts" / "concepts.json"
    cards.write_text(cards.read_text().replace('"photo": 0,', '"photo": 900,'))
    assert "of another network or of other photos" in list_errors(open_page(found.parent / "others"))[0]
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    app = end_work(press(open_page(found), "Find concepts on 12 photos"))
    assert "pip install 'class-map-inspector[concepts]'" in list_errors(app)[0]
