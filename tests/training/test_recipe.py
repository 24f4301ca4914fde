"""The recipes in experiments/, and what is said of a file that is not one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from inspector.errors import TrainingError
from inspector.training.recipe import HEADS, read_recipe, recipe_for_photos
from inspector.training.train import build_network
from inspector.training.write_run import count_parameters

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RECIPES = sorted(EXPERIMENTS.glob("*/*.toml"))
LENET = EXPERIMENTS / "lenet" / "pooling.toml"

# Kernel area times channels in, and a bias, times filters.
POOLING = 6 * (25 + 1) + 16 * (6 * 25 + 1)
STRIDE = POOLING + 2 * 16 * (16 * 9 + 1)
CONNECTED = 120 * (16 * 25 + 1) + 84 * (120 + 1) + 10 * (84 + 1)
POOLED = 10 * (16 + 1)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_can_be_read_and_built(path: Path) -> None:
    recipe = read_recipe(path)
    assert (recipe.experiment, recipe.run) == (path.parent.name, path.stem)
    if recipe.data == "folder":
        # Its network waits for a backbone's weights.
        assert (recipe.factory, recipe.arguments["head"] in HEADS.values()) == ("transfer", True)
    else:
        assert count_parameters(build_network(recipe, (), None))["all"] > 0


@pytest.mark.parametrize("finished", sorted(EXPERIMENTS.glob("*/results/*/seed0/run.json")), ids=lambda p: p.parts[-3])
def test_finished_runs_are_still_runs_of_their_recipes(finished: Path) -> None:
    settings = json.loads(finished.read_text())["settings"]
    path = finished.parents[3] / f"{finished.parts[-3]}.toml"
    if path.exists():
        recipe = read_recipe(path)
    else:  # of inspector train --images
        head, backbone = finished.parts[-3].split("_", 1)
        recipe = recipe_for_photos(finished.parents[3], backbone, head, True, None, (0,))
    settings_again = recipe.settings() | {"seed": 0, "precision": "float32"}
    if recipe.data == "folder":  # which photos they were is not in the recipe
        settings.pop("photos")
    assert settings == json.loads(json.dumps(settings_again))


@pytest.mark.parametrize(
    ("run", "trunk", "head", "said"),
    [
        ("pooling", POOLING, CONNECTED, 61_706),
        ("stride", STRIDE, CONNECTED, 66_346),
        ("pooling_no_relu", POOLING, CONNECTED, 61_706),
        ("pooling_gap", POOLING, POOLED, 2_742),
        ("pooling_gmp", POOLING, POOLED, 2_742),
        ("stride_gap", STRIDE, POOLED, 7_382),
        ("stride_gmp", STRIDE, POOLED, 7_382),
    ],
)
def test_lenets_have_the_parameters_counted_by_hand(run: str, trunk: int, head: int, said: int) -> None:
    counts = count_parameters(build_network(read_recipe(EXPERIMENTS / "lenet" / f"{run}.toml"), (), None))
    assert counts == {"head": head, "all": trunk + head}
    assert counts["all"] == said


def test_the_head_of_a_plain_stack_is_its_last_layer_with_weights() -> None:
    # The 1x1 convolution from 32 maps to 10 classes.
    assert count_parameters(build_network(read_recipe(EXPERIMENTS / "fashion" / "gap.toml"), (), None))[
        "head"
    ] == 10 * (32 + 1)


def test_titles_and_seeds_make_no_other_recipe() -> None:
    recipe = read_recipe(LENET)
    assert replace(recipe, title="else", seeds=(7,)).settings() == recipe.settings()
    assert replace(recipe, rate=0.1).settings() != recipe.settings()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("epochs = 10", "epoch = 10", r"pooling.toml has an unknown key 'epoch'. Nearest keys: epochs\."),
        ("epochs = 10", "", "pooling.toml has no epochs"),
        ("epochs = 10", "epochs = 0", "expected a whole number of at least 1 for epochs, got 0"),
        ("epochs = 10", "epochs = true", "expected a whole number of at least 1 for epochs, got True"),
        ("epochs = 10", "epochs =", "pooling.toml is not TOML: Invalid value"),
        ('"mnist"', '"emnist"', "expected 'fashion_mnist' or 'mnist' or 'folder' for data, got 'emnist'"),
        ('"adam"', '["adam"]', r"expected 'adam' or 'rmsprop' or 'sgd' for optimizer, got \['adam'\]"),
        ("rate = 1e-3", "rate = -1", "expected a number above 0 for rate, got -1"),
        ("rate = 1e-3", "rate = nan", "expected a number above 0 for rate, got nan"),
        ("[0, 1, 2]", "[]", r"expected a list of whole numbers of at least 0 for seeds, got \[\]"),
        ("[architecture]", "[architectur]", r"unknown key 'architectur'. Nearest keys: architecture\."),
        ("seeds =", "frozen = true\nseeds =", "frozen applies only to photos .*, got data = 'mnist'"),
        ('"mnist"', '"folder"', "data is 'folder' and factory is 'lenet'. Use data = .folder. together"),
        ("factory", "factor", r"pooling.toml, \[architecture\] has an unknown key 'factor'"),
    ],
)
def test_a_file_that_is_no_recipe_gets_one_sentence(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = tmp_path / "pooling.toml"
    text = LENET.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(TrainingError, match=sentence):
        read_recipe(path)


def test_a_file_that_is_not_there_or_not_text_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"Cannot read .*nowhere.toml: No such file or directory\."):
        read_recipe(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(TrainingError, match="is not TOML: 'utf-8' codec"):
        read_recipe(tmp_path / "binary.toml")
    (tmp_path / "flat.toml").write_text(LENET.read_text().split("[architecture]")[0] + 'architecture = "lenet"')
    with pytest.raises(TrainingError, match="expected a table with a factory for architecture, got 'lenet'"):
        read_recipe(tmp_path / "flat.toml")


# Photos

PHOTOS = """
title = "Flowers"
data = "folder"
epochs = 3
batch = 8
optimizer = "adam"
rate = 1e-3
loss = "cross_entropy"
seeds = [0]
frozen = true

