"""Commands `inspector batch` and `inspector survey`: compute the class maps of a data set, and summarize them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from inspector.cli import options
from inspector.cli.console import errors, make_progress, print_fed, print_written, progress, screen
from inspector.cli.report import ExitStatus, Report, judge, parse_verdict
from inspector.errors import InspectorError
from inspector.files import check_new_folder, new_folder
from inspector.images.photo_size import is_photo_size
from inspector.networks.catalog import DEFAULT

if TYPE_CHECKING:
    from inspector.datasets.summary import DatasetSummary


@options.command
def batch(
    source: Annotated[
        list[str],
        Argument(
            help="A folder (its first subfolders are the labels), a glob in quotes, a CSV with the columns `path` and "
            "`label`, or WebDataset shards: `'shards/{000..099}.tar'`.",
            show_default=False,
        ),
    ],
    out: Annotated[str, Option("--out", "-o", help="New folder for the Parquet shards. With --engine ray also a URL.")],
    *,
    model: options.Model = DEFAULT,
    top: Annotated[int, Option(help="Number of classes with the highest logits to keep, with their maps.", min=1)] = 5,
    batch_size: Annotated[int, Option(help="Images per forward pass.", min=1)] = 32,
    workers: Annotated[
        int | None,
        Option(
            help="Threads that decode (with Ray: processors per actor). Default: one per processor (with Ray: 4).",
            min=1,
        ),
    ] = None,
    shard_size: Annotated[int, Option(help="Images per Parquet file.", min=1)] = 1024,
    overlays: Annotated[
        bool, Option("--overlays", help="Draw the map of the top-1 class over each photo, and write a gallery.")
    ] = False,
    features: Annotated[
        bool,
        Option("--features", help="Also store the feature maps before pooling, which `concepts` and `repair` need."),
    ] = False,
    backend: options.Backend = "eager",
    dtype: options.Dtype = "float32",
    finer: options.Finer = 1,
    engine: Annotated[
        str, Option(help="`local`, or `ray` for several processes on this machine or a cluster.")
    ] = "local",
    resume: Annotated[bool, Option("--resume", help="Continue the interrupted run in --out.")] = False,
    overwrite: options.Overwrite = False,
    fail_on: options.FailOn = None,
    network: options.NetworkOptions,
) -> Report:
    """Explain a data set: write top classes, probabilities and class maps of every image to Parquet files.

    For an image that cannot be read, the row holds the error. If the command is stopped or killed, only unfinished
    shards are lost. To continue, run the same command with --resume. With --overwrite the earlier run stays until the
    new one is complete, so a stopped run is lost and the earlier one is kept.

    Examples:
    * `inspector batch photos -m torchvision:resnet50 -o maps`

    * `inspector batch list.csv -o maps --overlays`

    * `inspector batch photos --finer 2 -o finer-maps`

    * `inspector batch photos --backend openvino --dtype int8 -o results`

    * `inspector batch photos --features -o results` and then `inspector concepts results`

    * `inspector batch 'shards/{000..099}.tar' -o maps --engine ray --resume`
    """
    if engine not in ("local", "ray"):
        raise InspectorError(f"--engine is {engine!r}. Use local or ray.")
    if is_photo_size(network.size):
        problem = "gives every photo its own grid, but a table needs one grid"
        raise InspectorError(f"--size {network.size} {problem}. Use 448.")
    if overlays and (engine == "ray" or "://" in out):
        raise InspectorError("Overlays are drawn by the local engine only, into a local folder. Leave out --overlays.")
    if features and (engine == "ray" or "://" in out):
        problem = "Features are stored by the local engine only, in a local folder"
        raise InspectorError(f"{problem}. Leave out --features.")
    if overwrite and (resume or "://" in out):
        raise InspectorError("--overwrite begins a new run in a local folder: leave out --resume, and use no address.")
    fail_on = parse_verdict(fail_on)
    from inspector.datasets.table import check_place, count_written_shards, is_file_of_run

    # Before the network is loaded, which may take minutes.
    if overwrite:
        check_new_folder(Path(out), is_ours=is_file_of_run)
    else:
        check_place(out, resume)
    with progress.status(f"Loading {model} and listing {' '.join(source[:3])} ..."):
        from inspector.datasets.run import RunOptions, run_dataset
        from inspector.explain.memory import keep_freed_memory

        classifier = network.load(model) if engine == "local" else None
    how = RunOptions(top, batch_size, workers, shard_size, overlays, backend, dtype, finer, features, resume)
    keep_freed_memory()
    place: AbstractContextManager[str | Path] = (
        new_folder(Path(out), is_ours=is_file_of_run) if overwrite else nullcontext(out)
    )
    try:
        with show_images_done() as show, place as folder:
            if classifier is None:
                from inspector.datasets.ray_engine import run_dataset_on_ray

                counts = run_dataset_on_ray(source, partial(network.load, model), folder, how, on_progress=show)
            else:
                counts = run_dataset(source, classifier, folder, how, on_progress=show)
    except KeyboardInterrupt:
        if overwrite:
            errors.print(f"Stopped: {out} is as it was.")
        else:
            shards = count_written_shards(out)
            errors.print(f"Stopped: {shards:,} shards are complete in {out}. Use --resume to continue.")
        raise typer.Exit(ExitStatus.STOPPED) from None
    screen.print(f"{counts}", soft_wrap=True)
    if classifier is not None:
        print_fed(classifier.preprocessing.describe())
    if counts.precision:
        screen.print(counts.precision, soft_wrap=True)
    print_written(out)
    if overlays:
        screen.print(f"gallery: {Path(out) / 'gallery.html'}", soft_wrap=True)
    status = judge(counts.worst_verdict, fail_on)
    if not status and not counts.explained:
        status = ExitStatus.UNREADABLE
    return Report({"folder": out, **asdict(counts), "worst_verdict": counts.worst_verdict}, status)


class _ImagesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} images/s")


@contextmanager
def show_images_done(what: str = "explaining") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar. Yield a function that updates it: show(images done, number of all images)."""
    with make_progress(BarColumn(), MofNCompleteColumn(), _ImagesPerSecond(), TimeRemainingColumn()) as bar:
        task = bar.add_task(what, total=None, visible=False)

        def show(done: int, images: int) -> None:
            if bar.tasks[task].total is None:
                # Start with the images of an earlier, resumed run, so that they do not count in the rate of this run.
                bar.reset(task, total=images, completed=done, visible=True)
            bar.update(task, completed=done)

        yield show


