"""The command line, run as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inspector.examples import examples

BOOT = examples("fashion_mnist")["Ankle boot"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inspector.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=None)


def test_explain_writes_the_figure_the_numbers_and_the_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "boot"
    done = run("explain", BOOT, "--model", "fashion_gap", "--classes", "top3", "-o", folder)
    assert done.returncode == 0, done.stderr
    assert "verdict: exact" in done.stdout
    assert {path.name for path in folder.iterdir()} == {
        "figure.png", "figure.pdf", "figure.svg", "maps.npz", "manifest.json",
    }  # fmt: skip
    numbers = np.load(folder / "maps.npz")
    assert np.allclose(numbers["values"].sum((1, 2)) + numbers["bias"], numbers["logits"], atol=1e-4)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["network"]["name"] == "fashion_gap"
    assert len(manifest["shown"]["classes"]) == 3


def test_explain_takes_named_classes_and_a_contrast(tmp_path: Path) -> None:
    done = run("explain", BOOT, "-m", "fashion_gmp", "-c", "Sandal,Bag", "-a", "Ankle boot", "-o", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert "Sandal against Ankle boot" in done.stdout
    assert "Bag against Ankle boot" in done.stdout
    assert json.loads((tmp_path / "new" / "manifest.json").read_text())["shown"]["against"] == 9


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["explain", "nowhere.jpg"], "Cannot read nowhere.jpg: No such file or directory."),
        (["explain", BOOT, "-m", "fashion_gab"], "No network 'fashion_gab'. Nearest names: fashion_gap"),
        (["explain", BOOT, "-m", "fashion_gap", "-c", "Sandel"], "No class 'Sandel'. Nearest names: Sandal."),
        (["explain", BOOT, "-m", "fashion_gap", "-c", "s"], "may mean"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    tmp_path: Path, arguments: list[str | Path], sentence: str
) -> None:
    done = run(*arguments, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = run("explain", BOOT, "-m", "fashion_gap", "-o", tmp_path)
    assert done.returncode == 1
    assert "not empty: nothing was written" in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_models_lists_every_network_with_its_accuracy() -> None:
    done = run("models")
    for name in ("efficientnet_lite0", "fashion_gap", "fashion_gmp", "fashion_gap_sigmoid", "fashion_gmp_sigmoid"):
        assert name in done.stdout
    assert "top-1" in done.stdout


def test_help_and_version_need_no_torch() -> None:
    code = "import sys, inspector.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert "inspector explain cat.jpg" in run("explain", "--help").stdout
    assert run("--version").stdout.startswith("inspector ")
