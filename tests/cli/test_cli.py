"""The command line, run as a user runs it."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from inspector import class_maps, load
from inspector.cli import main, options
from inspector.images.examples import list_examples
from inspector.networks.build import build

BOOT = list_examples("fashion_mnist")["Ankle boot"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inspector.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=None)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run` in this process, because starting Python takes seconds."""

    def run_here(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["inspector", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return subprocess.CompletedProcess(sys.argv, stopped.value.code, *capsys.readouterr())

    return run_here


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """Standard error on one line."""
    return " ".join(done.stderr.split())


def test_explain_writes_the_figure_the_numbers_and_the_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "boot"
    done = run("explain", BOOT, "--model", "fashion_gap", "--classes", "top3", "-o", folder)
    assert done.returncode == 0, done.stderr
    assert "verdict: exact" in done.stdout
    assert {path.name for path in folder.iterdir()} == {
        "figure.png", "figure.pdf", "figure.svg", "maps.npz", "logits.csv", "contributions.csv", "report.html",
        "photo.png", "manifest.json",
    }  # fmt: skip
    numbers = np.load(folder / "maps.npz")
    assert np.allclose(numbers["values"].sum((1, 2)) + numbers["bias"], numbers["logits"], atol=1e-4)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["network"]["name"] == "fashion_gap"
    assert len(manifest["shown"]["classes"]) == 3


@pytest.mark.usefixtures("only_png")
def test_explain_takes_named_classes_and_a_contrast(run_here: Run, tmp_path: Path) -> None:
    done = run_here(
        "explain", BOOT, "-m", "fashion_gmp", "-c", "Sandal,Bag", "-a", "Ankle boot", "-o", tmp_path / "new"
    )
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
    run_here: Run, tmp_path: Path, arguments: list[str | Path], sentence: str
) -> None:
    done = run_here(*arguments, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_in_it_is_left_alone(run_here: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = run_here("explain", BOOT, "-m", "fashion_gap", "-o", tmp_path)
    assert done.returncode == 1
    assert "not empty: nothing was written" in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_models_lists_every_network_with_its_accuracy(run_here: Run) -> None:
    done = run_here("models")
    for name in ("efficientnet_lite0", "fashion_gap", "fashion_gmp", "fashion_gap_sigmoid", "fashion_gmp_sigmoid"):
        assert name in done.stdout
    assert "top-1" in done.stdout


@dataclass(frozen=True)
class Group:
    first: Annotated[int, typer.Option(help="A number.")] = 1
    second_one: Annotated[bool, typer.Option("--second-one")] = False


def test_a_group_of_options_becomes_one_option_per_field(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Group, int]] = []

    def example(name: str, *, group: Group, last: int = 0) -> None:
        """Describe the example."""
        calls.append((name, group, last))

    monkeypatch.setattr(options, "cli", typer.Typer())
    assert options.command(example) is example
    options.cli.command("other")(lambda: None)  # a single command would not be called by its name
    runner = CliRunner()
    assert "A number." in runner.invoke(options.cli, ["example", "--help"]).output
    for arguments in (["a"], ["b", "--first", "3", "--second-one", "--last", "5"]):
        done = runner.invoke(options.cli, ["example", *arguments])
        assert done.exit_code == 0, done.output
    assert calls == [("a", Group(), 0), ("b", Group(3, True), 5)]


def test_help_and_version_need_no_torch() -> None:
    code = """
import sys, inspector.cli
sys.argv[1:] = ["explain", "--help"]
try:
    inspector.cli.main()
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert "inspector explain cat.jpg" in done.stdout
    assert run("--version").stdout.startswith("inspector ")


# --- the user's own networks


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a checkpoint, its class names and a photo of 60 x 90 pixels; models/ in it is not there yet."""
    monkeypatch.setenv("INSPECTOR_MODELS", str(tmp_path / "models"))
    torch.manual_seed(0)
    torch.save(build("timm:test_resnet", 3).state_dict(), tmp_path / "mine.pth")
    (tmp_path / "labels.txt").write_text("tench\ngoldfish\ngreat white shark\n")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path


@pytest.mark.usefixtures("only_png")
def test_explain_says_how_a_finer_map_was_made(run_here: Run, tmp_path: Path) -> None:
    done = run_here("explain", BOOT, "-m", "fashion_gap", "--finer", 2, "-o", tmp_path / "a", "--json")
    assert done.returncode == 0, done.stderr
    (photo,) = json.loads(done.stdout)["photos"]
    assert (photo["finer"]["factor"], photo["finer"]["method"]) == (2, "dilation")
    best = photo["classes"][0]
    assert best["sum_of_the_map"] + best["bias"] == pytest.approx(best["logit"], abs=1e-3)
    done = run_here("explain", BOOT, "-m", "fashion_gap", "--finer", 3, "-o", tmp_path / "b")
    assert done.returncode == 1
    assert "finer is 3. Use 2 or 4" in error_line(done)


def described(done: subprocess.CompletedProcess[str], subject: str) -> str:
    """The sentence of `describe` on a subject, which ends where the next subject begins a line."""
    lines = done.stdout.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"{subject}: "))
    stop = next((n for n in range(start + 1, len(lines)) if ": " in lines[n][:40]), len(lines))
    return " ".join(" ".join(lines[start:stop]).split()).removeprefix(f"{subject}: ")


