"""Several devices: two processes on the CPU under torchrun train what one does."""

import csv
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from inspector.training.devices import average_losses, is_first, parallelize, split_batch
from inspector.training.recipe import read_recipe
from inspector.training.train import train

RECIPE = Path(__file__).parents[2] / "experiments" / "lenet" / "stride_gap.toml"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Seven images: of batches of four the last has an odd number, one of them."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8)
    for kind in ("train", "t10k"):
        (raw / f"{kind}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 7, 28, 28) + images.tobytes())
        labels = np.arange(7, dtype=np.uint8)
        (raw / f"{kind}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 7) + labels.tobytes())
    return tmp_path / "data"


def losses(folder: Path) -> list[float]:
    with (folder / "history.csv").open() as file:
        return [float(row[key]) for row in csv.DictReader(file) for key in ("training_loss", "validation_loss")]


def test_two_processes_end_where_one_does(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine" / "tiny.toml"
    path.parent.mkdir()
    path.write_text(RECIPE.read_text().replace("epochs = 10", "epochs = 3").replace("batch = 64", "batch = 4"))
    options = ["--data", data, "--out", tmp_path / "two", "--seed", "0", "--device", "cpu"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "inspector.cli"]
    done = subprocess.run([*launcher, "train", path, *options], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    (one,) = train(read_recipe(path), data, tmp_path / "one", (0,), "cpu")
    two = tmp_path / "two" / "mine" / "tiny" / "seed0"
    assert {file.name for file in two.iterdir()} == {file.name for file in one.iterdir()}
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)


def test_one_process_takes_all_and_writes() -> None:
    batch, network = torch.arange(5), torch.nn.Linear(1, 1)
    part, weight = split_batch(batch)
    assert torch.equal(part, batch)
    assert weight == 1
    assert parallelize(network) is network
    assert is_first()
    assert torch.equal(average_losses(batch), batch)
