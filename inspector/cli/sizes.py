"""The table of `inspector describe --sizes`: accuracy, grid and time of a network at several input sizes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
from rich.table import Table

from inspector.cli.console import make_progress, progress, screen
from inspector.images.photo_size import describe_size
from inspector.networks.catalog import find_model_folder, read_model_card
from inspector.networks.size_accuracy import compute_wilson_interval

if TYPE_CHECKING:
    from inspector.datasets.sizes import SizeMeasurements
    from inspector.explain.classifier import Classifier
    from inspector.images.sources import Item


def find_known_accuracy(model: str) -> str | None:
    """Return the accuracy at several sizes, as the model.json of a network states it; None if it does not."""
    folder = find_model_folder(model)
    known = None if folder is None else read_model_card(folder).sizes
    return None if known is None else known.describe()


def report_sizes(classifier: "Classifier", items: "Sequence[Item]", source: str) -> dict[str, Any]:
    """Measure the accuracy at several sizes, print the table, and return its numbers for --json.

    Raises:
        InspectorError: no label is a class of the network, or no photo can be used.
    """
    from inspector.datasets.sizes import label_items, list_usual_sizes, measure_sizes

    labeled = label_items(classifier, items, source)
    sizes = list_usual_sizes(classifier.preprocessing.size)
    with make_progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=True) as bar:
        task = bar.add_task(f"Measuring {len(sizes)} sizes", total=len(labeled))
        measurements = measure_sizes(classifier, labeled, sizes, source, lambda: bar.advance(task))
    unlabeled = len(items) - len(labeled)
    for count, reason in ((unlabeled, "have no label that is a class"), (measurements.unreadable, "cannot be used")):
        if count:
            progress.print(f"{count:,} of {len(items):,} photos {reason}: left out.", style="yellow")
    rows = _list_rows(measurements)
    _print_table(rows, measurements, source)
    left_out = {"without_label": unlabeled, "unreadable": measurements.unreadable, "refused": measurements.refused}
    return {"photos": measurements.accuracies.photos, "rows": rows, **left_out}


def _list_rows(measurements: "SizeMeasurements") -> list[dict[str, Any]]:
    accuracies, rows = measurements.accuracies, []
    for measured in measurements.measured:
        one = accuracies.sizes[measured.size]
        interval = compute_wilson_interval(one.right, accuracies.photos)
        rows.append(
            {
                "size": measured.size,
                "grid": measured.grid,
                "right": one.right,
                "accuracy": one.right / accuracies.photos,
                "interval": interval,
                "gained": one.gained,
                "lost": one.lost,
                "as_accurate": one.is_as_accurate,
                "milliseconds": measured.milliseconds,
            }
        )
    return rows


def _print_table(rows: Sequence[dict[str, Any]], measurements: "SizeMeasurements", source: str) -> None:
    screen.print(f"accuracy on {measurements.accuracies.photos:,} photos of {source}, by what the network sees:")
    table = Table("the network sees", "--size", "grid", box=None, header_style="bold")
    for column in ("right", "accuracy", "95 % interval", "gained", "lost", "ms"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in rows:
        low, high = row["interval"]
        table.add_row(
            describe_size(row["size"]),
            row["size"],
            " x ".join(map(str, row["grid"])),
            f"{row['right']:,}",
            f"{row['accuracy']:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{row['gained']:,}",
            f"{row['lost']:,}",
            f"{row['milliseconds']:.0f}",
            "" if row["as_accurate"] else "less accurate",
        )
    screen.print(table)
    for size, reason in measurements.refused.items():
        screen.print(f"{describe_size(size)}: {reason}", style="yellow", soft_wrap=True)
    screen.print(
        "gained, lost: photos that are right only at this size, or only at that of the training. Less accurate: "
        "significantly, by the exact sign test at 5 %.",
        soft_wrap=True,
    )
