"""Put a data set through a classifier: the likeliest classes of every image and their class maps, in Parquet.

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
    split_into_shards,
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

_BATCHES_AHEAD = 2  # batches that are decoded while one is in the network
_MAX_PENDING = 4  # batches whose overlays may wait to be drawn

Batch = Sequence[tuple[int, Item]]  # images with their indices
OnProgress = Callable[[int, int], None]  # how many images are done, of how many


@dataclass(frozen=True)
class RunOptions:
    """How a run goes through a data set."""

    top: int = 5  # likeliest classes whose maps are kept
    batch_size: int = 32  # images in one pass of the network
    workers: int | None = None  # threads that decode; None: one per processor. With Ray: processors per actor
    shard_size: int = 1024  # images in one Parquet file
    overlays: bool = False
    backend: str = "eager"
    resume: bool = False  # keep the whole shards of a run that broke off

    def __post_init__(self) -> None:
        for name in ("top", "batch_size", "shard_size"):
            if getattr(self, name) < 1:
                raise InspectorError(f"Expected {name} of 1 or more, got {getattr(self, name)}.")


DEFAULT_OPTIONS = RunOptions()


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image once it is decoded and resized."""

    index: int
    item: Item
    sha256: str  # of its file; "" where the image could not be read
    crop: Crop | None  # None where the image could not be read
    inputs: torch.Tensor | None  # (1, channels, H, W)
    canvas: Pixels | None  # to draw an overlay on, where one is asked for
    error: str | None


def run_dataset(
    source: str | Path | Sequence[str | Path],
    classifier: Classifier,
    out: str | Path,
    options: RunOptions = DEFAULT_OPTIONS,
    *,
    on_progress: OnProgress = lambda done, images: None,
) -> Counts:
    """Explain every image of a source (as `sources.list_images` takes it) into a folder of Parquet shards.

    An image that cannot be read is a row with its error. Raises ExportError where `out` is not empty
    or holds another run, ImageError where there is no image, NetworkError where the network does not run.
    """
    items = list_images(source)
    classifier = accelerate_for_dataset(classifier, options.backend)
    about = describe_run(classifier, items, source, options)
    missing = begin_run(out, about, options.resume)
    shards = split_into_shards(len(items), options.shard_size)
    done = len(items) - sum(len(shards[number]) for number in missing)
    on_progress(done, len(items))
    batches = (
        batch
        for number in missing
        for batch in split_into_batches([(index, items[index]) for index in shards[number]], options.batch_size)
    )
    explained = explain_batches(classifier, batches, about["top"], options.workers, options.overlays)
    with _run_in_background() as submit, closing(explained):
        for number in missing:
            rows: list[Row] = []
            for batch in islice(explained, -(-len(shards[number]) // options.batch_size)):
                rows += [row for _, row in batch]
                if options.overlays:
                    submit(_draw_overlays, Path(out), classifier.receptive_field, about["grid"], batch)
                on_progress(done + len(rows), len(items))
            done += len(rows)
            # Waited for: of a run that is killed only one shard is not on the disk yet. Decoding goes on meanwhile.
            submit(write_shard, out, number, rows, about).result()
    return finish_run(out, about)


def describe_run(
    classifier: Classifier,
    items: Sequence[Item],
    source: str | Path | Sequence[str | Path],
    options: RunOptions,
) -> dict[str, Any]:
    """What run.json and every shard say of a run. The network runs once: a size that it does not take fails here."""
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
    """Clear up, count what was written, and make the gallery of the overlays if there are any."""
    remove_temporary_files(out)
    counts = count_rows(out, about["images"], about["shard_size"])
    if about["overlays"]:
        write_gallery(Path(out))
    return counts


def explain_batches(
    classifier: Classifier, batches: Iterable[Batch], top: int, workers: int | None, overlays: bool = False
) -> Generator[list[tuple[DecodedImage, Row]], None, None]:
    """The rows of each batch of images, in order."""
    class_numbers = _number_classes(classifier.class_names)
    workers = workers or os.cpu_count() or 1
    # Threads and not processes: Pillow decodes and resizes without the interpreter's lock, and nothing is sent over.
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        for batch in decode_ahead(pool, batches, workers, classifier, overlays):
            inputs = [image.inputs for image in batch if image.inputs is not None]
            maps: Iterator[ClassMaps] = iter(())
            if inputs:
                maps = iter(class_maps_of_batch(classifier, torch.cat(inputs)))
            yield [(image, _make_row(image, next(maps) if image.crop else None, top, class_numbers)) for image in batch]
    finally:
        pool.shutdown(cancel_futures=True)


def split_into_batches(images: Batch, batch_size: int) -> list[Batch]:
    """The images of a shard, as they go through the network."""
    return [images[first : first + batch_size] for first in range(0, len(images), batch_size)]


def accelerate_for_dataset(classifier: Classifier, backend: str) -> Classifier:
    """The classifier, heard through another backend."""
    if backend == "eager":
        return classifier
    accelerated = accelerate(classifier, backend)
    if isinstance(accelerated.capture.accelerated, AcceleratedNetwork):
        # One network for all rows, and not another from the moment on that it is built.
        accelerated.capture.accelerated.wait()
    return accelerated


def _draw_overlays(
    out: Path, field: ReceptiveField, grid: tuple[int, int], batch: Sequence[tuple[DecodedImage, Row]]
) -> None:
    """The overlays of a batch: of each image the class map of its likeliest class."""
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
    pending: deque[list[Future[DecodedImage]]] = deque()
    for batch in batches:
        pending.append([pool.submit(_decode_image, index, item, classifier, overlays) for index, item in batch])
        # Of small batches enough that every worker has something to do.
        if len(pending) > _BATCHES_AHEAD and sum(map(len, pending)) > 2 * workers:
            yield [future.result() for future in pending.popleft()]
    while pending:
        yield [future.result() for future in pending.popleft()]


@contextmanager
def _run_in_background() -> Iterator[Callable[..., Future[None]]]:
    """A function that has work done in a thread, piece by piece in order; it waits where too much does alimage.

    What was handed over is finished, also when the block ends with an error.
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
    """The class that a label means, by its name or its number; None for a name that several classes have."""
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
    return row | {
        "height": height,
        "width": width,
        "sha256": image.sha256,
        "classes": classes,
        "probabilities": _to_numpy(maps.probabilities[classes], np.float32),
        "logits": _to_numpy(maps.logits[classes], np.float32),
        "biases": _to_numpy(maps.bias[classes], np.float32),
        "label_class": label,
        "label_rank": None if label is None else order.index(label),
        "label_probability": None if label is None else float(maps.probabilities[label]),
        "maps": _to_numpy(maps.values[map_classes].flatten(), np.float16),
        "map_classes": map_classes,
        "box": image.crop.box,
        "residual": maps.residual,
        "verdict": maps.verdict,
    }


def _to_numpy(values: torch.Tensor, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    # A logit beyond the largest float16 becomes an infinity, which says so.
    with np.errstate(over="ignore"):
        return values.numpy(force=True).astype(dtype)
