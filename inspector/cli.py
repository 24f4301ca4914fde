"""The command line: `inspector explain`, `describe`, `models`, `add`, `train`, `compare` and `app`."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from inspector.catalogue import DEFAULT, available
from inspector.errors import InspectorError

if TYPE_CHECKING:
    from inspector.classifier import Classifier
    from inspector.loading import Feeding

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Exact class maps of classifiers that end in global pooling: which pixels brought which part of a logit.",
)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)

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
) -> None:
    """Split the logits of a photo over its pixels and write the figure, the numbers and a manifest.

    Examples:

    * `inspector explain cat.jpg -o cat`

    * `inspector explain cat.jpg -c "tabby,Egyptian cat" -a average -o cat-against-average`

    * `inspector explain cat.jpg -m mine.pth --arch torchvision:resnet18 --labels classes.txt --size 448 -o cat`
    """
    with _err.status(f"Reading {photo.name} and loading {model} ..."):
        # Here and not above: torch takes seconds to import, and --help needs none of it.
        from inspector.image import read_image
        from inspector.maps import class_maps

        picture = read_image(photo)
        native = size == "native"
        said = _feeding(None if native else size, mean, std, resize, interpolation)
        classifier = _load(model, arch, labels, said, trust)
    with _err.status("Splitting the logits and drawing ..."):
        maps = class_maps(classifier, picture, "native" if native else None)
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
    with _err.status(f"Looking into {model} ..."):
        from inspector.anatomy import SIZES
        from inspector.anatomy import describe as look_into
        from inspector.image import read_image
        from inspector.loading import load_untrained
        from inspector.maps import native_size

        sizes = (*SIZES, native_size(read_image(photo))) if photo else SIZES
        network, feeding = load_untrained(model, arch, _feeding(size, mean, None, None, None), trust)
        anatomy = look_into(network, feeding.size, len(feeding.mean), sizes, model)
    if layers:
        table = Table("layer", "kind", "output", "parameters", box=None, header_style="bold")
        for number, layer in enumerate(anatomy.layers):
            if number == anatomy.pooled_after:
                table.add_row("", f"-- {anatomy.pooling} --", "", "", style="bold")
            shape = " x ".join(map(str, layer.shape)) if layer.shape else ""
            times = f" (runs {layer.runs} times)" if layer.runs > 1 else ""
            table.add_row(layer.name, layer.kind + times, shape, f"{layer.parameters:,}" if layer.parameters else "")
        _out.print(table)
    for name, line in anatomy.lines():
        _out.print(f"[bold]{name}[/bold]: ", end="")
        _out.print(line, markup=False)


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
    with _err.status(f"Reading {checkpoint.name} and proving its head ..."):
        from inspector.adding import add as keep
        from inspector.loading import read_labels

        said = _feeding(size, mean, std, resize, interpolation)
        names = read_labels(labels) if labels else None
        folder, classifier = keep(checkpoint, name, arch, names, said, title, trust)
    head = classifier.head
    _out.print(f"{name}: {head.classes} classes, {head.pooling} pooling, class maps {head.verdict}")
    _out.print(f"written: {folder}", soft_wrap=True)


def _load(model: str, arch: str | None, labels: Path | None, said: "Feeding", trust: bool) -> "Classifier":
    from inspector.loading import load_fed, read_labels

    return load_fed(model, arch, read_labels(labels) if labels else None, said, None, trust)


def _feeding(
    size: str | None, mean: str | None, std: str | None, resize: str | None, interpolation: str | None
) -> "Feeding":
    """What was typed of the input; InspectorError with what would do where it cannot be read."""
    from inspector.loading import Feeding

    if interpolation not in (None, "bilinear", "bicubic"):
        raise InspectorError(f"--interpolation is {interpolation!r}; bilinear or bicubic would do.")
    return Feeding(
        _sides(size, "--size"),
        _numbers(mean, "--mean"),
        _numbers(std, "--std"),
        resize if resize == "squeeze" else _sides(resize, "--resize"),
        interpolation,  # type: ignore[arg-type]
    )


def _sides(text: str | None, option: str) -> tuple[int, int] | None:
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
def train(
    config: Annotated[Path, typer.Argument(help="A recipe: `experiments/EXPERIMENT/RUN.toml`.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Where torchvision keeps the data set; fetched when it is not there.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Receives `EXPERIMENT/RUN/seedN/`.")] = Path("runs"),
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed; may be said several times.", min=0)] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")] = "auto",
    precision: Annotated[str, typer.Option(help="`float32`, or `bfloat16` through autocast.")] = "float32",
) -> None:
    """Train the networks of a recipe, one for each of its seeds; the same command goes on where a run broke off.

    Example:

    * `inspector train experiments/lenet/stride_gap.toml --data data --seed 0`
    """
    from inspector.recipe import read_recipe

    recipe = read_recipe(config)
    for option, value, allowed in (
        ("--device", device, ("auto", "cpu", "cuda")),
        ("--precision", precision, ("float32", "bfloat16")),
    ):
        if value not in allowed:
            raise InspectorError(f"{option} is {value!r}; {' or '.join(allowed)} would do.")
    try:
        from inspector.train import train as run
    except ModuleNotFoundError as error:
        raise InspectorError(f"Training needs torchmetrics ({error}): pip install 'inspector[train]'.") from error
    folders = run(recipe, data, out, tuple(seed or ()), device, precision)  # type: ignore[arg-type]
    for folder in folders:
        _out.print(f"written: {folder}", soft_wrap=True)


@cli.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders with finished runs, at any depth.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Receives table.md, curves.png and curves.svg.")
    ] = None,
) -> None:
    """Compare finished runs: mean and spread over their seeds in a table, and with --out their curves.

    Example:

    * `inspector compare experiments/lenet/results --out comparison`
    """
    from inspector.laboratory import CAPTION, HEADER, find_runs, group, markdown, read_run, table

    groups = group(read_run(folder) for folder in find_runs(runs))
    rows = table(groups)
    shown = Table(box=None, header_style="bold", collapse_padding=True, pad_edge=False)
    shown.add_column(HEADER[0], no_wrap=True)
    for column in HEADER[1:]:
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(*row)
    _out.print(shown)
    _out.print(CAPTION)
    if out is None:
        return
    from inspector.export import figure_bytes
    from inspector.figure import learning_curves

    figure = learning_curves(groups)
    command = f"inspector compare {' '.join(map(str, runs))} --out {out}"
    files = {"table.md": markdown(rows, command).encode()}
    files |= {f"curves.{suffix}": figure_bytes(figure, suffix) for suffix in ("png", "svg")}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_bytes(content)
    except OSError as error:
        raise InspectorError(f"Cannot write {out}: {error.strerror}.") from error
    _out.print(f"written: {out}", soft_wrap=True)


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
