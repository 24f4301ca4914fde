"""Training, on data sets of eight images in the MNIST format."""

import csv
import errno
import json
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST
from typer.testing import CliRunner

import inspector
from inspector.cli import cli
from inspector.data_sets import read_images
from inspector.errors import InspectorError, TrainingError
from inspector.recipe import Recipe, read_recipe
from inspector.train import evaluate, find_device, loss_of, thinned, train

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


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
    [p for p in EXPERIMENTS.glob("*/*.toml") if p.stem.startswith(("gap", "gmp")) or p.stem.endswith(("_gap", "_gmp"))],
    ids=lambda path: path.stem,
)
def test_a_trained_network_can_be_opened_and_is_exact(path: Path, data: Path, tmp_path: Path) -> None:
    (folder,) = train(short(path), data, tmp_path / "runs", device="cpu")
    assert folder == tmp_path / "runs" / path.parent.name / path.stem / "seed0"
    names = {"history.csv", "batches.csv", "weights.safetensors", "model.json", "run.json"}
    assert {file.name for file in folder.iterdir()} == names
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
    rows = thinned([1.0, 3.0, 5.0, 7.0, 2.0], 2)
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


# Kills itself after 6 of 12 steps, in the middle of the second epoch, or before the second checkpoint gets its name.
KILLED = """
import os, pathlib, signal, sys, torch
from dataclasses import replace
from inspector.recipe import read_recipe
from inspector.train import train

torch.set_num_threads(1)
owner, name, last = {"step": (torch.optim.Adam, "step", 6), "rename": (pathlib.Path, "replace", 4)}[sys.argv[1]]
original, calls = getattr(owner, name), []

def counted(self, *arguments):
    calls.append(1)
    if len(calls) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *arguments)

setattr(owner, name, counted)
recipe = replace(read_recipe(pathlib.Path(sys.argv[2])), epochs=3, batch=2, seeds=(0,))
train(recipe, pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[4]), device="cpu")
"""


@pytest.mark.parametrize("when", ["step", "rename"])
def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(
    when: str, recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    path = EXPERIMENTS / "lenet" / "stride_gap.toml"
    killed = subprocess.run([sys.executable, "-c", KILLED, when, path, data, tmp_path / "killed"], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    folder = tmp_path / "killed" / "lenet" / "stride_gap" / "seed0"
    assert [row["epoch"] for row in history(folder)] == ["1"]
    assert not (folder / "run.json").exists()

    train(recipe, data, tmp_path / "killed", device="cpu")
    (unbroken,) = train(recipe, data, tmp_path / "unbroken", device="cpu")
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
            TrainingError, match=r"Cannot write .*checkpoint.pt: No space left on device; epochs up to 1 are kept"
        ):
            train(recipe, data, tmp_path / "full", device="cpu")
    (folder,) = train(recipe, data, tmp_path / "full", device="cpu")
    (unbroken,) = train(recipe, data, tmp_path / "unbroken", device="cpu")
    assert history(folder) == history(unbroken)
    assert {file.name for file in folder.iterdir()} == {file.name for file in unbroken.iterdir()}


def test_a_folder_that_cannot_be_made_is_told_before_training(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"Cannot write .*seed0: Not a directory; another --out would do"):
        train(recipe, data, tmp_path / "file", device="cpu")


def test_a_folder_with_a_run_of_another_recipe_is_refused(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    train(recipe, data, tmp_path, device="cpu")
    with pytest.raises(
        TrainingError, match=r"seed0 holds a run of another recipe \(rate 0.001 there, 0.1 here\): name another --out"
    ):
        train(replace(recipe, rate=0.1), data, tmp_path, device="cpu")


@pytest.mark.parametrize(("name", "content"), [("checkpoint.pt", b"junk"), ("checkpoint.pt", b""), ("run.json", b"{")])
def test_a_broken_file_of_a_run_is_told(name: str, content: bytes, recipe: Recipe, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lenet" / "stride_gap" / "seed0"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    with pytest.raises(TrainingError, match=f"{name} is broken; remove .* to begin this run again"):
        train(recipe, data, tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"factory": "lenat"}, r"No network 'lenat'. Nearest names: lenet\."),
        (
            {"arguments": {"trunc": "stride"}},
            "lenet takes no argument 'trunc'; it takes trunk, head, activation, classes",
        ),
        ({"arguments": {"trunk": "strides"}}, "lenet: trunk is 'strides'; 'pooling' or 'stride' would do"),
        ({"arguments": {}}, "lenet cannot be built with {}: .*missing 1 required positional argument: 'trunk'"),
        ({"arguments": {"trunk": "stride", "classes": 3}}, r"lenet gives \(3,\) for an image; mnist needs \(10,\)"),
        ({"factory": "cifar_resnet", "arguments": {}}, "cifar_resnet cannot take the images of mnist: .*channels"),
        ({"rate": 1e30}, "The loss of stride_gap is nan in epoch 1: a rate below 1e[+]30 may do"),
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
    with pytest.raises(TrainingError, match=r"No MNIST in .*raw, nor could it be fetched \(.*no route to host"):
        train(recipe, tmp_path / "nowhere", tmp_path)


def test_a_cut_off_data_file_gets_one_sentence(data: Path) -> None:
    path = data / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TrainingError, match=r"No MNIST in .*raw"):
        read_images("mnist", data, True, torch.device("cpu"))


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="--device is 'cuda', but torch sees no GPU here; cpu or auto would do"):
        find_device("cuda")
    assert find_device("auto") == torch.device("cpu")


