"""The command line: `inspector explain`, `inspector models`, `inspector app`."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from inspector.catalogue import DEFAULT, available
from inspector.errors import InspectorError

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Exact class maps of classifiers that end in global pooling: which pixels brought which part of a logit.",
)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)


def main() -> None:
    """Run the command line; our own errors become one sentence and exit status 1."""
    try:
        cli()
    except InspectorError as error:
        _err.print(f"Error: {error}", style="red", markup=False)
        sys.exit(1)


@cli.command()
def explain(
    photo: Annotated[Path, typer.Argument(help="The image file to explain.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A new folder for the figure, the numbers and the manifest.")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="A name from `inspector models`, a folder, or `torchvision:resnet18` and such."
        ),
    ] = DEFAULT,
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
) -> None:
    """Split the logits of a photo over its pixels and write the figure, the numbers and a manifest.

    Examples:

    * `inspector explain cat.jpg -o cat`

    * `inspector explain cat.jpg -c "tabby,Egyptian cat" -a average -o cat-against-average`
    """
    with _err.status(f"Reading {photo.name} and loading {model} ..."):
        # Here and not above: torch takes seconds to import, and --help needs none of it.
        from inspector.image import read_image
        from inspector.loading import load
        from inspector.maps import class_maps

        picture = read_image(photo)
        classifier = load(model)
    with _err.status("Splitting the logits and drawing ..."):
        maps = class_maps(classifier, picture)
        top = re.fullmatch(r"top[ -]?(\d+)", classes.strip())
        shown = maps.shown(int(top[1]) if top else classes.split(","), against, dense, not grid)
        folder = maps.save(out, shown.classes, against, dense, not grid)

    for note in picture.notes:
        _out.print(note)
    read = [maps.read(k, against, dense) for k in shown.classes]
    table = Table("class", "probability", box=None, header_style="bold")
    for column in (
        ("highest score",) if dense else ("sum of the map", "bias", "logit" if against is None else "difference")
    ):
        table.add_column(column, justify="right")
    for k, class_map in zip(shown.classes, read, strict=True):
        numbers = (class_map.values.max(),) if dense else (class_map.values.sum(), class_map.bias, class_map.total)
        table.add_row(class_map.title, f"{maps.probabilities[k]:.1%}", *(f"{number:.4f}" for number in numbers))
    _out.print(table)
    _out.print(f"verdict: {maps.verdict} (largest residual over all classes {maps.residual:.1e} logits)")
    _out.print(f"written: {folder}", soft_wrap=True)


@cli.command()
def models() -> None:
    """List the networks that can be named with --model."""
    table = Table("name", "what it is", "classes", "input", "accuracy", box=None, header_style="bold")
    for name, card in available().items():
        scores = card.about.get("scores", {})
        accuracy = f"top-1 {scores['top1']:.1%} on {scores['data']}" if "top1" in scores else ""
        size = f"{card.preprocessing.size[0]}x{card.preprocessing.size[1]}"
        table.add_row(name, card.title, str(len(card.classes)), size, accuracy)
    _out.print(table)


@cli.command()
def app(
    port: Annotated[int, typer.Option(help="The port to serve on.")] = 8501,
    address: Annotated[
        str, typer.Option(help="The address to serve on; this machine only, unless said.")
    ] = "localhost",
) -> None:
    """Open the app in the browser."""
    package = Path(__file__).parent
    script = package / "app.py" if (package / "app.py").is_file() else package.parent / "app.py"
    command = [sys.executable, "-m", "streamlit", "run", str(script), f"--server.port={port}"]
    sys.exit(subprocess.call([*command, f"--server.address={address}"], cwd=script.parent))


@cli.callback(invoke_without_command=True)
def _options(
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    if show_version:
        _out.print(f"inspector {version('inspector')}")
        raise typer.Exit


if __name__ == "__main__":
    main()
