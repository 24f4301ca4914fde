"""What a comparison of runs says, on histories written by hand."""

import csv
import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from inspector.cli import cli
from inspector.errors import InspectorError, TrainingError
from inspector.figure import learning_curves
from inspector.laboratory import HEADER, find_runs, group, mean_and_spread, read_run, table

# epoch, training_loss, validation_loss, top1, top2, seconds
ONE = [(1, 1.0, 1.5, 0.5, 0.75, 2.0), (2, 0.5, 0.75, 0.75, 0.875, 4.0)]
OTHER = [(1, 1.0, 1.5, 0.625, 0.75, 3.0), (2, 0.5, 1.25, 0.25, 0.875, 5.0)]


def write_run(
    out: Path, seed: int = 0, rows: list[tuple[float, ...]] = ONE, name: str = "a", experiment: str = "e", **settings
) -> Path:
    folder = out / experiment / name / f"seed{seed}"
    folder.mkdir(parents=True)
    about = {
        "settings": {"experiment": experiment, "run": name, "rate": 0.1, "seed": seed} | settings,
        "parameters": {"head": 170, "all": 2742},
    }
    (folder / "run.json").write_text(json.dumps(about))
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "training_loss", "validation_loss", "top1", "top2", "seconds"])
        writer.writerows(rows)
    return folder


def compared(*folders: Path):
    return group(read_run(folder) for folder in find_runs(folders))


def test_the_spread_is_the_standard_deviation_with_n_minus_1():
    # Deviations -2, 0, 2: (4 + 0 + 4) / 2 = 4.
    assert mean_and_spread([1, 3, 5]) == (3, 2)
    assert mean_and_spread([7]) == (7, 0)


def test_the_table_has_the_numbers_worked_out_by_hand(tmp_path: Path):
    write_run(tmp_path, 0, ONE)
    write_run(tmp_path, 1, OTHER)
    ((row),) = table(compared(tmp_path))
    assert dict(zip(HEADER, row, strict=True)) == {
        "run": "a",
        "seeds": "2",
        "head": "170",
        "in all": "2,742",
        "top-1": "0.5000 ± 0.3536",  # of 0.75 and 0.25: sqrt(2 * 0.25**2)
        "top-2": "0.8750 ± 0.0000",
        "best epoch": "2, 1",
        "loss gap": "0.5000 ± 0.3536",  # of 0.25 and 0.75
        "seconds an epoch": "3.5",  # the median of 2, 3, 4, 5
    }


def test_one_seed_shows_no_spread(tmp_path: Path):
    write_run(tmp_path)
    assert table(compared(tmp_path))[0][4] == "0.7500"


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


def test_curves_have_a_line_a_recipe_and_a_band_over_the_seeds(tmp_path: Path):
    write_run(tmp_path, 0, ONE)
    write_run(tmp_path, 1, OTHER)
    write_run(tmp_path, name="b")
    figure = learning_curves(compared(tmp_path))
    assert isinstance(figure, Figure)
    accuracy, loss = figure.axes
    assert [line.get_label() for line in accuracy.lines] == ["a (2 seeds)", "b (1 seed)"]
    assert list(accuracy.lines[0].get_ydata()) == [0.5625, 0.5]
    assert len(accuracy.collections) == 1, "one seed has no band"
    assert len(loss.lines) == 4
    assert len({line.get_color() for line in accuracy.lines}) == 2


def test_more_curves_than_colours_are_refused(tmp_path: Path):
    for number in range(15):
        write_run(tmp_path, name=f"run{number}")
    with pytest.raises(InspectorError, match="15 curves cannot be told apart: 14 recipes or fewer would do"):
        learning_curves(compared(tmp_path))


def test_a_folder_without_a_finished_run_is_told(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"No finished run in .*: none of its folders has a run.json"):
        find_runs([tmp_path])


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("run.json", "{", "cannot be read"),
        ("run.json", "{}", "lacks the entry 'settings'"),
        ("run.json", "[]", "cannot be read"),
        ("history.csv", "epoch,training_loss\n1,2\n", "lacks the entry 'validation_loss'"),
        ("history.csv", "", "history.csv has no epoch"),
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
    with pytest.raises(TrainingError, match="are the same run, seed 0: name one"):
        compared(tmp_path)


def test_one_name_for_two_recipes_is_refused(tmp_path: Path):
    write_run(tmp_path, 0)
    write_run(tmp_path, 1, rate=0.2)
    with pytest.raises(TrainingError, match=r"have one name and two recipes \(rate differ"):
        compared(tmp_path)


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
    assert str(done.exception) == f"Cannot write {tmp_path / 'file'}: File exists."
