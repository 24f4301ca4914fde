"""Explain a data set: write the top classes of every image and their class maps into Parquet files.

    list -> decode and resize (threads, in advance) -> network and class maps (this thread)
         -> rows, overlays and shards (later, in one thread)

Each stage may be only a few batches ahead of the next one, so memory does not grow with the number of images. No batch
spans two shards, so a shard does not depend on the run or the machine.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from inspector.analysis.linear_head import read_linear_head
from inspector.datasets.accelerated import accelerate_for_dataset
from inspector.datasets.decoding import Batch, decode_ahead
from inspector.datasets.feature_files import Write, hash_head, open_features_writer, write_head
from inspector.datasets.gallery import draw_overlay, make_overlay_path, write_gallery
from inspector.datasets.rows import ComputedBatch, make_rows, number_labels
from inspector.datasets.shard_schema import import_arrow
from inspector.datasets.table import (
    Counts,
    Row,
    begin_run,
    count_rows,
    remove_temporary_files,
    write_shard,
)
from inspector.errors import InspectorError
from inspector.explain.class_maps import class_maps_of_batch
from inspector.explain.classifier import Classifier
from inspector.explain.receptive_field import read_field
from inspector.explain.tracing.forward import match_parameters
from inspector.images.sources import Item, hash_items, list_images, make_storable
from inspector.output.manifest import describe_field
from inspector.version import __version__

_MAX_PENDING = 2  # tasks (the rows of a batch with their overlays, or a shard) of the writing thread that are not done

OnProgress = Callable[[int, int], None]  # (finished images, all images)


@dataclass(frozen=True)
class RunOptions:
    """Options of a run over a data set.

    Raises:
        InspectorError: top, batch_size or shard_size is below 1.
    """

    top: int = 5  # number of classes per image whose maps are stored
    batch_size: int = 32  # images in one pass of the network
    workers: int | None = None  # decoding threads; None: one per usable processor. With Ray: processors per actor
    shard_size: int = 1024  # images in one Parquet file
    overlays: bool = False  # draw the top-1 class map over each photo, and write a gallery of these images
    backend: str | None = None  # "eager" for PyTorch, or a backend of `accelerate`; None: the one that the network has
    dtype: str = "float32"  # precision of the backend; a lower one is built and compared with photos of the data set
    finer: int = 1  # how many times finer than the network's own grid the stored maps are: 1, 2 or 4
    features: bool = False  # store the feature maps before pooling, which concepts and repair need
    resume: bool = False  # continue a stopped run: keep its complete shards

    def __post_init__(self) -> None:
        for name in ("top", "batch_size", "shard_size"):
            if getattr(self, name) < 1:
                raise InspectorError(f"Expected {name} of 1 or more, got {getattr(self, name)}.")


DEFAULT_OPTIONS = RunOptions()


def run_dataset(
    source: str | Path | Sequence[str | Path],
    classifier: Classifier,
    out: str | Path,
    options: RunOptions = DEFAULT_OPTIONS,
    *,
    on_progress: OnProgress = lambda done, images: None,
) -> Counts:
    """Explain every image of a source, and write the results into a folder of Parquet shards.

    For an image that cannot be read, the row contains the error.

    Args:
        source: a folder, glob, CSV file or tar shards, or several of these, as `list_images` accepts them.
        classifier: the network, with its preprocessing and class names.
        out: new folder. A URL that fsspec knows is possible too, but only without overlays.
        options: batch size, backend and the other options of the run.
        on_progress: called with the numbers of finished images and of all images.

    Returns:
        The numbers of images and shards, counted in the written files.

    Raises:
        ImageError: the source has no images.
        NetworkError: the network does not run at its input size, or the backend does not exist or changes the results.
        HeadError: features are to be stored, and the head is not one average or max pooling and a linear layer.
        ExportError: `out` is not empty, holds a different run, or cannot be written.
    """
    return run_items(list_images(source), classifier, out, options, source=source, on_progress=on_progress)


def run_items(
    items: Sequence[Item],
    classifier: Classifier,
    out: str | Path,
    options: RunOptions = DEFAULT_OPTIONS,
    *,
    source: str | Path | Sequence[str | Path],
    on_progress: OnProgress = lambda done, images: None,
) -> Counts:
    """Explain images that were listed before, as `run_dataset` does. `source` is what the results name as their source.

    An exception of `on_progress` stops the run between two batches; the complete shards stay.
    """
    classifier = accelerate_for_dataset(classifier, options.backend, options.dtype, items)
    about = describe_run(classifier, items, source, options)
    missing = begin_run(out, about, options.resume)
    if options.features:
        write_head(Path(out), *read_linear_head(classifier))
    done = len(items) - sum(map(len, missing.values()))
    on_progress(done, len(items))
    shards = ([(index, items[index]) for index in indices] for indices in missing.values())
    batches = (batch for shard in shards for batch in split_into_batches(shard, options.batch_size))
    class_numbers = number_labels(classifier.class_names)
    with (
        _run_in_background() as submit,
        closing(compute_batches(classifier, batches, options.workers, options.overlays, options.finer)) as computed,
    ):
        for number, indices in missing.items():
            with (
                open_features_writer(Path(out), number, about) if options.features else nullcontext() as write_features
            ):
                shard = _Shard(Path(out), about, class_numbers, write_features)
                for batch in islice(computed, -(-len(indices) // options.batch_size)):
                    added = submit(shard.add, batch)
                    done += len(batch)
                    on_progress(done, len(items))
                added.result()
            # Wait until the shard is written: a killed run then loses at most one shard. Decoding continues meanwhile.
            submit(write_shard, out, number, shard.rows, about).result()
    return finish_run(out, about)


def describe_run(
    classifier: Classifier, items: Sequence[Item], source: str | Path | Sequence[str | Path], options: RunOptions
) -> dict[str, Any]:
    """Return the content of run.json. The network runs once, so that an unsuitable input size is an error here."""
    import_arrow()
    preprocessing = classifier.preprocessing
    blank = match_parameters(classifier.network, torch.zeros(1, len(preprocessing.mean), *preprocessing.size))
    (maps,) = class_maps_of_batch(classifier, blank, finer=options.finer)
    features: dict[str, Any] = {}
    if options.features:
        features["head_sha256"] = hash_head(*read_linear_head(classifier))
        features["features"] = list(maps.decomposition.branches[0].feature_maps.shape)
    return {
        "version": __version__,
        "network": classifier.name,
        "network_sha256": classifier.sha256(),
        "class_names": list(classifier.class_names),
        "grid": [options.finer * cells for cells in maps.values.shape[1:]],
        **({} if maps.finer is None else {"finer": options.finer, "finer_by": maps.finer.describe()}),
        "size": list(preprocessing.size),
        "pooling": classifier.head.pooling,
        "verdict": classifier.head.verdict,
        "top": min(options.top, len(classifier.class_names)),
        "probability": classifier.probability,
        **{name: one for name in ("output", "unit") if (one := getattr(classifier, name)) is not None},
        "receptive_field": describe_field(maps.shown_field),
        "fed": preprocessing.describe(),
        "preprocessing": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(preprocessing).items()},
        "source": make_storable(str(source) if isinstance(source, str | Path) else " ".join(map(str, source))),
        "images": len(items),
        "shard_size": options.shard_size,
        "backend": maps.backend,
        **({"precision": " ".join(classifier.precision_notes)} if classifier.precision_notes else {}),
        "overlays": options.overlays,
        **features,
        "list_sha256": hash_items(items),
    }


def finish_run(out: str | Path, about: Mapping[str, Any]) -> Counts:
    """Remove temporary files, count the rows, and write the gallery if there are overlays."""
    remove_temporary_files(out)
    counts = count_rows(out, about["images"], about["shard_size"])
    if about["overlays"]:
        write_gallery(Path(out))
    return replace(counts, precision=about.get("precision", ""))


def compute_batches(
    classifier: Classifier, batches: Iterable[Batch], workers: int | None, overlays: bool = False, finer: int = 1
) -> Generator[ComputedBatch, None, None]:
    """Yield one list per batch, in order: each image with its class maps; None if it could not be read.

    Args:
        classifier: the network.
        batches: each batch has some images with their indices.
        workers: number of decoding threads; None: one per processor that this process may use.
        overlays: keep the dimmed photo, for drawing an overlay on it.
        finer: compute the maps on a grid that is finer by this factor too, see `FinerMaps`.
    """
    with closing(decode_ahead(batches, classifier, workers, overlays)) as decoded:
        for batch in decoded:
            maps = iter(class_maps_of_batch(classifier, batch.inputs, finer=finer) if len(batch.inputs) else ())
            yield [(image, next(maps) if image.crop else None) for image in batch.images]


def split_into_batches(images: Batch, batch_size: int) -> list[Batch]:
    """Split the images of a shard into the batches that go through the network."""
    return [images[first : first + batch_size] for first in range(0, len(images), batch_size)]


@dataclass(frozen=True, eq=False)
class _Shard:
    """The rows of a shard, which grow batch by batch."""

    out: Path
    about: Mapping[str, Any]
    class_numbers: Mapping[str, int | None]
    write_features: Write | None
    rows: list[Row] = field(default_factory=list)

    def add(self, batch: ComputedBatch) -> None:
        """Make the rows of a batch; write its features and draw its overlays if there are any."""
        rows = make_rows(batch, self.about["top"], self.class_numbers, self.write_features is not None)
        if self.write_features is not None:
            self.write_features([(row["index"], row.pop("features", None)) for row in rows])
        self.rows.extend(rows)
        if self.about["overlays"]:
            place, (height, width) = read_field(self.about["receptive_field"]), self.about["grid"]
            for (image, _), row in zip(batch, rows, strict=True):
                if image.crop is not None and image.canvas is not None:
                    values = row["maps"][: height * width].reshape(height, width)
                    draw_overlay(self.out / make_overlay_path(image.index), image.crop, image.canvas, values, place)


@contextmanager
def _run_in_background() -> Iterator[Callable[..., Future[None]]]:
    """Yield a function that submits work to one thread, which does the work in order.

    The function waits if _MAX_PENDING tasks are pending. When the `with` block ends, also after an error, all submitted
    work is done.
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
