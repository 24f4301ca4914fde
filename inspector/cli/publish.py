"""The command `inspector publish`: a network as a page without a server."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from inspector.cli import options
from inspector.cli.console import print_written, progress, screen
from inspector.cli.report import Report
from inspector.errors import InspectorError
from inspector.images.photo_size import is_photo_size


@options.command
def publish(
    model: Annotated[str, Argument(help="As for `explain --model`.", show_default=False)],
    out: Annotated[Path, Option("--out", "-o", help="New folder. Any static host can serve it.")],
    *,
    photos: Annotated[
        Path | None,
        Option(help="Folder of example photos, 24 at most. Default: those of Inspector, if they fit the network."),
    ] = None,
    overwrite: options.Overwrite = False,
    network: options.NetworkOptions,
) -> Report:
    """Write a page that explains photos in the browser, without a server: photos never leave the visitor's device.

    The network runs in ONNX Runtime Web, which npm fetches once. Photos are resized and cropped exactly as in Python.

    Example:
    * `inspector publish efficientnet_lite0 -o site`

    * `python -m http.server --directory site` shows it at http://localhost:8000
    """
    if is_photo_size(network.size):
        raise InspectorError(f"--size is {network.size!r}, but a page takes photos of one size. Use 224 or 208x408.")
    with progress.status(f"Reading {model} ..."):
        from inspector.output.publish.site import check_target
        from inspector.output.publish.site import publish as write_page

        check_target(out, overwrite)
        classifier = network.load(model)
    with progress.status(f"Writing {out.name} and comparing its network with {model} ..."):
        folder = write_page(classifier, out, photos, overwrite)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    screen.print(f"{classifier.head.classes} classes, class maps {classifier.head.verdict}, {size / 1e6:.1f} MB")
    print_written(folder)
    return Report({"folder": folder, "bytes": size, "verdict": classifier.head.verdict})
