"""`inspector explain` and `rebuild`: the class maps of a photo."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

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

if TYPE_CHECKING:
    from inspector.output.figure import FigureStyle

_FIGURE = "The figure"  # under which the help lists what it looks like


@cli.command()
def explain(
    photo: Annotated[Path, typer.Argument(help="The image file to explain.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A new folder for the figure, the numbers and the manifest.")
    ],
    model: Model = DEFAULT,
    classes: Annotated[
        str,
        typer.Option("--classes", "-c", help="`topN` for the N likeliest, or names or numbers with commas between."),
    ] = "top5",
    against: Annotated[
        str | None,
        typer.Option("--against", "-a", help="Show what speaks for each class and against this one, or `average`."),
    ] = None,
    dense: Annotated[
        bool,
        typer.Option("--dense", help="Score every position as if it alone were pooled; does not sum to the logit."),
    ] = False,
    grid: Annotated[bool, typer.Option("--grid", help="Draw the raw cells, not interpolated.")] = False,
    arch: Arch = None,
    labels: Labels = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    interpolation: Interpolation = None,
    trust: Trust = False,
    panels: Annotated[
        str,
        typer.Option(
            help="What the figure shows: some of `photo`, `classes`, `contrast` (the first class against the second) "
            "and `all` (every class map as its grid).",
            rich_help_panel=_FIGURE,
        ),
    ] = "photo,classes",
    columns: Annotated[int | None, typer.Option(help="Panels in a row.", rich_help_panel=_FIGURE)] = None,
    width: Annotated[str | None, typer.Option(help="Of the figure: `89mm`, `3.5in`.", rich_help_panel=_FIGURE)] = None,
    dpi: Annotated[int, typer.Option(help="Dots an inch.", rich_help_panel=_FIGURE)] = 200,
    font_size: Annotated[float, typer.Option(help="In points.", rich_help_panel=_FIGURE)] = 9,
    colours: Annotated[
        str, typer.Option(help="`inspector`, `PuOr_r`, `RdBu_r` or `BrBG_r`.", rich_help_panel=_FIGURE)
    ] = "inspector",
    dark: Annotated[bool, typer.Option("--dark", help="Light text on a dark page.", rich_help_panel=_FIGURE)] = False,
    title: Annotated[
        str | None, typer.Option(help='In place of the usual one; `--title ""` for none.', rich_help_panel=_FIGURE)
    ] = None,
    bar: Annotated[bool, typer.Option("--bar/--no-bar", help="The colour bar.", rich_help_panel=_FIGURE)] = True,
    equations: Annotated[
        bool, typer.Option("--equations/--no-equations", help="How each map adds up.", rich_help_panel=_FIGURE)
    ] = True,
    opacity: Annotated[
        float, typer.Option(help="Of the densest colour, 0-1.", min=0, max=1, rich_help_panel=_FIGURE)
    ] = 0.85,
) -> None:
    """Split the logits of a photo over its pixels and write the figure, the numbers, a report and a manifest.

    Examples:

    * `inspector explain cat.jpg -o cat`

    * `inspector explain cat.jpg -c "tabby,Egyptian cat" -a average -o cat-against-average`

    * `inspector explain cat.jpg -m mine.pth --arch torchvision:resnet18 --labels classes.txt --size 448 -o cat`

    * `inspector explain cat.jpg -c "tabby,lynx" --panels classes,contrast --width 89mm --font-size 6 --dpi 300 -o cat`
    """
    with progress.status(f"Reading {photo.name} and loading {model} ..."):
        # Here and not above: torch takes seconds to import, and --help needs none of it.
        from inspector.explain.class_maps import class_maps
        from inspector.images.photo import read_image

        style = _style(panels, columns, width, dpi, font_size, colours, dark, title, bar, equations)
        picture = read_image(photo)
        native = size == "native"
        said = read_feeding(None if native else size, mean, std, resize, interpolation)
        classifier = load_network(model, arch, labels, said, trust)
    with progress.status("Splitting the logits and drawing ..."):
        maps = class_maps(classifier, picture, "native" if native else None)
        top = re.fullmatch(r"top[ -]?(\d+)", classes.strip())
        shown = maps.figure_content(int(top[1]) if top else classes.split(","), against, dense, not grid, opacity)
        folder = maps.save(out, shown.classes, against, dense, not grid, opacity, style)

    for note in picture.notes:
        screen.print(note)
    read = [maps.class_map(k, against, dense) for k in shown.classes]
    table = Table("class", "probability", box=None, header_style="bold")
    for column in (
        ("highest score",) if dense else ("sum of the map", "bias", "logit" if against is None else "difference")
    ):
        table.add_column(column, justify="right")
    for k, class_map in zip(shown.classes, read, strict=True):
        numbers = (class_map.values.max(),) if dense else (class_map.values.sum(), class_map.bias, class_map.total)
        table.add_row(class_map.title, f"{maps.probabilities[k]:.1%}", *(f"{number:.4f}" for number in numbers))
    screen.print(table)
    screen.print(f"verdict: {maps.verdict} (largest residual over all classes {maps.residual:.1e} logits)")
    screen.print(f"written: {folder}", soft_wrap=True)


@cli.command()
def rebuild(
    manifest: Annotated[
        Path, typer.Argument(help="A manifest.json, or the folder or ZIP that holds it.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the figure and all that goes with it.")],
    photo: Annotated[
        Path | None, typer.Option(help="The photo, where there is no photo.png beside the manifest.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="As for `explain`, where the manifest's name is not enough.")
    ] = None,
    arch: Arch = None,
    labels: Labels = None,
    trust: Trust = False,
) -> None:
    """Make a figure again from its manifest: byte for byte on the same machine, or say what differs.

    Examples:

    * `inspector rebuild cat/manifest.json -o again`

    * `inspector rebuild class-maps.zip -o again -m mine.pth --arch torchvision:resnet18 --labels classes.txt`
    """
    with progress.status(f"Making the figure of {manifest} again ..."):
        from inspector.networks.labels import read_labels
        from inspector.output.reproduce import rebuild as make_again

        names = read_labels(labels) if labels else None
        made = make_again(manifest, out, photo, model, arch, names, trust)
    for line in made.versions:
        screen.print(line, markup=False)
    if made.equal is not None:
        same = "the same as" if made.equal else "not the same as"
        screen.print(f"figure.png is {same} that beside the manifest, byte for byte.", soft_wrap=True)
    screen.print(f"written: {made.folder}", soft_wrap=True)


def _style(
    panels: str,
    columns: int | None,
    width: str | None,
    dpi: int,
    font_size: float,
    colours: str,
    dark: bool,
    title: str | None,
    bar: bool,
    equations: bool,
) -> "FigureStyle":
    from inspector.output.figure import MM, FigureStyle

    sized = None if width is None else re.fullmatch(r"(\d+(?:\.\d+)?) ?(mm|in)", width.strip())
    if width is not None and sized is None:
        raise InspectorError(f"--width is {width!r}; 89mm or 3.5in would do.")
    inches = None if sized is None else float(sized[1]) * (MM if sized[2] == "mm" else 1)
    chosen = tuple(name.strip() for name in panels.split(","))
    return FigureStyle(chosen, columns, inches, dpi, font_size, colours, dark, title, bar, equations)  # type: ignore[arg-type]
