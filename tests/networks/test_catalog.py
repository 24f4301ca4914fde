import json
from pathlib import Path

import pytest

from inspector import NetworkError
from inspector.images.preprocessing import Preprocessing
from inspector.networks.catalog import DEFAULT, find_model_card, list_models, models_folder, read_model_card

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
}


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("INSPECTOR_MODELS", str(tmp_path))
    return tmp_path


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


@pytest.mark.parametrize("key", [key for key in CARD if key not in ("source", "scores")])
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
    ],
    ids=str,
)
def test_an_entry_of_the_wrong_kind_is_refused(models, change):
    write_card(models / "mine", **change)
    with pytest.raises(NetworkError, match=r"model\.json"):
        find_model_card("mine")


def test_the_networks_of_the_checkout_are_found_without_being_named(monkeypatch):
    monkeypatch.delenv("INSPECTOR_MODELS", raising=False)
    assert models_folder() == REPOSITORY / "models"
    cards = list_models()
    assert next(iter(cards)) == DEFAULT
    assert {"fashion_gap", "fashion_gmp", "fashion_gap_sigmoid", "fashion_gmp_sigmoid"} <= set(cards)
    for name, card in cards.items():
        assert len(card.classes) == {"fashion": 10, "flowers17": 17}.get(name.split("_")[0], 1000)
        assert {"source", "licence", "training", "scores"} <= set(card.about)
