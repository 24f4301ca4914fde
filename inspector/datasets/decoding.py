"""Decode the images of a data set in threads, in advance, into the batches that the network takes."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from inspector.datasets.gallery import make_canvas
from inspector.errors import ImageError
from inspector.explain.classifier import Classifier
from inspector.explain.tracing.forward import match_parameters
from inspector.images.decode import Pixels
from inspector.images.preprocessing import Crop, make_view, normalize_view
from inspector.images.sources import Item, read_item
from inspector.printable import make_printable

_BATCHES_AHEAD = 2  # batches that are decoded in advance while the network runs on another

Batch: TypeAlias = Sequence[tuple[int, Item]]  # images with their indices


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """What is kept of an image after decoding and resizing, beside the network's input."""

    index: int
    item: Item
    sha256: str  # hash of the image's file; "" if the image could not be read
    crop: Crop | None  # None if the image could not be read
    canvas: Pixels | None  # dimmed photo to draw an overlay on; None if the run draws no overlays
    error: str | None  # why the image could not be read


@dataclass(frozen=True, eq=False)
class DecodedBatch:
    """The images of a batch, and the network's input."""

    images: list[DecodedImage]
    inputs: torch.Tensor  # (N, channels, H, W), of those images that could be read, in their order


def decode_ahead(
    batches: Iterable[Batch], classifier: Classifier, workers: int | None, overlays: bool = False
) -> Generator[DecodedBatch, None, None]:
    """Yield the decoded batches in order, while threads decode the next ones.

    The thread that takes the batches decodes, too, where it would have to wait.

    Args:
        batches: each batch has some images with their indices.
        classifier: the network that they are for.
        workers: number of decoding threads; None: one per processor that this process may use.
        overlays: keep the dimmed photo, for drawing an overlay on it.
    """
    workers = workers or _count_processors()
    pending: deque[_PendingBatch] = deque()
    # Threads, not processes: Pillow releases the interpreter lock, and threads need not copy pixels to each other.
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        for batch in batches:
            pending.append(_begin_batch(pool, batch, classifier, overlays))
            # If the batches are small, keep enough batches pending that every worker has something to do.
            if len(pending) > _BATCHES_AHEAD and sum(len(one.tasks) for one in pending) > 2 * workers:
                yield pending.popleft().wait(classifier)
        while pending:
            yield pending.popleft().wait(classifier)
    finally:
        pool.shutdown(cancel_futures=True)


def _count_processors() -> int:
    """Return how many processors this process may use: a container may have fewer than its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class _PendingBatch:
    """A batch that is being decoded."""

    tasks: Sequence[Callable[[], DecodedImage]]
    futures: Sequence[Future[DecodedImage]]  # the tasks in the pool
    inputs: NDArray[np.float32]  # (N, channels, H, W); each image that can be read is written into its own row

    def wait(self, classifier: Classifier) -> DecodedBatch:
        """Wait until all images are decoded. Meanwhile decode those that no thread has begun, the last ones first."""
        own = {n: self.tasks[n]() for n in reversed(range(len(self.tasks))) if self.futures[n].cancel()}
        images = [own[n] if n in own else future.result() for n, future in enumerate(self.futures)]
        readable = [n for n, image in enumerate(images) if image.crop is not None]
        inputs = self.inputs if len(readable) == len(images) else self.inputs[readable]
        return DecodedBatch(images, match_parameters(classifier.network, torch.from_numpy(inputs)))


def _begin_batch(pool: ThreadPoolExecutor, batch: Batch, classifier: Classifier, overlays: bool) -> _PendingBatch:
    preprocessing = classifier.preprocessing
    inputs = np.empty((len(batch), len(preprocessing.mean), *preprocessing.size), np.float32)
    tasks = [
        partial(_decode_image, index, item, classifier, overlays, inputs[n : n + 1])
        for n, (index, item) in enumerate(batch)
    ]
    return _PendingBatch(tasks, [pool.submit(task) for task in tasks], inputs)


def _decode_image(
    index: int, item: Item, classifier: Classifier, overlays: bool, out: NDArray[np.float32]
) -> DecodedImage:
    """Decode an image, and write its input into `out` (1, channels, H, W)."""
    try:
        photo = read_item(item)
        view = make_view(photo, classifier.preprocessing)
    except ImageError as error:
        return DecodedImage(index, item, "", None, None, make_printable(str(error)))
    normalize_view(view, classifier.preprocessing, out)
    canvas = make_canvas(view) if overlays else None
    # Do not keep the photo: dozens of photos of 80 megapixels, decoded in advance, would fill the memory.
    return DecodedImage(index, item, photo.sha256, view.crop, canvas, None)
