"""Run a network faster over a data set: by another backend, and in lower precision if that is asked for."""

from collections.abc import Sequence
from typing import overload

from inspector.datasets.rows import number_labels
from inspector.errors import ImageError, InspectorError
from inspector.explain.backends.accelerate import AcceleratedNetwork, accelerate
from inspector.explain.backends.lower_precision import Calibration
from inspector.explain.classifier import Classifier
from inspector.images.photo import Photo
from inspector.images.sources import Item, read_item

_SAMPLE = 128  # photos of a data set from which a network in lower precision is built and compared


class _ItemPhotos(Sequence[Photo]):
    """The photos of some items, each decoded when it is asked for: all of them at once might fill the memory."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Photo: ...
    @overload
    def __getitem__(self, index: slice) -> "_ItemPhotos": ...
    def __getitem__(self, index: int | slice) -> "Photo | _ItemPhotos":
        return _ItemPhotos(self._items[index]) if isinstance(index, slice) else read_item(self._items[index])


def sample_items(items: Sequence[Item]) -> list[Item]:
    """Return some of the items, spread evenly over their list."""
    step = -(-len(items) // _SAMPLE)
    return list(items[:: max(1, step)])


def make_calibration(classifier: Classifier, items: Sequence[Item]) -> Calibration:
    """Choose photos for building a network in lower precision, and their labels if all of them are classes.

    Raises:
        InspectorError: fewer than two of the photos can be read.
    """
    readable, reason = list[Item](), ""
    for item in sample_items(items):
        try:
            read_item(item)
        except ImageError as error:
            reason = f" {error}"
            continue
        readable.append(item)
    if len(readable) < 2:
        raise InspectorError(
            f"Lower precision needs at least 2 photos to build and compare; got {len(readable)}.{reason}"
        )
    numbers = number_labels(classifier.class_names)
    labels = [None if item.label is None else numbers.get(item.label) for item in readable]
    known = [k for k in labels if k is not None]
    return Calibration(_ItemPhotos(readable), known if len(known) == len(labels) else None)


def accelerate_for_dataset(
    classifier: Classifier, backend: str | None, dtype: str = "float32", items: Sequence[Item] = ()
) -> Classifier:
    """Return the classifier with a backend that runs its network; wait until the backend is ready.

    Args:
        classifier: the network.
        backend: "eager" for PyTorch, or a backend of `accelerate`; None: the one that the classifier has.
        dtype: precision, as for `accelerate`.
        items: the photos of the data set. Lower precision is built and compared with some of them.

    Raises:
        NetworkError, InspectorError: as `accelerate`.
    """
    if backend is not None or dtype != "float32":
        calibration = None if dtype == "float32" or not items else make_calibration(classifier, items)
        classifier = accelerate(classifier, backend or "eager", dtype=dtype, calibration=calibration, in_batches=True)
    if isinstance(classifier.capture.accelerated, AcceleratedNetwork):
        # Wait until the network is compiled, so that the same backend computes all rows.
        classifier.capture.accelerated.wait()
    return classifier


def name_backend(classifier: Classifier) -> str:
    """Return the name of what runs a network of `accelerate_for_dataset`, as `ClassMaps.backend` has it."""
    accelerated = classifier.capture.accelerated
    return accelerated.name if isinstance(accelerated, AcceleratedNetwork) else "eager"
