"""Make the tables (CSV) and figures (PNG) of a data-set summary."""

from collections.abc import Mapping, Sequence
from typing import Any

from inspector.datasets import index as dataset_index
from inspector.datasets.figures import draw_average_maps, draw_border_shares, draw_contrasts
from inspector.datasets.summary import DatasetSummary
from inspector.files import csv_bytes
from inspector.output.figure_file import encode_figure

REPORT_FILES = ("classes.csv", "images.csv", "confusions.csv", "border.png", "average-maps.png", "confusions.png")
_CLASS_COLUMNS = "class", "labelled", "recognised", "predicted", "border", "positions", "inside"
_IMAGE_COLUMNS = "which", "index", "path", "label", "class", "probability", "positions", "border", "inside", "residual"


def make_report(summary: DatasetSummary) -> dict[str, bytes]:
    """Make classes.csv, images.csv, confusions.csv and the figures.

    Returns:
        The content of each file by its name, some of REPORT_FILES.
    """
    names = summary.class_names
    classes = [{**row, "class": names[row["class"]]} for row in dataset_index.summarize_classes(summary.index)]
    images = [
        {"which": which, **row, "class": names[row["predicted"]]}
        for which, descending in (("most concentrated", False), ("most diffuse", True))
        for row in dataset_index.list_extremes(summary.index, "positions", descending)
    ]
    confusions = (
        (names[label], names[predicted], count)
        for (label, predicted), count in zip(summary.pairs, summary.contrasts.counts, strict=True)
    )
    files = {
        "classes.csv": _make_table(_CLASS_COLUMNS, classes),
        "images.csv": _make_table(_IMAGE_COLUMNS, images),
        # Headings of a file format: the second is the predicted class.
        "confusions.csv": csv_bytes(("label", "taken for", "images"), confusions),
    }
    figures = {"border": draw_border_shares(summary)}
    if summary.predicted.counts.any():
        figures["average-maps"] = draw_average_maps(summary)
    if len(summary.pairs):
        figures["confusions"] = draw_contrasts(summary)
    return files | {f"{name}.png": encode_figure(figure, "png") for name, figure in figures.items()}


def _make_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    return csv_bytes(columns, ([row[column] for column in columns] for row in rows))
