"""Commands `inspector train` and `inspector compare`: train heads on backbones, and compare the runs."""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table
from typer import Argument, Option

from inspector.cli import options
from inspector.cli.console import print_written, progress, screen
from inspector.cli.report import Report, name_values
from inspector.errors import HeadError, InspectorError, require
from inspector.files import check_new_folder, new_folder
from inspector.networks.catalog import DEFAULT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from inspector.training.compare_runs import RunGroup
    from inspector.training.recipe import Recipe


@dataclass(frozen=True)
class PhotosOptions:
    """Options that are allowed only with --images; they replace a recipe."""

    backbone: Annotated[
        str, Option(help="With --images: a name from `inspector models`, `torchvision:NAME` or `timm:NAME`.")
    ] = DEFAULT
    head: Annotated[
        str, Option(help="With --images: heads to train, some of `gap`, `gmp`, `fc`, separated by commas.")
    ] = "gap"
    finetune: Annotated[bool, Option("--finetune", help="With --images: also train the backbone.")] = False
    epochs: Annotated[
        int | None, Option(help="With --images: number of epochs. Default: 50, or 10 with --finetune.", min=1)
    ] = None
    size: options.Size = None

    def refuse_with_recipe(self) -> None:
        """Raise InspectorError if one of these options was given."""
        if given := [one.name for one in fields(self) if getattr(self, one.name) != one.default]:
            raise InspectorError(f"--{given[0]} goes with --images: a recipe states it in its file.")

    def recipes(self, images: Path) -> list["Recipe"]:
        """Return one recipe per head in --head, for training on a folder of photos."""
        from inspector.training.recipe import HEADS, recipe_for_photos

        heads = [name.strip() for name in self.head.split(",")]
        if unknown := [name for name in heads if name not in HEADS]:
            raise InspectorError(f"--head is {unknown[0]!r}. Use some of {', '.join(HEADS)}, separated by commas.")
        size = options.parse_size(self.size, "--size")
        return [
            recipe_for_photos(images, self.backbone, name, not self.finetune, self.epochs, (0,), size) for name in heads
        ]