[architecture]
factory = "transfer"
arguments = { backbone = "torchvision:resnet18", head = "max" }

[input]
size = [208, 408]
resize = "squeeze"
mean = [0.5, 0.5, 0.5]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "flowers.toml"
    path.write_text(text)
    return path


def test_a_recipe_for_photos_says_whether_it_is_frozen_and_what_the_network_sees(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, PHOTOS))
    assert recipe.frozen
    assert recipe.input == {"size": [208, 408], "resize": "squeeze", "mean": [0.5, 0.5, 0.5]}
    plain = read_recipe(write(tmp_path, PHOTOS.split("[input]")[0].replace("frozen = true", "")))
    assert (plain.frozen, plain.input) == (False, {})
    assert recipe.settings() != plain.settings()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("frozen = true", "frozen = 1", "expected true or false for frozen, got 1"),
        ('"transfer"', '"lenet"', "data is 'folder' and factory is 'lenet'. Use data = .folder. together"),
        ('backbone = "torchvision:resnet18", ', "", "flowers.toml, arguments has no backbone"),
        ("head =", "classes = 3, head =", "flowers.toml, arguments has an unknown key 'classes'"),
        ("size =", "sise =", r"flowers.toml, \[input\] has an unknown key 'sise'. Nearest keys: size"),
        ("[208, 408]", "0", r"\[input\]: expected 224 or \[224, 224\] \(height, width\) for size, got 0"),
        ("[208, 408]", "[1, 2, 3]", r"\[input\]: expected 224 or .* for size, got \[1, 2, 3\]"),
        ('"squeeze"', '"crop"', r"\[input\]: expected 256, \[256, 256\] or \"squeeze\" for resize, got 'crop'"),
        ("[0.5, 0.5, 0.5]", "0.5", r"\[input\]: expected a list of three numbers for mean, got 0.5"),
        (
            "mean",
            "std = [1, true, 1]\nmean",
            r"\[input\]: expected a list of three numbers for std, got \[1, True, 1\]",
        ),
        ("mean", 'interpolation = "cubic"\nmean', "expected 'bilinear' or 'bicubic' for interpolation, got 'cubic'"),
    ],
)
def test_a_recipe_for_photos_that_is_none_gets_one_sentence(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in PHOTOS
    with pytest.raises(TrainingError, match=sentence):
        read_recipe(write(tmp_path, PHOTOS.replace(old, new)))


def test_the_recipe_for_a_folder_of_photos_is_named_after_what_it_does() -> None:
    frozen = recipe_for_photos(Path("some/flowers"), "torchvision:resnet18", "gmp", True)
    tuned = recipe_for_photos(Path("some/flowers"), "timm:resnet18.a1_in1k", "fc", False, size=(64, 96))
    assert (frozen.experiment, frozen.run) == ("flowers", "gmp_resnet18")
    assert (tuned.experiment, tuned.run) == ("flowers", "fc_resnet18_finetuned")
    assert (frozen.epochs, frozen.rate, frozen.arguments["head"]) == (50, 1e-3, "max")
    assert (tuned.epochs, tuned.rate, tuned.arguments["head"]) == (10, 1e-4, "connected")
    # As it comes back from JSON.
    assert tuned.settings() == json.loads(json.dumps(tuned.settings()))
