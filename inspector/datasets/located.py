"""Class maps of many photos with their place, and the boxes that they give; a stopped search for boxes can continue.

While boxes are searched, each finished photo is a line of JSON in a hidden file beside the result. With `resume` the
photos in it are not computed again. It is removed when the result is complete.
"""

import json
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from inspector.analysis.location import DEFAULT_THRESHOLD, Unit, check_threshold, locate_map
from inspector.datasets.accelerated import accelerate_for_dataset, name_backend
from inspector.datasets.run import OnProgress, compute_batches, split_into_batches
from inspector.entries import Entries, parse_json
from inspector.errors import ExportError, ImageError, translate_errors
from inspector.explain.class_maps import AVERAGE, ClassMaps, class_maps
from inspector.explain.classifier import Classifier
from inspector.explain.grid import require_place
from inspector.explain.kinds import VERDICTS, Verdict, worst_verdict
from inspector.explain.receptive_field import ReceptiveField
from inspector.images.photo_size import describe_size
from inspector.images.preprocessing import Crop
from inspector.images.sources import Item, hash_items, read_item
from inspector.output.box_files import DetectedObject, DetectedPhoto, encode_runs, needs_masks
from inspector.printable import make_printable
from inspector.version import __version__


@dataclass(frozen=True, eq=False)
class MappedPhoto:
    """The class maps of one photo of a list, with their place on it."""

    index: int  # in the list
    item: Item
    maps: ClassMaps | None  # None if the photo could not be read
    crop: Crop | None
    error: str | None  # why the photo could not be read

    @property
    def field(self) -> ReceptiveField:
        """Receptive fields of the cells of the maps."""
        assert self.maps is not None
        return self.maps.shown_field

    def compute_values(self, k: int, against: str | int | None = None) -> NDArray[np.float32]:
        """Return the map (h, w) of a class, or its contrast, on the finer grid if it was computed."""
        assert self.maps is not None
        values: NDArray[np.float32] = self.maps.class_map(k, against, finer=True).values.float().numpy(force=True)
        return values


@dataclass(frozen=True)
class PassOptions:
    """How the network runs over a list of photos."""

    batch_size: int = 32
    workers: int | None = None  # decoding threads; None: one per processor
    backend: str | None = None  # "eager" for PyTorch, or a backend of `accelerate`; None: the one that the network has
    dtype: str = "float32"  # precision of the backend; a lower one is built and compared with some of the photos
    size: str | None = None  # "whole", "whole:288" or "native", one by one; None: the classifier's own size, in batches
    finer: int = 1  # how many times finer than the network's own grid: 1, 2 or 4

    def describe_input(self, classifier: Classifier) -> str:
        """Return in words how a photo becomes the network's input."""
        grid = "" if self.finer == 1 else f"; on a grid {self.finer} times as fine as the network's own"
        if self.size is None:
            return classifier.preprocessing.describe() + grid
        values = classifier.preprocessing.describe_values()
        return f"{describe_size(self.size)}, with a longer side of at most 1024 pixels; {values}{grid}"


def map_photos(photos: Sequence[tuple[int, Item]], classifier: Classifier, how: PassOptions) -> Iterator[MappedPhoto]:
    """Compute the class maps of photos, in order.

    Args:
        photos: photos with their numbers in a list.
        classifier: the network; made faster before by `accelerate_for_dataset`.
        how: batch size, threads, input size and grid.
    """
    if how.size is not None:
        yield from _map_one_by_one(photos, classifier, how)
        return
    split = split_into_batches(photos, how.batch_size)
    with closing(compute_batches(classifier, split, how.workers, finer=how.finer)) as batches:
        for batch in batches:
            for image, maps in batch:
                yield MappedPhoto(image.index, image.item, maps, image.crop, image.error)


def _map_one_by_one(
    photos: Sequence[tuple[int, Item]], classifier: Classifier, how: PassOptions
) -> Iterator[MappedPhoto]:
    for index, item in photos:
        try:
            maps = class_maps(classifier, read_item(item), how.size, finer=how.finer)
        except ImageError as error:
            yield MappedPhoto(index, item, None, None, make_printable(str(error)))
            continue
        yield MappedPhoto(index, item, maps, maps.view.crop, None)


