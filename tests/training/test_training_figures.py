"""What the figures of runs show, on histories and results written by hand."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from safetensors.numpy import save_file

from inspector import InspectorError
from inspector.output.figure_file import encode_figure
from inspector.training.compare_runs import RunGroup
from inspector.training.figures import (
    average_maps_figure,
    confusion_figure,
    learning_curves_figure,
)
from inspector.training.read_run import Epoch, Run

NAMES = ("red", "green", "neither")
ONE = (Epoch(1, 1.0, 1.5, 0.5, 0.75, 2.0), Epoch(2, 0.5, 0.75, 0.75, 0.875, 4.0))
OTHER = (Epoch(1, 1.0, 1.5, 0.625, 0.75, 3.0), Epoch(2, 0.5, 1.25, 0.25, 0.875, 5.0))


def make_group(folder: Path, label: str = "a", *histories: tuple[Epoch, ...]) -> RunGroup:
    """A group in folders of its own, a seed a history."""
    runs = []
    for seed, history in enumerate(histories or (ONE,)):
        here = folder / label.replace("/", "_") / f"seed{seed}"
        here.mkdir(parents=True)
        runs.append(Run(here, "e", label, seed, {}, 170, 2742, history))
    return RunGroup(label, tuple(runs))


def write_matrix(group: RunGroup, counts: Sequence[Sequence[int]], classes: Sequence[str] = NAMES) -> None:
    for run in group.runs:
        with (run.folder / "confusion.csv").open("w", newline="") as file:
            csv.writer(file).writerows([classes, *counts])


def write_maps(group: RunGroup, maps: np.ndarray) -> None:
    for run in group.runs:
        save_file({"average_maps": maps.astype(np.float32)}, run.folder / "average_maps.safetensors")


def panels(figure: Figure) -> list:
    return [axis for axis in figure.axes if axis.get_images()]


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def names_of(axis, which: str) -> list[str]:
    """The names that can be seen at an axis."""
    shown = axis.xaxis if which == "x" else axis.yaxis
    return [tick.label1.get_text() for tick in shown.get_major_ticks() if tick.label1.get_visible()]


def test_curves_have_a_line_a_recipe_and_a_band_over_the_seeds(tmp_path: Path):
    figure = learning_curves_figure([make_group(tmp_path, "a", ONE, OTHER), make_group(tmp_path, "b")])
    accuracy, loss = figure.axes
    assert [line.get_label() for line in accuracy.lines] == ["a (2 seeds)", "b (1 seed)"]
    assert list(accuracy.lines[0].get_ydata()) == [0.5625, 0.5]
    assert len(accuracy.collections) == 1, "one seed has no band"
    assert len(loss.lines) == 4
    assert len({line.get_color() for line in accuracy.lines}) == 2


def test_more_curves_than_colours_are_refused(tmp_path: Path):
    groups = [make_group(tmp_path, f"run{number}") for number in range(15)]
    with pytest.raises(InspectorError, match=r"15 curves cannot be distinguished\. Use at most 14 recipes"):
        learning_curves_figure(groups)


def test_a_confusion_matrix_shows_each_row_in_parts_of_1(tmp_path: Path):
    group = make_group(tmp_path, "a", ONE, OTHER)
    # Over both seeds twice that. A class without an image has an empty row; 1 of 250 is below half a percent.
    write_matrix(group, [[3, 1, 0], [0, 0, 0], [1, 0, 249]])
    (panel,) = panels(confusion_figure([group]))
    (image,) = panel.get_images()
    np.testing.assert_allclose(image.get_array(), [[0.75, 0.25, 0], [0, 0, 0], [0.004, 0, 0.996]])
    assert image.get_clim() == (0, 1)
    assert [text.get_text() for text in panel.texts] == ["75", "25", "100"]
    assert names_of(panel, "x") == names_of(panel, "y") == list(NAMES)
    # Of 0.75 and 0.25: sqrt(2 * 0.25**2).
    assert panel.get_title() == "a\ntop-1 0.5000 ± 0.3536"


def test_names_stand_once_where_panels_have_the_same_classes(tmp_path: Path):
    groups = [make_group(tmp_path, name) for name in "abcd"]
    for group, classes in zip(groups, [NAMES, NAMES, ("x", "y", "z"), NAMES], strict=True):
        write_matrix(group, np.eye(3, dtype=int).tolist(), classes)
    figure = confusion_figure([*groups, make_group(tmp_path, "without")])
    first, second, third, fourth = panels(figure)
    assert [bool(names_of(axis, "y")) for axis in (first, second, third, fourth)] == [True, False, True, True]
    assert [bool(names_of(axis, "x")) for axis in (first, second, third, fourth)] == [False, True, True, True]
    # Three in a row.
    assert len({round(axis.get_subplotspec().rowspan.start) for axis in (first, second, third)}) == 1
    assert fourth.get_subplotspec().rowspan.start == 1
    assert "without" not in texts(figure)


@pytest.mark.parametrize(("classes", "numbers", "names"), [(20, 20, 20), (21, 0, 21), (121, 0, 0)])
def test_of_many_classes_first_the_numbers_go_and_then_the_names(
    tmp_path: Path, classes: int, numbers: int, names: int
):
    group = make_group(tmp_path)
    write_matrix(group, np.eye(classes, dtype=int).tolist(), [f"class {k}" for k in range(classes)])
    figure = confusion_figure([group])
    (panel,) = panels(figure)
    assert len(panel.texts) == numbers
    assert len(names_of(panel, "y")) == names
    assert ("percent" in texts(figure)) == bool(numbers)


@pytest.mark.parametrize("groups", [6, 1])
def test_no_name_of_17_classes_is_cut_off_or_runs_into_another(tmp_path: Path, groups: int):
    names = [f"a flower's name {k}" for k in range(17)]
    made = [make_group(tmp_path, f"run{number}") for number in range(groups)]
    for group in made:
        write_matrix(group, np.eye(17, dtype=int).tolist(), names)
    figure = confusion_figure(made)
    figure.draw_without_rendering()
    for which in "xy":
        drawn = [
            tick.label1.get_window_extent()
            for axis in panels(figure)
            for tick in (axis.xaxis if which == "x" else axis.yaxis).get_major_ticks()
            if tick.label1.get_visible()
        ]
        assert len(drawn) >= 17
        assert all(figure.bbox.x0 <= box.x0 and figure.bbox.y0 <= box.y0 for box in drawn)
        assert not any(one.overlaps(other) for n, one in enumerate(drawn) for other in drawn[:n])


def test_average_maps_have_a_column_a_recipe_with_a_scale_of_its_own(tmp_path: Path):
    one, other = make_group(tmp_path, "e/a", ONE, OTHER), make_group(tmp_path, "e/b")
    values = np.arange(-5, 7).reshape(3, 2, 2)
    write_maps(one, values)
    write_maps(other, values * 100)
    write_matrix(one, np.eye(3, dtype=int).tolist())
    figure = average_maps_figure([one, make_group(tmp_path, "without"), other])
    first, second = panels(figure)
    for axis, factor in ((first, 1), (second, 100)):
        assert len(axis.get_images()) == 3
        for image, expected in zip(axis.get_images(), values, strict=True):
            np.testing.assert_array_equal(image.get_array(), expected * factor)
            assert image.get_clim() == (-6 * factor, 6 * factor)
    # The class's place: its row.
    assert [image.get_extent()[3] // 1 for image in first.get_images()] == [0, 1, 2]
    assert names_of(first, "y") == list(NAMES)
    assert names_of(second, "y") == ["0", "1", "2"], "no confusion matrix says its names"
    assert [axis.get_title() for axis in (first, second)] == ["e\na", "e\nb"]
    shown = texts(figure)
    assert "Each column has its own scale" in shown
    assert "contribution per cell (sums to the logit)" in shown
    assert all(end in shown for end in ("\N{MINUS SIGN}6", "\N{MINUS SIGN}600"))


def test_many_classes_are_wrapped_and_all_are_there_once(tmp_path: Path):
    groups = [make_group(tmp_path, name) for name in "abc"]
    names = [f"class {k}" for k in range(17)]
    for group in groups:
        write_maps(group, np.arange(17).reshape(17, 1, 1))
        write_matrix(group, np.eye(17, dtype=int).tolist(), names)
    figure = average_maps_figure(groups)
    grid = panels(figure)
    assert len(grid) == 2 * 3, "two blocks of three columns"
    drawn = [[float(image.get_array()[0, 0]) for image in axis.get_images()] for axis in grid]
    assert drawn == [list(range(9))] * 3 + [list(range(9, 17))] * 3
    assert names_of(grid[0], "y") + names_of(grid[3], "y") == names
    assert [names_of(grid[n], "y") for n in (1, 2, 4, 5)] == [[]] * 4


def test_average_maps_of_zeros_and_of_several_grids_can_be_drawn(tmp_path: Path):
    one, other = make_group(tmp_path, "a"), make_group(tmp_path, "b")
    write_maps(one, np.zeros((12, 2, 3)))
    write_maps(other, np.ones((2, 4, 4)))
    assert encode_figure(average_maps_figure([one, other]), "png").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("draw", "what"), [(confusion_figure, "a confusion matrix"), (average_maps_figure, "average class maps")]
)
def test_runs_that_know_nothing_have_no_figure(tmp_path: Path, draw, what: str):
    with pytest.raises(InspectorError, match=f"No run has {what}"):
        draw([make_group(tmp_path)])