@pytest.mark.usefixtures("only_png")
def test_a_network_that_is_added_is_listed_and_explains_photos_by_its_name(run_here: Run, workspace: Path) -> None:
    preprocessing = [
        "--arch",
        "timm:test_resnet",
        "--labels",
        workspace / "labels.txt",
        "--size",
        "64x96",
        "--resize",
        "squeeze",
    ]
    done = run_here("add", workspace / "mine.pth", "--name", "mine", *preprocessing, "--title", "Three fish")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stdout.splitlines() == [
        "mine: 3 classes, average pooling, class maps exact",
        "fed: as RGB; resized to 64 x 96 (bilinear); scaled to 0-1; mean 0.5, 0.5, 0.5 subtracted, divided by std 0.5, "
        "0.5, 0.5",
        f"written: {workspace / 'models' / 'mine'}",
    ]
    listed = run_here("models").stdout
    assert "mine" in listed
    assert "Three fish" in listed

    done = run_here(
        "explain", workspace / "photo.png", "--model", "mine", "--classes", "goldfish,2", "-o", workspace / "out"
    )
    assert done.returncode == 0, done.stderr
    assert "verdict: exact" in done.stdout
    manifest = json.loads((workspace / "out" / "manifest.json").read_text())
    assert (manifest["network"]["name"], manifest["shown"]["classes"]) == ("mine", [1, 2])
    numbers = np.load(workspace / "out" / "maps.npz")
    # 64 and 96 pixels, halved five times.
    assert numbers["values"].shape == (3, 2, 3)


@pytest.mark.usefixtures("only_png")
def test_a_checkpoint_explains_photos_without_being_added(workspace: Path, run_here: Run) -> None:
    network = ["-m", workspace / "mine.pth", "--arch", "timm:test_resnet", "--labels", workspace / "labels.txt"]
    preprocessing = ["--size", "96", "--mean", "0,0,0", "--std", "1,1,1", "--interpolation", "bicubic"]
    done = run_here(
        "explain",
        workspace / "photo.png",
        *network,
        *preprocessing,
        "-c",
        "tench",
        "-a",
        "average",
        "-o",
        workspace / "out",
    )
    assert done.returncode == 0, done.stderr
    assert "tench against the average" in done.stdout
    values = np.load(workspace / "out" / "maps.npz")["values"]
    assert values.shape == (3, 3, 3)
    classifier = load(
        workspace / "mine.pth", "timm:test_resnet", size=96, mean=[0, 0, 0], std=[1, 1, 1], interpolation="bicubic"
    )
    assert np.allclose(class_maps(classifier, workspace / "photo.png").values, values, atol=1e-5)
    assert not (workspace / "models").exists()


def test_a_window_is_used_and_named(workspace: Path, run_here: Run) -> None:
    values = np.random.default_rng(0).integers(300, 500, (60, 90), np.uint16)
    Image.fromarray(values).save(workspace / "xray.png")
    network = ["-m", workspace / "mine.pth", "--arch", "timm:test_resnet"]
    out = workspace / "out"
    done = run_here("explain", workspace / "xray.png", *network, "--window", "300,499", "--device", "cpu", "-o", out)
    assert done.returncode == 0, done.stderr
    note = "Its 16-bit values 300 to 499 became black to white, as the window says."
    assert note in " ".join(done.stdout.split())
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["photo"]["notes"] == [note]
    assert manifest["preprocessing"]["window"] == [300, 499]
    assert np.array_equal(np.asarray(Image.open(out / "photo.png"))[..., 0], np.rint((values - 300.0) * 255 / 199))
    done = run_here("rebuild", out, "--photo", workspace / "xray.png", *network, "-o", workspace / "again")
    assert done.returncode == 0, done.stderr
    assert (workspace / "again" / "figure.png").read_bytes() == (out / "figure.png").read_bytes()


