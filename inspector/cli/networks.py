"""`inspector describe`, `add` and `models`: networks."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from inspector.cli.options import (
    Arch,
    Interpolation,
    Labels,
    Mean,
    Resize,
    Size,
    Std,
    Trust,
    cli,
    progress,
    read_feeding,
    screen,
)
from inspector.networks.catalog import list_models


@cli.command()
def describe(
    model: Annotated[str, typer.Argument(help="As for `explain --model`; of a library, no weights are fetched.")],
    photo: Annotated[Path | None, typer.Option(help="Tell the grid for this photo at its own size too.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="List every layer in the order in which it runs.")] = False,
    arch: Arch = None,
    size: Size = None,
    mean: Mean = None,
    trust: Trust = False,
) -> None:
    """Tell what a network is made of: layers, where space is pooled away, what follows, and how exact its maps are.

    Examples:

    * `inspector describe torchvision:convnext_tiny --layers`

    * `inspector describe mypackage.networks:backbone --trust --size 128`
    """
    with progress.status(f"Looking into {model} ..."):
        from inspector.analysis.summary import SIZES
        from inspector.analysis.summary import describe as look_into
        from inspector.explain.class_maps import native_size
        from inspector.images.photo import read_image
        from inspector.networks.load import resolve

        sizes = (*SIZES, native_size(read_image(photo))) if photo else SIZES
        overrides = read_feeding(size, mean, None, None, None)
        loaded = resolve(model, arch, overrides=overrides, trust=trust, allow_untrained=True)
        channels = len(loaded.preprocessing.mean)
        anatomy = look_into(loaded.network, loaded.preprocessing.size, channels, sizes, model)
    if layers:
        table = Table("layer", "kind", "output", "parameters", box=None, header_style="bold")
        for number, layer in enumerate(anatomy.layers):
            if number == anatomy.pooled_after:
                table.add_row("", f"-- {anatomy.pooling} --", "", "", style="bold")
            shape = " x ".join(map(str, layer.shape)) if layer.shape else ""
            times = f" (runs {layer.runs} times)" if layer.runs > 1 else ""
            table.add_row(layer.name, layer.kind + times, shape, f"{layer.parameters:,}" if layer.parameters else "")
        screen.print(table)
    for name, line in anatomy.lines():
        screen.print(f"[bold]{name}[/bold]: ", end="")
        screen.print(line, markup=False)


@cli.command()
def add(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, .onnx, .keras or .h5 file.", show_default=False)],
    name: Annotated[str, typer.Option(help="What to call it: the name of its folder in models/.")],
    arch: Arch = None,
    labels: Labels = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    interpolation: Interpolation = None,
    title: Annotated[str | None, typer.Option(help="One line about it, for lists.")] = None,
    trust: Trust = False,
) -> None:
    """Keep a network of your own in models/: the app lists it at once, and --model takes its name.

    Example:

    * `inspector add mine.pth --arch torchvision:resnet18 --labels classes.txt --name mine`
    """
    with progress.status(f"Reading {checkpoint.name} and proving its head ..."):
        from inspector.networks.labels import read_labels
        from inspector.networks.register import add_model as keep

        said = read_feeding(size, mean, std, resize, interpolation)
        names = read_labels(labels) if labels else None
        folder, classifier = keep(checkpoint, name, arch, names, said, title, trust)
    head = classifier.head
    screen.print(f"{name}: {head.classes} classes, {head.pooling} pooling, class maps {head.verdict}")
    screen.print(f"written: {folder}", soft_wrap=True)


@cli.command()
def models() -> None:
    """List the networks that can be named with --model."""
    table = Table("name", "what it is", "classes", "input", "accuracy", box=None, header_style="bold")
    for name, card in list_models().items():
        scores = card.about.get("scores", {})
        accuracy = f"top-1 {scores['top1']:.1%} on {scores['data']}" if "top1" in scores else ""
        size = f"{card.preprocessing.size[0]}x{card.preprocessing.size[1]}"
        table.add_row(name, card.title, str(len(card.classes)), size, accuracy)
    screen.print(table)
