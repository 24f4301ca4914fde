"""Command `inspector large`: compute class maps of an image that is too large for one pass through a network."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from inspector.cli import options
from inspector.cli.console import (
    make_progress,
    print_class_table,
    print_misplacement,
    print_verdict,
    print_written,
    progress,
    screen,
)
from inspector.cli.report import Report, judge, name_values, parse_verdict, probability_of
from inspector.explain.memory import use_huge_pages
from inspector.files import check_new_folder, new_folder
from inspector.networks.catalog import DEFAULT

if TYPE_CHECKING:
    from inspector.explain.large_class_maps import LargeMaps


@options.command
def large(
    image: Annotated[
        Path,
        Argument(
            help="An .npy file or uncompressed TIFF of any size, or another image of up to 500 megapixels.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, Option("--out", "-o", help="New folder for the figure and the numbers.")],
    model: options.Model = DEFAULT,
    classes: options.Classes = "top5",
    tile: Annotated[
        int, Option(help="Side of a tile in pixels. The network also reads as much around it as its cells see.", min=1)
    ] = 1024,
    arch: options.Arch = None,
    labels: options.Labels = None,
    size: Annotated[
        str | None, Option(help="Input size that the network was trained with: `224`. The image keeps its own size.")
    ] = None,
    mean: options.Mean = None,
    std: options.Std = None,
    output: options.Output = None,
    probability: options.Probability = None,
    unit: options.Unit = None,
    trust: options.Trust = False,
    overwrite: options.Overwrite = False,
    fail_on: options.FailOn = None,
) -> Report:
    """Compute the class maps of a large image at its own size, tile by tile.

    The result is the same as from one pass over the whole image, if the network has no global operations before the
    pooling; other networks are refused. The command writes figure.png, maps.npz, logits.csv and manifest.json.

    Examples:
    * `inspector large slide.tif -m efficientnet_lite0 -o slide`

    * `inspector large orthophoto.npy -m mine.pth --arch torchvision:resnet18 -c "field,forest" --tile 2048 -o photo`
    """
    network = options.NetworkOptions(
        arch, labels, size, mean, std, output=output, probability=probability, unit=unit, trust=trust
    )
    fail_on = parse_verdict(fail_on)
    if not overwrite:
        check_new_folder(out)  # before the import below, which takes seconds
    use_huge_pages()
    from inspector.output.export_large import FILES, make_large_files

    # Create the folder first: if it cannot be written, the error comes now and not after an hour of work.
    with new_folder(out, is_ours=FILES.__contains__ if overwrite else None) as folder:
        with progress.status(f"Loading {model} ..."):
            from inspector.explain.large_class_maps import large_class_maps

            classifier = network.load(model)
        with make_progress(transient=True) as bar:
            task = bar.add_task("Verifying the tiles ...", total=None)
            maps = large_class_maps(
                classifier,
                image,
                options.parse_classes(classes, classifier.class_names),
                tile,
                lambda done, total: bar.update(task, completed=done, total=total, description="Tiles"),
            )
        with progress.status("Drawing ..."):
            for name, content in make_large_files(maps, image, tile).items():
                (folder / name).write_bytes(content)
    entries = _print_maps(maps)
    print_written(out)
    values = {"image": image, "folder": out, "verdict": maps.verdict, "residual": maps.residual, "tiles": maps.tiles}
    return Report({"network": classifier.name, **values, "classes": entries}, judge(maps.verdict, fail_on))


def _print_maps(maps: "LargeMaps") -> list[dict[str, Any]]:
    """Print the numbers of each class, and return them for --json."""
    meaning = maps.classifier.meaning
    rows, columns = [], ("sum of the map", "bias", meaning.quantity)
    for k, values, bias in zip(maps.classes, maps.values, maps.bias, strict=True):
        numbers = float(values.double().sum()), float(bias), float(maps.logits[k])
        outcome = meaning.describe(float(maps.logits[k]), float(maps.probabilities[k]))
        rows.append((maps.classifier.class_names[k], outcome, numbers))
    print_class_table((meaning.outcome, *columns), rows)
    y, x = maps.tiling.y, maps.tiling.x
    screen.print(
        f"{maps.tiles} tiles, {y.positions} x {x.positions} cells; each cell depends on the pixels of up to "
        f"{y.before + y.after + 1} x {x.before + x.after + 1} cells",
        soft_wrap=True,
    )
    print_verdict(maps.verdict, maps.residual, meaning.units)
    print_misplacement(maps.classifier.receptive_field.warning)
    return [
        {"class": k, "name": name, **probability_of(maps, k), **name_values(columns, numbers)}
        for k, (name, _, numbers) in zip(maps.classes, rows, strict=True)
    ]
