"""Write the tables (CSV) and figures (PNG) of a data-set summary."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inspector.datasets import index as dataset_index
from inspector.datasets.figures import draw_average_maps, draw_border_shares, draw_contrasts
from inspector.datasets.summary import DatasetSummary
from inspector.errors import ExportError, translate_errors
from inspector.files import csv_bytes
from inspector.output.export import encode_figure

_CLASS_COLUMNS = "class", "labelled", "recognised", "predicted", "border", "positions", "inside"
_IMAGE_COLUMNS = "which", "index", "path", "label", "class", "probability", "positions", "border", "inside", "residual"


def write_report(summary: DatasetSummary, out: Path) -> None:
    """Write classes.csv, images.csv, confusions.csv and the figures into a folder.

    Raises:
        ExportError: the folder cannot be written.
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
        # Headings of a file format: "taken for" is the predicted class.
        "confusions.csv": csv_bytes(("label", "taken for", "images"), confusions),
    }
    figures = {"border": draw_border_shares(summary)}
    if summary.predicted.counts.any():
        figures["average-maps"] = draw_average_maps(summary)
    if len(summary.pairs):
        figures["confusions"] = draw_contrasts(summary)
    files |= {f"{name}.png": encode_figure(figure, "png") for name, figure in figures.items()}
    with translate_errors(ExportError, f"Cannot write {out}: {{reason}}."):
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_bytes(content)


def _make_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    return csv_bytes(columns, ([row[column] for column in columns] for row in rows))
