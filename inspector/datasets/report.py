"""Write the tables and figures of a data-set summary, beside the files that `read_summary` reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inspector.datasets import index as dataset_index
from inspector.datasets.figures import draw_average_maps, draw_border_shares, draw_contrasts
from inspector.datasets.summary import DatasetSummary
from inspector.errors import ExportError
from inspector.files import csv_bytes
from inspector.output.export import encode_figure

_IMAGE_COLUMNS = ("index", "path", "label", "class", "probability", "positions", "border", "inside", "residual")


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
    confusions = [
        {"label": names[label], "taken for": names[predicted], "images": count}
        for (label, predicted), count in zip(summary.pairs, summary.contrasts.counts, strict=True)
    ]
    tables: dict[str, tuple[Sequence[str], list[dict[str, Any]]]] = {
        "classes": (("class", "labelled", "recognised", "predicted", "border", "positions", "inside"), classes),
        "images": (("which", *_IMAGE_COLUMNS), images),
        "confusions": (("label", "taken for", "images"), confusions),
    }
    figures = {"border": draw_border_shares(summary)}
    if summary.predicted.counts.any():
        figures["average-maps"] = draw_average_maps(summary)
    if len(summary.pairs):
        figures["confusions"] = draw_contrasts(summary)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, (columns, rows) in tables.items():
            (out / f"{name}.csv").write_bytes(csv_bytes(columns, [[row[column] for column in columns] for row in rows]))
        for name, figure in figures.items():
            (out / f"{name}.png").write_bytes(encode_figure(figure, "png"))
    except OSError as error:
        raise ExportError(f"Cannot write {out}: {error.strerror}.") from error
