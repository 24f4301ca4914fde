"""Commands `inspector boxes` and `inspector localize`: write boxes around the evidence, and measure them."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from typer import Argument, Option

from inspector.cli import options
from inspector.cli.console import errors, print_fed, print_written, progress, screen
from inspector.cli.dataset import show_images_done
from inspector.cli.report import ExitStatus, Report, judge, parse_verdict
from inspector.errors import ExportError, InspectorError
from inspector.files import csv_bytes, json_bytes, write_atomic
from inspector.images.photo_size import is_photo_size, parse_photo_size
from inspector.networks.catalog import DEFAULT

if TYPE_CHECKING:
    from inspector.datasets.localize import LocalizationResult
    from inspector.datasets.located import PassOptions
    from inspector.explain.classifier import Classifier

Against = Annotated[
    str | None,
    Option("--against", "-a", help="Contrast each class with this one, or with `average`, the mean of all classes."),
]


@dataclass(frozen=True)
class BatchOptions:
    """Options of the command line that decide how photos go through the network."""

    batch_size: Annotated[int, Option(help="Images per forward pass.", min=1)] = 32
    workers: Annotated[int | None, Option(help="Threads that decode. Default: one per processor.", min=1)] = None
    backend: options.Backend = "eager"
    dtype: options.Dtype = "float32"
    finer: options.Finer = 1

    def load(self, network: options.NetworkOptions, model: str) -> "tuple[Classifier, PassOptions]":
        """Load the network; a size that depends on the photo becomes one of the pass."""
        from inspector.datasets.located import PassOptions

        size = network.size if is_photo_size(network.size) else None
        if size is not None:
            parse_photo_size(size)
            if (self.backend, self.dtype) != ("eager", "float32"):
                problem = f"--size {size} gives every photo its own input size"
                raise InspectorError(f"{problem}. Leave out --backend and --dtype.")
        how = PassOptions(self.batch_size, self.workers, self.backend, self.dtype, size, self.finer)
        return (replace(network, size=None) if size else network).load(model), how


@options.command
def boxes(
    source: Annotated[
        list[str],
        Argument(
            help="Photos: files, a folder, a glob in quotes, a CSV with the column `path`, or WebDataset shards.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, Option("--out", "-o", help="New file: .json (COCO) or .csv. With --format yolo, voc or masks a folder.")
    ],
    *,
    model: options.Model = DEFAULT,
    format: Annotated[
        str | None,
        Option(help="`coco`, `csv`, `yolo`, `voc` (Pascal VOC) or `masks` (PNG). Default: as --out ends."),
    ] = None,
    classes: Annotated[
        list[str] | None,
        Option("--class", help="Name or number of a class to look for; can be repeated. Default: each photo's top-1."),
    ] = None,
    against: Against = None,
    threshold: Annotated[
        float, Option(help="Pixels above it are inside: a share of the map's largest value, from 0 to below 1.")
    ] = 0.3,
    in_logits: Annotated[
        bool, Option("--in-logits", help="--threshold is in logits per cell, and so the same for all photos.")
    ] = False,
    largest: Annotated[
        bool, Option("--largest/--all", help="One box per class, around its largest part, or one around each part.")
    ] = False,
    resume: Annotated[bool, Option("--resume", help="Continue the stopped search for this --out.")] = False,
    overwrite: options.Overwrite = False,
    fail_on: options.FailOn = None,
    batch: BatchOptions,
    network: options.NetworkOptions,
) -> Report:
    """Write boxes and masks around the evidence for classes, in the formats of other tools.

    A photo on which no value of the map is positive and above the threshold gets no box.

    Examples:
    * `inspector boxes photos -o boxes.json`

    * `inspector boxes photos --class tabby --class "Egyptian cat" --threshold 0.2 --largest -o cats --format yolo`

    * `inspector boxes photos --finer 2 -o boxes.csv`

    * `inspector boxes photos --backend openvino --dtype int8 -o boxes.csv`

    * `inspector boxes photos --class tabby --threshold 0.1 --in-logits --size whole -o masks --format masks`
    """
    fail_on = parse_verdict(fail_on)
    with progress.status(f"Loading {model} and listing {' '.join(source[:3])} ..."):
        from inspector.datasets.located import BoxOptions, find_boxes, name_files
        from inspector.images.sources import list_images
        from inspector.output.box_files import check_names, check_target, find_format, write_boxes

        format = find_format(out, format)
        check_target(out, format, overwrite)
        partial = out.with_name(f".{out.name}.inspector-part")
        if partial.exists() and not resume and not overwrite:
            raise ExportError(
                f"A stopped search left {partial}. Use --resume to continue it, or --overwrite to begin again."
            )
        items = list_images(source)
        files = name_files(items, source[0] if len(source) == 1 and Path(source[0]).is_dir() else None)
        check_names(files, format)
        classifier, how = batch.load(network, model)
    wanted = BoxOptions(tuple(classes or ()), against, threshold, "logits" if in_logits else "share", largest)
    try:
        with show_images_done("searching") as show:
            photos, about, counts = find_boxes(items, classifier, wanted, how, format, files, partial, resume, show)
    except KeyboardInterrupt:
        errors.print(f"Stopped: use --resume to continue. The finished photos are in {partial}.")
        raise typer.Exit(ExitStatus.STOPPED) from None
    write_boxes(photos, classifier.class_names, out, format, about, overwrite)
    partial.unlink(missing_ok=True)
    for photo in [photo for photo in photos if photo.error is not None][:20]:
        errors.print(f"{photo.error}")
    screen.print(
        f"{_count(counts.photos, 'photo')}: {_count(counts.boxes, 'box', 'boxes')}; "
        f"{_count(counts.without, 'photo')} without a box, because no value of the map is positive and above the "
        f"threshold; {counts.unreadable:,} could not be read",
        soft_wrap=True,
    )
    print_fed(how.describe_input(classifier))
    if counts.precision:
        screen.print(counts.precision, soft_wrap=True)
    print_written(out)
    status = judge(counts.worst_verdict, fail_on)
    if not status and counts.unreadable == counts.photos:
        status = ExitStatus.UNREADABLE
    return Report({"out": out, "format": format, **asdict(counts)}, status)


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


@options.command
def localize(
    data: Annotated[
        Path,
        Argument(
            help="Folder of the photos; its first subfolders are the classes of objects that name none. If it has a "
            "folder `images`, the photos are there.",
            show_default=False,
        ),
    ],
    *,
    model: options.Model = DEFAULT,
    objects: Annotated[
        Path | None,
        Option(
            help="Objects: a CSV of boxes (file,class,x1,y1,x2,y2), a folder of masks, or COCO JSON. Default: "
            "DATA/boxes.csv."
        ),
    ] = None,
    k: Annotated[
        str | None,
        Option(
            "--class",
            help="Class whose map is measured on every photo, or `top1`, the one with the highest logit. Default: the "
            "class of each object.",
        ),
    ] = None,
    alias: Annotated[
        list[str] | None,
        Option(help="Class of the objects and its name in the network: `apple=Granny Smith`; can be repeated."),
    ] = None,
    against: Against = None,
    contours: Annotated[
        str, Option(help="Boxes that are compared with the objects: around `all` contours, or the `largest`.")
    ] = "all",
    tune: Annotated[
        float, Option(help="Share of the photos on which thresholds are tuned. The scores are those of the others.")
    ] = 0.5,
    seed: Annotated[int, Option(help="Seed of the choice of photos for tuning, and of the bootstrap.")] = 0,
    out: Annotated[
        Path | None, Option("--out", "-o", help="Also write the scores to this file: .json or .csv.")
    ] = None,
    overwrite: options.Overwrite = False,
    fail_on: options.FailOn = None,
    batch: BatchOptions,
    network: options.NetworkOptions,
) -> Report:
    """Measure how well class maps locate objects: MaxBoxAccV2, PxAP, pointing game, evidence inside, mask IoU.

    Each score has a 95 % confidence interval. Photos without an object of a class count: a box there is an error.

    Examples:
    * `inspector localize photos --objects boxes.csv -m efficientnet_lite0 --class top1`

    * `inspector localize photos --objects masks --class top1 --size whole -o scores.csv`
    """
    fail_on, aliases = parse_verdict(fail_on), _parse_aliases(alias or [])
    if contours not in ("all", "largest"):
        raise InspectorError(f"--contours is {contours!r}. Use all or largest.")
    if not 0 <= tune < 1:
        raise InspectorError(f"--tune is {tune}. Use a share from 0 to below 1.")
    if out is not None:
        _check_table(out, overwrite)
    with progress.status(f"Loading {model} and listing {data} ..."):
        from inspector.analysis.annotations import read_annotations
        from inspector.datasets.localize import LocalizeOptions, list_photos
        from inspector.datasets.localize import localize as measure

        folder = data / "images" if (data / "images").is_dir() else data
        place = objects or data / "boxes.csv"
        annotations = read_annotations(place)
        items = list_photos(folder, place)
        classifier, how = batch.load(network, model)
    wanted = LocalizeOptions(k, against, aliases, contours, tune, seed)  # type: ignore[arg-type]
    with show_images_done("measuring") as show:
        result = measure(folder, items, annotations, classifier, wanted, how, show)
    _print_scores(result)
    print_fed(how.describe_input(classifier))
    if result.precision:
        screen.print(result.precision, soft_wrap=True)
    values = {"network": classifier.name, **asdict(result)}
    if out is not None:
        content = json_bytes(values) if out.suffix == ".json" else _encode_scores(result)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(out, content)
        except OSError as error:
            raise ExportError(f"Cannot write {out}: {error.strerror or error}.") from error
        print_written(out)
    return Report(values, judge(result.worst_verdict, fail_on))


def _parse_aliases(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=")[::2] for text in texts]
    if wrong := [text for text, (name, other) in zip(texts, pairs, strict=True) if not name or not other]:
        raise InspectorError(f"--alias is {wrong[0]!r}. Use 'apple=Granny Smith'.")
    return {name.strip(): other.strip() for name, other in pairs}


def _check_table(out: Path, overwrite: bool) -> None:
    if out.suffix not in (".json", ".csv"):
        raise ExportError(f"Scores need a name that ends in .json or .csv; got {out}.")
    if out.exists() and not (overwrite and out.is_file()):
        raise ExportError(f"{out} exists already. Use another name, or --overwrite to replace it.")


def _print_scores(result: "LocalizationResult") -> None:
    from inspector.analysis.localization_protocol import IOUS
    from inspector.analysis.localization_scores import METRICS

    *classes, overall = result.scores
    table = Table("", "score", "95 % interval", box=None, header_style="bold")
    for key, one in overall.scores.items():
        table.add_row(METRICS[key], f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}")
    screen.print(table)
    table = Table("class", "photos", "without", *overall.scores, box=None, header_style="bold")
    for each in result.scores if len(classes) > 1 else ():
        values = [each.scores.get(key) for key in overall.scores]
        cells = ("" if one is None else f"{one.value:.3f}" for one in values)
        table.add_row(each.name, f"{each.photos:,}", f"{each.empty:,}", *cells)
    screen.print(table)
    if result.tuned is not None:
        shares = ", ".join(f"{share:.3f}" for share in result.tuned.box_shares)
        logits = ", ".join(f"{one:.3g}" for one in result.tuned.box_logits)
        ious = ", ".join(f"{iou:g}" for iou in IOUS)
        screen.print(
            f"thresholds tuned on {result.tuning_photos:,} other photos, for IoU {ious}: {shares} of the largest "
            f"value; {logits} logits per cell",
            soft_wrap=True,
        )
    if result.unreadable:
        screen.print(f"{result.unreadable:,} of {result.photos:,} photos could not be read", soft_wrap=True)


def _encode_scores(result: "LocalizationResult") -> bytes:
    rows = [
        (one.name, one.photos, one.empty, key, f"{score.value:.6f}", f"{score.low:.6f}", f"{score.high:.6f}")
        for one in result.scores
        for key, score in one.scores.items()
    ]
    return csv_bytes(("class", "photos", "without", "score", "value", "low", "high"), rows)
