"""`inspector survey`: what the class maps of a whole data set say."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from inspector.cli.options import cli, progress, screen


@cli.command()
def survey(
    results: Annotated[Path, typer.Argument(help="The folder that `inspector batch` wrote.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Receives tables, figures and the index; else RESULTS/survey, where the app looks too."
        ),
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(help="Where the objects are: a CSV of boxes (file,x1,y1,x2,y2), or a folder of masks."),
    ] = None,
) -> None:
    """Survey a data set: where the network looks for each class, what it mistakes for what, and which images stand out.

    Examples:

    * `inspector batch photos -m efficientnet_lite0 -o results` and then `inspector survey results`

    * `inspector survey results -o report --objects boxes.csv`
    """
    with progress.status("Opening the results ..."):
        from inspector.analysis.localization import read_regions
        from inspector.datasets.report import write_report
        from inspector.datasets.summarize import summarize as survey_of

        regions = read_regions(objects) if objects else None
    out = results / "survey" if out is None else out
    with Progress(console=progress, transient=True) as bar:
        task = bar.add_task("Reading class maps", total=1.0)
        found = survey_of(results, out, regions, lambda done: bar.update(task, completed=done))
    with progress.status("Drawing ..."):
        write_report(found, out)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in found.lines():
        table.add_row(name, value)
    for (label, predicted), count in list(zip(found.pairs, found.contrasts.counts, strict=True))[:5]:
        names = found.class_names
        table.add_row("mistaken", f"{names[label]} taken for {names[predicted]}: {count:,} times")
    screen.print(table)
    screen.print(f"written: {out}", soft_wrap=True, markup=False)
