"""Concepts add up to the logit, are the same for the same seed, lie where they are strong, and survive no damage."""

import json
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_squares import NAMES, make_color_network
from PIL import Image
from torch import nn

import inspector
from inspector.analysis.evidence import compute_evidence, compute_shares
from inspector.analysis.factorization import (
    choose_patterns,
    compute_amounts,
    compute_directions,
    find_patterns,
    measure_left,
)
from inspector.analysis.localization import Regions
from inspector.cli import cli
from inspector.datasets.concepts.cards import find_strongest
from inspector.datasets.concepts.crops import read_crops
from inspector.datasets.concepts.files import (
    ConceptFlag,
    change_flag,
    check_concepts,
    read_concepts,
    read_flags,
    write_concepts,
    write_flags,
)
from inspector.datasets.concepts.find import concepts, list_held_out, split_photos
from inspector.datasets.concepts.model import ClassConcepts, ConceptOptions, LogitTerms
from inspector.datasets.concepts.photo import split_photo, split_stored_photo
from inspector.datasets.features import read_features
from inspector.datasets.run import RunOptions, run_dataset
from inspector.errors import Cancelled, ClassError, ExportError, InspectorError

OPTIONS = ConceptOptions(rank=2, seeds=2, held_out=0.25)


def make_classifier() -> inspector.Classifier:
    network = make_color_network()
    return inspector.Classifier.wrap(network, NAMES, size=(16, 24), mean=[0.0] * 3, std=[1.0] * 3, name="colors")


def write_squares(folder: Path) -> Path:
    """Eight photos of each of two classes: gray noise with a square of the class's color in one cell."""
    random = np.random.default_rng(0)
    for k, name in enumerate(NAMES[:2]):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            pixels = np.repeat(random.integers(0, 60, (16, 24, 1), np.uint8), 3, 2)
            row, column = 4 * (number % 4), 4 * (number % 6)
            pixels[row : row + 4, column : column + 4, k] = 255
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    photos = write_squares(folder / "photos")
    run_dataset(photos, make_classifier(), folder / "out", RunOptions(batch_size=4, features=True))
    return folder / "out"


# --- they add up


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    pooling=st.sampled_from(["average", "max"]),
    signed=st.booleans(),
    rank=st.integers(0, 4),
    scale=st.sampled_from([1e-2, 1.0, 30.0]),
)
def test_concepts_rest_and_bias_sum_to_the_logit(
    seed: int, pooling: str, signed: bool, rank: int, scale: float
) -> None:
    random = np.random.default_rng(seed)
    features = random.normal(size=(7, 3, 4)).astype(np.float32) * np.float32(scale)
    features = features if signed else np.maximum(features, 0)
    weight, bias = (random.normal(size=shape).astype(np.float32) for shape in ((3, 7), 3))
    patterns = random.random((rank, 7))
    one = ClassConcepts(
        1, "b", (), (), (), patterns / patterns.sum(1, keepdims=True), patterns, 0.0, LogitTerms(0, 0, 0, 0, 0), None
    )
    split = split_photo(one, features, weight, bias, pooling)
    pooled = features.mean((1, 2), np.float64) if pooling == "average" else features.max((1, 2))
    assert split.logit == pytest.approx(float(weight[1].astype(np.float64) @ pooled + bias[1]), abs=1e-9)
    total = split.contributions.sum() + split.terms.left + split.terms.against + split.terms.common + float(bias[1])
    assert total == pytest.approx(split.logit, abs=1e-5 * max(1.0, scale))
    assert split.residual <= 1e-5 * max(1.0, scale)
    assert (split.maps >= 0).all()
    assert split.terms.against <= 0


def test_photos_of_results_add_up_and_tell_how_far_the_network_is(results: Path) -> None:
    stored, found = read_features(results), concepts(results, options=OPTIONS)
    for one in found.classes:
        for index in (*one.photos, *one.held_out):
            split = split_stored_photo(one, stored, index)
            assert split.residual < 1e-5
            assert split.difference is not None
            assert split.difference < 1e-3
        logits = [split_stored_photo(one, stored, index).logit for index in one.photos]
        assert one.terms.logit == pytest.approx(np.mean(logits), abs=1e-5)
        assert sum(card.contribution for card in one.cards) == pytest.approx(one.terms.concepts)


