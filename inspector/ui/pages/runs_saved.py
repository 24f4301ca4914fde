"""The charts and maps of the page Training runs as they are saved, and the lines of Python that make them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from numpy.typing import ArrayLike

from inspector.output.overlay import common_scale
from inspector.training.compare_runs import RunGroup
from inspector.training.read_run import Confusion
from inspector.ui.components import charts
from inspector.ui.components.save import PictureToSave
from inspector.ui.components.saved_maps import make_grid_to_save

AVERAGE_CELLS = "contribution per cell (sums to the logit), mean over the test images"


def make_curves_to_save(
    groups: Sequence[RunGroup], marks: Mapping[str, tuple[str, str]], name: str, kind: str
) -> PictureToSave:
    """Return a chart of curves, to be saved. `kind` is "top1" or "loss"."""
    draw = charts.draw_top1_chart if kind == "top1" else charts.draw_loss_chart
    used = {group.label: marks[group.label] for group in groups}
    code = [
        "from inspector.ui.components import charts",
        *_read_groups(groups),
        f"marks = {used!r}  # run -> color and shape",
        f'charts.{draw.__name__}(groups, marks).save("{kind}.svg")',
    ]
    return PictureToSave(name, lambda: draw(groups, marks).to_dict(), "\n".join(code))


def make_confusion_to_save(group: RunGroup, confusion: Confusion) -> PictureToSave:
    """Return the confusion matrix of a run, to be saved."""
    code = [
        "from inspector.ui.components import charts",
        *_read_groups([group]),
        'charts.draw_confusion_matrix(groups[0].confusion(), dark=False).save("confusion.svg")',
    ]
    width = 44 * len(confusion.classes)

    def draw() -> dict[str, object]:
        return charts.draw_confusion_matrix(confusion, dark=False).properties(width=width).to_dict()

    return PictureToSave(f"confusion matrix of {group.label}", draw, "\n".join(code))


def make_average_to_save(group: RunGroup, maps: ArrayLike, k: int, name: str) -> PictureToSave:
    """Return the average class map of one class by one run, to be saved. All classes of a run share one scale.

    Args:
        group: the run.
        maps: its average class maps (K, h, w).
        k: index of the class.
        name: name of the class.
    """
    code = [*_read_groups([group]), f"values = groups[0].average_maps()[{k}]"]
    values, scale = maps[k], common_scale([maps])  # type: ignore[index]
    return make_grid_to_save(f"{name} by {group.label}, average", values, scale, AVERAGE_CELLS, code)


def _read_groups(groups: Sequence[RunGroup]) -> list[str]:
    folders = [_write_folder(run.folder) for group in groups for run in group.runs]
    return [
        "from pathlib import Path",
        "",
        "from inspector.training.compare_runs import group_runs",
        "from inspector.training.read_run import read_run",
        "",
        f"folders = {folders!r}",
        "groups = group_runs([read_run(Path(folder)) for folder in folders])",
    ]


def _write_folder(folder: Path) -> str:
    """Return the path of a run, from the folder in which the app runs if it lies there."""
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
