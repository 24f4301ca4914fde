"""Commands `inspector explain` and `inspector rebuild`: write the class maps of a photo, and write them again."""

import re
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from inspector.cli import options
from inspector.cli.console import (
    print_class_table,
    print_error,
    print_fed,
    print_misplacement,
    print_verdict,
    print_written,
    progress,
    screen,
)
from inspector.cli.report import ExitStatus, Report, judge, name_values, parse_verdict, probability_of
from inspector.errors import ImageError, InspectorError
from inspector.explain.kinds import worst_verdict
from inspector.files import check_new_folder
from inspector.images.photo_size import is_photo_size, parse_photo_size
from inspector.networks.catalog import DEFAULT

if TYPE_CHECKING:
    from inspector.explain.class_maps import ClassMap
    from inspector.explain.classifier import Classifier
    from inspector.images.photo import Photo
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
    colours: Annotated[
        str,
        _figure_option(
            help="Color map: `inspector` (blue-white-red), `PuOr_r`, `RdBu_r` or `BrBG_r`; of the positive part only: "
            "`turbo` or `inferno`."
        ),
    ] = "inspector"
    gray: Annotated[bool, _figure_option("--gray/--color", help="Draw maps over the photo in gray or in color.")] = True
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
    photo: Annotated[
        list[Path],
        Argument(help="Image file to explain. Several get one folder each inside --out.", show_default=False),
    ],
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
    finer: options.Finer = 1,
    grid: Annotated[bool, Option("--grid", help="Draw the raw cells, without interpolation.")] = False,
    overwrite: options.Overwrite = False,
    fail_on: options.FailOn = None,
    network: options.NetworkOptions,
    figure: FigureOptions,
) -> Report:
    """Write the class maps of photos: figures, the numbers, a report and a manifest.

    Examples:
    * `inspector explain cat.jpg -o cat`

    * `inspector explain cat.jpg -c "tabby,Egyptian cat" -a average -o cat-against-average`

    * `inspector explain cat.jpg --finer 2 -o cat-finer`

    * `inspector explain photos/*.jpg -m torchvision:resnet50 -o maps --json`

    * `inspector explain cat.jpg -m mine.pth --arch torchvision:resnet18 --labels classes.txt --size 448 -o cat`

    * `inspector explain cat.jpg -c "tabby,lynx" --panels classes,contrast --width 89mm --font-size 6 --dpi 300 -o cat`
    """
    fail_on, folders = parse_verdict(fail_on), _name_folders(photo, out)
    for folder in folders:
        if not overwrite:
            check_new_folder(folder)  # before the imports below, which take seconds
    what = photo[0].name if len(photo) == 1 else f"{len(photo)} photos"
    with progress.status(f"Reading {what} and loading {model} ..."):
        # Import these modules only here: they import torch, which takes seconds, and --help does not need it.
        from inspector.images.photo import read_image
        from inspector.output.export import FILES

        for folder in folders:
            check_new_folder(folder, is_ours=FILES.__contains__ if overwrite else None)
        style = figure.style()
        # A photo that cannot be read is an error before the network is loaded, unless there are others.
        only = read_image(photo[0]) if len(photo) == 1 else None
        size = network.size if is_photo_size(network.size) else None
        if size is not None:
            parse_photo_size(size)  # before the network is loaded
        classifier = (replace(network, size=None) if size else network).load(model)
    wanted = WantedMaps(
        options.parse_classes(classes, classifier.class_names), against, dense, not grid, figure.opacity, size, finer
    )
    entries: list[dict[str, Any]] = []
    for path, folder in zip(photo, folders, strict=True):
        with progress.status(f"Computing the class maps of {path.name} and drawing ..."):
            try:
                numbers = _explain_photo(only or read_image(path), folder, classifier, wanted, style, overwrite)
                entries.append({"photo": path, **numbers})
            except ImageError as error:
                if len(photo) == 1:
                    raise
                print_error(str(error))
                entries.append({"photo": path, "error": str(error)})
    explained = [entry for entry in entries if "error" not in entry]
    status = judge(worst_verdict(*(entry["verdict"] for entry in explained)) if explained else None, fail_on)
    if not status and len(explained) < len(entries):
        status = ExitStatus.UNREADABLE
    return Report({"network": classifier.name, "photos": entries}, status)


