"""Commands about networks alone: `inspector describe`, `add`, `models`, `accelerate` and `export-network`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table
from typer import Argument, Option

from inspector.cli import options
from inspector.cli.console import print_fed, print_misplacement, print_written, progress, screen
from inspector.cli.report import Report, judge, name_values, parse_verdict
from inspector.cli.sizes import find_known_accuracy, report_sizes
from inspector.errors import InspectorError
from inspector.images.photo_size import find_native_size, is_photo_size
from inspector.images.sources import list_images
from inspector.networks.catalog import list_broken_models, list_models

if TYPE_CHECKING:
    from inspector.analysis.summary import NetworkSummary


@options.command
def describe(
    model: Annotated[
        str, Argument(help="As for `explain --model`. No weights are downloaded for torchvision and timm.")
    ],
    photo: Annotated[
        Path | None, Option(help="Also state the grid of the class maps for this photo at its own size.")
    ] = None,
    layers: Annotated[bool, Option("--layers", help="List every layer, in the order in which they run.")] = False,
    sizes: Annotated[
        str | None,
        Option(
            help="Also measure the accuracy at several input sizes, cropped and whole, on labeled photos: a folder "
            "with one folder per class, or a CSV with the columns `path` and `label`. This needs the network's weights."
        ),
    ] = None,
    *,
    network: options.NetworkOptions,
    fail_on: options.FailOn = None,
) -> Report:
    """Describe a network: its layers, its pooling, the head after the pooling, and how exact its class maps are.

    Examples:
    * `inspector describe torchvision:convnext_tiny --layers`

    * `inspector describe mypackage.networks:backbone --trust --size 128`

    * `inspector describe efficientnet_lite0 --sizes photos`
    """
    fail_on = parse_verdict(fail_on)
    with progress.status(f"Analyzing {model} ..."):
        from inspector.analysis.summary import SIZES
        from inspector.analysis.summary import describe as summarize_network
        from inspector.images.photo import read_image
        from inspector.networks.load import resolve

        items = list_images(sizes) if sizes else []
        tried = (*SIZES, find_native_size(read_image(photo).size)) if photo else SIZES
        loaded = resolve(
            model, network.arch, network.class_names(), network.overrides(), network.output_choice(), network.trust,
            allow_untrained=not sizes,
        )  # fmt: skip
        preprocessing, channels = loaded.preprocessing, len(loaded.preprocessing.mean)
        summary = summarize_network(loaded.network, preprocessing.size, channels, tried, model, loaded.output)
        summary = replace(summary, fed=preprocessing.describe())
    if layers:
        _print_layers(summary)
    for note in loaded.notes:
        progress.print(note)
    for name, line in summary.lines():
        screen.print(f"{name}: ", end="", style="bold")
        screen.print(line)
    if known := find_known_accuracy(model):
        screen.print("accuracy by input size: ", end="", style="bold")
        screen.print(known)
    values: dict[str, Any] = {"verdict": summary.verdict, **name_values(*zip(*summary.lines(), strict=True))}
    if layers:
        names = ("name", "kind", "shape", "parameters")
        values["layers"] = [{name: getattr(layer, name) for name in names} for layer in summary.layers]
    if sizes:
        from inspector.explain.classifier import Classifier

        values["sizes"] = report_sizes(Classifier.from_network(loaded, network.device), items, sizes)
    return Report(values, judge(summary.verdict, fail_on))


def _print_layers(summary: "NetworkSummary") -> None:
    table = Table("layer", "kind", "output", "parameters", box=None, header_style="bold")
    for number, layer in enumerate(summary.layers):
        if number == summary.pooled_after:
            table.add_row("", f"-- {summary.pooling} --", "", "", style="bold")
        shape = " x ".join(map(str, layer.shape)) if layer.shape else ""
        table.add_row(layer.label, layer.kind, shape, f"{layer.parameters:,}" if layer.parameters else "")
    screen.print(table)


@options.command
def add(
    checkpoint: Annotated[Path, Argument(help="A checkpoint, .onnx, .keras or .h5 file.", show_default=False)],
    name: Annotated[str, Option(help="Name of the network, and of its folder.")],
    *,
    title: Annotated[str | None, Option(help="One line about the network, for lists.")] = None,
    network: options.NetworkOptions,
) -> Report:
    """Add a network of your own: the app lists it, and --model accepts its name.

    It is kept in a folder of $INSPECTOR_MODELS, or of ~/.local/share/inspector/models.

    Example:
    * `inspector add mine.pth --arch torchvision:resnet18 --labels classes.txt --name mine`
    """
    with progress.status(f"Reading {checkpoint.name} and verifying its head ..."):
        from inspector.networks.register import add_model

        class_names, overrides = network.class_names(), network.overrides()
        folder, classifier = add_model(
            checkpoint,
            name,
            network.arch,
            class_names,
            overrides,
            title,
            network.trust,
            network.output_choice(),
            network.device,
        )
    head = classifier.head
    screen.print(f"{name}: {head.classes} classes, {head.pooling} pooling, class maps {head.verdict}")
    print_misplacement(classifier.receptive_field.warning)
    print_fed(classifier.preprocessing.describe())
    print_written(folder)
    values = {"classes": head.classes, "pooling": head.pooling, "verdict": head.verdict}
    return Report({"name": name, "folder": folder, **values})


@options.command
def models() -> Report:
    """List the networks that come with Inspector and your own, whose names --model accepts."""
    table = Table("name", "what it is", "classes", "input", "accuracy", box=None, header_style="bold")
    for name, card in list_models().items():
        scores = card.about.get("scores", {})
        accuracy = f"top-1 {scores['top1']:.1%} on {scores['data']}" if "top1" in scores else ""
        size = f"{card.preprocessing.size[0]}x{card.preprocessing.size[1]}"
        table.add_row(name, card.title, str(len(card.classes)), size, accuracy)
    screen.print(table)
    for broken in list_broken_models():
        progress.print(f"{broken.name} is left out: {broken.reason}", style="yellow")
    listed = [
        {
            "name": name, "title": card.title, "classes": len(card.classes), "size": card.preprocessing.size,
            "scores": card.about.get("scores"),
        }
        for name, card in list_models().items()
    ]  # fmt: skip
    return Report({"models": listed, "left_out": {broken.name: broken.reason for broken in list_broken_models()}})


@options.command
def accelerate(
    model: Annotated[str, Argument(help="Name of a network in models/.", show_default=False)],
    backend: Annotated[str, Option(help="`onnxruntime` or `openvino`. Default: the first one that is installed.")] = "",
) -> Report:
    """Build a network for ONNX Runtime or OpenVINO before the app needs it, so that the app answers sooner.

    It is kept in $INSPECTOR_CACHE, else in ~/.cache/inspector. The app builds by itself what is missing there.

    Example:
    * `inspector accelerate efficientnet_lite0`
    """
    with progress.status(f"Building {model} ..."):
        from inspector.explain.backends.accelerate import accelerate as build_backend
        from inspector.explain.backends.sessions import OPEN, find_installed_runtime
        from inspector.networks.load import load
        from inspector.networks.stored import keep_network, read_files

        backend = backend or find_installed_runtime() or next(iter(OPEN))
        if backend not in OPEN:
            raise InspectorError(f"No runtime {backend!r}. Use {' or '.join(OPEN)}.")
        files, built = read_files(model), list[Path]()
        classifier = load(model)
        build_backend(classifier, backend, on_built=lambda _, file: built.append(file))
    for file in built:
        if files is not None and files.are_unchanged():
            keep_network(files, classifier, backend, file)
        print_written(file)
    return Report({"model": model, "backend": backend, "file": built[0] if built else None})


@options.command
def export_network(
    model: Annotated[str, Argument(help="As for `explain --model`.", show_default=False)],
    out: Annotated[Path, Option("--out", "-o", help="New file: .onnx, .xml (OpenVINO) or .pt2 (torch.export).")],
    *,
    format: Annotated[str, Option(help="File format: `onnx`, `openvino` or `pt2`.")] = "onnx",
    finer: options.Finer = 1,
    dtype: Annotated[
        str, Option(help="`float32`, or `int8`: quantized up to the feature maps; the head stays in float32.")
    ] = "float32",
    calibration: Annotated[
        list[str] | None,
        Option(help="Photos like those that the network will see, for int8: as for `batch`. Default: example images."),
    ] = None,
    overwrite: options.Overwrite = False,
    network: options.NetworkOptions,
) -> Report:
    """Write a network as one file that returns logits and class maps, for products that serve them without Inspector.

    Before the file gets its final name, its own runtime reads it, and its outputs are compared with the network's. The
    metadata hold class names, preprocessing and bias, so that `maps.sum((2, 3)) + bias == logits`.

    Example:
    * `inspector export-network efficientnet_lite0 --format onnx -o efficientnet.onnx`

    * `inspector export-network efficientnet_lite0 --dtype int8 --calibration photos -o efficientnet_int8.onnx`
    """
    if is_photo_size(network.size):
        raise InspectorError(f"--size is {network.size!r}, but a file takes images of one size. Use 224 or 208x408.")
    with progress.status(f"Reading {model} ..."):
        from inspector.datasets.accelerated import make_calibration
        from inspector.explain.backends.export_network import check_target
        from inspector.explain.backends.export_network import export_network as write_network

        if calibration and dtype != "int8":
            raise InspectorError(f"--calibration is for --dtype int8; got {dtype}.")
        check_target(out, format, overwrite)
        classifier = network.load(model)
        photos = make_calibration(classifier, list_images(calibration)) if calibration else None
    notes = list[str]()
    with progress.status(f"Writing {out.name} and comparing it with the network ..."):
        file = write_network(
            classifier, out, format, overwrite, finer, dtype, photos, lambda loss: notes.append(loss.describe())
        )
    height, width = classifier.preprocessing.size
    screen.print(
        f"inputs (N, {len(classifier.preprocessing.mean)}, {height}, {width}) -> logits (N, {classifier.head.classes}) "
        "and maps, " + ("which sum to these logits" if notes else "equal to the network's own")
    )
    for note in notes:
        screen.print(note, soft_wrap=True)
    print_written(file)
    inputs = (None, len(classifier.preprocessing.mean), height, width)
    about = {"file": file, "inputs": inputs, "classes": classifier.head.classes}
    return Report(about | ({"precision": notes[0]} if notes else {}))
