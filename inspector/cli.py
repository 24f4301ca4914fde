"""The command line: `inspector explain`, `rebuild`, `describe`, `models`, `add`, `train`, `compare` and `app`."""

import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from inspector.catalogue import DEFAULT, available
from inspector.errors import InspectorError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from inspector.classifier import Classifier
    from inspector.figure import FigureStyle
    from inspector.laboratory import Group
    from inspector.loading import Feeding

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Exact class maps of classifiers that end in global pooling: which pixels brought which part of a logit.",
)
_FIGURE = "The figure"  # under which the help lists what it looks like
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
    with _err.status(f"Reading {photo.name} and loading {model} ..."):
        # Here and not above: torch takes seconds to import, and --help needs none of it.
        from inspector.image import read_image
        from inspector.maps import class_maps

        style = _style(panels, columns, width, dpi, font_size, colours, dark, title, bar, equations)
        picture = read_image(photo)
        native = size == "native"
        said = _feeding(None if native else size, mean, std, resize, interpolation)
        classifier = _load(model, arch, labels, said, trust)
    with _err.status("Splitting the logits and drawing ..."):
        maps = class_maps(classifier, picture, "native" if native else None)
        top = re.fullmatch(r"top[ -]?(\d+)", classes.strip())
        shown = maps.shown(int(top[1]) if top else classes.split(","), against, dense, not grid, opacity)
        folder = maps.save(out, shown.classes, against, dense, not grid, opacity, style)

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
    with _err.status(f"Making the figure of {manifest} again ..."):
        from inspector.loading import read_labels
        from inspector.rebuild import rebuild as make_again

        names = read_labels(labels) if labels else None
        made = make_again(manifest, out, photo, model, arch, names, trust)
    for line in made.versions:
        _out.print(line, markup=False)
    if made.equal is not None:
        same = "the same as" if made.equal else "not the same as"
        _out.print(f"figure.png is {same} that beside the manifest, byte for byte.", soft_wrap=True)
    _out.print(f"written: {made.folder}", soft_wrap=True)


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
    from inspector.figure import MM, FigureStyle

    sized = None if width is None else re.fullmatch(r"(\d+(?:\.\d+)?) ?(mm|in)", width.strip())
    if width is not None and sized is None:
        raise InspectorError(f"--width is {width!r}; 89mm or 3.5in would do.")
    inches = None if sized is None else float(sized[1]) * (MM if sized[2] == "mm" else 1)
    chosen = tuple(name.strip() for name in panels.split(","))
    return FigureStyle(chosen, columns, inches, dpi, font_size, colours, dark, title, bar, equations)  # type: ignore[arg-type]


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
    config: Annotated[
        list[Path] | None, typer.Argument(help="Recipes: `experiments/EXPERIMENT/RUN.toml`.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Of a recipe: where torchvision keeps the data set (fetched if not there), or the photos."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="In place of a recipe: your own folder, with a folder of photos for each class.")
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="With --images: a name in `inspector models`, `torchvision:NAME` or `timm:NAME`.")
    ] = DEFAULT,
    head: Annotated[str, typer.Option(help="With --images: some of `gap`, `gmp`, `fc`, with commas between.")] = "gap",
    finetune: Annotated[bool, typer.Option("--finetune", help="With --images: train the backbone too.")] = False,
    epochs: Annotated[int | None, typer.Option(help="With --images: 50, or 10 with --finetune.", min=1)] = None,
    size: Size = None,
    weights: Annotated[
        Path | None, typer.Option(help="A file with the backbone's weights, in place of those its library fetches.")
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(help="Where the objects are: a CSV of boxes (file,x1,y1,x2,y2), or a folder of masks."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Receives `EXPERIMENT/RUN/seedN/`.")] = Path("runs"),
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed; may be said several times.", min=0)] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda`, or one of several: `cuda:1`.")] = "auto",
    precision: Annotated[str, typer.Option(help="`float32`, or `bfloat16` through autocast.")] = "float32",
) -> None:
    """Train the networks of recipes, one for each seed, or heads for photos of your own.

    The same command goes on where a run broke off.

    Examples:

    * `inspector train experiments/lenet/stride_gap.toml --data data --seed 0`

    * `inspector train --images flowers --head gap,gmp,fc --backbone torchvision:resnet50`
    """
    from inspector.recipe import HEADS, read_recipe, recipe_for_photos

    if bool(config) == bool(images) or (images and data):
        raise InspectorError("Say what to train: a recipe with --data FOLDER, or --images FOLDER; not both.")
    folder = images or data
    if folder is None:
        raise InspectorError("A recipe needs --data: the folder of its data set.")
    if images is None:
        for_images = {"--backbone": backbone != DEFAULT, "--head": head != "gap", "--finetune": finetune}
        for_images |= {"--epochs": epochs is not None, "--size": size is not None}
        if said := [option for option, is_said in for_images.items() if is_said]:
            raise InspectorError(f"{said[0]} goes with --images: a recipe says it itself, in its file.")
        recipes = [read_recipe(path) for path in config or ()]
    else:
        heads = [name.strip() for name in head.split(",")]
        if unknown := [name for name in heads if name not in HEADS]:
            raise InspectorError(
                f"--head is {unknown[0]!r}; some of {', '.join(HEADS)}, with commas between, would do."
            )
        sides = _sides(size, "--size")
        recipes = [recipe_for_photos(images, backbone, name, not finetune, epochs, (0,), sides) for name in heads]
    if precision not in ("float32", "bfloat16"):
        raise InspectorError(f"--precision is {precision!r}; float32 or bfloat16 would do.")
    try:
        from inspector.train import train as run
    except ModuleNotFoundError as error:
        raise InspectorError(f"Training needs torchmetrics ({error}): pip install 'inspector[train]'.") from error
    from inspector.localisation import read_regions

    regions = read_regions(objects) if objects else None
    for written in run(recipes, folder, out, tuple(seed or ()), device, precision, weights, regions):  # type: ignore[arg-type]
        _out.print(f"written: {written}", soft_wrap=True)


