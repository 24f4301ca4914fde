"""`inspector batch` and `survey`: the class maps of a data set, and their summary."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from inspector.cli import options
from inspector.cli.console import print_written, progress, screen
from inspector.errors import InspectorError
from inspector.networks.catalog import DEFAULT

if TYPE_CHECKING:
    from inspector.datasets.summary import DatasetSummary

_STOPPED = 130  # the exit status of a command that Ctrl-C ended


@options.command
def batch(
    source: Annotated[
        list[str],
        typer.Argument(
            help="A folder (labels: its first folders), a glob in quotes, a CSV with the columns `path` and `label`, "
            "or WebDataset shards: `'shards/{000..099}.tar'`.",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="A new folder for the Parquet shards; a URL with Ray.")],
    *,
    model: options.Model = DEFAULT,
    top: Annotated[int, typer.Option(help="How many of the likeliest classes to keep, with their maps.", min=1)] = 5,
    batch_size: Annotated[int, typer.Option(help="Images in one pass of the network.", min=1)] = 32,
    workers: Annotated[
        int | None, typer.Option(help="Threads that decode (with Ray: of each actor); else one a processor.", min=1)
    ] = None,
    shard_size: Annotated[int, typer.Option(help="Images in one Parquet file.", min=1)] = 1024,
    overlays: Annotated[
        bool, typer.Option("--overlays", help="Draw the likeliest class's map over each photo, and a gallery of them.")
    ] = False,
    backend: Annotated[str, typer.Option(help="What runs the network: `eager`, `auto` or another one.")] = "eager",
    engine: Annotated[str, typer.Option(help="`local`, or `ray`: on this machine or a cluster.")] = "local",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out that broke off.")] = False,
    network: options.NetworkOptions,
) -> None:
    """Explain a data set: top classes, probabilities and class maps of every image into Parquet files.

    An image that cannot be read is a row with its error. Stopped or killed, at most the shards in work are lost:
    the same command with --resume goes on.

    Examples:
    * `inspector batch photos -m torchvision:resnet50 -o maps`

    * `inspector batch list.csv -o maps --overlays`

    * `inspector batch 'shards/{000..099}.tar' -o maps --engine ray --resume`
    """
    if engine not in ("local", "ray"):
        raise InspectorError(f"--engine is {engine!r}; local or ray would do.")
    if network.size == "native":
        raise InspectorError("--size native gives every photo a grid of its own, and a table needs one; 448 would do.")
    if overlays and (engine == "ray" or "://" in out):
        raise InspectorError("Overlays are drawn by the local engine, into a folder here: leave out --overlays.")
    with progress.status(f"Loading {model} and listing {' '.join(source[:3])} ..."):
        from inspector.datasets.run import RunOptions, run_dataset
        from inspector.datasets.table import count_written_shards
        from inspector.explain.memory import keep_freed_memory

        classifier = network.load(model) if engine == "local" else None
    how = RunOptions(
        top=top,
        batch_size=batch_size,
        workers=workers,
        shard_size=shard_size,
        overlays=overlays,
        backend=backend,
        resume=resume,
    )
    keep_freed_memory()
    try:
        with _show_images_done() as show:
            if classifier is None:
                from inspector.datasets.ray_engine import run_dataset_on_ray

                counts = run_dataset_on_ray(source, partial(network.load, model), out, how, on_progress=show)
            else:
                counts = run_dataset(source, classifier, out, how, on_progress=show)
    except KeyboardInterrupt:
        progress.print(
            f"Stopped: {count_written_shards(out):,} shards are whole in {out}; the same command with --resume goes on."
        )
        raise typer.Exit(_STOPPED) from None
    screen.print(f"{counts}", soft_wrap=True)
    print_written(out)
    if overlays:
        screen.print(f"gallery: {Path(out) / 'gallery.html'}", soft_wrap=True)


class _ImagesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} images/s")


@contextmanager
def _show_images_done() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar; the function that it yields takes the images done and all images."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _ImagesPerSecond(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=progress) as bar:
        task = bar.add_task("explaining", total=None, visible=False)

        def show(done: int, images: int) -> None:
            if bar.tasks[task].total is None:
                # The images of an earlier run do not count for the rate of this one.
                bar.reset(task, total=images, completed=done, visible=True)
            bar.update(task, completed=done)

        yield show


@options.command
def survey(
    results: Annotated[Path, typer.Argument(help="The folder that `inspector batch` wrote.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Receives tables, figures and the index; else RESULTS/survey, where the app looks too."
        ),
    ] = None,
    objects: options.Objects = None,
) -> None:
    """Survey a data set: where the network looks for each class, what it mistakes for what, and which images stand out.

    Examples:
    * `inspector batch photos -m efficientnet_lite0 -o results` and then `inspector survey results`

    * `inspector survey results -o report --objects boxes.csv`
    """
    with progress.status("Opening the results ..."):
        from inspector.analysis.localization import read_regions
        from inspector.datasets.report import write_report
        from inspector.datasets.summarize import summarize

        regions = read_regions(objects) if objects else None
    out = results / "survey" if out is None else out
    with Progress(console=progress, transient=True) as bar:
        task = bar.add_task("Reading class maps", total=1.0)
        summary = summarize(results, out, regions, lambda done: bar.update(task, completed=done))
    with progress.status("Drawing ..."):
        write_report(summary, out)
    _print_summary(summary)
    print_written(out)


def _print_summary(summary: "DatasetSummary") -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in summary.describe():
        table.add_row(name, value)
    names = summary.class_names
    for (label, predicted), count in list(zip(summary.pairs, summary.contrasts.counts, strict=True))[:5]:
        table.add_row("mistaken", f"{names[label]} taken for {names[predicted]}: {count:,} times")
    screen.print(table)