@dataclass(frozen=True)
class BoxOptions:
    """Which boxes are searched."""

    classes: tuple[str | int, ...] = ()  # names or numbers; empty: the top-1 class of each photo
    against: str | int | None = None  # class to contrast with, or "average"
    threshold: float = DEFAULT_THRESHOLD
    unit: Unit = "share"
    largest_only: bool = False  # one box per class and photo, around the largest part


@dataclass(frozen=True)
class BoxCounts:
    """The numbers of a search."""

    photos: int
    unreadable: int
    boxes: int
    without: int  # readable photos without a box
    worst_verdict: str | None
    precision: str = ""  # how the results differ from those in float32, if another precision computed them


def find_boxes(
    items: Sequence[Item],
    classifier: Classifier,
    options: BoxOptions,
    how: PassOptions,
    format: str,
    files: Sequence[str],
    partial: Path | None = None,
    resume: bool = False,
    on_progress: OnProgress = lambda done, photos: None,
) -> tuple[list[DetectedPhoto], dict[str, Any], BoxCounts]:
    """Find the boxes of photos.

    Args:
        items: the photos.
        classifier: the network.
        options: classes and threshold.
        how: batch size, threads, input size and grid.
        format: format in which they will be written, which decides if masks are kept.
        files: path of each photo in the result, from `name_files`.
        partial: file of the finished photos; None keeps none.
        resume: continue with the photos in `partial`.
        on_progress: called with the numbers of finished photos and of all.

    Returns:
        What was found on each photo, how it was made, and counts.

    Raises:
        ClassError: there is no such class.
        ExportError: the file of the finished photos is of another search, or cannot be written.
        LocalizationError: the threshold cannot be used.
        NetworkError, InspectorError: as `accelerate_for_dataset`.
        PlaceError: the place of the cells on the photos is unknown.
    """
    check_threshold(options.threshold, options.unit)
    require_place(classifier.receptive_field)
    chosen = [classifier.class_index(k) for k in options.classes]
    check_contrast(classifier, options.against)
    classifier = accelerate_for_dataset(classifier, how.backend, how.dtype, items)
    about = describe_search(items, classifier, options, how, format)
    finished = _read_partial(partial, about) if partial is not None and resume else {}
    missing = [(index, item) for index, item in enumerate(items) if index not in finished]
    on_progress(len(finished), len(items))
    with closing(_write_partial(partial, about, finished)) as write:
        next(write)
        for photo in map_photos(missing, classifier, how):
            found, verdict = _detect(photo, files[photo.index], chosen, options, needs_masks(format))
            finished[photo.index] = found, verdict
            write.send((photo.index, found, verdict))
            on_progress(len(finished), len(items))
    photos = [finished[index][0] for index in range(len(items))]
    verdicts = [verdict for _, verdict in finished.values() if verdict is not None]
    unreadable = sum(photo.error is not None for photo in photos)
    boxes = sum(len(photo.objects) for photo in photos)
    without = sum(photo.error is None and not photo.objects for photo in photos)
    worst = worst_verdict(*verdicts) if verdicts else None
    return photos, about, BoxCounts(len(photos), unreadable, boxes, without, worst, about.get("precision", ""))


def check_contrast(classifier: Classifier, against: str | int | None) -> None:
    """Raise ClassError if there is no such class to contrast with."""
    if against is not None and against != AVERAGE:
        classifier.class_index(against)


def describe_search(
    items: Sequence[Item], classifier: Classifier, options: BoxOptions, how: PassOptions, format: str
) -> dict[str, Any]:
    """Return how boxes are made, for the files that hold them."""
    return {
        "version": __version__,
        "network": classifier.name,
        "network_sha256": classifier.sha256(),
        "fed": how.describe_input(classifier),
        "size": how.size or list(classifier.preprocessing.size),
        "finer": how.finer,
        "backend": name_backend(classifier),
        **({"precision": " ".join(classifier.precision_notes)} if classifier.precision_notes else {}),
        "classes": [classifier.class_names[classifier.class_index(k)] for k in options.classes] or "top-1",
        "against": options.against,
        "threshold": options.threshold,
        "unit": "share of the largest value" if options.unit == "share" else "logits per cell",
        "boxes": "largest" if options.largest_only else "all",
        "masks": needs_masks(format),
        "list_sha256": hash_items(items),
    }


