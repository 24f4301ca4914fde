"""The tables and figures of a survey of a data set, beside what `read_survey` reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inspector.datasets import index as dataset_index
from inspector.datasets.figures import average_maps_figure, border_figure, contrasts_figure
from inspector.datasets.summary import DatasetSummary
from inspector.errors import ExportError
from inspector.files import csv_bytes
from inspector.output.export import figure_bytes

_OF_AN_IMAGE = ("index", "path", "label", "class", "probability", "positions", "border", "inside", "residual")


def write_report(survey: DatasetSummary, out: Path) -> None:
    """Write classes.csv, images.csv, confusions.csv and the figures into a folder; ExportError where it cannot be."""
    names = survey.class_names
    classes = [{**row, "class": names[row["class"]]} for row in dataset_index.summarize_classes(survey.index)]
    images = [
        {"which": which, **row, "class": names[row["predicted"]]}
        for which, descending in (("most concentrated", False), ("most diffuse", True))
        for row in dataset_index.list_extremes(survey.index, "positions", descending)
    ]
    confusions = [
        {"label": names[label], "taken for": names[predicted], "images": count}
        for (label, predicted), count in zip(survey.pairs, survey.contrasts.counts, strict=True)
    ]
    tables: dict[str, tuple[Sequence[str], list[dict[str, Any]]]] = {
        "classes": (("class", "labelled", "recognised", "predicted", "border", "positions", "inside"), classes),
        "images": (("which", *_OF_AN_IMAGE), images),
        "confusions": (("label", "taken for", "images"), confusions),
    }
    figures = {"border": border_figure(survey)}
    if survey.predicted.counts.any():
        figures["average-maps"] = average_maps_figure(survey)
    if len(survey.pairs):
        figures["confusions"] = contrasts_figure(survey)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, (columns, rows) in tables.items():
            (out / f"{name}.csv").write_bytes(csv_bytes(columns, [[row[column] for column in columns] for row in rows]))
        for name, figure in figures.items():
            (out / f"{name}.png").write_bytes(figure_bytes(figure, "png"))
    except OSError as error:
        raise ExportError(f"Cannot write {out}: {error.strerror}.") from error