def test_max_pooling_and_negative_features_add_up_too(tmp_path: Path) -> None:
    photos, network = write_squares(tmp_path / "photos"), make_color_network()
    network[1], network[2] = nn.SiLU(), nn.AdaptiveMaxPool2d(1)
    classifier = inspector.Classifier.wrap(network, NAMES, size=(16, 24), mean=[0.0] * 3, std=[1.0] * 3)
    run_dataset(photos, classifier, tmp_path / "out", RunOptions(features=True))
    stored = read_features(tmp_path / "out")
    assert stored.read([0]).min() < 0
    for one in concepts(stored, options=OPTIONS).classes:
        for index in one.photos:
            split = split_stored_photo(one, stored, index)
            assert split.residual < 1e-5
            assert split.difference is not None
            assert split.difference < 1e-2
        # Only deciding cells have evidence, and those of the class's color are on the square.
        row, column = one.cards[0].positions[0].cell
        number = int(Path(one.cards[0].positions[0].path).stem)
        assert (row, column) == (number % 4, number % 6)


def test_evidence_is_that_of_positive_weights_where_features_are_not_negative() -> None:
    random = np.random.default_rng(0)
    features, weight = random.random((2, 5, 3, 3), np.float32), random.normal(size=(4, 5)).astype(np.float32)
    evidence = compute_evidence(features, weight, 2, "average")
    expected = np.maximum(weight[2] - weight.mean(0), 0)[:, None, None] * features / 9
    assert evidence.positive == pytest.approx(expected.reshape(2, 5, 9).transpose(0, 2, 1), abs=1e-6)


def test_with_max_pooling_only_the_deciding_cells_have_evidence() -> None:
    features = np.array([[[[1, 3], [3, 2]], [[-5, -4], [-7, -9]]]], np.float32)
    shares = compute_shares(features, "max")
    assert np.array_equal(shares[0], [[0, 0], [3, -4], [0, 0], [0, 0]])


# --- factorization


def test_patterns_of_a_product_are_found_again() -> None:
    random = np.random.default_rng(0)
    patterns = np.kron(np.eye(3), np.ones(4)) / 4
    amounts = random.random((60, 3)) * (random.random((60, 3)) < 0.5)
    positions = (amounts @ patterns).astype(np.float32)
    found = find_patterns(positions, 3, 0)
    order = found.argmax(1).argsort()
    assert found[order] == pytest.approx(patterns, abs=0.01)
    assert compute_amounts(positions, patterns) == pytest.approx(amounts, abs=1e-5)
    assert measure_left(positions, amounts, patterns) == pytest.approx(0, abs=1e-6)
    half = amounts * [1, 1, 0]
    left = np.square(positions - half @ patterns).sum() / np.square(positions).sum()
    assert measure_left(positions, half, patterns) == pytest.approx(left, abs=1e-5)


def test_the_number_of_concepts_follows_what_is_left() -> None:
    random = np.random.default_rng(0)
    for rank, expected in ((5, 6), (10, 10)):
        patterns = np.kron(np.eye(rank), np.ones(3))
        positions = (random.random((200, rank)) @ patterns).astype(np.float32)
        assert len(choose_patterns(positions, 0)) == expected
    assert choose_patterns(np.zeros((9, 4), np.float32), 0).shape == (0, 4)


# --- cards


def test_the_strongest_concept_lies_on_the_square(results: Path) -> None:
    found = concepts(results, options=OPTIONS)
    assert [one.name for one in found.classes] == ["red", "green"]
    for one in found.classes:
        card = one.cards[0]
        assert (card.photos, card.of_photos) == (6, 6)
        assert len(card.positions) == 12
        assert len({position.photo for position in card.positions[:6]}) == 6
        for position in card.positions[:6]:
            number = int(Path(position.path).stem)
            assert position.cell == (number % 4, number % 6)
            left, top, right, bottom = position.box
            # A receptive field of one cell: the box is the cell.
            assert (top, left) == pytest.approx((4 * position.cell[0], 4 * position.cell[1]))
            assert (right - left, bottom - top) == pytest.approx((4, 4))
        assert card.stability is not None
        assert card.stability > 0.9


def test_evidence_inside_objects_is_on_the_card(results: Path) -> None:
    boxes = {f"red/{n}.png": [(4 * (n % 6), 4 * (n % 4), 4 * (n % 6) + 4, 4 * (n % 4) + 4)] for n in range(8)}
    found = concepts(results, options=OPTIONS, objects=Regions(boxes))
    red, green = found.classes
    inside = [card.inside for card in red.cards]
    # The concept of red alone is in the square, and that of gray everywhere: a square is one of 24 cells.
    assert max(inside) > 0.5
    assert min(inside) < 0.3
    assert green.cards[0].inside is None


