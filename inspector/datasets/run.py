"""Explain a data set: the top classes of every image and their class maps, as Parquet files.

    list -> decode and resize (threads, ahead) -> network and class maps (this thread) -> overlays (behind) and shards

How far a part may run ahead of the next is bounded, so memory does not grow with the number of images. Batches do not
cross the bounds of shards: a shard is the same whichever run, and whichever machine, makes it.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inspector.datasets.gallery import draw_overlay, make_canvas, make_overlay_path, write_gallery
from inspector.datasets.table import (
    Counts,
    Row,
    begin_run,
    count_rows,
    import_arrow,
    remove_temporary_files,
    write_shard,
)
from inspector.errors import ImageError, InspectorError
from inspector.explain.backends.accelerate import AcceleratedNetwork, accelerate
from inspector.explain.class_maps import ClassMaps, class_maps_of_batch
from inspector.explain.classifier import Classifier
from inspector.explain.tracing.forward import match_parameters
from inspector.explain.tracing.receptive_field import ReceptiveField
from inspector.files import replace_non_finite
from inspector.images.photo import Pixels
from inspector.images.preprocessing import Crop, make_view
from inspector.images.sources import Item, hash_items, list_images, read_item

_BATCHES_AHEAD = 2  # batches that may be decoded while one is in the network
_MAX_PENDING = 4  # batches whose overlays may wait to be drawn

Batch = Sequence[tuple[int, Item]]  # images with their indices
OnProgress = Callable[[int, int], None]  # how many images are done, of how many


@dataclass(frozen=True)
class RunOptions:
    """How a run goes through a data set.

    Raises:
        InspectorError: top, batch_size or shard_size is below 1.
    """

    top: int = 5  # classes per image whose maps are kept
    batch_size: int = 32  # images in one pass of the network
    workers: int | None = None  # threads that decode; None: one per processor. With Ray: processors per actor
    shard_size: int = 1024  # images in one Parquet file
    overlays: bool = False  # draw the top-1 class map over each photo, and a gallery of these
    backend: str = "eager"  # what runs the network, see `accelerate`
    resume: bool = False  # keep the whole shards of an earlier run that was stopped

    def __post_init__(self) -> None:
        for name in ("top", "batch_size", "shard_size"):
            if getattr(self, name) < 1:
                raise InspectorError(f"Expected {name} of 1 or more, got {getattr(self, name)}.")


DEFAULT_OPTIONS = RunOptions()


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image after decoding and resizing."""

    index: int
    item: Item
    sha256: str  # of its file; "" if the image could not be read
    crop: Crop | None  # None if the image could not be read
    inputs: torch.Tensor | None  # (1, channels, H, W)
    canvas: Pixels | None  # the photo to draw an overlay on; None without overlays
    error: str | None