def name_files(items: Sequence[Item], root: str | Path | None = None) -> list[str]:
    """Return the path of each photo relative to a folder, with / between folders.

    Args:
        items: the photos.
        root: the folder that was listed; None: the deepest folder that all photos are in.
    """
    paths = [PurePosixPath(item.path.partition("://")[2] or Path(item.path).as_posix()) for item in items]
    parents = [path.parent.parts for path in paths]
    if root is None:
        shortest = min(map(len, parents), default=0)
        common = next((n for n in range(shortest) if len({parts[n] for parts in parents}) > 1), shortest)
    else:
        common = len(PurePosixPath(Path(root).as_posix()).parts)
    below = (path.parts[common:] for path in paths)
    return [make_printable("/".join(part for part in parts if part not in ("..", "/"))) for parts in below]


def _detect(
    photo: MappedPhoto, file: str, chosen: Sequence[int], options: BoxOptions, with_masks: bool
) -> tuple[DetectedPhoto, Verdict | None]:
    if photo.maps is None or photo.crop is None:
        return DetectedPhoto(file, (0, 0), error=photo.error), None
    maps, objects = photo.maps, list[DetectedObject]()
    classes = chosen or [int(maps.logits.argmax())]
    for k in classes:
        values = photo.compute_values(k, options.against)
        location = locate_map(values, photo.crop, photo.field, options.threshold, options.unit)
        for number, region in enumerate(location.regions[: 1 if options.largest_only else None]):
            runs = encode_runs(location.region_mask(number)) if with_masks else ()
            objects.append(DetectedObject(k, region.box, region.area, region.largest, region.share, runs))
    probabilities = {k: float(maps.probabilities[k]) for k in classes}
    return DetectedPhoto(file, photo.crop.photo_size, probabilities, tuple(objects)), maps.verdict


Finished = dict[int, tuple[DetectedPhoto, Verdict | None]]  # by the number of the photo


def _write_partial(
    partial: Path | None, about: Mapping[str, Any], finished: Finished
) -> Generator[None, tuple[int, DetectedPhoto, Verdict | None], None]:
    """Take finished photos by `send`, and write each as a line."""
    if partial is None:
        while True:
            yield
    problem = f"Cannot write {partial}: {{reason}}."
    with translate_errors(ExportError, problem):
        partial.parent.mkdir(parents=True, exist_ok=True)
        # The lines of an earlier run are written again: its last one may be cut off.
        lines = [json.dumps(about), *(_encode_line(index, *one) for index, one in finished.items())]
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        with partial.open("a", encoding="utf-8") as file:
            while True:
                index, found, verdict = yield
                file.write(_encode_line(index, found, verdict) + "\n")
                file.flush()


def _encode_line(index: int, photo: DetectedPhoto, verdict: Verdict | None) -> str:
    probabilities = [[k, None if math.isnan(one) else one] for k, one in photo.probabilities.items()]
    return json.dumps({"index": index, "verdict": verdict, **asdict(photo), "probabilities": probabilities})


def _read_partial(partial: Path, about: Mapping[str, Any]) -> Finished:
    """Read the finished photos of a stopped search; none if there was none."""
    if not partial.is_file():
        return {}
    with translate_errors(ExportError, f"Cannot read {partial} ({{reason}}). Use --overwrite to begin again."):
        first, *lines = partial.read_text(encoding="utf-8").split("\n")
        earlier = parse_json(first)
        if differing := [key for key, value in about.items() if earlier.get(key) != value]:
            raise ExportError(
                f"The stopped search in {partial} differs in {differing[0]}. Use --resume with the command that began "
                "it, or --overwrite to begin again."
            )
        # What follows the last line end is a line that was cut off.
        return dict(_decode_line(Entries(parse_json(line))) for line in lines[:-1])


def _decode_line(line: Entries) -> tuple[int, tuple[DetectedPhoto, Verdict | None]]:
    objects = tuple(
        DetectedObject(
            one.whole("k"),
            one.numbers("box", (4,)),  # type: ignore[arg-type]
            one.number("area"),
            one.number("largest"),
            one.number("share"),
            one.wholes("runs"),
        )
        for one in line.objects("objects")
    )
    height, width = line.wholes("size")
    probabilities = {int(k): math.nan if one is None else float(one) for k, one in line.values["probabilities"]}
    error = line.text("error") if line.has("error") else None
    verdict = cast(Verdict, line.choice("verdict", tuple(VERDICTS))) if line.has("verdict") else None
    photo = DetectedPhoto(line.text("file"), (height, width), probabilities, objects, error)
    return line.whole("index"), (photo, verdict)
