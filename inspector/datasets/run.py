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
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inspector.datasets.gallery import draw_overlay, make_canvas, overlay_path, write_gallery
from inspector.datasets.table import (
    Counts,
    Row,
    begin_run,
    count_rows,
    import_arrow,
    remove_temporary_files,
    replace_non_finite,
    split_into_shards,
    write_shard,
)
from inspector.errors import ImageError, InspectorError
from inspector.explain.class_maps import ClassMaps, class_maps_of_batch
from inspector.explain.classifier import Classifier
from inspector.explain.tracing.forward import match_parameters
from inspector.explain.tracing.receptive_field import ReceptiveField
from inspector.images.photo import Pixels
from inspector.images.preprocessing import View, make_view
from inspector.images.sources import Item, hash_items, list_images, read_item

SHARD_SIZE = 1024
BATCH_SIZE = 32
_AHEAD = 2  # batches that are decoded while one is in the network
_BEHIND = 4  # batches whose overlays may wait to be drawn

Batch = Sequence[tuple[int, Item]]  # images with their indices
OnProgress = Callable[[int, int], None]  # how many images are done, of how many


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image once it is decoded and resized."""

    index: int
    item: Item
    view: View | None  # its photo has a size and no pixels; None where the image could not be read
    inputs: torch.Tensor | None  # (1, channels, H, W)
    canvas: Pixels | None  # to draw an overlay on, where one is asked for
    error: str | None


def run_dataset(
    source: str | Path | Sequence[str | Path],
    classifier: Classifier,
    out: str | Path,
    top: int = 5,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    shard_size: int = SHARD_SIZE,
    overlays: bool = False,
    backend: str = "eager",
    resume: bool = False,
    tell: OnProgress | None = None,
) -> Counts:
    """Explain every image of a source (as `sources.list_images` takes it) into a folder of Parquet shards.

    `workers` threads decode; as many as there are processors, unless said. An image that cannot be read is a row with
    its error. With `resume` the shards stay that a broken run left whole. Raises ExportError where `out` is not empty
    or holds another run, ImageError where there is no image, NetworkError where the network does not run.
    """
    items = list_images(source)
    classifier = accelerate_for_dataset(classifier, backend)
    about = describe_run(classifier, items, source, top, batch_size, shard_size, overlays)
    missing = begin_run(out, about, resume)
    shards = split_into_shards(len(items), shard_size)
    done = len(items) - sum(len(shards[number]) for number in missing)
    if tell is not None:
        tell(done, len(items))
    batches = (
        batch
        for number in missing
        for batch in split_into_batches([(index, items[index]) for index in shards[number]], batch_size)
    )
    made = explain_batches(classifier, batches, about["top"], workers, overlays)
    with _behind() as later, closing(made):
        for number in missing:
            rows: list[Row] = []
            for batch in islice(made, -(-len(shards[number]) // batch_size)):
                rows += [row for _, row in batch]
                if overlays:
                    later(_draw, Path(out), classifier.receptive_field, about["grid"], batch)
                if tell is not None:
                    tell(done + len(rows), len(items))
            done += len(rows)
            # Waited for: of a run that is killed only one shard is not on the disk yet. Decoding goes on meanwhile.
            later(write_shard, out, number, rows, about).result()
    return finish_run(out, about)


def describe_run(
    classifier: Classifier,
    items: Sequence[Item],
    source: str | Path | Sequence[str | Path],
    top: int,
    batch_size: int,
    shard_size: int,
    overlays: bool = False,
) -> dict[str, Any]:
    """What run.json and every shard say of a run. The network runs once: a size that it does not take fails here."""
    import_arrow()
    for name, value in {"top": top, "batch_size": batch_size, "shard_size": shard_size}.items():
        if value < 1:
            raise InspectorError(f"{name} is {value}; 1 or more would do.")
    usual = classifier.preprocessing
    blank = match_parameters(classifier.network, torch.zeros(1, len(usual.mean), *usual.size))
    (maps,) = class_maps_of_batch(classifier, blank)
    return {
        "version": version("inspector"),
        "network": classifier.name,
        "network_sha256": classifier.sha256(),
        "class_names": list(classifier.class_names),
        "grid": list(maps.values.shape[1:]),
        "size": list(usual.size),
        "pooling": classifier.head.pooling,
        "verdict": classifier.head.verdict,
        "top": min(top, len(classifier.class_names)),
        "probability": classifier.probability,
        "receptive_field": {
            name: replace_non_finite(axis) for name, axis in asdict(classifier.receptive_field).items()
        },
        "preprocessing": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(usual).items()},
        "source": str(source) if isinstance(source, str | Path) else " ".join(map(str, source)),
        "images": len(items),
        "shard_size": shard_size,
        "backend": maps.backend,
        "overlays": overlays,
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
    numbers = _class_numbers(classifier.class_names)
    workers = workers or os.cpu_count() or 1
    # Threads and not processes: Pillow decodes and resizes without the interpreter's lock, and nothing is sent over.
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        for batch in decode_ahead(pool, batches, workers, classifier, overlays):
            inputs = [ready.inputs for ready in batch if ready.inputs is not None]
            maps: Iterator[ClassMaps] = iter(())
            if inputs:
                views = [ready.view for ready in batch if ready.view is not None]
                maps = iter(class_maps_of_batch(classifier, torch.cat(inputs), views))
            yield [(one, _row(one, next(maps) if one.view else None, top, numbers)) for one in batch]
    finally:
        pool.shutdown(cancel_futures=True)


def split_into_batches(images: Batch, batch_size: int) -> list[Batch]:
    """The images of a shard, as they go through the network."""
    return [images[first : first + batch_size] for first in range(0, len(images), batch_size)]


def accelerate_for_dataset(classifier: Classifier, backend: str) -> Classifier:
    """The classifier, heard through another backend."""
    if backend == "eager":
        return classifier
    from inspector.explain.backends.accelerate import AcceleratedNetwork, accelerate

    quick = accelerate(classifier, backend)
    if isinstance(quick.capture.accelerated, AcceleratedNetwork):
        # One network for all rows, and not another from the moment on that it is built.
        quick.capture.accelerated.wait()
    return quick


def _draw(out: Path, field: ReceptiveField, grid: tuple[int, int], batch: Sequence[tuple[DecodedImage, Row]]) -> None:
    """The overlays of a batch: of each image the class map of its likeliest class."""
    for ready, row in batch:
        if ready.view is not None and ready.canvas is not None:
            values = row["maps"][: grid[0] * grid[1]].reshape(grid)
            draw_overlay(out / overlay_path(ready.index), ready.view, ready.canvas, values, field)


def _prepare(index: int, item: Item, classifier: Classifier, overlays: bool) -> DecodedImage:
    try:
        photo = read_item(item)
        view = make_view(photo, classifier.preprocessing)
    except ImageError as error:
        return DecodedImage(index, item, None, None, None, str(error))
    # From here on its size is enough: photos of 80 megapixels, some dozens of them ahead, would fill the memory.
    empty = replace(photo, pixels=np.broadcast_to(np.uint8(0), photo.pixels.shape))
    canvas = make_canvas(view) if overlays else None
    return DecodedImage(index, item, replace(view, photo=empty), classifier.inputs(view), canvas, None)


def decode_ahead(
    pool: ThreadPoolExecutor, batches: Iterable[Batch], workers: int, classifier: Classifier, overlays: bool
) -> Iterator[list[DecodedImage]]:
    waiting: deque[list[Future[DecodedImage]]] = deque()
    for batch in batches:
        waiting.append([pool.submit(_prepare, index, item, classifier, overlays) for index, item in batch])
        # Of small batches enough that every worker has something to do.
        if len(waiting) > _AHEAD and sum(map(len, waiting)) > 2 * workers:
            yield [future.result() for future in waiting.popleft()]
    while waiting:
        yield [future.result() for future in waiting.popleft()]


@contextmanager
def _behind() -> Iterator[Callable[..., Future[None]]]:
    """A function that has work done in a thread, piece by piece in order; it waits where too much does already.

    What was handed over is finished, also when the block ends with an error.
    """
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, "write") as pool:

        def later(work: Callable[..., None], *arguments: Any) -> Future[None]:
            if len(waiting) >= _BEHIND:
                waiting.popleft().result()
            waiting.append(pool.submit(work, *arguments))
            return waiting[-1]

        yield later
        for future in waiting:
            future.result()


def _class_numbers(class_names: Sequence[str]) -> dict[str, int | None]:
    """The class that a label means, by its name or its number; None for a name that several classes have."""
    numbers: dict[str, int | None] = {str(k): k for k in range(len(class_names))}
    times = Counter(class_names)
    return numbers | {name: k if times[name] == 1 else None for k, name in enumerate(class_names)}


def _row(ready: DecodedImage, maps: ClassMaps | None, top: int, numbers: Mapping[str, int | None]) -> Row:
    row: dict[str, Any] = {"index": ready.index, "path": ready.item.path, "label": ready.item.label}
    if maps is None or ready.view is None:
        return row | {"error": ready.error}
    order = maps.logits.argsort(descending=True, stable=True).tolist()
    label = numbers.get(ready.item.label) if ready.item.label is not None else None
    likeliest = order[:top]
    drawn = likeliest if label is None or label in likeliest else [*likeliest, label]
    photo = ready.view.photo
    return row | {
        "height": photo.size[0],
        "width": photo.size[1],
        "sha256": photo.sha256,
        "classes": likeliest,
        "probabilities": _numbers(maps.probabilities[likeliest], np.float32),
        "logits": _numbers(maps.logits[likeliest], np.float32),
        "biases": _numbers(maps.bias[likeliest], np.float32),
        "label_class": label,
        "label_rank": None if label is None else order.index(label),
        "label_probability": None if label is None else float(maps.probabilities[label]),
        "maps": _numbers(maps.values[drawn].flatten(), np.float16),
        "map_classes": drawn,
        "box": ready.view.box,
        "residual": maps.residual,
        "verdict": maps.verdict,
    }


def _numbers(values: torch.Tensor, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    # A logit beyond the largest float16 becomes an infinity, which says so.
    with np.errstate(over="ignore"):
        return values.numpy(force=True).astype(dtype)