def test_the_article_s_loss_is_cross_entropy_of_the_softmax_of_sigmoids() -> None:
    logits, labels = torch.tensor([[0.0, 0.0], [800.0, -800.0]]), torch.tensor([0, 0])
    # log(2), and log(1 + 1/e) where the sigmoids are 1 and 0: it cannot fall below that.
    expected = (np.log(2) + np.log(1 + np.exp(-1))) / 2
    assert loss_of(logits, labels, "sigmoid_cross_entropy").item() == pytest.approx(expected)
    assert loss_of(logits, labels, "cross_entropy").item() == pytest.approx(np.log(2) / 2)


def test_scores_are_those_counted_by_hand(data: Path) -> None:
    class Fixed(torch.nn.Module):
        """Classes 2, 1, 0 in this order for every image."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.arange(3.0).expand(len(images), 3)

    images = replace(read_images("mnist", data, False, torch.device("cpu")), labels=torch.tensor([2, 2, 1, 0] * 2))
    scores = evaluate(Fixed(), images, "cross_entropy", "float32")
    assert (scores["top1"], scores["top2"]) == (0.5, 0.75)
    # log(1 + e + e^2) less the logit of the label, 2, 2, 1, 0.
    assert scores["validation_loss"] == pytest.approx(np.log(1 + np.e + np.e**2) - 5 / 4)


def test_bfloat16_is_another_run_and_trains_too(recipe: Recipe, data: Path, tmp_path: Path) -> None:
    (folder,) = train(recipe, data, tmp_path, device="cpu", precision="bfloat16")
    assert json.loads((folder / "run.json").read_text())["settings"]["precision"] == "bfloat16"
    with pytest.raises(TrainingError, match="precision 'bfloat16' there, 'float32' here"):
        train(recipe, data, tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--device", "gpu"], "--device is 'gpu'; auto or cpu or cuda would do."),
        (["--precision", "half"], "--precision is 'half'; float32 or bfloat16 would do."),
    ],
)
def test_the_command_refuses_what_it_has_not(arguments: list[str], sentence: str, data: Path) -> None:
    path = EXPERIMENTS / "lenet" / "stride.toml"
    done = CliRunner().invoke(cli, ["train", str(path), "--data", str(data), *arguments])
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
    monkeypatch.delitem(sys.modules, "inspector.train")
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.classification", None)
    path = EXPERIMENTS / "lenet" / "stride.toml"
    done = CliRunner().invoke(cli, ["train", str(path), "--data", str(data)])
    assert isinstance(done.exception, InspectorError)
    assert "Training needs torchmetrics" in str(done.exception)
    assert "pip install 'inspector[train]'" in str(done.exception)