@options.command
def train(
    config: Annotated[
        list[Path] | None, Argument(help="Recipes: `experiments/EXPERIMENT/RUN.toml`.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None,
        Option(
            help="With a recipe: folder of the data set (torchvision downloads it if it is not there) or of the photos."
        ),
    ] = None,
    images: Annotated[
        Path | None, Option(help="Instead of a recipe: your own folder, with one folder of photos per class.")
    ] = None,
    *,
    photos: PhotosOptions,
    weights: Annotated[
        Path | None, Option(help="File with the backbone's weights. Default: those that its library downloads.")
    ] = None,
    objects: options.Objects = None,
    out: Annotated[Path, Option("--out", "-o", help="Folder for the results: `EXPERIMENT/RUN/seedN/`.")] = Path("runs"),
    seed: Annotated[list[int] | None, Option(help="Train only this seed. Can be given several times.", min=0)] = None,
    device: Annotated[str, Option(help="`auto`, `cpu`, `cuda`, or one GPU of several: `cuda:1`.")] = "auto",
    precision: Annotated[str, Option(help="`float32`, or `bfloat16` by autocast.")] = "float32",
) -> Report:
    """Train networks as recipes describe them, one per seed; or train heads on photos of your own.

    If training was interrupted, run the same command to continue.

    Examples:
    * `inspector train experiments/lenet/stride_gap.toml --data data --seed 0`

    * `inspector train --images flowers --head gap,gmp,fc --backbone torchvision:resnet50`
    """
    from inspector.training.recipe import read_recipe

    if bool(config) == bool(images) or (images and data):
        raise InspectorError("Expected either a recipe with --data FOLDER, or --images FOLDER.")
    folder = images or data
    if folder is None:
        raise InspectorError("A recipe needs the folder of its data set. Use --data FOLDER.")
    if images is None:
        photos.refuse_with_recipe()
        recipes = [read_recipe(path) for path in config or ()]
    else:
        recipes = photos.recipes(images)
    if precision not in ("float32", "bfloat16"):
        raise InspectorError(f"--precision is {precision!r}. Use float32 or bfloat16.")
    require("torchmetrics.functional.classification", extra="train", purpose="Training")
    from inspector.analysis.localization import read_regions
    from inspector.training.train import train as train_recipes

    regions = read_regions(objects) if objects else None
    seeds = tuple(seed or ())
    written = train_recipes(recipes, folder, out, seeds, device, precision, weights, regions)  # type: ignore[arg-type]
    for run_folder in written:
        print_written(run_folder)
    return Report({"runs": written})


@options.command
def compare(
    runs: Annotated[list[Path], Argument(help="Folders with finished runs, at any depth.", show_default=False)],
    out: Annotated[
        Path | None,
        Option("--out", "-o", help="Folder for table.md and, as PNG and SVG, curves, confusion and average-maps."),
    ] = None,
    photo: Annotated[
        list[Path] | None,
        Option(help="With --out: draw one class map of this photo by every network. Can be given several times."),
    ] = None,
    label: Annotated[
        str | None,
        Option("--class", help="Class of the maps of --photo. Default: the class that most networks predict."),
    ] = None,
    own_scales: Annotated[
        bool,
        Option("--own-scales", help="Draw each network's map of --photo on its own scale. Default: one scale for all."),
    ] = False,
    overwrite: options.Overwrite = False,
) -> Report:
    """Compare finished runs: print a table of means and standard deviations over seeds. With --out write figures, too.

    Examples:
    * `inspector compare experiments/lenet/results --out comparison`

    * `inspector compare runs/flowers --out comparison --photo daffodil.jpg --class Daffodil`
    """
    from inspector.training.compare_runs import format_rows, group_runs, list_columns, make_caption, make_markdown
    from inspector.training.read_run import find_runs, read_run

    photos = {path.stem: path for path in photo or ()}
    if len(photos) < len(photo or ()):
        raise InspectorError("Two photos have the same name, and so would their figures. Rename one of them.")
    if (photos and out is None) or (label is not None and not photos):
        raise InspectorError("--class needs --photo, and --photo needs --out, the folder for its figure.")
    if out is not None:
        check_new_folder(out, is_ours=_is_file_of_comparison if overwrite else None)
    groups = group_runs(read_run(folder) for folder in find_runs(runs))
    _print_groups(groups)
    screen.print(make_caption(groups))
    columns = list_columns(groups)
    report = Report({"runs": [name_values(columns, row) for row in format_rows(groups)], "folder": out})
    if out is None:
        return report
    with progress.status("Drawing ..."):
        figures = _draw_comparison(groups) | _draw_photos(groups, photos, label, own_scales)
    command = f"inspector compare {' '.join(map(str, runs))} --out {out}"
    _write_comparison(out, make_markdown(groups, command), figures, overwrite)
    print_written(out)
    return report


def _print_groups(groups: Sequence["RunGroup"]) -> None:
    """Print the table of runs with as many columns as fit on the screen, and name the other columns."""
    from inspector.training.compare_runs import format_rows, list_columns

    columns = list(zip(list_columns(groups), *format_rows(groups), strict=True))
    widths = accumulate(max(map(len, column)) + 2 for column in columns)
    fitting = max(1, sum(width <= screen.width + 2 for width in widths))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, *_ in columns[:fitting]:
        table.add_column(name, justify="left" if name == "run" else "right", no_wrap=True)
    for row in zip(*(values for _, *values in columns[:fitting]), strict=True):
        table.add_row(*row)
    screen.print(table)
    if fitting < len(columns):
        left_out = ", ".join(name for name, *_ in columns[fitting:])
        screen.print(f"Left out at this width: {left_out}. With --out, table.md has all.")


def _draw_comparison(groups: Sequence["RunGroup"]) -> dict[str, "Figure"]:
    """Return figures by name; leave out a figure if no run has the numbers for it."""
    from inspector.training.figures import average_maps_figure, confusion_figure, learning_curves_figure

    figures = {"curves": learning_curves_figure(groups)}
    if any(group.confusion() for group in groups):
        figures["confusion"] = confusion_figure(groups)
    if any(group.average_maps() is not None for group in groups):
        figures["average-maps"] = average_maps_figure(groups)
    return figures


def _draw_photos(
    groups: Sequence["RunGroup"], photos: Mapping[str, Path], label: str | None, own_scales: bool
) -> dict[str, "Figure"]:
    """Return one figure per photo. It shows the maps of one class by several networks: the first run of each group."""
    if not photos:
        return {}
    from inspector.explain.class_maps import class_maps
    from inspector.images.photo import read_image
    from inspector.networks.load import load
    from inspector.output.comparison_figure import side_by_side_figure
    from inspector.training.read_run import find_network

    pictures = {stem: read_image(path) for stem, path in photos.items()}
    networks = {}
    for group in groups:
        if (name := find_network(group.runs[0])) is None:
            continue
        try:
            networks[f"{group.label}, seed {group.runs[0].seed}"] = load(name)
        except HeadError as error:
            screen.print(f"{group.label} has no class maps: {error}")
    if not networks:
        screen.print("No run has weights and class maps, so no class map of a photo was drawn.")
        return {}
    figures = {}
    for stem, picture in pictures.items():
        maps = [class_maps(classifier, picture) for classifier in networks.values()]
        most_predicted = statistics.mode(one.top(1)[0][1] for one in maps)
        figures[f"heads-{stem}"] = side_by_side_figure(maps, label or most_predicted, list(networks), own_scales)
    return figures


def _is_file_of_comparison(name: str) -> bool:
    return bool(re.fullmatch(r"table\.md|(curves|confusion|average-maps|heads-.*)\.(png|svg)", name))


def _write_comparison(out: Path, table: str, figures: Mapping[str, "Figure"], overwrite: bool) -> None:
    from inspector.output.figure_file import encode_figure

    files = {f"{name}.{kind}": encode_figure(figures[name], kind) for name in figures for kind in ("png", "svg")}
    files["table.md"] = table.encode()
    with new_folder(out, is_ours=_is_file_of_comparison if overwrite else None) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
