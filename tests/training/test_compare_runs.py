"""What a comparison of runs says, on histories written by hand."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_weights
from typer.testing import CliRunner

from inspector import load
from inspector.cli import cli
from inspector.errors import HeadError, InspectorError, TrainingError
from inspector.networks.builtin import FACTORIES
from inspector.training import read_run as read_run_module
from inspector.training.compare_runs import (
    format_rows,
    group_runs,
    list_columns,
    make_caption,
    make_markdown,
    mean_and_deviation,
)
from inspector.training.read_run import find_network, find_runs, read_average_maps, read_confusion, read_run

# epoch, training_loss, validation_loss, top1, top2, seconds
ONE = [(1, 1.0, 1.5, 0.5, 0.75, 2.0), (2, 0.5, 0.75, 0.75, 0.875, 4.0)]
OTHER = [(1, 1.0, 1.5, 0.625, 0.75, 3.0), (2, 0.5, 1.25, 0.25, 0.875, 5.0)]


def write_run(
    out: Path,
    seed: int = 0,
    rows: list[tuple[float, ...]] = ONE,
    name: str = "a",
    experiment: str = "e",
    known: dict | None = None,
    **settings,
) -> Path:
    folder = out / experiment / name / f"seed{seed}"
    folder.mkdir(parents=True)
    about = {
        "settings": {"experiment": experiment, "run": name, "rate": 0.1, "seed": seed} | settings,
        "parameters": {"head": 170, "all": 2742},
    } | (known or {})
    (folder / "run.json").write_text(json.dumps(about))
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "training_loss", "validation_loss", "top1", "top2", "seconds"])
        writer.writerows(rows)
    return folder


def class_maps(share: float | None, verdict: str = "exact") -> dict:
    """What run.json says of class maps."""
    inside = None if share is None else {"share": share, "pointing": 1.0, "images": 4}
    return {"class_maps": {"verdict": verdict, "residual": 1e-6, "images": 4, "inside": inside}}


def write_results(folder: Path, matrix: str = 'a,"b, or c"\n1,1\n0,2\n', maps: float = 1.0, width: int = 3) -> None:
    """A confusion matrix, and average class maps of two classes that are all of one value."""
    (folder / "confusion.csv").write_text(matrix)
    save_file({"average_maps": np.full((2, 1, width), maps, np.float32)}, folder / "average_maps.safetensors")


def write_network(folder: Path, favourite: int) -> None:
    """Weights and a model.json: a LeNet that takes everything for one class."""
    network = FACTORIES["lenet"](trunk="stride", head="average")
    with torch.no_grad():
        network.head[-1].bias.copy_(torch.eye(10)[favourite] * 100)
    save_weights(network.state_dict(), folder / "weights.safetensors")
    about = {
        "title": "t", "architecture": {"factory": "lenet", "arguments": {"trunk": "stride", "head": "average"}},
        "weights": "weights.safetensors", "probability": "softmax", "classes": [f"class {k}" for k in range(10)],
        "size": [28, 28], "resize": [28, 28], "interpolation": "bilinear", "mean": [0.0], "std": [1.0],
        "examples": "photos",
    }  # fmt: skip
    (folder / "model.json").write_text(json.dumps(about))


def compared(*folders: Path):
    return group_runs(read_run(folder) for folder in find_runs(folders))


def test_the_spread_is_the_standard_deviation_with_n_minus_1():
    # Deviations -2, 0, 2: (4 + 0 + 4) / 2 = 4.
    assert mean_and_deviation([1, 3, 5]) == (3, 2)
    assert mean_and_deviation([7]) == (7, 0)


def test_the_table_has_the_numbers_worked_out_by_hand(tmp_path: Path):
    write_run(tmp_path, 0, ONE)
    write_run(tmp_path, 1, OTHER)
    groups = compared(tmp_path)
    ((row),) = format_rows(groups)
    assert dict(zip(list_columns(groups), row, strict=True)) == {
        "run": "a",
        "seeds": "2",
        "head parameters": "170",
        "all parameters": "2,742",
        "top-1": "0.5000 ± 0.3536",  # of 0.75 and 0.25: sqrt(2 * 0.25**2)
        "top-2": "0.8750 ± 0.0000",
        "best epoch": "2, 1",
        "loss gap": "0.5000 ± 0.3536",  # of 0.25 and 0.75
        "seconds per epoch": "3.5",  # the median of 2, 3, 4, 5
    }


def test_one_seed_shows_no_spread(tmp_path: Path):
    write_run(tmp_path)
    assert format_rows(compared(tmp_path))[0][4] == "0.7500"


def test_a_curve_is_the_mean_after_each_epoch(tmp_path: Path):
    write_run(tmp_path, 0, ONE)
    write_run(tmp_path, 1, OTHER)
    (one,) = compared(tmp_path)
    assert [mean for mean, _ in one.curve("top1")] == [0.5625, 0.5]


def test_runs_are_found_at_any_depth_and_once(tmp_path: Path):
    folder = write_run(tmp_path)
    assert find_runs([tmp_path, folder, folder.parent]) == (folder.resolve(),)


def test_labels_name_the_experiment_only_where_there_are_several(tmp_path: Path):
    write_run(tmp_path, experiment="x")
    assert [one.label for one in compared(tmp_path)] == ["a"]
    write_run(tmp_path, experiment="y")
    assert [one.label for one in compared(tmp_path)] == ["x/a", "y/a"]


def test_a_folder_without_a_finished_run_is_reported(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"No finished run in .*: none of its folders has a run.json"):
        find_runs([tmp_path])


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("run.json", "{", "cannot be read"),
        ("run.json", "{}", "has no entry 'settings'"),
        ("run.json", "[]", "cannot be read"),
        ("history.csv", "epoch,training_loss\n1,2\n", "has no entry 'validation_loss'"),
        ("history.csv", "", "history.csv cannot be read: it has no epoch"),
        (
            "history.csv",
            "epoch,training_loss,validation_loss,top1,top2,seconds\n1,x,1,1,1,1\n",
            "could not convert string to float: 'x'",
        ),
        ("history.csv", None, "Cannot read .*history.csv: No such file"),
    ],
)
def test_a_broken_run_gets_one_sentence(tmp_path: Path, file: str, content: str | None, sentence: str):
    folder = write_run(tmp_path)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(TrainingError, match=sentence):
        read_run(folder)


def test_one_run_twice_is_refused(tmp_path: Path):
    write_run(tmp_path / "here")
    write_run(tmp_path / "there")
    with pytest.raises(TrainingError, match=r"are the same run, seed 0\. Use only one"):
        compared(tmp_path)


def test_one_name_for_two_recipes_is_refused(tmp_path: Path):
    write_run(tmp_path, 0)
    write_run(tmp_path, 1, rate=0.2)
    with pytest.raises(TrainingError, match=r"have the same name but different recipes \(rate differ"):
        compared(tmp_path)


def test_a_run_that_knows_nothing_of_class_maps_is_as_before(tmp_path: Path):
    run = read_run(write_run(tmp_path))
    (one,) = group_runs([run])
    assert (run.images, run.class_maps, find_network(run)) == (None, None, None)
    assert (read_confusion(run), read_average_maps(run), read_run_module.read_test_photos(run)) == (None, None, ())
    assert (one.confusion(), one.average_maps(), one.inside(), one.verdict()) == (None, None, None, None)
    assert "inside" not in list_columns([one])
    assert "class maps" not in list_columns([one])
    assert "object" not in make_caption([one])


def test_a_run_knows_its_images_and_its_class_maps(tmp_path: Path):
    run = read_run(write_run(tmp_path, known={"images": "my/photos"} | class_maps(0.75)))
    assert run.images == Path("my/photos")
    assert run.class_maps is not None
    assert run.class_maps["inside"] == {"share": 0.75, "pointing": 1.0, "images": 4}


def test_the_table_says_what_runs_know_of_class_maps(tmp_path: Path):
    write_run(tmp_path, 0, known=class_maps(0.75))
    write_run(tmp_path, 1, known=class_maps(0.25, "exact for this image"))
    write_run(tmp_path, 0, name="b", known=class_maps(None))
    write_run(tmp_path, 0, name="c")
    write_run(tmp_path, 1, name="c", known=class_maps(0.5))
    groups = compared(tmp_path)
    assert list_columns(groups)[-2:] == ("inside", "class maps")
    # Of 0.75 and 0.25: sqrt(2 * 0.25**2). A mean over some of the seeds would be no mean over the seeds.
    assert [row[-2:] for row in format_rows(groups)] == [
        ("0.5000 ± 0.3536", "exact or exact for this image"),
        ("", "exact"),
        ("", ""),
    ]
    text = make_markdown(groups, "command")
    assert "| inside | class maps |\n" in text
    assert "inside the object" in text


def test_a_confusion_matrix_is_read_and_summed_over_the_seeds(tmp_path: Path):
    write_results(write_run(tmp_path, 0), 'a,"b, or c"\n1,1\n0,2\n')
    write_results(write_run(tmp_path, 1), 'a,"b, or c"\n2,0\n1,1\n')
    (one,) = compared(tmp_path)
    first, summed = read_confusion(one.runs[0]), one.confusion()
    assert first is not None
    assert summed is not None
    assert first.classes == summed.classes == ("a", "b, or c")
    assert first.counts.tolist() == [[1, 1], [0, 2]]
    assert summed.counts.tolist() == [[3, 1], [1, 3]]


def test_average_maps_are_read_and_averaged_over_the_seeds(tmp_path: Path):
    write_results(write_run(tmp_path, 0), maps=1.0)
    write_results(write_run(tmp_path, 1), maps=2.0)
    (one,) = compared(tmp_path)
    mean = one.average_maps()
    assert mean is not None
    assert mean.dtype == np.float32
    assert mean.tolist() == [[[1.5] * 3]] * 2


def test_a_sum_over_seeds_needs_all_of_them(tmp_path: Path):
    write_results(write_run(tmp_path, 0))
    write_run(tmp_path, 1)
    (one,) = compared(tmp_path)
    assert (one.confusion(), one.average_maps()) == (None, None)


def test_seeds_with_other_classes_or_grids_are_not_summed(tmp_path: Path):
    write_results(write_run(tmp_path, 0))
    write_results(write_run(tmp_path, 1), "a,c\n1,1\n0,2\n", width=4)
    (one,) = compared(tmp_path)
    with pytest.raises(TrainingError, match=r"seed0 and .*seed1 are seeds of one recipe but have different classes"):
        one.confusion()
    with pytest.raises(TrainingError, match=r"have different shapes of average class maps\. Use only one"):
        one.average_maps()


def test_the_photos_of_a_test_are_read(tmp_path: Path):
    folder = write_run(tmp_path)
    (folder / "test.csv").write_text(
        'file,label,predicted,probability,inside\nd/1.jpg,"a, b",c,0.5,0.25\n../2.jpg,c,c,1.0,\n'
    )
    one, other = read_run_module.read_test_photos(read_run(folder))
    assert (one.file, one.label, one.predicted, one.probability, one.inside) == ("d/1.jpg", "a, b", "c", 0.5, 0.25)
    assert (other.file, other.inside) == ("../2.jpg", None)


MATRIX = "expected 2 rows of 2 counts below the class names"


@pytest.mark.parametrize(
    ("file", "content", "read", "sentence"),
    [
        ("confusion.csv", b"", read_confusion, "expected 0 rows"),
        ("confusion.csv", b"a,b\n1,2\n", read_confusion, MATRIX),
        ("confusion.csv", b"a,b\n1,2\n3\n", read_confusion, MATRIX),
        ("confusion.csv", b"a,b\n1,2\n3,x\n", read_confusion, "invalid literal for int"),
        ("confusion.csv", b"a,b\n1,2\n3,-1\n", read_confusion, "a count is negative"),
        ("confusion.csv", b"a,b\n1,2\n3,\xff\n", read_confusion, "confusion.csv cannot be read: 'utf-8' codec"),
        ("average_maps.safetensors", b"junk", read_average_maps, "average_maps.safetensors cannot be read"),
        ("test.csv", b"file,label\na,b\n", read_run_module.read_test_photos, "test.csv has no entry 'predicted'"),
        (
            "test.csv",
            b"file,label,predicted,probability,inside\na,b,c\n",
            read_run_module.read_test_photos,
            "test.csv cannot be read",
        ),
        (
            "test.csv",
            b"file,label,predicted,probability,inside\na,b,c,x,\n",
            read_run_module.read_test_photos,
            "to float: 'x'",
        ),
    ],
)
def test_a_broken_result_gets_one_sentence(tmp_path: Path, file: str, content: bytes, read, sentence: str):
    folder = write_run(tmp_path)
    (folder / file).write_bytes(content)
    with pytest.raises(TrainingError, match=sentence):
        read(read_run(folder))


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"maps": np.zeros((1, 1, 1), np.float32)}, "has no entry 'average_maps'"),
        ({"average_maps": np.zeros((1, 1), np.float32)}, r"got shape \(1, 1\)"),
        ({"average_maps": np.full((1, 1, 1), np.nan, np.float32)}, "finite numbers"),
    ],
)
def test_average_maps_that_are_none_get_one_sentence(tmp_path: Path, tensors, sentence: str):
    folder = write_run(tmp_path)
    save_file(tensors, folder / "average_maps.safetensors")
    with pytest.raises(TrainingError, match=sentence):
        read_average_maps(read_run(folder))


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        ({"images": 5}, "cannot be read"),
        ({"class_maps": []}, "cannot be read"),
        ({"class_maps": {"verdict": "exact"}}, "has no entry 'inside'"),
        ({"class_maps": {"verdict": 1, "inside": None}}, "expected a text for verdict, got 1"),
        ({"class_maps": {"verdict": "exact", "inside": {"share": 1}}}, "has no entry 'pointing'"),
        (
            {"class_maps": {"verdict": "exact", "inside": {"share": "x", "pointing": 1}}},
            "expected a number for share, got 'x'",
        ),
    ],
)
def test_a_run_that_says_junk_of_its_class_maps_is_broken(tmp_path: Path, known, sentence: str):
    with pytest.raises(TrainingError, match=sentence):
        read_run(write_run(tmp_path, known=known))


def test_a_run_with_weights_names_its_folder_and_one_without_its_network_in_models(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("INSPECTOR_MODELS", str(tmp_path / "models"))
    kept, unknown = write_run(tmp_path, 1, name="kept"), write_run(tmp_path, 0, name="b")
    first, second = write_run(tmp_path, 0), write_run(tmp_path, 1)
    write_network(kept, 3)
    (tmp_path / "models" / "e_a").mkdir(parents=True)
    write_network(tmp_path / "models" / "e_a", 3)
    assert [find_network(read_run(folder)) for folder in (kept, first, second, unknown)] == [
        str(kept),
        "e_a",
        None,
        None,
    ]
    assert load(str(kept)).class_names == load("e_a").class_names


def test_compare_prints_the_table_and_writes_it_with_the_curves(tmp_path: Path):
    write_run(tmp_path / "runs")
    done = CliRunner().invoke(cli, ["compare", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "2,742" in done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"table.md", "curves.png", "curves.svg"}
    assert "| a | 1 | 170 | 2,742 | 0.7500 |" in (tmp_path / "out" / "table.md").read_text()


def test_a_comparison_that_cannot_be_written_gets_one_sentence(tmp_path: Path):
    write_run(tmp_path / "runs")
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(cli, ["compare", str(tmp_path / "runs"), "--out", str(tmp_path / "file")])
    assert isinstance(done.exception, InspectorError)
    problem = f"{tmp_path / 'file'} exists already and is not a folder: nothing was written."
    assert str(done.exception).startswith(problem)


def test_compare_writes_the_figures_that_runs_know_enough_for(tmp_path: Path):
    write_results(write_run(tmp_path / "runs"))
    write_run(tmp_path / "runs", name="b")
    done = CliRunner().invoke(cli, ["compare", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "table.md",
        *(f"{name}.{suffix}" for name in ("curves", "confusion", "average-maps") for suffix in ("png", "svg")),
    }
    assert "b, or c" in (tmp_path / "out" / "confusion.svg").read_text()


@pytest.fixture
def photo(tmp_path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(tmp_path / "my photo.png")
    return tmp_path / "my photo.png"


@pytest.mark.parametrize(("options", "expected"), [([], "class 5"), (["--class", "class 3"], "class 3")])
def test_heads_are_asked_about_the_class_named_or_the_likeliest_for_most(tmp_path, photo, options, expected):
    for name, favourite in (("a", 3), ("b", 5), ("c", 5)):
        write_network(write_run(tmp_path / "runs", name=name), favourite)
    write_run(tmp_path / "runs", name="without")
    out = tmp_path / "out"
    done = CliRunner().invoke(
        cli, ["compare", str(tmp_path / "runs"), "--out", str(out), "--photo", str(photo), *options]
    )
    assert done.exit_code == 0, done.output
    drawn = (out / "heads-my photo.svg").read_text()
    assert (out / "heads-my photo.png").exists()
    assert f"{expected}: its class map by each network" in drawn
    assert all(f"{name}, seed 0 (" in drawn for name in "abc")
    assert "without, seed" not in drawn


def test_a_network_without_class_maps_is_named_and_the_others_are_drawn(tmp_path, photo, monkeypatch):
    for name in "ab":
        write_network(write_run(tmp_path / "runs", name=name), 3)

    def load_one(name: str):
        if Path(name).parent.name == "a":
            raise HeadError("Nothing is pooled.")
        return load(name)

    monkeypatch.setattr("inspector.networks.load.load", load_one)
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, ["compare", str(tmp_path / "runs"), "--out", str(out), "--photo", str(photo)])
    assert done.exit_code == 0, done.output
    assert "a has no class maps: Nothing is pooled." in done.output
    drawn = (out / "heads-my photo.svg").read_text()
    assert "b, seed 0 (" in drawn
    assert "a, seed 0 (" not in drawn


def test_without_weights_no_photo_is_drawn_and_a_sentence_says_so(tmp_path: Path, photo: Path):
    write_run(tmp_path / "runs")
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, ["compare", str(tmp_path / "runs"), "--out", str(out), "--photo", str(photo)])
    assert done.exit_code == 0, done.output
    assert "No run has weights and class maps, so no class map of a photo was drawn." in done.output
    assert {path.name for path in out.iterdir()} == {"table.md", "curves.png", "curves.svg"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--photo", "x.png"], "--photo needs --out"),
        (["--out", "here", "--class", "a"], "--class needs --photo"),
        (["--out", "here", "--photo", "a/x.png", "--photo", "b/x.jpg"], "Two photos have the same name"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(tmp_path: Path, options: list[str], sentence: str):
    write_run(tmp_path)
    done = CliRunner().invoke(cli, ["compare", str(tmp_path), *options])
    assert isinstance(done.exception, InspectorError)
    assert sentence in str(done.exception)


def test_a_diverged_run_has_a_mean_that_is_not_finite_and_no_spread() -> None:
    mean, spread = mean_and_deviation([1.0, float("inf")])
    assert mean == float("inf")
    assert math.isnan(spread)