@pytest.mark.usefixtures("only_png")
def test_values_of_a_regression_have_a_unit_and_no_probability(workspace: Path, run_here: Run) -> None:
    network = ["-m", workspace / "mine.pth", "--arch", "timm:test_resnet", "--probability", "none", "--unit", "mm"]
    done = run_here("explain", workspace / "photo.png", *network, "-c", "top1", "-o", workspace / "out")
    assert done.returncode == 0, done.stderr
    assert re.search(r"class +value +sum of the map +bias +value\b", done.stdout)
    assert " mm " in done.stdout
    assert "%" not in done.stdout
    assert "logit" not in done.stdout


@pytest.mark.usefixtures("only_png")
@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ("native", (2, 3)),  # 60 and 90 pixels, halved five times and rounded up
        ("whole", (5, 8)),  # 160 and 240
        ("whole:64", (2, 3)),
    ],
)
def test_a_size_of_the_photo_explains_all_of_it(
    workspace: Path, run_here: Run, size: str, grid: tuple[int, int]
) -> None:
    network = ["-m", workspace / "mine.pth", "--arch", "timm:test_resnet"]
    done = run_here("explain", workspace / "photo.png", *network, "--size", size, "-c", "0", "-o", workspace / "out")
    assert done.returncode == 0, done.stderr
    assert np.load(workspace / "out" / "maps.npz")["values"].shape == (3, *grid)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--size", "0", "--size is '0'. Use 224 or 208x408 (height x width, in pixels)."),
        ("--size", "224 x 224", "--size is '224 x 224'. Use 224 or 208x408 (height x width, in pixels)."),
        ("--size", "9999", "--size is '9999'. Use 224 or 208x408"),
        ("--size", "64x", "--size is '64x'. Use 224 or 208x408"),
        ("--resize", "crop", "--resize is 'crop'. Use 224 or 208x408"),
        ("--resize", "50", "A photo that is scaled to 50x50 cannot be cropped to 160x160"),
        ("--mean", "0.5;0.5", "--mean is '0.5;0.5'. Use numbers such as 0.485,0.456,0.406."),
        ("--std", "", "--std is ''. Use numbers such as 0.485,0.456,0.406."),
        ("--std", "1,0,1", "mean and std must be numbers, std above 0"),
        ("--mean", "nan,0,0", "mean and std must be numbers, std above 0"),
        ("--mean", "0.5", "mean and std must both have one value per channel of the network's input; got 1 and 3."),
        ("--window", "a,b", "--window is 'a,b'. Use two numbers such as 0,4095."),
        ("--window", "5,5", "Expected a window of two numbers, the value of black and that of white; got (5.0, 5.0)."),
        ("--display", "1.5,2,3", "--display is '1.5,2,3'. Use three channel numbers such as 3,2,1."),
        ("--display", "1,2", "Expected display as three channel numbers for red, green and blue; got (1, 2)."),
        ("--device", "gpu", "Expected auto, cpu, cuda, cuda:1 or mps as device, got 'gpu'."),
        ("--interpolation", "nearest", "--interpolation is 'nearest'. Use bilinear or bicubic."),
        ("--labels", "nothing.txt", "The labels in nothing.txt cannot be read: "),
        ("--probability", "multilabel", "--probability is 'multilabel'. Use one of softmax, sigmoid, identity, none."),
        ("--output", "age", "No output 'age'. The network returns (1, 3). Choose one by its name or index"),
        ("--arch", "timm:test_resnett", "timm has no classifier 'test_resnett'. Nearest names: test_resnet"),
        ("--arch", "mine:build", "'mine:build' would run the code of the module mine. If you trust it, say so with"),
    ],
)
@pytest.mark.parametrize("command", ["explain", "add"])
def test_bad_options_get_one_sentence_and_leave_nothing(
    workspace: Path, run_here: Run, command: str, option: str, value: str, sentence: str
) -> None:
    options = {"--arch": "timm:test_resnet"} | {option: value}
    arguments = {
        "explain": ["explain", workspace / "photo.png", "-m", workspace / "mine.pth", "-o", workspace / "out"],
        "add": ["add", workspace / "mine.pth", "--name", "mine"],
    }[command]
    done = run_here(*arguments, *(word for pair in options.items() for word in pair))
    assert done.returncode == 1
    assert error_line(done).startswith("Error: ")
    assert sentence in error_line(done)
    assert not (workspace / "out").exists()
    assert not (workspace / "models").exists()


