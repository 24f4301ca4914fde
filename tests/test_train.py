"""The training script, on a data set of eight images in Fashion-MNIST's own format."""

import csv
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import inspector
from inspector.train import RUNS, main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for kind in ("train", "t10k"):
        images = random.integers(0, 256, (8, 28, 28), np.uint8)
        (raw / f"{kind}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 8, 28, 28) + images.tobytes())
        labels = np.arange(8, dtype=np.uint8)
        (raw / f"{kind}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 8) + labels.tobytes())
    return tmp_path / "data"


def train(*arguments: str | Path) -> object:
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("run", RUNS)
def test_a_trained_network_can_be_loaded_and_is_exact(
    run: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    done = train(run, "--data", data, "--models", models, "--epochs", "2")
    assert done.exit_code == 0, done.output
    monkeypatch.setenv("INSPECTOR_MODELS", str(models))
    classifier = inspector.load(run)
    maps = inspector.class_maps(classifier, np.full((28, 28), 200, np.uint8))
    assert maps.verdict == "exact"
    assert classifier.head.pooling == RUNS[run][0]
    with (models / run / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [row["epoch"] for row in history] == ["1", "2"]
    scores = json.loads((models / run / "model.json").read_text())["scores"]
    assert scores["top1"] == pytest.approx(float(history[-1]["top1"]), abs=1e-4)
    assert float(history[-1]["top2"]) >= float(history[-1]["top1"])


def test_equal_seeds_give_equal_weights_and_others_do_not(data: Path, tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        train("fashion_gap", "--data", data, "--models", tmp_path / folder, "--epochs", "1", "--seed", str(seed))
    a, b, c = ((tmp_path / folder / "fashion_gap" / "weights.safetensors").read_bytes() for folder in "abc")
    assert a == b
    assert a != c


def test_an_unknown_run_is_told_with_those_that_there_are(data: Path) -> None:
    done = train("fashion_gpa", "--data", data)
    assert done.exit_code == 2
    assert "fashion_gap" in done.output