def run_dataset(
    source: str | Path | Sequence[str | Path],
    classifier: Classifier,
    out: str | Path,
    options: RunOptions = DEFAULT_OPTIONS,
    *,
    on_progress: OnProgress = lambda done, images: None,
) -> Counts:
    """Explain every image of a source into a folder of Parquet shards.

    An image that cannot be read gives a row with its error.

    Args:
        source: what `list_images` takes: folder, glob, CSV or tar shards, or several of them.
        classifier: the network, with its preprocessing and class names.
        out: new folder, or URL that fsspec knows (without overlays).
        options: how the run goes.
        on_progress: called with the number of finished images and of all images.

    Returns:
        The numbers of rows, counted from the files.

    Raises:
        ImageError: the source has no images.
        NetworkError: the network does not run at its input size, or the backend does not exist or is not exact.
        ExportError: `out` is not empty, has another run, or cannot be written.
    """
    items = list_images(source)
    classifier = accelerate_for_dataset(classifier, options.backend)
    about = describe_run(classifier, items, source, options)
    missing = begin_run(out, about, options.resume)
    done = len(items) - sum(map(len, missing.values()))
    on_progress(done, len(items))
    shards = ([(index, items[index]) for index in indices] for indices in missing.values())
    batches = (batch for shard in shards for batch in split_into_batches(shard, options.batch_size))
    explained = explain_batches(classifier, batches, about["top"], options.workers, options.overlays)
    with _run_in_background() as submit, closing(explained):
        for number, indices in missing.items():
            rows: list[Row] = []
            for batch in islice(explained, -(-len(indices) // options.batch_size)):
                rows += [row for _, row in batch]
                if options.overlays:
                    submit(_draw_overlays, Path(out), classifier.receptive_field, about["grid"], batch)
                on_progress(done + len(rows), len(items))
            done += len(rows)
            # Wait until it is on the disk, so that a killed run loses one shard at most. Decoding goes on meanwhile.
            submit(write_shard, out, number, rows, about).result()
    return finish_run(out, about)


def describe_run(
    classifier: Classifier, items: Sequence[Item], source: str | Path | Sequence[str | Path], options: RunOptions
) -> dict[str, Any]:
    """Return the content of run.json. The network runs once, so that an input size that it rejects fails here."""
    import_arrow()
    preprocessing = classifier.preprocessing
    blank = match_parameters(classifier.network, torch.zeros(1, len(preprocessing.mean), *preprocessing.size))
    (maps,) = class_maps_of_batch(classifier, blank)
    return {
        "version": version("inspector"),
        "network": classifier.name,
        "network_sha256": classifier.sha256(),
        "class_names": list(classifier.class_names),
        "grid": list(maps.values.shape[1:]),
        "size": list(preprocessing.size),
        "pooling": classifier.head.pooling,
        "verdict": classifier.head.verdict,
        "top": min(options.top, len(classifier.class_names)),
        "probability": classifier.probability,
        "receptive_field": {
            name: replace_non_finite(axis) for name, axis in asdict(classifier.receptive_field).items()
        },
        "preprocessing": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(preprocessing).items()},
        "source": str(source) if isinstance(source, str | Path) else " ".join(map(str, source)),
        "images": len(items),
        "shard_size": options.shard_size,
        "backend": maps.backend,
        "overlays": options.overlays,
        "list_sha256": hash_items(items),
    }


def finish_run(out: str | Path, about: Mapping[str, Any]) -> Counts:
    """Remove temporary files, count the rows, and write the gallery if there are overlays."""
    remove_temporary_files(out)
    counts = count_rows(out, about["images"], about["shard_size"])
    if about["overlays"]:
        write_gallery(Path(out))
    return counts


def explain_batches(
    classifier: Classifier, batches: Iterable[Batch], top: int, workers: int | None, overlays: bool = False
) -> Generator[list[tuple[DecodedImage, Row]], None, None]:
    """Yield the images of each batch with their rows, in order.

    Args:
        classifier: the network.
        batches: images with their indices.
        top: classes per image whose maps are kept.
        workers: threads that decode; None: one per processor.
        overlays: keep what an overlay is drawn on.
    """
    class_numbers = _number_classes(classifier.class_names)
    workers = workers or os.cpu_count() or 1
    # Threads, not processes: Pillow decodes and resizes without the interpreter's lock, and no pixels are copied.
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        for batch in decode_ahead(pool, batches, workers, classifier, overlays):
            inputs = [image.inputs for image in batch if image.inputs is not None]
            maps = iter(class_maps_of_batch(classifier, torch.cat(inputs)) if inputs else ())
            yield [(image, _make_row(image, next(maps) if image.crop else None, top, class_numbers)) for image in batch]
    finally:
        pool.shutdown(cancel_futures=True)


def split_into_batches(images: Batch, batch_size: int) -> list[Batch]:
    """Split the images of a shard into the batches that go through the network."""
    return [images[first : first + batch_size] for first in range(0, len(images), batch_size)]


def accelerate_for_dataset(classifier: Classifier, backend: str) -> Classifier:
    """Return the classifier with its network run by another backend."""
    if backend == "eager":
        return classifier
    accelerated = accelerate(classifier, backend)
    if isinstance(accelerated.capture.accelerated, AcceleratedNetwork):
        # Wait, so that one backend makes all rows.
        accelerated.capture.accelerated.wait()
    return accelerated


def _draw_overlays(
    out: Path, field: ReceptiveField, grid: tuple[int, int], batch: Sequence[tuple[DecodedImage, Row]]
) -> None:
    """Draw the overlays of a batch: for each image the class map of its top-1 class."""
    for image, row in batch:
        if image.crop is not None and image.canvas is not None:
            values = row["maps"][: grid[0] * grid[1]].reshape(grid)
            draw_overlay(out / make_overlay_path(image.index), image.crop, image.canvas, values, field)


def _decode_image(index: int, item: Item, classifier: Classifier, overlays: bool) -> DecodedImage:
    try:
        photo = read_item(item)
        view = make_view(photo, classifier.preprocessing)
    except ImageError as error:
        return DecodedImage(index, item, "", None, None, None, str(error))
    canvas = make_canvas(view) if overlays else None
    # The photo is not kept: dozens of them with 80 megapixels each, decoded ahead, would fill the memory.
    return DecodedImage(index, item, photo.sha256, view.crop, classifier.inputs(view), canvas, None)


def decode_ahead(
    pool: ThreadPoolExecutor, batches: Iterable[Batch], workers: int, classifier: Classifier, overlays: bool
) -> Iterator[list[DecodedImage]]:
    """Yield the batches, decoded in order by the pool, while it decodes the next ones."""
    pending: deque[list[Future[DecodedImage]]] = deque()
    for batch in batches:
        pending.append([pool.submit(_decode_image, index, item, classifier, overlays) for index, item in batch])
        # If the batches are small, keep enough of them pending that every worker has something to do.
        if len(pending) > _BATCHES_AHEAD and sum(map(len, pending)) > 2 * workers:
            yield [future.result() for future in pending.popleft()]
    while pending:
        yield [future.result() for future in pending.popleft()]


@contextmanager
def _run_in_background() -> Iterator[Callable[..., Future[None]]]:
    """Yield a function that submits work to one thread, which does it in order; it blocks if too much is pending.

    All submitted work is finished at the end of the block, also after an error.
    """
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, "write") as pool:

        def submit(work: Callable[..., None], *arguments: Any) -> Future[None]:
            if len(pending) >= _MAX_PENDING:
                pending.popleft().result()
            pending.append(pool.submit(work, *arguments))
            return pending[-1]

        yield submit
        for future in pending:
            future.result()


