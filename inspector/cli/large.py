"""`inspector large`: the class maps of an image too large to pass through a network in one piece."""

import csv
import hashlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.progress import Progress
from rich.table import Table

from inspector.cli.options import (
    Arch,
    Labels,
    Mean,
    Model,
    Std,
    Trust,
    cli,
    load_network,
    progress,
    read_feeding,
    screen,
)
from inspector.errors import ExportError
from inspector.explain.memory import use_huge_pages
from inspector.networks.catalog import DEFAULT

if TYPE_CHECKING:
    from inspector.explain.large_class_maps import LargeMaps


@cli.command()
def large(
    image: Annotated[
        Path,
        typer.Argument(
            help="An .npy file or uncompressed TIFF of any size, or another image of up to 500 megapixels.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the figure and the numbers.")],
    model: Model = DEFAULT,
    classes: Annotated[
        str,
        typer.Option("--classes", "-c", help="`topN` for the N likeliest, or names or numbers with commas between."),
    ] = "top5",
    tile: Annotated[
        int,
        typer.Option(help="Pixels of a tile's side; the network is shown as much more as its positions see.", min=1),
    ] = 1024,
    arch: Arch = None,
    labels: Labels = None,
    size: Annotated[
        str | None, typer.Option(help="The input size that the network was made for, `224`; the image keeps its own.")
    ] = None,
    mean: Mean = None,
    std: Std = None,
    trust: Trust = False,
) -> None:
    """Split the logits of a large image, at its own size, over its pixels: tile by tile, the same as in one piece.

    For networks without global operations before the pooling. Writes figure.png, maps.npz, logits.csv, manifest.json.

    Examples:

    * `inspector large slide.tif -m efficientnet_lite0 -o slide`

    * `inspector large orthophoto.npy -m mine.pth --arch torchvision:resnet18 -c "field,forest" --tile 2048 -o photo`
    """
    use_huge_pages()
    with _new_folder(out) as folder:
        with progress.status(f"Loading {model} ..."):
            from inspector.explain.large_class_maps import large_class_maps

            classifier = load_network(model, arch, labels, read_feeding(size, mean, std, None, None), trust)
        top = re.fullmatch(r"top[ -]?(\d+)", classes.strip())
        with Progress(console=progress, transient=True) as bar:
            task = bar.add_task("Proving that tiles will do ...", total=None)
            maps = large_class_maps(
                classifier,
                image,
                int(top[1]) if top else classes.split(","),
                tile,
                lambda done, total: bar.update(task, completed=done, total=total, description="Tiles"),
            )
        with progress.status("Drawing ..."):
            for name, content in _files(maps, image, tile).items():
                (folder / name).write_bytes(content)

    table = Table("class", "probability", box=None, header_style="bold")
    for column in ("sum of the map", "bias", "logit"):
        table.add_column(column, justify="right")
    for k, values, bias in zip(maps.classes, maps.values, maps.bias, strict=True):
        numbers = (f"{float(number):.4f}" for number in (values.double().sum(), bias, maps.logits[k]))
        table.add_row(classifier.class_names[k], f"{maps.probabilities[k]:.1%}", *numbers)
    screen.print(table)
    y, x = maps.tiling.y, maps.tiling.x
    screen.print(
        f"{maps.tiles} tiles, {y.positions} x {x.positions} positions; each sees up to {y.before + y.after + 1} x "
        f"{x.before + x.after + 1} positions' pixels",
        soft_wrap=True,
    )
    screen.print(f"verdict: {maps.verdict} (largest residual over all classes {maps.residual:.1e} logits)")
    screen.print(f"written: {out}", soft_wrap=True)


def _files(maps: "LargeMaps", image: Path, tile: int) -> dict[str, bytes]:
    manifest = _manifest(maps, image, tile)
    return {
        "figure.png": _figure(maps),
        "maps.npz": _numbers(maps, manifest),
        "logits.csv": _logits(maps),
        "manifest.json": (json.dumps(manifest, indent=2) + "\n").encode(),
    }


def _figure(maps: "LargeMaps") -> bytes:
    from inspector.output.export import figure_bytes
    from inspector.output.figure import class_map_figure

    reduced = maps.reduced()
    return figure_bytes(class_map_figure(reduced, reduced.figure_content(range(len(maps.classes)))), "png")


def _numbers(maps: "LargeMaps", manifest: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        values=maps.values.numpy(),
        classes=np.array(maps.classes),
        class_names=np.array([maps.classifier.class_names[k] for k in maps.classes]),
        bias=maps.bias.numpy(),
        logits=maps.logits.numpy(),
        probabilities=maps.probabilities.numpy(),
        manifest=np.array(json.dumps(manifest)),
    )
    return buffer.getvalue()


def _logits(maps: "LargeMaps") -> bytes:
    """A row a class; the sum of the map stands at those that have one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("index", "name", "probability", "logit", "map_sum", "bias"))
    sums = {
        k: (float(v.double().sum()), float(b)) for k, v, b in zip(maps.classes, maps.values, maps.bias, strict=True)
    }
    for k, name in enumerate(maps.classifier.class_names):
        writer.writerow((k, name, float(maps.probabilities[k]), float(maps.logits[k]), *sums.get(k, ("", ""))))
    return text.getvalue().encode()


def _manifest(maps: "LargeMaps", image: Path, tile: int) -> dict[str, Any]:
    """All that the numbers were made from, as JSON takes it."""
    from importlib.metadata import version

    from inspector.output.export import VERSIONS, names_sha256

    classifier = maps.classifier
    with image.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "inspector": version("inspector"),
        "versions": {name: version(name) for name in VERSIONS},
        "network": {"name": classifier.name, "sha256": classifier.sha256()},
        "class_names": {"count": len(classifier.class_names), "sha256": names_sha256(classifier.class_names)},
        "probability": classifier.probability,
        "mean": classifier.preprocessing.mean,
        "std": classifier.preprocessing.std,
        "head": {"pooling": classifier.head.pooling, "verdict": maps.verdict, "residual": maps.residual},
        "image": {"name": image.name, "sha256": digest, "size": maps.image.size},
        "tiles": {"side": tile, "count": maps.tiles, **asdict(maps.tiling)},
        "classes": maps.classes,
        "top": [{"class": k, "name": name, "probability": p} for k, name, p in maps.top(5)],
    }


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes this name when all is done, or goes.

    ExportError before anything else is done, which may take an hour, where there can be none.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} is there already and not empty: nothing was written. Name a new folder.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".inspector-", dir=folder.parent))
    except OSError as error:
        raise ExportError(f"Cannot write {folder}: {error.strerror}. Nothing was left there.") from error
    try:
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.replace(folder)
    except OSError as error:
        raise ExportError(f"Cannot write {folder}: {error.strerror}. Nothing was left there.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # gone already where it was renamed