@options.command
def survey(
    results: Annotated[Path, Argument(help="The folder that `inspector batch` wrote.", show_default=False)],
    out: Annotated[
        Path | None,
        Option(
            "--out",
            "-o",
            help="Folder for tables, figures and the index. Default: RESULTS/survey, where the app finds it.",
        ),
    ] = None,
    objects: options.Objects = None,
    overwrite: options.Overwrite = False,
    fail_on: options.FailOn = None,
) -> Report:
    """Summarize a data set: where the network looks for each class, which classes it confuses, which images stand out.

    Examples:
    * `inspector batch photos -m efficientnet_lite0 -o results` and then `inspector survey results`

    * `inspector survey results -o report --objects boxes.csv`
    """
    fail_on = parse_verdict(fail_on)
    if out is not None and not overwrite:
        check_new_folder(out)
    with progress.status("Opening the results ..."):
        from inspector.analysis.localization import read_regions
        from inspector.datasets.summarize import SUMMARY_FILES, summarize

        regions = read_regions(objects) if objects else None
    if out is not None and overwrite:
        check_new_folder(out, is_ours=SUMMARY_FILES.__contains__)
    out = out or results / "survey"
    with make_progress(transient=True) as bar:
        task = bar.add_task("Reading class maps", total=1.0)
        summary = summarize(results, out, regions, lambda done: bar.update(task, completed=done), report=True)
    _print_summary(summary)
    print_written(out)
    names, pairs = summary.class_names, zip(summary.pairs, summary.contrasts.counts, strict=True)
    confused = [{"label": names[a], "predicted": names[b], "images": int(count)} for (a, b), count in pairs]
    numbers = {"network": summary.network, "verdict": summary.verdict, **asdict(summary.counts)}
    return Report({"folder": out, **numbers, "confusions": confused[:100]}, judge(summary.verdict, fail_on))


def _print_summary(summary: "DatasetSummary") -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in summary.describe():
        table.add_row(name, value)
    names = summary.class_names
    for (label, predicted), count in list(zip(summary.pairs, summary.contrasts.counts, strict=True))[:5]:
        table.add_row("misclassified", f"{names[label]} predicted as {names[predicted]}: {count:,} times")
    screen.print(table)
