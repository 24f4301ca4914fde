"""`inspector export-network`: a network as one file that returns logits and class maps."""

from pathlib import Path
from typing import Annotated

import typer

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
    load_network,
    progress,
    read_feeding,
    screen,
)
from inspector.errors import InspectorError


@cli.command()
def export_network(
    model: Annotated[str, typer.Argument(help="As for `explain --model`.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new file: .onnx, .xml (OpenVINO) or .pt2 (torch).")],
    format: Annotated[str, typer.Option(help="`onnx`, `openvino` or `pt2`.")] = "onnx",
    arch: Arch = None,
    labels: Labels = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    interpolation: Interpolation = None,
    trust: Trust = False,
) -> None:
    """Write a network as one file that returns logits and class maps, for products that serve them without Inspector.

    The file is read back by its own runtime and compared with the network before it gets its name. Class names,
    preprocessing and bias lie in its metadata; `maps.sum((2, 3)) + bias == logits`.

    Example:

    * `inspector export-network efficientnet_lite0 --format onnx -o efficientnet.onnx`
    """
    if size == "native":
        raise InspectorError("--size is 'native'; a file takes images of one size: 224 or 208x408 would do.")
    with progress.status(f"Reading {model} ..."):
        from inspector.explain.backends.export_network import export_network as export

        classifier = load_network(model, arch, labels, read_feeding(size, mean, std, resize, interpolation), trust)
    with progress.status(f"Writing {out.name} and comparing it with the network ..."):
        file = export(classifier, out, format)
    height, width = classifier.preprocessing.size
    screen.print(
        f"inputs (N, {len(classifier.preprocessing.mean)}, {height}, {width}) -> logits (N, {classifier.head.classes}) "
        "and maps, equal to the network's own"
    )
    screen.print(f"written: {file}", soft_wrap=True)
