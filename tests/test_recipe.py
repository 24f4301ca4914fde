"""The recipes in experiments/, and what is said of a file that is not one."""

from dataclasses import replace
from pathlib import Path

import pytest

from inspector.errors import TrainingError
from inspector.recipe import read_recipe
from inspector.run_folder import parameter_counts
from inspector.train import build

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
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
    assert parameter_counts(build(recipe))["all"] > 0


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
    counts = parameter_counts(build(read_recipe(EXPERIMENTS / "lenet" / f"{run}.toml")))
    assert counts == {"head": head, "all": trunk + head}
    assert counts["all"] == said


def test_the_head_of_a_plain_stack_is_its_last_layer_with_weights() -> None:
    # The 1x1 convolution from 32 maps to 10 classes.
    assert parameter_counts(build(read_recipe(EXPERIMENTS / "fashion" / "gap.toml")))["head"] == 10 * (32 + 1)


def test_titles_and_seeds_make_no_other_recipe() -> None:
    recipe = read_recipe(LENET)
    assert replace(recipe, title="else", seeds=(7,)).settings() == recipe.settings()
    assert replace(recipe, rate=0.1).settings() != recipe.settings()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("epochs = 10", "epoch = 10", r"pooling.toml has an unknown key 'epoch'. Nearest keys: epochs\."),
        ("epochs = 10", "", "pooling.toml lacks epochs"),
        ("epochs = 10", "epochs = 0", "epochs is 0; a whole number from 1 on would do"),
        ("epochs = 10", "epochs = true", "epochs is True; a whole number from 1 on would do"),
        ("epochs = 10", "epochs =", "pooling.toml is not TOML: Invalid value"),
        ('"mnist"', '"emnist"', "data is 'emnist'; 'fashion_mnist' or 'mnist' would do"),
        ('"adam"', '["adam"]', r"optimizer is \['adam'\]; 'adam' or 'rmsprop' or 'sgd' would do"),
        ("rate = 1e-3", "rate = -1", "rate is -1; a number above 0 would do"),
        ("rate = 1e-3", "rate = nan", "rate is nan; a number above 0 would do"),
        ("[0, 1, 2]", "[]", r"seeds is \[\]; a list of whole numbers from 0 on would do"),
        ("[architecture]", "[architectur]", r"unknown key 'architectur'. Nearest keys: architecture\."),
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
    with pytest.raises(TrainingError, match="architecture is 'lenet'; a table with a factory would do"):
        read_recipe(tmp_path / "flat.toml")
