import json
import re
import shutil
from pathlib import Path

import pytest

from inspector import NetworkError
from inspector.images.preprocessing import Preprocessing
from inspector.networks import catalog
from inspector.networks.catalog import (
    DEFAULT,
    find_model_card,
    find_model_folder,
    is_trusted,
    list_broken_models,
    list_models,
    read_model_card,
    shipped_models,
    user_models,
)
from inspector.networks.load import resolve

REPOSITORY = Path(__file__).parents[2]

CARD = {
    "title": "A network",
    "architecture": {"factory": "fashion_convnet", "arguments": {"pooling": "average", "classes": 2}},
    "weights": "weights.safetensors",
    "classes": ["a", "b"],
    "size": 28,
    "resize": [30, 31],
    "interpolation": "bicubic",
    "mean": [0.5],
    "std": [0.25],
    "probability": "sigmoid",
    "examples": "fashion_mnist",
    "source": "Made up.",
    "scores": {"top1": 0.5},
    "sizes": {"data": "photos", "photos": 10, "accuracy": {"28": {"right": 5, "gained": 0, "lost": 0}}},
}


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    """The user's folder of networks, empty; the networks that come with Inspector are out of sight."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("INSPECTOR_MODELS", str(folder))
    monkeypatch.setattr(catalog, "shipped_models", lambda: tmp_path / "shipped")
    return folder


def write_card(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps(CARD | changes))
    return folder


def test_a_card_has_all_entries_of_its_file(models):
    card = read_model_card(write_card(models / "mine"))
    assert (card.name, card.folder, card.title) == ("mine", models / "mine", "A network")
    assert (card.architecture, card.weights) == (CARD["architecture"], "weights.safetensors")
    assert card.classes == ("a", "b")
    assert card.preprocessing == Preprocessing((28, 28), (0.5,), (0.25,), (30, 31), "bicubic")
    assert (card.probability, card.examples) == ("sigmoid", "fashion_mnist")
    assert card.about == {"source": "Made up.", "scores": {"top1": 0.5}}


def test_without_a_resize_the_whole_photo_is_used(models):
    assert read_model_card(write_card(models / "mine", resize=None)).preprocessing.resize is None


def test_the_default_network_comes_first_and_then_the_names(models):
    for name in ("zebra", DEFAULT, "apple"):
        write_card(models / name)
    (models / "no network").mkdir()
    assert list(list_models()) == [DEFAULT, "apple", "zebra"]


def test_a_network_is_found_by_name_and_by_path(models, tmp_path_factory):
    write_card(models / "mine")
    elsewhere = write_card(tmp_path_factory.mktemp("elsewhere") / "other")
    assert find_model_card("mine").folder == models / "mine"
    assert find_model_card(str(elsewhere)).name == "other"


def test_an_unknown_name_is_reported_with_the_nearest(models):
    for name in ("fashion_gap", "fashion_gmp", "zebra"):
        write_card(models / name)
    with pytest.raises(NetworkError, match=r"^No network 'fashion_gab'\. Nearest names: fashion_gap, fashion_gmp\.$"):
        find_model_card("fashion_gab")
    with pytest.raises(NetworkError, match=r"^No network '!'\. Nearest names: fashion_gap, fashion_gmp, zebra\.$"):
        find_model_card("!")


def test_an_empty_models_folder_is_reported(models):
    assert list_models() == {}
    with pytest.raises(NetworkError, match=r"^No network 'mine'\. Nearest names: none, models/ is empty\.$"):
        find_model_card("mine")


@pytest.mark.parametrize("key", [key for key in CARD if key not in ("source", "scores", "sizes")])
def test_a_missing_entry_is_named(models, key):
    folder = write_card(models / "mine")
    (folder / "model.json").write_text(json.dumps({name: value for name, value in CARD.items() if name != key}))
    with pytest.raises(NetworkError, match=rf"model\.json lacks the entry '{key}'\.$"):
        find_model_card("mine")


@pytest.mark.parametrize("text", [b"", b"{", b"[1, 2]", b'"text"', b"null", b"\xff\xfe\x00"])
def test_a_file_that_is_no_card_is_named(models, text):
    folder = write_card(models / "mine")
    (folder / "model.json").write_bytes(text)
    with pytest.raises(NetworkError, match=r"mine.model\.json cannot be read: .*\.$"):
        find_model_card("mine")


@pytest.mark.parametrize(
    "change",
    [
        {"size": "large"},
        {"size": [1, 2, 3]},
        {"size": None},
        {"mean": 0.5},
        {"classes": 10},
        {"interpolation": "nearest"},
        {"probability": "tanh"},
        {"architecture": "fashion_convnet"},
        {"resize": 20},
        {"std": [0]},
        {"std": [1, 1]},
        {"mean": []},
        {"scores": {"top1": "best"}},
        {"centre": [1]},
        {"sizes": {"data": "photos", "photos": 10, "accuracy": {}}},
    ],
    ids=str,
)
def test_an_entry_of_the_wrong_kind_is_refused(models, change):
    write_card(models / "mine", **change)
    with pytest.raises(NetworkError, match=r"mine.model\.json cannot be read: expected .* for \w+, got .*\.$"):
        find_model_card("mine")


JUNK = (None, True, 5, -5, 10**30, 1.5, "x", "\ud800\0", [], [5, -28], ["a", 1], [[1]], {}, {"a": None})


@pytest.mark.parametrize("key", CARD)
def test_no_value_of_an_entry_raises_anything_but_one_sentence(models, key):
    folder = write_card(models / "mine")
    for junk in JUNK:
        (folder / "model.json").write_text(json.dumps(CARD | {key: junk}))
        if list_models():
            card = read_model_card(folder)
            assert all("\ud800" not in text for text in (card.title, card.examples, *card.classes))
        else:
            (broken,) = list_broken_models()
            assert re.search(r"model\.json (cannot be read: expected |lacks the entry )", broken.reason)
            assert len(broken.reason) < 400


@pytest.mark.parametrize(
    "weights",
    ["../a.pth", "/a.pth", "a/../../b.pth", "..", "", "C:\\a.pth", "\\\\host\\a.pth", "..\\a.pth", "a\0b"],
)
@pytest.mark.parametrize("packaged", [False, True])
def test_weights_outside_the_folder_are_refused(models, weights, packaged):
    entry = {"package": "timm", "file": weights} if packaged else weights
    for written in (entry, [entry], ["a.pth", entry]):
        write_card(models / "mine", weights=written)
        with pytest.raises(
            NetworkError, match=r"expected a file inside the folder of the network or of the package for"
        ):
            find_model_card("mine")
        (models / "mine" / "model.json").unlink()
        (models / "mine").rmdir()


def test_a_broken_card_hides_no_other_and_is_listed_with_its_reason(models):
    write_card(models / "good")
    for name, text in {"cut": "{", "deep": "[" * 10**5, "empty": "", "list": "[1]"}.items():
        (write_card(models / name) / "model.json").write_text(text)
    assert list(list_models()) == ["good"]
    broken = {model.name: model.reason for model in list_broken_models()}
    assert list(broken) == ["cut", "deep", "empty", "list"]
    assert all(f"{models / name / 'model.json'} cannot be read: " in reason for name, reason in broken.items())
    assert "nested too deeply" in broken["deep"]


def test_a_hidden_folder_is_no_network(models):
    write_card(models / ".inspector-abc")
    write_card(models / ".adding-mine")
    assert list_models() == {}
    assert list_broken_models() == []


def test_a_path_is_not_a_name(models, tmp_path):
    write_card(tmp_path / "elsewhere")
    for name in (str(tmp_path / "elsewhere"), "../elsewhere", ".", "", "a\0", "x" * 5000):
        assert find_model_folder(name) is None


def test_the_users_networks_stand_beside_those_that_come_with_inspector(models, tmp_path):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    for folder in (shipped / DEFAULT, shipped / "theirs", models / "mine", models / "theirs"):
        write_card(folder)
    assert list(list_models()) == [DEFAULT, "mine", "theirs"]
    assert find_model_card("mine").folder == models / "mine"
    assert find_model_card("theirs").folder == list_models()["theirs"].folder == shipped / "theirs"
    write_card(tmp_path / "other")
    trusted = {path.name: is_trusted(path) for path in (models / "mine", shipped / DEFAULT, tmp_path / "other")}
    assert trusted == {"mine": True, DEFAULT: True, "other": False}


def test_the_users_networks_are_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("INSPECTOR_MODELS")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_models() == tmp_path / ".local" / "share" / "inspector" / "models"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert user_models() == tmp_path / "data" / "inspector" / "models"


def test_the_networks_of_the_checkout_are_found_wherever_the_users_are():
    assert shipped_models() == REPOSITORY / "models"
    cards = list_models()
    assert list_broken_models() == []
    assert next(iter(cards)) == DEFAULT
    assert {"fashion_gap", "fashion_gmp", "fashion_gap_sigmoid", "fashion_gmp_sigmoid"} <= set(cards)
    for name, card in cards.items():
        assert len(card.classes) == {"fashion": 10, "flowers17": 17}.get(name.split("_")[0], 1000)
        assert {"source", "licence", "training", "scores"} <= set(card.about)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet50", "Use torchvision:resnet50 or timm:resnet50."),
        ("ResNet-50", "Use torchvision:resnet50 or timm:resnet50."),
        ("torchvision.models.vit_b_16", "Use torchvision:vit_b_16."),
        ("vit_b16", "Use torchvision:vit_b_16."),
        ("timm/resnet18.a1_in1k", "Use timm:resnet18.a1_in1k."),
        ("mobilenetv3_large_100", "Use timm:mobilenetv3_large_100."),
        ("resnt50", "Nearest names: torchvision:resnet50."),
        ("EfficientNet Lite0", "Use efficientnet_lite0."),
        ("fashion-gap", "Use fashion_gap."),
        ("efficentnet_lite", "Nearest names: efficientnet_lite0"),
        ("", "Nearest names: efficientnet_lite0"),
        ("x" * 5000, "Nearest names: efficientnet_lite0"),
        ("a\0b", "Nearest names: efficientnet_lite0"),
    ],
)
def test_a_name_that_nearly_works_is_suggested(name: str, sentence: str) -> None:
    with pytest.raises(NetworkError, match=r"^No network '") as raised:
        resolve(name)
    assert sentence in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_run_is_named_after_its_recipe_and_seed(tmp_path: Path) -> None:
    run = tmp_path / "seed3"
    shutil.copytree(shipped_models() / "fashion_gap", run)
    assert read_model_card(run).name == "seed3"
    (run / "run.json").write_text(json.dumps({"settings": {"experiment": "fashion", "run": "gap", "seed": 3}}))
    assert read_model_card(run).name == "fashion/gap seed 3"
    (run / "run.json").write_text("{")
    assert read_model_card(run).name == "seed3"
