"""Commands `inspector explain` and `inspector rebuild`: write the class maps of a photo, and write them again."""

import re
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from inspector.cli import options
from inspector.cli.console import print_class_table, print_verdict, print_written, progress, screen
from inspector.errors import InspectorError
from inspector.networks.catalog import DEFAULT

if TYPE_CHECKING:
    from inspector.explain.class_maps import ClassMap, ClassMaps
    from inspector.output.style import FigureStyle

_figure_option: Any = partial(Option, rich_help_panel="The figure")


@dataclass(frozen=True)
class FigureOptions:
    """Options of the command line that decide how the figure looks."""

    panels: Annotated[
        str,
        _figure_option(
            help="Panels of the figure, separated by commas: `photo`, `classes`, `contrast` (the first "
            "class against the second) and `all` (every class map as its grid)."
        ),
    ] = "photo,classes"
    columns: Annotated[int | None, _figure_option(help="Panels per row. Default: up to 3.")] = None
    width: Annotated[
        str | None, _figure_option(help="Width of the figure: `89mm`, `3.5in`. Default: 2.6 inches per column.")
    ] = None
    dpi: Annotated[int, _figure_option(help="Resolution in dots per inch.")] = 200
    font_size: Annotated[float, _figure_option(help="Font size in points.")] = 9
    colours: Annotated[str, _figure_option(help="Color map: `inspector`, `PuOr_r`, `RdBu_r` or `BrBG_r`.")] = (
        "inspector"
    )
    dark: Annotated[bool, _figure_option("--dark", help="Light text on a dark background.")] = False
    title: Annotated[
        str | None,
        _figure_option(help='Title. Default: the network and how to read its maps. Use `--title ""` for none.'),
    ] = None
    bar: Annotated[bool, _figure_option("--bar/--no-bar", help="Draw the color bar.")] = True
    equations: Annotated[
        bool, _figure_option("--equations/--no-equations", help="Write below each map how it sums to the logit.")
    ] = True
    opacity: Annotated[float, _figure_option(help="Opacity of the strongest color, 0-1.", min=0, max=1)] = 0.85

    def style(self) -> "FigureStyle":
        """Return these options as the style of the figure.

        Raises:
            InspectorError: an option cannot be parsed or has a value that is not allowed.
        """
        from inspector.output.style import MM, FigureStyle

        width = None if self.width is None else re.fullmatch(r"(\d+(?:\.\d+)?) ?(mm|in)", self.width.strip())
        if self.width is not None and width is None:
            raise InspectorError(f"--width is {self.width!r}. Use 89mm or 3.5in.")
        values = {key: value for key, value in asdict(self).items() if key not in ("bar", "opacity")}
        values["panels"] = tuple(name.strip() for name in self.panels.split(","))
        values["width"] = None if width is None else float(width[1]) * (MM if width[2] == "mm" else 1)
        return FigureStyle(**values, colour_bar=self.bar)


@options.command
def explain(
    photo: Annotated[Path, Argument(help="Image file to explain.", show_default=False)],
    out: Annotated[Path, Option("--out", "-o", help="New folder for the figure, the numbers and the manifest.")],
    *,
    model: options.Model = DEFAULT,
    classes: options.Classes = "top5",
    against: Annotated[
        str | None,
        Option(
            "--against", "-a", help="Contrast each class with this one, or with `average`, the mean of all classes."
        ),
    ] = None,
    dense: Annotated[
        bool, Option("--dense", help="Score each cell as if it alone were pooled. The scores do not sum to the logit.")
    ] = False,
    grid: Annotated[bool, Option("--grid", help="Draw the raw cells, without interpolation.")] = False,
    network: options.NetworkOptions,
    figure: FigureOptions,
) -> None:
    """Write the class maps of a photo: figures, the numbers, a report and a manifest.

    Examples:
    * `inspector explain cat.jpg -o cat`

    * `inspector explain cat.jpg -c "tabby,Egyptian cat" -a average -o cat-against-average`

    * `inspector explain cat.jpg -m mine.pth --arch torchvision:resnet18 --labels classes.txt --size 448 -o cat`

    * `inspector explain cat.jpg -c "tabby,lynx" --panels classes,contrast --width 89mm --font-size 6 --dpi 300 -o cat`
    """
    with progress.status(f"Reading {photo.name} and loading {model} ..."):
        # Import these modules only here: they import torch, which takes seconds, and --help does not need it.
        from inspector.explain.class_maps import class_maps
        from inspector.images.photo import read_image
        from inspector.output.export import save_class_maps

        style = figure.style()
        picture = read_image(photo)
        native = network.size == "native"
        classifier = (replace(network, size=None) if native else network).load(model)
    with progress.status("Computing the class maps and drawing ..."):
        maps = class_maps(classifier, picture, "native" if native else None)
        chosen = options.parse_classes(classes)
        content = maps.figure_content(chosen, against, dense=dense, smooth=not grid, opacity=figure.opacity)
        folder = save_class_maps(maps, out, content, style)
    for note in maps.view.photo.notes:
        screen.print(note, markup=False)
    _print_maps(maps, {k: maps.class_map(k, against, dense) for k in content.classes}, against, dense)
    print_written(folder)


def _print_maps(maps: "ClassMaps", shown: dict[int, "ClassMap"], against: str | None, dense: bool) -> None:
    def numbers(one: "ClassMap") -> tuple[float, ...]:
        if one.total is None:
            return (float(one.values.max()),)
        return float(one.values.sum()), one.bias, one.total

    total = "logit" if against is None else "difference"
    columns = ("highest score",) if dense else ("sum of the map", "bias", total)
    print_class_table(columns, ((one.title, float(maps.probabilities[k]), numbers(one)) for k, one in shown.items()))
    print_verdict(maps.verdict, maps.residual)


@options.command
def rebuild(
    manifest: Annotated[
        Path, Argument(help="A manifest.json, or the folder or ZIP file that contains it.", show_default=False)
    ],
    out: Annotated[Path, Option("--out", "-o", help="New folder for the figure and the other files of an export.")],
    photo: Annotated[Path | None, Option(help="The photo. Default: photo.png beside the manifest.")] = None,
    model: Annotated[
        str | None,
        Option("--model", "-m", help="The network, as for `explain`. Default: the one that the manifest names."),
    ] = None,
    arch: options.Arch = None,
    labels: options.Labels = None,
    trust: options.Trust = False,
) -> None:
    """Make a figure again from its manifest. On the same machine it is equal byte for byte; differences are reported.

    The manifest holds no weights. If the network came from a file of your own, name that file with --model.

    Examples:
    * `inspector rebuild cat/manifest.json -o again`

    * `inspector rebuild class-maps.zip -o again -m mine.pth --arch torchvision:resnet18 --labels classes.txt`
    """
    class_names = options.NetworkOptions(labels=labels).class_names()
    with progress.status(f"Making the figure of {manifest} again ..."):
        from inspector.output.reproduce import rebuild as rebuild_export

        result = rebuild_export(manifest, out, photo, model, arch, class_names, trust)
    for line in result.versions:
        screen.print(line, markup=False)
    if result.equal is not None:
        same = "the same as" if result.equal else "not the same as"
        screen.print(f"figure.png is {same} that beside the manifest, byte for byte.", soft_wrap=True)
    print_written(result.folder)
