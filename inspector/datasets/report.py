"""The tables and figures of a survey of a data set, beside what `read_survey` reads."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from inspector.datasets import index as dataset_index
from inspector.datasets.figures import average_maps_figure, border_figure, contrasts_figure
from inspector.datasets.summary import DatasetSummary
from inspector.errors import ExportError
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
    figures = {"border": border_figure(survey)}
    if survey.predicted.counts.any():
        figures["average-maps"] = average_maps_figure(survey)
    if len(survey.pairs):
        figures["confusions"] = contrasts_figure(survey)
    try:
        out.mkdir(parents=True, exist_ok=True)
        columns = ("class", "labelled", "recognised", "predicted", "border", "positions", "inside")
        _write(out / "classes.csv", columns, classes)
        _write(out / "images.csv", ("which", *_OF_AN_IMAGE), images)
        _write(out / "confusions.csv", ("label", "taken for", "images"), confusions)
        for name, figure in figures.items():
            (out / f"{name}.png").write_bytes(figure_bytes(figure, "png"))
    except OSError as error:
        raise ExportError(f"Cannot write {out}: {error.strerror}.") from error


def _write(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