def _number_classes(class_names: Sequence[str]) -> dict[str, int | None]:
    """Return the class number for each label, a name or a number; None for a name that several classes have."""
    numbers: dict[str, int | None] = {str(k): k for k in range(len(class_names))}
    occurrences = Counter(class_names)
    return numbers | {name: k if occurrences[name] == 1 else None for k, name in enumerate(class_names)}


def _make_row(image: DecodedImage, maps: ClassMaps | None, top: int, class_numbers: Mapping[str, int | None]) -> Row:
    row: dict[str, Any] = {"index": image.index, "path": image.item.path, "label": image.item.label}
    if maps is None or image.crop is None:
        return row | {"error": image.error}
    order = maps.logits.argsort(descending=True, stable=True).tolist()
    label = class_numbers.get(image.item.label) if image.item.label is not None else None
    classes = order[:top]
    map_classes = classes if label is None or label in classes else [*classes, label]
    height, width = image.crop.photo_size
    row |= {"height": height, "width": width, "sha256": image.sha256, "box": image.crop.box}
    row |= {"residual": maps.residual, "verdict": maps.verdict, "classes": classes, "map_classes": map_classes}
    row["maps"] = _to_numpy(maps.values[map_classes].flatten(), np.float16)
    for name, values in (("probabilities", maps.probabilities), ("logits", maps.logits), ("biases", maps.bias)):
        row[name] = _to_numpy(values[classes], np.float32)
    if label is not None:
        probability = float(maps.probabilities[label])
        row |= {"label_class": label, "label_rank": order.index(label), "label_probability": probability}
    return row


def _to_numpy(values: torch.Tensor, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    # A value beyond the largest float16 becomes an infinity, so a reader sees that it is out of range.
    with np.errstate(over="ignore"):
        return values.numpy(force=True).astype(dtype)
