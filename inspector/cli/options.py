"""What the commands share: the command line they join, its two consoles, and the options several of them ask for."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from inspector.errors import InspectorError

if TYPE_CHECKING:
    from inspector.explain.classifier import Classifier
    from inspector.images.preprocessing import PreprocessingOverrides

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Exact class maps of classifiers that end in global pooling: which pixels brought which part of a logit.",
)
screen = Console(highlight=False)
progress = Console(stderr=True, highlight=False)

# What several commands ask for.
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A name from `inspector models`, a folder, `torchvision:resnet18`, `timm:resnet18`, or a file: a "
        "checkpoint (with --arch), .onnx, .keras, .h5, and with --trust .pt2 and TorchScript.",
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        help="The architecture of a checkpoint: `torchvision:NAME`, `timm:NAME`, one of ours, or with --trust "
        "`package.module:factory` of your own."
    ),
]
Labels = Annotated[Path | None, typer.Option(help="A file of class names: one a line, or a JSON list.")]
Size = Annotated[
    str | None, typer.Option(help="The input size: `224`, `208x408` (height x width), or `native`: the photo's own.")
]
Mean = Annotated[str | None, typer.Option(help="Of each channel, 0-1: `0.5,0.5,0.5`, or `0.5` for a grey network.")]
Std = Annotated[str | None, typer.Option(help="Of each channel, as --mean.")]
Resize = Annotated[
    str | None, typer.Option(help="What a photo is scaled to before it is cropped to --size: `256`, or `squeeze`.")
]
Interpolation = Annotated[str | None, typer.Option(help="`bilinear` or `bicubic`.")]
Trust = Annotated[bool, typer.Option("--trust", help="Run code of the architecture or the file: only if you know it.")]


def load_network(
    model: str, arch: str | None, labels: Path | None, said: "PreprocessingOverrides", trust: bool
) -> "Classifier":
    from inspector.explain.classifier import Classifier
    from inspector.networks.labels import read_labels
    from inspector.networks.load import resolve

    return Classifier.from_network(resolve(model, arch, read_labels(labels) if labels else None, said, trust=trust))


def read_feeding(
    size: str | None, mean: str | None, std: str | None, resize: str | None, interpolation: str | None
) -> "PreprocessingOverrides":
    """What was typed of the input; InspectorError with what would do where it cannot be read."""
    from inspector.images.preprocessing import PreprocessingOverrides

    if interpolation not in (None, "bilinear", "bicubic"):
        raise InspectorError(f"--interpolation is {interpolation!r}; bilinear or bicubic would do.")
    return PreprocessingOverrides(
        read_sides(size, "--size"),
        _numbers(mean, "--mean"),
        _numbers(std, "--std"),
        resize if resize == "squeeze" else read_sides(resize, "--resize"),
        interpolation,  # type: ignore[arg-type]
    )


def read_sides(text: str | None, option: str) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if sides is None or not 0 < int(sides[1]) <= 8192 or not 0 < int(sides[2] or sides[1]) <= 8192:
        raise InspectorError(f"{option} is {text!r}; 224 or 208x408 (height x width, in pixels) would do.")
    return int(sides[1]), int(sides[2] or sides[1])


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(number) for number in text.split(","))
    except ValueError:
        raise InspectorError(f"{option} is {text!r}; numbers like 0.485,0.456,0.406 would do.") from None