def test_describe_lists_layers_pooling_and_grids(workspace: Path, run_here: Run) -> None:
    done = run_here("describe", "timm:test_resnet", "--size", "64", "--layers", "--photo", workspace / "photo.png")
    assert done.returncode == 0, done.stderr
    assert described(done, "input and output") == "(1, 3, 64, 64) -> (1, 1000)"
    assert described(done, "pooling") == "average over 2 x 2 cells"
    assert described(done, "what follows it") == "linear"
    assert described(done, "class maps").startswith("exact: What follows the pooling is affine")
    assert described(done, "pooling to add") == "It already pools and returns 1000 logits. No pooling is needed."
    # The photo's own size, too.
    assert described(done, "input size -> grid of the class maps") == (
        "64 x 64 -> 2 x 2; 208 x 208 -> 7 x 7; 104 x 208 -> 4 x 7; 256 x 408 -> 8 x 13; 60 x 90 -> 2 x 3"
    )
    table = done.stdout[: done.stdout.index("network: ")].splitlines()
    names = [line.split()[0] for line in table if line.split()]
    assert names[:3] == ["layer", "conv1", "conv1.0"]
    pooled = names.index("--")
    assert names[pooled - 1].startswith("layer4.")
    assert names[-1] == "fc"
    assert table[-1].split()[-1] == f"{96 * 1000 + 1000:,}"


def test_describe_takes_checkpoints_and_networks_of_models(workspace: Path, run_here: Run) -> None:
    done = run_here("describe", workspace / "mine.pth", "--arch", "timm:test_resnet", "--size", "64")
    assert done.returncode == 0, done.stderr
    assert described(done, "input and output") == "(1, 3, 64, 64) -> (1, 3)"
    assert (
        run_here(
            "add", workspace / "mine.pth", "--name", "mine", "--arch", "timm:test_resnet", "--size", "64"
        ).returncode
        == 0
    )
    again = run_here("describe", "mine")
    assert described(again, "input and output") == "(1, 3, 64, 64) -> (1, 3)"
    assert "layer " not in again.stdout


def test_describe_advises_pooling_for_a_backbone(
    workspace: Path, run_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    (workspace / "my_backbone_to_describe.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), nn.ReLU())\n"
    )
    done = run_here("describe", "my_backbone_to_describe:build", "--size", "8", "--trust")
    assert done.returncode == 0, done.stderr
    assert described(done, "pooling to add") == (
        "It does not pool: it returns feature maps (1, 8, 4, 4). Add global average pooling and a Linear layer from 8 "
        "features to the classes."
    )
    assert described(done, "class maps").startswith("none: A classifier returns logits of shape (N, classes); this")
    untrusted = run_here("describe", "my_backbone_to_describe:build")
    assert (untrusted.returncode, untrusted.stdout) == (1, "")
    assert "'my_backbone_to_describe:build' would run the code of the module " in error_line(untrusted)


def test_describe_measures_the_accuracy_at_several_sizes(workspace: Path, run_here: Run) -> None:
    for label, file in (("tench", "a.png"), ("tench", "b.png"), ("trout", "c.png")):
        (workspace / "photos" / label).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(workspace / "photo.png", workspace / "photos" / label / file)
    (workspace / "photos" / "tench" / "b.png").write_bytes(b"no image")
    network = [workspace / "mine.pth", "--arch", "timm:test_resnet", "--size", "64"]
    labeled = [*network, "--labels", workspace / "labels.txt", "--sizes"]
    done = run_here("describe", *labeled, workspace / "photos", "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["sizes"]
    assert (measured["photos"], measured["without_label"], measured["unreadable"]) == (1, 1, 1)
    sizes = ["64", "73", "82", "91", "128"]
    rows = measured["rows"]
    assert [row["size"] for row in rows] == [*sizes, *(f"whole:{size}" for size in sizes), "native"]
    assert {tuple(row["grid"]) for row in rows if row["size"] in ("64", "whole:64", "native")} == {(2, 2), (2, 3)}
    low, high = rows[0]["interval"]
    assert low <= rows[0]["accuracy"] <= high
    assert "1 of 3 photos have no label that is a class: left out." in error_line(done)
    unlabeled = run_here("describe", *network, "--sizes", workspace / "photos")
    assert unlabeled.returncode == 1
    sentence = "is a class of mine: the labels are tench, trout; the classes are class 0, class 1, class 2."
    assert sentence in error_line(unlabeled)
    assert "No images at " in error_line(run_here("describe", *labeled, workspace / "nowhere"))


def test_describe_of_a_missing_network_is_one_sentence(workspace: Path, run_here: Run) -> None:
    for name, sentence in (
        ("nothing", "No network 'nothing'. Nearest names: "),
        ("nothing.pth", "No weights at nothing.pth."),
        ("torchvision:resnet19", "torchvision has no classifier 'resnet19'. Nearest names: resnet18"),
    ):
        done = run_here("describe", name)
        assert done.returncode == 1
        assert sentence in error_line(done)
        assert "Traceback" not in done.stderr
