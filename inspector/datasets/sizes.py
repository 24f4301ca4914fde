"""Measure the accuracy of a classifier at several input sizes, on the same labeled photos."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from inspector.datasets.rows import number_labels
from inspector.errors import ImageError, InspectorError, NetworkError
from inspector.explain.class_maps import Size, class_maps
from inspector.explain.classifier import Classifier
from inspector.images.photo import Photo
from inspector.images.photo_size import format_size, is_photo_size
from inspector.images.sources import Item, read_item
from inspector.networks.size_accuracy import SizeAccuracies, SizeAccuracy
from inspector.printable import make_printable

_SHARES = (8 / 7, 9 / 7, 10 / 7, 2)  # of the size of the training: for 224 these are 256, 288, 320 and 448
_SHOWN_NAMES = 5  # names of classes and labels in an error message


@dataclass(frozen=True)
class MeasuredSize:
    """The cost of class maps at one input size."""

    size: str  # as in SizeAccuracy
    grid: tuple[int, int]  # (rows, columns) of the class maps of most photos; a whole photo decides its grid
    milliseconds: float  # per photo, for the class maps of all classes, without decoding: the mean


@dataclass(frozen=True)
class _Outcome:
    """One photo at one input size."""

    is_right: bool
    grid: tuple[int, int]
    seconds: float


@dataclass(frozen=True)
class SizeMeasurements:
    """The accuracy, grid and time of a classifier at several input sizes."""

    accuracies: SizeAccuracies
    measured: tuple[MeasuredSize, ...]  # in the order of the sizes
    refused: dict[str, str] = field(default_factory=dict)  # size -> why the network does not take it
    unreadable: int = 0  # photos that could not be used


def list_usual_sizes(trained: tuple[int, int]) -> list[str]:
    """Return the sizes that are usually compared, that of the training first: crops, whole photos, and "native".

    Args:
        trained: (height, width) of the input in the training.
    """
    crops = [format_size((round(share * trained[0]), round(share * trained[1]))) for share in (1, *_SHARES)]
    whole = [f"whole:{round(share * min(trained))}" for share in (1, *_SHARES)]
    return [*crops, *whole, "native"]


def label_items(classifier: Classifier, items: Sequence[Item], source: str) -> list[tuple[Item, int]]:
    """Return the items whose label is a class of the network, with the number of the class.

    Raises:
        InspectorError: there are none.
    """
    numbers = number_labels(classifier.class_names)
    labeled = [(item, k) for item in items if item.label is not None and (k := numbers.get(item.label)) is not None]
    if labeled:
        return labeled
    classes, labels = _list_some(classifier.class_names), _list_some(item.label for item in items if item.label)
    if not labels:
        raise InspectorError(
            f"The photos in {source} have no labels. Use a folder with one folder per class, or a CSV with the columns "
            f"path and label. The classes of {classifier.name} are {classes}."
        )
    raise InspectorError(
        f"No label in {source} is a class of {classifier.name}: the labels are {labels}; the classes are {classes}. "
        "Labels are names of classes, letter by letter, or their numbers."
    )


def _list_some(names: Iterable[str]) -> str:
    different = list(dict.fromkeys(names))
    more = ", ..." if len(different) > _SHOWN_NAMES else ""
    return ", ".join(make_printable(name, 40) for name in different[:_SHOWN_NAMES]) + more


def measure_sizes(
    classifier: Classifier,
    labeled: Iterable[tuple[Item | Photo, int]],
    sizes: Sequence[str],
    data: str,
    on_photo: Callable[[], None] = lambda: None,
) -> SizeMeasurements:
    """Measure the accuracy of a classifier at several input sizes.

    Args:
        classifier: the classifier, at the size of its training.
        labeled: photos with the numbers of their classes.
        sizes: sizes as in SizeAccuracy, the first that of the training.
        data: which photos these are, for SizeAccuracies.
        on_photo: called after each photo.

    Raises:
        InspectorError: no photo can be used.
        NetworkError: the network does not take the first size.
    """
    outcomes: dict[str, list[_Outcome]] = {size: [] for size in sizes}
    refused, unreadable = dict[str, str](), list[str]()
    for source, k in labeled:
        try:
            photo = source if isinstance(source, Photo) else read_item(source)
            for size, outcome in _run_sizes(classifier, photo, k, outcomes, refused).items():
                outcomes[size].append(outcome)
        except ImageError as error:
            unreadable.append(str(error))
        on_photo()
    trained = outcomes[sizes[0]]
    if not trained:
        raise InspectorError(f"None of the {len(unreadable):,} photos can be used. The first: {unreadable[0]}")
    kept = {size: measured for size, measured in outcomes.items() if size not in refused}
    accuracies = SizeAccuracies(
        data, len(trained), sizes[0], {size: _compare(size, measured, trained) for size, measured in kept.items()}
    )
    rows = tuple(_summarize(size, measured) for size, measured in kept.items())
    return SizeMeasurements(accuracies, rows, refused, len(unreadable))


def _run_sizes(
    classifier: Classifier, photo: Photo, k: int, sizes: Iterable[str], refused: dict[str, str]
) -> dict[str, _Outcome]:
    """Compute the class maps of a photo of class k at each size. Add to `refused` what the network does not take."""
    outcomes: dict[str, _Outcome] = {}
    for number, size in enumerate(sizes):
        if size in refused:
            continue
        start = time.perf_counter()
        try:
            maps = class_maps(classifier, photo, None if number == 0 else _parse_size(size))
        except NetworkError as error:
            if number == 0:
                raise
            refused[size] = str(error)
        else:
            grid = (maps.values.shape[1], maps.values.shape[2])
            outcomes[size] = _Outcome(int(maps.logits.argmax()) == k, grid, time.perf_counter() - start)
    return outcomes


def _parse_size(size: str) -> Size:
    return size if is_photo_size(size) else [int(side) for side in (size.split("x") * 2)[:2]]


def _compare(size: str, measured: Sequence[_Outcome], trained: Sequence[_Outcome]) -> SizeAccuracy:
    pairs = Counter((one.is_right, other.is_right) for one, other in zip(measured, trained, strict=True))
    return SizeAccuracy(
        size, pairs[True, True] + pairs[True, False], gained=pairs[True, False], lost=pairs[False, True]
    )


def _summarize(size: str, measured: Sequence[_Outcome]) -> MeasuredSize:
    (grid, _), *_ = Counter(one.grid for one in measured).most_common(1)
    return MeasuredSize(size, grid, 1e3 * sum(one.seconds for one in measured) / len(measured))