@dataclass(frozen=True)
class WantedMaps:
    """Which maps of a photo are written and shown, as the options say."""

    classes: int | list[str]
    against: str | None
    dense: bool
    smooth: bool
    opacity: float
    size: str | None  # "whole", "whole:288" or "native"; None: the size of the classifier
    finer: int  # how many times finer than the network's own grid


def _explain_photo(
    picture: "Photo", folder: Path, classifier: "Classifier", wanted: WantedMaps, style: "FigureStyle", overwrite: bool
) -> dict[str, Any]:
    """Write the folder of one photo, print its numbers, and return them for --json."""
    from inspector.explain.class_maps import class_maps
    from inspector.output.export import save_class_maps
    from inspector.output.manifest import describe_finer

    maps = class_maps(classifier, picture, wanted.size, finer=wanted.finer)
    content = maps.figure_content(
        wanted.classes, wanted.against, dense=wanted.dense, smooth=wanted.smooth, opacity=wanted.opacity
    )
    save_class_maps(maps, folder, content, style, overwrite)
    shown = {k: maps.class_map(k, wanted.against, wanted.dense, wanted.finer > 1) for k in content.classes}
    meaning = maps.classifier.meaning
    total = meaning.quantity if wanted.against is None else "difference"
    columns = ("highest score",) if wanted.dense else ("sum of the map", "bias", total)
    rows = [(one.title, maps.outcome(k), _list_numbers(one)) for k, one in shown.items()]
    notes = maps.view.photo.notes if maps.view is not None else picture.notes
    for note in notes:
        screen.print(note)
    print_class_table((meaning.outcome, *columns), rows)
    print_verdict(maps.verdict, maps.residual, meaning.units)
    if maps.finer is not None:
        screen.print(maps.finer.describe(), soft_wrap=True)
    print_misplacement(maps.classifier.receptive_field.warning)
    fed = maps.classifier.preprocessing.describe()
    print_fed(fed)
    print_written(folder)
    numbers = [
        {"class": k, "name": name, **probability_of(maps, k), **name_values(columns, values)}
        for k, (name, _, values) in zip(shown, rows, strict=True)
    ]
    return {
        "folder": folder, "verdict": maps.verdict, "residual": maps.residual, "notes": notes, "fed": fed,
        **({} if maps.finer is None else {"finer": describe_finer(maps.finer)}),
        "classes": numbers,
    }  # fmt: skip


def _list_numbers(one: "ClassMap") -> tuple[float, ...]:
    if one.total is None:
        return (float(one.values.max()),)
    return float(one.own.sum()), one.bias, one.total


def _name_folders(photos: list[Path], out: Path) -> list[Path]:
    """Return the folder of each photo: `out` for a single one, else folders in it, named after the photos."""
    if len(photos) == 1:
        return [out]
    names: list[str] = []
    for photo in photos:
        taken = {name.lower() for name in names}
        candidates = (photo.stem if n == 1 else f"{photo.stem}-{n}" for n in count(1))
        names.append(next(name for name in candidates if name.lower() not in taken))
    return [out / name for name in names]


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
    overwrite: options.Overwrite = False,
) -> Report:
    """Make a figure again from its manifest. On the same machine it is equal byte for byte; differences are reported.

    The manifest holds no weights. If the network came from a file of your own, name that file with --model.

    Examples:
    * `inspector rebuild cat/manifest.json -o again`

    * `inspector rebuild class-maps.zip -o again -m mine.pth --arch torchvision:resnet18 --labels classes.txt`
    """
    if not overwrite:
        check_new_folder(out)  # before the imports below, which take seconds
    class_names = options.NetworkOptions(labels=labels).class_names()
    with progress.status(f"Making the figure of {manifest} again ..."):
        from inspector.output.reproduce import rebuild as rebuild_export

        result = rebuild_export(manifest, out, photo, model, arch, class_names, trust, overwrite)
    for line in result.versions:
        screen.print(line)
    if result.equal is not None:
        same = "the same as" if result.equal else "not the same as"
        screen.print(f"figure.png is {same} that beside the manifest, byte for byte.", soft_wrap=True)
    print_written(result.folder)
    return Report({"folder": result.folder, "equal": result.equal, "versions": result.versions})