def test_one_cell_of_each_photo_comes_first() -> None:
    maps = np.array([[[9, 8, 7]], [[6, 1, 0]], [[0, 0, 0]]], float)
    assert find_strongest(maps, 2) == [(0, 0, 0), (1, 0, 0)]
    assert find_strongest(maps, 3) == [(0, 0, 0), (0, 0, 1), (1, 0, 0)]
    assert find_strongest(maps, 9) == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (1, 0, 0), (1, 0, 1)]


def test_the_same_seed_gives_the_same_cards(results: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_concepts(tmp_path / name, concepts(results, options=replace(OPTIONS, rank=None)))
    for file in ("concepts.json", "concepts.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_photos_are_held_out_by_class() -> None:
    used, held_out = split_photos(range(100, 120), ConceptOptions(held_out=0.25))
    assert sorted(used + held_out) == list(range(100, 120))
    assert len(held_out) == 5
    assert [len(part) for part in split_photos(range(5), ConceptOptions(held_out=0.5))] == [4, 1]
    assert split_photos(range(9), ConceptOptions(held_out=0))[1] == []


# --- bad input


def test_bad_input_gives_one_sentence(results: Path) -> None:
    with pytest.raises(InspectorError, match=r"^blue has 0 photos. Expected at least 5.$"):
        concepts(results, ["blue"])
    with pytest.raises(ClassError, match="teal"):
        concepts(results, ["teal"])
    with pytest.raises(Cancelled):
        concepts(results, should_stop=lambda: True)
    with pytest.raises(InspectorError, match=r"Expected held_out of 0 to 0.5, got 0.9"):
        ConceptOptions(held_out=0.9)
    with pytest.raises(InspectorError, match="Expected rank of 1 to 100, got 5000"):
        ConceptOptions(rank=5000)
    with pytest.raises(InspectorError, match="Expected seeds of 1 or more, got 0"):
        ConceptOptions(seeds=0)
    with pytest.raises(ClassError, match=r"No concept '7.1'"):
        concepts(results, options=OPTIONS).find_card("7.1")


def test_photos_of_classes_without_concepts_are_held_out_too(results: Path) -> None:
    stored = read_features(results)
    one, all_classes = concepts(stored, ["red"], OPTIONS), concepts(stored, options=OPTIONS)
    assert list_held_out(stored, one) == list_held_out(stored, all_classes)
    assert len(list_held_out(stored, one)) == 4


def test_a_concept_in_few_cells_has_a_direction() -> None:
    features, maps = np.zeros((1, 2, 4, 5), np.float32), np.zeros((1, 4, 5, 2))
    features[0, 1, 2, 3] = maps[0, 2, 3, 0] = 1
    assert compute_directions(features, maps) == pytest.approx(np.array([[0, 1], [0, 0]]))


def test_a_photo_that_has_changed_is_not_the_photo_of_the_results(tmp_path: Path) -> None:
    photos = write_squares(tmp_path / "photos")
    run_dataset(photos, make_classifier(), tmp_path / "out", RunOptions(features=True))
    stored = read_features(tmp_path / "out")
    found = concepts(stored, options=OPTIONS)
    position = found.classes[0].cards[0].positions[0]
    assert stored.read_photo(position.photo).size == (16, 24)
    Image.new("RGB", (24, 16), "white").save(position.path)
    with pytest.raises(InspectorError, match=r"The photo .* has changed since `inspector batch` ran"):
        stored.read_photo(position.photo)
    assert read_crops(stored, [position]) == [None]


def test_features_beyond_float16_are_named_and_no_damage(tmp_path: Path) -> None:
    photos, network = write_squares(tmp_path / "photos"), make_color_network()
    with torch.no_grad():
        network[0].weight *= 1e6
    classifier = inspector.Classifier.wrap(network, NAMES, size=(16, 24), mean=[0.0] * 3, std=[1.0] * 3)
    run_dataset(photos, classifier, tmp_path / "out", RunOptions(features=True))
    with pytest.raises(InspectorError, match=r"beyond 65,504, .* The features of these photos cannot be used\.$"):
        concepts(tmp_path / "out", options=OPTIONS)


def test_classes_without_evidence_are_left_out_and_named(tmp_path: Path) -> None:
    photos, network = write_squares(tmp_path / "photos"), make_color_network()
    with torch.no_grad():
        network[4].weight[1] = network[4].weight.min(0)[0] - 1
    classifier = inspector.Classifier.wrap(network, NAMES, size=(16, 24), mean=[0.0] * 3, std=[1.0] * 3)
    run_dataset(photos, classifier, tmp_path / "out", RunOptions(features=True))
    found = concepts(tmp_path / "out", options=OPTIONS)
    assert [one.name for one in found.classes] == ["red"]
    assert found.skipped == ("No cell of the photos of green has evidence for it, so it has no concepts.",)
    with pytest.raises(InspectorError, match="No cell of the photos of green has evidence"):
        concepts(tmp_path / "out", ["green"], OPTIONS)


def test_classes_with_few_photos_are_left_out_and_named(tmp_path: Path) -> None:
    photos = write_squares(tmp_path / "photos")
    for number in range(4):
        (photos / "green" / f"{number}.png").unlink()
    run_dataset(photos, make_classifier(), tmp_path / "out", RunOptions(features=True))
    found = concepts(tmp_path / "out", options=OPTIONS)
    assert [one.name for one in found.classes] == ["red"]
    assert found.skipped == ("green has 4 photos. Expected at least 5.",)


# --- files


def test_concepts_come_back_from_their_files(results: Path, tmp_path: Path) -> None:
    found = concepts(results, options=OPTIONS)
    write_concepts(tmp_path, found)
    again = read_concepts(tmp_path)
    assert again.sha256 == found.sha256
    assert again.options == found.options
    for one, other in zip(found.classes, again.classes, strict=True):
        assert one.cards == other.cards
        assert (one.photos, one.held_out, one.terms) == (other.photos, other.held_out, other.terms)
        assert np.array_equal(one.directions, other.directions)
    with pytest.raises(InspectorError, match=r"No concepts in .*missing. Use `inspector concepts RESULTS`"):
        read_concepts(tmp_path / "missing")


def test_damaged_concepts_are_noticed(results: Path, tmp_path: Path) -> None:
    found = concepts(results, options=OPTIONS)
    write_concepts(tmp_path, found)
    arrays = (tmp_path / "concepts.safetensors").read_bytes()
    for place in range(0, len(arrays), 97):
        damaged = bytearray(arrays)
        damaged[place] ^= 1
        (tmp_path / "concepts.safetensors").write_bytes(damaged)
        with pytest.raises(InspectorError, match="Cannot read the concepts"):
            read_concepts(tmp_path)
    (tmp_path / "concepts.safetensors").write_bytes(arrays)
    about = json.loads((tmp_path / "concepts.json").read_text())
    for changed in (
        {"classes": 5}, {"classes": []}, {"options": {"rank": "x"}}, {"network_sha256": None}, {"by_label": 1},
        {"concepts_sha256": "0" * 64}, {"classes": [about["classes"][0] | {"cards": []}]},
        {"classes": [about["classes"][0] | {"class": 2}]},
    ):  # fmt: skip
        (tmp_path / "concepts.json").write_text(json.dumps(about | changed))
        with pytest.raises(InspectorError, match="Cannot read the concepts"):
            read_concepts(tmp_path)


def test_a_position_that_is_no_part_of_its_photo_is_refused(results: Path, tmp_path: Path) -> None:
    stored, found = read_features(results), concepts(results, options=OPTIONS)
    write_concepts(tmp_path, found)
    check_concepts(read_concepts(tmp_path), stored)
    about = json.loads((tmp_path / "concepts.json").read_text())
    for changed in (
        {"box": [0, 0, 1e9, 1e9]}, {"box": [-1e299, 0, 1, 1]}, {"box": [9, 9, 5, 5]}, {"box": [1e299] * 4},
        {"path": "/etc/passwd"}, {"photo": 10**6}, {"cell": [4, 0]},
    ):  # fmt: skip
        damaged = deepcopy(about)
        damaged["classes"][0]["cards"][0]["positions"][0] |= changed
        (tmp_path / "concepts.json").write_text(json.dumps(damaged))
        with pytest.raises(InspectorError, match="are of another network or of other photos"):
            check_concepts(read_concepts(tmp_path), stored)


def test_settings_and_photos_that_contradict_themselves_are_refused(results: Path, tmp_path: Path) -> None:
    write_concepts(tmp_path, concepts(results, options=OPTIONS))
    about = json.loads((tmp_path / "concepts.json").read_text())
    options, (one, *_) = about["options"], about["classes"]
    for changed, reason in (
        ({"options": options | {"rank": 2.5}}, "expected a whole number of at least 1 for rank, got 2.5"),
        ({"options": options | {"rank": 101}}, "expected 1 to 100 for rank, got 101"),
        ({"options": options | {"seed": None}}, "for seed, got null"),
        ({"options": options | {"held_out": 0.9}}, "expected 0 to 0.5 for held_out, got 0.9"),
        ({"classes": [one | {"held_out": one["photos"]}]}, "class 0 has photos that are held out and are not"),
    ):
        (tmp_path / "concepts.json").write_text(json.dumps(about | changed))
        with pytest.raises(InspectorError, match=rf"Cannot read the concepts .*{reason}"):
            read_concepts(tmp_path)


def test_several_flags_are_written_together_or_not_at_all(results: Path, tmp_path: Path) -> None:
    write_concepts(tmp_path, concepts(results, options=OPTIONS))
    command = ["concepts", str(results), "--out", str(tmp_path)]
    for wrong in ("9.9=object", "0.2", "0.2=red"):
        with pytest.raises(InspectorError):
            cli([*command, "--flag", "0.1=shortcut", "--flag", wrong], standalone_mode=False)
    with pytest.raises(InspectorError, match=r"--flag .* cannot be used with --classes, --rank, --objects or --report"):
        cli([*command, "--flag", "0.1=shortcut", "--report", "cards.html"], standalone_mode=False)
    assert not (tmp_path / "flags.json").exists()


def test_two_writers_leave_concepts_that_can_be_read(results: Path, tmp_path: Path) -> None:
    both = [concepts(results, options=replace(OPTIONS, rank=rank)) for rank in (1, 2)]
    with ThreadPoolExecutor(4) as pool:
        written = [pool.submit(write_concepts, tmp_path, both[n % 2]) for n in range(20)]
        written[0].result()
        read = [pool.submit(read_concepts, tmp_path) for _ in range(20)]
        assert {one.result().sha256 for one in read} <= {one.sha256 for one in both}
        assert all(one.result() for one in written)


def test_flags_are_set_named_and_removed(results: Path, tmp_path: Path) -> None:
    found, path = concepts(results, options=OPTIONS), tmp_path / "flags.json"
    assert read_flags(path, found) == {}
    change_flag(path, found, "0.1", "shortcut", "ruler")
    change_flag(path, found, "1.2", "context")
    assert read_flags(path, found) == {"0.1": ConceptFlag("shortcut", "ruler"), "1.2": ConceptFlag("context")}
    change_flag(path, found, "0.1")
    assert change_flag(path, found, "1.2") == {"0.1": ConceptFlag(None, "ruler")}
    with pytest.raises(InspectorError, match=r"No flag 'bad'. Use one of object, context, shortcut, unclear"):
        change_flag(path, found, "0.1", "bad")  # type: ignore[arg-type]
    # The results were moved meanwhile: nothing is left at their former place.
    with pytest.raises(ExportError, match=r"Cannot write .*moved.*flags\.json: No such file"):
        change_flag(tmp_path / "moved" / "concepts" / "flags.json", found, "0.1", "object")
    assert not (tmp_path / "moved").exists()
    with pytest.raises(ClassError, match=r"No concept '0.9'"):
        write_flags(path, found, {"0.9": ConceptFlag("object")})


def test_flags_of_another_network_or_of_other_concepts_are_refused(results: Path, tmp_path: Path) -> None:
    found, path = concepts(results, options=OPTIONS), tmp_path / "flags.json"
    change_flag(path, found, "0.1", "shortcut")
    with pytest.raises(InspectorError, match=r"are of another network \(colors\), these results of other"):
        read_flags(path, replace(found, network="other", network_sha256="1" * 64))
    with pytest.raises(InspectorError, match="are of other concepts of this network"):
        read_flags(path, concepts(results, ["red"], OPTIONS))
    for broken in ("", "[]", "{}", json.dumps(json.loads(path.read_text()) | {"flags": [{"class": 0, "concept": 99}]})):
        path.write_text(broken)
        with pytest.raises(InspectorError, match="Cannot read the flags"):
            read_flags(path, found)
