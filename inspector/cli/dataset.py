"""`inspector batch`: a data set."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from inspector.cli.options import (
    Arch,
    Interpolation,
    Labels,
    Mean,
    Model,
    Resize,
    Size,
    Std,
    Trust,
    cli,
    load_network,
    progress,
    read_feeding,
    screen,
)
from inspector.errors import InspectorError
from inspector.networks.catalog import DEFAULT

_STOPPED = 130  # the exit status of a command that Ctrl-C ended


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} images/s")


@cli.command()
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
    model: Model = DEFAULT,
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
    arch: Arch = None,
    labels: Labels = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    interpolation: Interpolation = None,
    trust: Trust = False,
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
    if size == "native":
        raise InspectorError("--size native gives every photo a grid of its own, and a table needs one; 448 would do.")
    if overlays and (engine == "ray" or "://" in out):
        raise InspectorError("Overlays are drawn by the local engine, into a folder here: leave out --overlays.")
    with progress.status(f"Loading {model} and listing {' '.join(source[:3])} ..."):
        from inspector.datasets.run import RunOptions, run_dataset
        from inspector.explain.memory import keep_freed_memory

        said = read_feeding(size, mean, std, resize, interpolation)
        load = partial(load_network, model, arch, labels, said, trust)
        classifier = load() if engine == "local" else None
    options = RunOptions(
        top=top,
        batch_size=batch_size,
        workers=workers,
        shard_size=shard_size,
        overlays=overlays,
        backend=backend,
        resume=resume,
    )
    keep_freed_memory()
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    try:
        with Progress(*shown, console=progress) as bar:
            task = bar.add_task("explaining", total=None, visible=False)

            def show_progress(done: int, images: int) -> None:
                if bar.tasks[task].total is None:
                    # What an earlier run did says nothing about the rate of this one.
                    bar.reset(task, total=images, completed=done, visible=True)
                bar.update(task, completed=done)

            if classifier is None:
                from inspector.datasets.ray_engine import run_dataset_on_ray

                counts = run_dataset_on_ray(source, load, out, options, on_progress=show_progress)
            else:
                counts = run_dataset(source, classifier, out, options, on_progress=show_progress)
    except KeyboardInterrupt:
        from inspector.datasets.table import list_written_shards

        progress.print(
            f"Stopped: {list_written_shards(out):,} shards are whole in {out}; the same command with --resume goes on."
        )
        raise typer.Exit(_STOPPED) from None
    screen.print(f"{counts}", soft_wrap=True)
    screen.print(f"written: {out}", soft_wrap=True)
    if overlays:
        screen.print(f"gallery: {Path(out) / 'gallery.html'}", soft_wrap=True)