@cli.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders with finished runs, at any depth.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Receives table.md and, as PNG and SVG, curves, confusion and average-maps."),
    ] = None,
    photo: Annotated[
        list[Path] | None,
        typer.Option(help="With --out: one class map of this photo by every network; may be said several times."),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--class", help="Of --photo; else the class that most networks think likeliest.")
    ] = None,
    own_scales: Annotated[
        bool, typer.Option("--own-scales", help="Draw each network's map of --photo on its own scale, not all on one.")
    ] = False,
) -> None:
    """Compare finished runs: mean and spread over their seeds in a table, and with --out their figures.

    Examples:

    * `inspector compare experiments/lenet/results --out comparison`

    * `inspector compare runs/flowers --out comparison --photo daffodil.jpg --class Daffodil`
    """
    from inspector.laboratory import caption, group, header, markdown, table
    from inspector.runs import find_runs, read_run

    photos = {path.stem: path for path in photo or ()}
    if len(photos) < len(photo or ()):
        raise InspectorError("Two photos have one name, and their figures would too: rename one of them.")
    if (photos and out is None) or (label is not None and not photos):
        raise InspectorError("--class needs --photo, and --photo needs --out, the folder for its figure.")
    groups = group(read_run(folder) for folder in find_runs(runs))
    columns = list(zip(header(groups), *table(groups), strict=True))
    widths = accumulate(max(map(len, column)) + 2 for column in columns)
    fitting = max(1, sum(width <= _out.width + 2 for width in widths))
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name, *_ in columns[:fitting]:
        shown.add_column(name, justify="left" if name == "run" else "right", no_wrap=True)
    for row in zip(*(values for _, *values in columns[:fitting]), strict=True):
        shown.add_row(*row)
    _out.print(shown)
    if fitting < len(columns):
        left_out = ", ".join(name for name, *_ in columns[fitting:])
        _out.print(f"Left out at this width: {left_out}. With --out, table.md has all.")
    _out.print(caption(groups))
    if out is None:
        return
    with _err.status("Drawing ..."):
        from inspector.export import figure_bytes

        figures = _comparison(groups) | _heads(groups, photos, label, own_scales)
        command = f"inspector compare {' '.join(map(str, runs))} --out {out}"
        files = {"table.md": markdown(groups, command).encode()}
        files |= {
            f"{name}.{suffix}": figure_bytes(figure, suffix)
            for name, figure in figures.items()
            for suffix in ("png", "svg")
        }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_bytes(content)
    except OSError as error:
        raise InspectorError(f"Cannot write {out}: {error.strerror}.") from error
    _out.print(f"written: {out}", soft_wrap=True)


def _comparison(groups: Sequence["Group"]) -> dict[str, "Figure"]:
    """The figures of runs by name, those that they know enough for."""
    from inspector.run_figures import average_maps_figure, confusion_figure, learning_curves

    figures = {"curves": learning_curves(groups)}
    if any(group.confusion() for group in groups):
        figures["confusion"] = confusion_figure(groups)
    if any(group.average_maps() is not None for group in groups):
        figures["average-maps"] = average_maps_figure(groups)
    return figures


def _heads(
    groups: Sequence["Group"], photos: Mapping[str, Path], label: str | None, own_scales: bool
) -> dict[str, "Figure"]:
    """A figure a photo: the class map of one class by the network of each recipe's first seed."""
    if not photos:
        return {}
    from inspector.errors import HeadError
    from inspector.image import read_image
    from inspector.loading import load
    from inspector.maps import class_maps
    from inspector.run_figures import side_by_side
    from inspector.runs import network_of

    pictures = {stem: read_image(path) for stem, path in photos.items()}
    networks = {}
    for group in groups:
        if (name := network_of(group.runs[0])) is None:
            continue
        try:
            networks[f"{group.label}, seed {group.runs[0].seed}"] = load(name)
        except HeadError as error:
            _out.print(f"{group.label} has no class maps: {error}", markup=False)
    if not networks:
        _out.print("No run has weights and class maps, so no class map of a photo was drawn.")
        return {}
    figures = {}
    for stem, picture in pictures.items():
        maps = [class_maps(classifier, picture) for classifier in networks.values()]
        likeliest = statistics.mode(one.top(1)[0][1] for one in maps)
        figures[f"heads-{stem}"] = side_by_side(maps, label or likeliest, list(networks), own_scales)
    return figures


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
