"""Training, on data sets of eight images in the MNIST format and on folders of tiny photos."""

import csv
import errno
import json
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_photos import BACKBONE, write_backbone, write_photos
from torchvision.datasets import MNIST
from typer.testing import CliRunner

import inspector
from inspector.cli import cli
from inspector.errors import InspectorError, TrainingError
from inspector.images.preprocessing import Preprocessing, PreprocessingOverrides
from inspector.training.backbone import build_with_head, load_backbone
from inspector.training.data import read_photos, read_torchvision_data
from inspector.training.recipe import HEADS, Recipe, read_recipe, recipe_for_photos
from inspector.training.train import compute_loss, evaluate, thin_losses, train

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

# What a run leaves in its folder.
LEFT = {
    *("history.csv", "batches.csv", "weights.safetensors", "model.json", "run.json"),
    *("confusion.csv", "average_maps.safetensors"),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("FashionMNIST", "MNIST"):
        raw = tmp_path / "data" / name / "raw"
        raw.mkdir(parents=True)
        for kind in ("train", "t10k"):
            images = random.integers(0, 256, (8, 28, 28), np.uint8)
            (raw / f"{kind}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 8, 28, 28) + images.tobytes())
            labels = np.arange(8, dtype=np.uint8)
            (raw / f"{kind}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 8) + labels.tobytes())
    return tmp_path / "data"


@pytest.fixture
def recipe() -> Recipe:
    return short(EXPERIMENTS / "lenet" / "stride_gap.toml")


def short(path: Path) -> Recipe:
    """Three epochs of four batches, one seed."""
    return replace(read_recipe(path), epochs=3, batch=2, seeds=(0,))


def history(folder: Path, name: str = "history.csv") -> list[dict[str, str]]:
    """All but the seconds, which differ from run to run."""
    with (folder / name).open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "path",
    [*EXPERIMENTS.glob("fashion/g*.toml"), *EXPERIMENTS.glob("lenet/*_g?p.toml")],
    ids=lambda path: path.stem,
)
def test_a_trained_network_can_be_opened_and_is_exact(path: Path, data: Path, tmp_path: Path) -> None:
    (folder,) = train(short(path), data, tmp_path / "runs", device="cpu")
    assert folder == tmp_path / "runs" / path.parent.name / path.stem / "seed0"
    assert {file.name for file in folder.iterdir()} == LEFT
    classifier = inspector.load(str(folder))
    maps = inspector.class_maps(classifier, np.full((28, 28), 200, np.uint8))
    assert maps.verdict == "exact"
    assert classifier.head.pooling == ("average" if "gap" in path.stem else "max")


def test_a_run_tells_what_it_was_and_how_it_ended(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    (folder,) = train(recipe, data, tmp_path, device="cpu")
    rows = history(folder)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    about = json.loads((folder / "run.json").read_text())
    assert about["settings"] == recipe.settings() | {"seed": 0, "precision": "float32"}
    assert about["parameters"] == {"head": 170, "all": 7382}
    assert {key: str(value) for key, value in about["final"].items()} == rows[-1]
    assert about["best"]["top1"] == max(float(row["top1"]) for row in rows)
    assert about["versions"]["torch"] == torch.__version__.split("+")[0]
    scores = json.loads((folder / "model.json").read_text())["scores"]
    assert scores["top1"] == pytest.approx(float(rows[-1]["top1"]), abs=1e-4)


def test_batches_are_thinned_to_means_that_give_the_loss_of_the_epoch(
    recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    (folder,) = train(recipe, data, tmp_path, device="cpu")
    batches = history(folder, "batches.csv")
    assert [(row["epoch"], row["batch"]) for row in batches[:5]] == [*(("1", f"{n}") for n in (1, 2, 3, 4)), ("2", "1")]
    for row, first in zip(history(folder), (0, 4, 8), strict=True):
        mean = np.mean([float(batch["training_loss"]) for batch in batches[first : first + 4]])
        assert float(row["training_loss"]) == pytest.approx(mean)


def test_the_last_row_of_an_epoch_may_stand_for_fewer_batches() -> None:
    rows = thin_losses([1.0, 3.0, 5.0, 7.0, 2.0], 2)
    assert [(row["batch"], row["training_loss"]) for row in rows] == [(2, 2), (4, 6), (5, 2)]


def test_equal_seeds_give_equal_weights_and_others_do_not(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    a, c = train(recipe, data, tmp_path / "a", seeds=(1, 2), device="cpu")
    (b,) = train(recipe, data, tmp_path / "b", seeds=(1,), device="cpu")
    a_bytes, b_bytes, c_bytes = ((folder / "weights.safetensors").read_bytes() for folder in (a, b, c))
    assert a_bytes == b_bytes
    assert a_bytes != c_bytes


def test_training_leaves_the_random_numbers_as_they_were(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(recipe, data, tmp_path, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


def copy_at(patch: pytest.MonkeyPatch, owner: type, name: str, last: int, folder: Path, copy: Path) -> None:
    """Copy a folder at a call of a method: that is what a run leaves which is killed there. `last` counts from 1."""
    original, calls = getattr(owner, name), []

    def counted(self: object, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == last:
            shutil.copytree(folder, copy)
        return original(self, *arguments)

    patch.setattr(owner, name, counted)


def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    whole = tmp_path / "unbroken"
    with pytest.MonkeyPatch.context() as patch:
        # After 6 of 12 steps, in the middle of the second epoch; and before the second checkpoint gets its name.
        copy_at(patch, torch.optim.Adam, "step", 6, whole, tmp_path / "step")
        copy_at(patch, Path, "replace", 4, whole, tmp_path / "rename")
        (unbroken,) = train(recipe, data, whole, device="cpu")
    for killed in (tmp_path / "step", tmp_path / "rename"):
        folder = killed / unbroken.relative_to(whole)
        assert [row["epoch"] for row in history(folder)] == ["1"]
        assert not (folder / "run.json").exists()
        train(recipe, data, killed, device="cpu")
        assert history(folder) == history(unbroken)
        assert history(folder, "batches.csv") == history(unbroken, "batches.csv")
        weights = ((f / "weights.safetensors").read_bytes() for f in (folder, unbroken))
        assert len(set(weights)) == 1
        assert {file.name for file in folder.iterdir()} == {file.name for file in unbroken.iterdir()}


def test_a_finished_run_is_left_as_it_is(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    (folder,) = train(recipe, data, tmp_path, device="cpu")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    train(recipe, data, tmp_path, device="cpu")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_full_disk_keeps_the_finished_epochs(
    recipe: Recipe, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, checkpoints = Path.write_bytes, []

    def full(self: Path, content: bytes) -> int:
        if "checkpoint" in self.name:
            checkpoints.append(self)
        if len(checkpoints) == 2:
            original(self, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(
            TrainingError, match=r"Cannot write .*checkpoint.pt: No space left on device\. Epochs up to 1 are stored"
        ):
            train(recipe, data, tmp_path / "full", device="cpu")
    (folder,) = train(recipe, data, tmp_path / "full", device="cpu")
    (unbroken,) = train(recipe, data, tmp_path / "unbroken", device="cpu")
    assert history(folder) == history(unbroken)
    assert {file.name for file in folder.iterdir()} == {file.name for file in unbroken.iterdir()}


def test_a_folder_that_cannot_be_made_is_reported_before_training(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"Cannot write .*seed0: Not a directory\. Use another --out"):
        train(recipe, data, tmp_path / "file", device="cpu")


def test_a_folder_with_a_run_of_another_recipe_is_refused(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    train(recipe, data, tmp_path, device="cpu")
    with pytest.raises(
        TrainingError, match=r"seed0 holds a run of another recipe \(rate 0.001 there, 0.1 here\)\. Use another --out"
    ):
        train(replace(recipe, rate=0.1), data, tmp_path, device="cpu")


@pytest.mark.parametrize(("name", "content"), [("checkpoint.pt", b"junk"), ("checkpoint.pt", b""), ("run.json", b"{")])
def test_a_broken_file_of_a_run_is_reported(
    name: str, content: bytes, recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "lenet" / "stride_gap" / "seed0"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    with pytest.raises(TrainingError, match=rf"{name} is broken\. Remove .* to start this run again"):
        train(recipe, data, tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"factory": "lenat"}, r"No network 'lenat'. Nearest names: lenet\."),
        (
            {"arguments": {"trunc": "stride"}},
            "lenet has no argument 'trunc'. Its arguments: trunk, head, activation, classes",
        ),
        ({"arguments": {"trunk": "strides"}}, "lenet: expected 'pooling' or 'stride' for trunk, got 'strides'"),
        ({"arguments": {}}, "lenet cannot be built with {}: .*missing 1 required positional argument: 'trunk'"),
        (
            {"arguments": {"trunk": "stride", "classes": 3}},
            r"lenet returns shape \(3,\) per image, but",
        ),
        ({"factory": "cifar_resnet", "arguments": {}}, "cifar_resnet cannot take the images of mnist: .*channels"),
        ({"rate": 1e30}, r"The loss of stride_gap is nan in epoch 1\. Use a learning rate below 1e[+]30"),
    ],
)
def test_a_network_that_cannot_be_trained_gets_one_sentence(
    changes: dict[str, object], sentence: str, recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=sentence):
        train(replace(recipe, **changes), data, tmp_path, device="cpu")  # type: ignore[arg-type]


def test_no_data_and_no_connection_get_one_sentence(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_connection(self: MNIST) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(MNIST, "download", no_connection)
    with pytest.raises(TrainingError, match=r"No MNIST in .*raw, and it could not be downloaded \(.*no route to host"):
        train(recipe, tmp_path / "nowhere", tmp_path)


def test_a_cut_off_data_file_gets_one_sentence(data: Path) -> None:
    path = data / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TrainingError, match=r"No MNIST in .*raw"):
        read_torchvision_data("mnist", data, torch.device("cpu"))


def test_the_article_s_loss_is_cross_entropy_of_the_softmax_of_sigmoids() -> None:
    logits, labels = torch.tensor([[0.0, 0.0], [800.0, -800.0]]), torch.tensor([0, 0])
    # log(2), and log(1 + 1/e) where the sigmoids are 1 and 0: it cannot fall below that.
    expected = (np.log(2) + np.log(1 + np.exp(-1))) / 2
    assert compute_loss(logits, labels, "sigmoid_cross_entropy").item() == pytest.approx(expected)
    assert compute_loss(logits, labels, "cross_entropy").item() == pytest.approx(np.log(2) / 2)


def test_scores_are_those_counted_by_hand(data: Path) -> None:
    class Fixed(torch.nn.Module):
        """Classes 2, 1, 0 in this order for every image."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.arange(3.0).expand(len(images), 3)

    images = replace(
        read_torchvision_data("mnist", data, torch.device("cpu")).test, labels=torch.tensor([2, 2, 1, 0] * 2)
    )
    scores = evaluate(Fixed(), images, "cross_entropy", "float32")
    assert (scores["top1"], scores["top2"]) == (0.5, 0.75)
    # log(1 + e + e^2) less the logit of the label, 2, 2, 1, 0.
    assert scores["validation_loss"] == pytest.approx(np.log(1 + np.e + np.e**2) - 5 / 4)


def test_bfloat16_is_another_run_and_trains_too(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    (folder,) = train(recipe, data, tmp_path, device="cpu", precision="bfloat16")
    assert json.loads((folder / "run.json").read_text())["settings"]["precision"] == "bfloat16"
    with pytest.raises(TrainingError, match="precision 'bfloat16' there, 'float32' here"):
        train(recipe, data, tmp_path, device="cpu")


STRIDE = str(EXPERIMENTS / "lenet" / "stride.toml")
WHAT = "Expected either a recipe with --data FOLDER, or --images FOLDER."
FROM = ("--data", "FOLDER")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([STRIDE, *FROM, "--device", "gpu"], "Expected auto, cpu, cuda, cuda:1 or mps as device, got 'gpu'."),
        ([STRIDE, *FROM, "--precision", "half"], "--precision is 'half'. Use float32 or bfloat16."),
        ([], WHAT),
        ([*FROM], WHAT),
        ([STRIDE, "--images", "FOLDER"], WHAT),
        ([*FROM, "--images", "FOLDER"], WHAT),
        ([STRIDE], "A recipe needs the folder of its data set. Use --data FOLDER."),
        ([STRIDE, *FROM, "--head", "gmp"], "--head goes with --images: a recipe states it in its file."),
        ([STRIDE, *FROM, "--epochs", "1"], "--epochs goes with --images: a recipe states it in its file."),
        (
            [STRIDE, *FROM, "--weights", "x.pth"],
            "--weights and --objects apply only to photos, but stride trains on mnist.",
        ),
        (
            ["--images", "FOLDER", "--head", "gap,gpa"],
            "--head is 'gpa'. Use some of gap, gmp, fc, separated by commas.",
        ),
        (
            ["--images", "FOLDER", "--size", "big"],
            "--size is 'big'. Use 224 or 208x408 (height x width, in pixels).",
        ),
    ],
)
def test_the_command_refuses_what_it_has_not(arguments: list[str], sentence: str, data: Path) -> None:
    done = CliRunner().invoke(cli, ["train", *(str(data) if one == "FOLDER" else one for one in arguments)])
    assert isinstance(done.exception, InspectorError)
    assert str(done.exception) == sentence


def test_the_command_trains_the_seeds_that_are_named(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine" / "tiny.toml"
    path.parent.mkdir()
    path.write_text((EXPERIMENTS / "lenet" / "stride_gmp.toml").read_text().replace("epochs = 10", "epochs = 1"))
    out = tmp_path / "out"
    options = ["--data", str(data), "--out", str(out), "--seed", "3", "--seed", "5", "--device", "cpu"]
    done = CliRunner().invoke(cli, ["train", str(path), *options])
    assert done.exit_code == 0, done.output
    assert sorted(folder.name for folder in (out / "mine" / "tiny").iterdir()) == ["seed3", "seed5"]


def test_without_the_extra_the_command_says_what_to_install(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "inspector.training.train")
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.classification", None)
    path = EXPERIMENTS / "lenet" / "stride.toml"
    done = CliRunner().invoke(cli, ["train", str(path), "--data", str(data)])
    assert isinstance(done.exception, InspectorError)
    assert "Training needs torchmetrics" in str(done.exception)
    assert "pip install 'class-map-inspector[train]'" in str(done.exception)


# Photos


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten photos of one class and twelve of another: 9 and 10 to train on."""
    monkeypatch.setenv("INSPECTOR_MODELS", str(write_backbone(tmp_path / "models")))
    return write_photos(tmp_path / "photos", {"left": 10, "right": 12})


def of_photos(photos: Path, head: str = "gap", finetune: bool = False, backbone: str = BACKBONE) -> Recipe:
    """Three epochs of four or five batches."""
    return replace(recipe_for_photos(photos, backbone, head, not finetune, epochs=3), batch=5)


@pytest.mark.parametrize("finetune", [False, True], ids=["frozen", "fine-tuned"])
@pytest.mark.parametrize("head", HEADS)
def test_a_head_for_photos_can_be_opened_and_its_maps_are_exact(
    head: str, finetune: bool, photos: Path, tmp_path: Path
) -> None:
    recipe = of_photos(photos, head, finetune)
    (folder,) = train(recipe, photos, tmp_path / "runs", device="cpu")
    assert folder == tmp_path / "runs" / "photos" / (f"{head}_tiny" + ("_finetuned" if finetune else "")) / "seed0"
    assert {file.name for file in folder.iterdir()} == LEFT | {"test.csv"}
    classifier = inspector.load(folder)
    assert classifier.class_names == ("left", "right")
    assert classifier.preprocessing == load_backbone(BACKBONE, None, PreprocessingOverrides()).classifier.preprocessing
    maps = inspector.class_maps(classifier, photos / "left" / "00.png")
    assert maps.verdict == ("exact for this image" if head == "fc" else "exact")
    assert maps.values.shape == (2, 4, 4)
    about = json.loads((folder / "run.json").read_text())
    assert about["class_maps"]["verdict"] == maps.verdict
    assert about["parameters"]["head"] == (64 * 16 * 512 + 512 + 512 * 2 + 2 if head == "fc" else 64 * 2 + 2)


def test_a_frozen_trunk_is_the_backbone_s_to_the_bit_statistics_included(photos: Path, tmp_path: Path) -> None:
    backbone = load_file(tmp_path / "models" / BACKBONE / "weights.safetensors")
    frozen, tuned = (
        load_file(folder / "weights.safetensors")
        for finetune in (False, True)
        for folder in train(of_photos(photos, finetune=finetune), photos, tmp_path / "runs", device="cpu")
    )
    names = [name.removeprefix("trunk.network.") for name in frozen if name.startswith("trunk.")]
    assert "bn1.running_var" in names
    assert set(names) == backbone.keys() - {"linear.weight", "linear.bias"}
    assert all(torch.equal(frozen[f"trunk.network.{name}"], backbone[name]) for name in names)
    assert not torch.equal(tuned["trunk.network.bn1.running_var"], backbone["bn1.running_var"])
    assert not torch.equal(tuned["trunk.network.conv1.weight"], backbone["conv1.weight"])


@pytest.mark.parametrize("head", ["gap", "fc"])
def test_training_on_feature_maps_is_training_the_head_on_photos(head: str, photos: Path, tmp_path: Path) -> None:
    recipe = of_photos(photos, head)
    (folder,) = train(recipe, photos, tmp_path / "runs", seeds=(4,), device="cpu")
    trained = load_file(folder / "weights.safetensors")

    backbone = load_backbone(BACKBONE, None, PreprocessingOverrides())
    images = read_photos(photos, backbone.classifier.preprocessing, torch.device("cpu")).training
    with torch.random.fork_rng(()):
        torch.manual_seed(4)
        network = build_with_head(backbone, recipe.arguments["head"], 2).eval()
        optimizer = torch.optim.Adam(network.get_submodule("head").parameters(), lr=1e-3)
        for _ in range(3):
            for batch in torch.randperm(len(images)).split(5):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(network(images.inputs(batch)), images.labels[batch]).backward()
                optimizer.step()
    for name, value in network.get_submodule("head").state_dict().items():
        torch.testing.assert_close(trained[f"head.{name}"], value, rtol=1e-4, atol=1e-6)


def test_weights_that_a_package_has_are_not_written_again(photos: Path, tmp_path: Path) -> None:
    # Not of models/ as the tests have it, but the one that comes with the inspector.
    recipe = replace(of_photos(photos, backbone="efficientnet_lite0"), input={"size": [64, 64]}, epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("INSPECTOR_MODELS")
        (folder,) = train(recipe, photos, tmp_path / "runs", device="cpu")
        backbone = load_backbone("efficientnet_lite0", None, PreprocessingOverrides(size=64))
    assert set(load_file(folder / "weights.safetensors")) == {"head.1.weight", "head.1.bias"}
    assert (folder / "weights.safetensors").stat().st_size < 20_000
    classifier = inspector.load(folder)
    state = classifier.network.state_dict()
    own = backbone.classifier.network.state_dict()
    kept = [name for name in state if name.startswith("trunk.")]
    assert all(torch.equal(state[name], own[name.removeprefix("trunk.network.")]) for name in kept)
    # What the run counted, the opened network gives again.
    with (folder / "test.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            _, name, probability = inspector.class_maps(classifier, photos / row["file"]).top(1)[0]
            assert (row["predicted"], float(row["probability"])) == (name, pytest.approx(probability, abs=6e-5))


@pytest.mark.parametrize("how", ["frozen", "fine-tuned"])
def test_a_killed_run_on_photos_goes_on_and_ends_as_an_unbroken_one(how: str, photos: Path, tmp_path: Path) -> None:
    recipe = of_photos(photos, finetune=how == "fine-tuned")
    with pytest.MonkeyPatch.context() as patch:
        # Of four steps an epoch the second of the second.
        copy_at(patch, torch.optim.Adam, "step", 6, tmp_path / "unbroken", tmp_path / "killed")
        (unbroken,) = train(recipe, photos, tmp_path / "unbroken", device="cpu")
    folder = tmp_path / "killed" / recipe.experiment / recipe.run / "seed0"
    assert [row["epoch"] for row in history(folder)] == ["1"]
    train(recipe, photos, tmp_path / "killed", device="cpu")
    assert history(folder) == history(unbroken)
    for name in ("batches.csv", "weights.safetensors", "confusion.csv", "test.csv", "average_maps.safetensors"):
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes()
    assert {file.name for file in folder.iterdir()} == {file.name for file in unbroken.iterdir()}


def test_reading_a_backbone_leaves_the_random_numbers_as_they_were(photos: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(of_photos(photos), photos, tmp_path / "runs", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_other_photos_are_another_run(photos: Path, tmp_path: Path) -> None:
    (folder,) = train(of_photos(photos), photos, tmp_path / "runs", device="cpu")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (photos / "left" / "00.png").rename(photos / "left" / "new.png")
    with pytest.raises(
        TrainingError,
        match=r"seed0 holds a run on other photos \(some were added, removed or renamed since\). Use anot",
    ):
        train(of_photos(photos), photos, tmp_path / "runs", device="cpu")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_is_wrong_with_the_photos_leaves_nothing_behind(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_class = write_photos(tmp_path / "one", {"a": 3})
    with pytest.raises(TrainingError, match="one holds only one class folder, a"):
        train(of_photos(one_class), one_class, tmp_path / "runs", device="cpu")
    monkeypatch.setattr("inspector.training.train.MAX_MEMORY", 19 * 64 * 16 * 4 - 1)
    with pytest.raises(
        TrainingError, match=r"The feature maps of 19 photos take 0 GB, .* Use a smaller input size, or --finetune"
    ):
        train(of_photos(photos), photos, tmp_path / "runs", device="cpu")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(TrainingError, match=r"Runs in .*photos would be among the photos\. Use another --out"):
        train(of_photos(photos), photos, tmp_path, device="cpu")
    assert {path.name for path in photos.iterdir()} == {"left", "right"}


def test_the_command_trains_heads_on_photos_tells_of_them_and_does_it_once(photos: Path, tmp_path: Path) -> None:
    (photos / "left" / "[notes].txt").write_text("not a photo")
    out = tmp_path / "runs"
    command = ["train", "--images", f"{photos}/", "--backbone", BACKBONE, "--head", "gap, gmp", "--epochs", "1"]
    command += ["--size", "16x24", "--out", str(out), "--device", "cpu"]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert "2 classes, 19 training and 3 test images: from 9 (left) to 10 (right)" in done.output
    assert "Skipped: left/[notes].txt: [notes].txt is not an image" in done.output
    folders = [out / "photos" / f"{head}_tiny" / "seed0" for head in ("gap", "gmp")]
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [sorted({*LEFT, "test.csv"})] * 2
    card = json.loads((folders[1] / "model.json").read_text())
    assert (card["size"], card["examples"]) == ([16, 24], "photos")
    assert card["training"] == (
        "inspector train --images FOLDER --backbone tiny --head gmp --epochs 1 --size 16x24 --seed 0"
    )
    before = [(path, path.stat().st_mtime_ns) for folder in folders for path in sorted(folder.iterdir())]
    again = CliRunner().invoke(cli, command)
    assert again.exit_code == 0, again.output
    assert before == [(path, path.stat().st_mtime_ns) for folder in folders for path in sorted(folder.iterdir())]


def test_a_photo_is_trained_on_as_it_is_explained(photos: Path, tmp_path: Path) -> None:
    recipe = replace(of_photos(photos), input={"size": 16, "resize": [20, 20], "mean": [0.25] * 3, "std": [0.5] * 3})
    (folder,) = train(recipe, photos, tmp_path / "runs", device="cpu")
    assert inspector.load(folder).preprocessing == Preprocessing((16, 16), (0.25,) * 3, (0.5,) * 3, (20, 20))
