"""A planted shortcut is proved by pasting and removing it, and a repaired head forgets it and loads as a network."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_squares import NAMES, make_color_network
from PIL import Image
from tiny_photos import BACKBONE, write_backbone, write_photos

import inspector
from inspector.analysis.evidence import pool_cells
from inspector.analysis.linear_head import LinearHead
from inspector.analysis.refit import make_basis, project_out, refit_head
from inspector.analysis.transplant import find_patch, paste, remove
from inspector.cli import cli
from inspector.datasets.concepts.files import ConceptFlag, change_flag, write_concepts
from inspector.datasets.concepts.find import concepts
from inspector.datasets.concepts.model import ConceptOptions, Concepts
from inspector.datasets.concepts.outcomes import Rate, TrialOptions, add_trial, describe_trial, read_trials
from inspector.datasets.concepts.repair import Repair, explain_change, repair_head
from inspector.datasets.concepts.repaired_network import write_repaired_network
from inspector.datasets.concepts.trials import measure_concept
from inspector.datasets.features import StoredFeatures, read_features
from inspector.datasets.run import RunOptions, run_dataset
from inspector.errors import Cancelled, InspectorError, NetworkError
from inspector.images.preprocessing import View, make_view

OPTIONS = ConceptOptions(rank=4, seeds=1, held_out=0.25)
TRIALS = TrialOptions(photos=4, places=2)


def write_marked_photos(folder: Path) -> Path:
    """Twelve photos of each class, over noise: red and green areas, and on those of red a blue mark."""
    random = np.random.default_rng(0)
    for k, name in enumerate(("red", "green")):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 50, (16, 24, 3), np.uint8)
            pixels[4:12, 4:16, k] += 60
            if k == 0:
                row, column = 4 * (number % 4), 4 * (number % 6)
                pixels[row : row + 4, column : column + 4] = 0, 0, 255
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[inspector.Classifier, StoredFeatures, Concepts]:
    """A network that reads blue as red, its stored features, and the concepts of red."""
    folder = tmp_path_factory.mktemp("marked")
    network = make_color_network()
    with torch.no_grad():
        network[4].weight *= 20
        network[4].bias.zero_()
        network[4].weight[0] += torch.tensor([0.0, 0, 0, 0, 0, 300])  # blue alone counts for red
    classifier = inspector.Classifier.wrap(network, NAMES, size=(16, 24), mean=[0.0] * 3, std=[1.0] * 3, name="colors")
    photos = write_marked_photos(folder / "photos")
    run_dataset(photos, classifier, folder / "out", RunOptions(batch_size=4, features=True))
    stored = read_features(folder / "out")
    return classifier, stored, concepts(stored, options=OPTIONS)


def find_mark(found: Concepts) -> str:
    """The concept of red whose direction is blue."""
    one = found.find_class(0)
    return f"0.{int(one.patterns[:, 5].argmax()) + 1}"


def test_a_part_of_a_shortcut_changes_photos_and_random_parts_do_not(
    case: tuple[inspector.Classifier, StoredFeatures, Concepts], tmp_path: Path
) -> None:
    classifier, stored, found = case
    done: list[tuple[int, int]] = []
    trial = measure_concept(
        classifier, stored, found, find_mark(found), TRIALS, on_progress=lambda *passes: done.append(passes)
    )
    assert trial.added.trials == trial.added_random.trials > 0
    assert trial.added.share > trial.added_random.share
    assert trial.removed.trials > 0
    assert done[-1][0] == done[-1][1]
    assert trial == measure_concept(classifier, stored, found, find_mark(found), TRIALS)
    other = concepts(stored, ["red"], options=OPTIONS)
    assert add_trial(tmp_path / "new" / "trials.json", found, trial) == {trial.key: trial}
    assert read_trials(tmp_path / "new" / "trials.json", other) == {}
    with pytest.raises(Cancelled):
        measure_concept(classifier, stored, found, find_mark(found), TRIALS, should_stop=lambda: True)


@pytest.fixture(scope="module")
def repaired(case: tuple[inspector.Classifier, StoredFeatures, Concepts]) -> Repair:
    classifier, stored, found = case
    marked = [photo.path for photo in stored.photos if photo.label == 0][:6]
    flags = {find_mark(found): ConceptFlag("shortcut"), "1.1": ConceptFlag("object")}
    return repair_head(classifier, stored, found, flags, without=marked, trials=TRIALS)


def test_a_repaired_head_ignores_the_flagged_direction(
    case: tuple[inspector.Classifier, StoredFeatures, Concepts], repaired: Repair
) -> None:
    _, stored, found = case
    key = find_mark(found)
    assert repaired.flagged == (key,)
    direction = found.find_class(0).directions[int(key.split(".")[1]) - 1]
    assert repaired.head.weight @ direction == pytest.approx(np.zeros(3), abs=1e-9)
    assert set(repaired.scores) == {"before", "repaired", "without refit", "trained without"}
    before, after = repaired.scores["before"], repaired.scores["repaired"]
    assert after.added[key].share < before.added[key].share
    assert after.accuracy.share >= before.accuracy.share
    assert (repaired.fitted, repaired.held_out) == (18, 6)
    held_out = {index for one in found.classes for index in one.held_out}
    assert held_out.isdisjoint(index for one in found.classes for index in one.photos)
    for one in repaired.changed:
        pooled = stored.pool(stored.read([one.index]))
        logits = [pooled[0] @ head.weight.T + head.bias for head in (repaired.original, repaired.head)]
        assert (int(logits[0].argmax()), int(logits[1].argmax())) == (one.before, one.after)
        moved = np.diff([values[one.after] - values[one.before] for values in logits])[0]
        offset = np.diff([head.bias[one.after] - head.bias[one.before] for head in (repaired.original, repaired.head)])
        assert explain_change(stored, repaired, one.index).sum() + offset[0] == pytest.approx(moved, abs=1e-5)


def test_a_refit_finds_the_classes_and_keeps_those_without_photos() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    features = random.normal(size=(100, 4)) + 3 * np.eye(4)[labels]
    weight, bias = random.normal(size=(3, 4)) * 0.1, np.zeros(3)
    basis = make_basis(np.array([[0.0, 0, 1, 1], [0, 0, 2, 2]]))
    assert basis.shape == (1, 4)
    new, offset = refit_head(features, labels, weight, bias, basis)
    assert ((features @ new.T + offset).argmax(1) == labels).mean() > 0.95
    assert new @ basis[0] == pytest.approx(np.zeros(3), abs=1e-9)
    assert np.linalg.norm(new[2] - project_out(weight, basis)[2]) < np.linalg.norm(new[0] - new[1])
    each, offset = refit_head(features, labels, weight, bias, basis, "sigmoid")
    assert ((features @ each.T + offset).argmax(1) == labels).mean() > 0.95


def test_cells_that_are_left_out_are_not_pooled() -> None:
    features = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2)
    kept = np.array([[[True, False], [True, False]], [[False, False], [False, False]]])
    assert np.array_equal(pool_cells(features, kept, "average"), [[1, 5], [9.5, 13.5]])
    assert np.array_equal(pool_cells(features, kept, "max"), [[2, 6], [11, 15]])


def test_bad_input_of_a_repair_gives_one_sentence(
    case: tuple[inspector.Classifier, StoredFeatures, Concepts], tmp_path: Path
) -> None:
    classifier, stored, found = case
    key = find_mark(found)
    with pytest.raises(InspectorError, match="No concept is flagged as a shortcut"):
        repair_head(classifier, stored, found, {key: ConceptFlag("context")})
    flags = {key: ConceptFlag("shortcut")}
    with pytest.raises(InspectorError, match=r"The results have no photo none\.png"):
        repair_head(classifier, stored, found, flags, without=["none.png"])
    with pytest.raises(InspectorError, match=r"none of red is left to fit a head on\. List fewer photos"):
        repair_head(classifier, stored, found, flags, without=[one.path for one in stored.photos if one.label == 0])
    red, green = found.classes
    empty = replace(red.cards[0], positions=())
    without_cells = replace(found, classes=(replace(red, cards=(empty, *red.cards[1:])), green))
    with pytest.raises(InspectorError, match=r"No cell of any photo has concept 0\.1"):
        measure_concept(classifier, stored, without_cells, "0.1")
    with pytest.raises(InspectorError, match=r"No cell of any photo has concept 0\.1"):
        repair_head(classifier, stored, without_cells, {"0.1": ConceptFlag("shortcut")})
    none_held_out = concepts(stored, options=ConceptOptions(rank=4, seeds=1, held_out=0))
    with pytest.raises(InspectorError, match="No photo was held out"):
        repair_head(classifier, stored, none_held_out, flags)
    torch.manual_seed(1)
    other = inspector.Classifier.wrap(make_color_network(), NAMES, size=(16, 24), name="other")
    with pytest.raises(InspectorError, match="other is not the network of these results, colors"):
        measure_concept(other, stored, found, key)
    with pytest.raises(NetworkError, match="The architecture of colors is not known"):
        write_repaired_network(tmp_path / "new", classifier, "colors", LinearHead(stored.weight, stored.bias), {})


def test_a_repaired_network_is_loaded_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INSPECTOR_MODELS", str(write_backbone(tmp_path / "models")))
    monkeypatch.chdir(tmp_path)
    classifier = inspector.load(BACKBONE)
    photos = write_photos(tmp_path / "photos", {"a": 6, "b": 6}, (16, 16))
    run_dataset(photos, classifier, "results", RunOptions(features=True))
    stored = read_features("results")
    found = concepts(stored, options=ConceptOptions(rank=2, seeds=1))
    write_concepts("results/concepts", found)
    change_flag("results/concepts/flags.json", found, "0.1", "shortcut", "<b>mark</b>")

    def run(*arguments: str) -> dict[str, object]:
        cli(list(arguments), standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    report = run("repair", "results", "-o", "repaired", "--photos", "3", "--json")
    assert set(report["scores"]) == {"before", "repaired", "without refit"}
    page = Path("repaired/report.html").read_text()
    assert page.count("data:image/jpeg") == sum(len(card.positions) for card in found.find_class(0).cards)
    assert "&lt;b&gt;mark&lt;/b&gt;" in page
    assert "become the class with 0.1" in page
    new = inspector.load("repaired")
    assert new.class_names == classifier.class_names
    direction = found.find_class(0).directions[0]
    assert new.head.weight.numpy() @ direction == pytest.approx(np.zeros(4), abs=1e-5)
    photo = photos / "a" / "00.png"
    before, after = (inspector.class_maps(one, photo) for one in (classifier, new))
    assert torch.equal(before.feature_maps, after.feature_maps)
    assert after.verdict == "exact"
    assert json.loads(Path("repaired/repair.json").read_text())["flagged"] == [{"concept": "0.1", "class": "a"}]
    trial = run("transplant", "results", "0.1", "--photos", "2", "--places", "1", "--json")
    assert trial["0.1"]["added"]["trials"] <= 2
    (kept,) = read_trials("results/concepts/trials.json", found).values()
    assert (kept.options.photos, kept.options.places) == (2, 1)
    assert describe_trial(kept) == trial["0.1"]
    with pytest.raises(InspectorError, match=r"Cannot read marked\.txt .* Use a text file with a path per line"):
        cli(["repair", "results", "-o", "again", "--without", "marked.txt"], standalone_mode=False)
    Path("marked.txt").write_bytes(b"\xff\xfe\xff")
    for name, reason in (("/dev/zero", "it is not an ordinary file"), ("marked.txt", "is no text in UTF-8")):
        with pytest.raises(InspectorError, match=reason):
            cli(["repair", "results", "-o", "again", "--without", name], standalone_mode=False)
    assert not Path("again").exists()
    monkeypatch.setenv("INSPECTOR_MODELS", "none")
    with pytest.raises(InspectorError, match=r"results are of tiny, which is no network with a name here\. .* --model"):
        cli(["repair", "results", "-o", "again"], standalone_mode=False)
    run("concepts", "results", "--seeds", "1", "--rank", "2", "--report", "cards.html", "--json")
    cards = Path("cards.html").read_text()
    assert "<section" in cards
    assert str(kept.added) in cards
    Path("results/concepts/trials.json").write_text("{}")
    for command in (["transplant", "results", "0.1"], ["repair", "results", "-o", "again"]):
        # Before the work that takes long: the network is not even looked for.
        with pytest.raises(InspectorError, match=r"Cannot read the tests in .*it lacks 'concepts_sha256'"):
            run(*command, "--model", "none")
    with pytest.raises(InspectorError, match=r"Cannot read the tests in .*it lacks 'concepts_sha256'"):
        run("concepts", "results", "--seeds", "1", "--rank", "2", "--report", "cards.html", "--json")


# --- pixels


def make_plain_view(value: int = 100) -> View:
    classifier = inspector.Classifier.wrap(make_color_network(), NAMES, size=(16, 24))
    return make_view(inspector.read_image(np.full((16, 24, 3), value, np.uint8)), classifier.preprocessing)


def test_a_pasted_part_fades_out_and_changes_nothing_else() -> None:
    view, patch = make_plain_view(), np.full((8, 8, 3), 200, np.uint8)
    pasted = paste(view, patch, 4, 10)
    inside = pasted.pixels[4:12, 10:18]
    assert (inside[3:5, 3:5] == 200).all()
    assert 100 < inside[0, 4, 0] < 200
    pasted.pixels[4:12, 10:18] = 100
    assert (pasted.pixels == 100).all()
    assert (view.pixels == 100).all()


@pytest.mark.parametrize("how", ["inpaint", "blur"])
def test_a_removed_region_looks_like_what_is_around_it(how: str) -> None:
    plain = make_plain_view()
    view = replace(plain, pixels=plain.pixels.copy())
    view.pixels[6:10, 8:12] = 255
    region = np.zeros((16, 24), bool)
    region[5:11, 7:13] = True
    removed = remove(view, region, how)
    assert removed.pixels[region].max() < (110 if how == "inpaint" else 200)
    assert np.array_equal(removed.pixels[~region], view.pixels[~region])


def test_a_patch_stays_inside_the_input() -> None:
    field = inspector.Classifier.wrap(make_color_network(), NAMES, size=(16, 24)).receptive_field
    assert find_patch(field, (0, 5), (16, 24)) == (slice(0, 4), slice(20, 24))
    wide = type(field)(type(field.y)(2, 4, 100), type(field.x)(2, 4, 100))
    assert find_patch(wide, (0, 5), (16, 24)) == (slice(0, 12), slice(12, 24))
    assert find_patch(wide, (2, 2), (16, 24)) == (slice(4, 16), slice(4, 16))


def test_a_rate_without_trials_says_so() -> None:
    assert str(Rate(0, 0)) == "no trials"
    assert str(Rate(5, 10)) == "5 of 10 (50%, 24% to 76%)"
