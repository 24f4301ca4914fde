"""Explain a data set with Ray, on the processors of this machine or of a cluster; writes the same rows as `run`.

    list -> shards -> actors (each has its own network; decodes, explains, writes) -> numbers of finished shards

Each shard is a task that can be repeated: every actor writes the same rows under the same file name, as a complete file
or not at all. If an actor dies, Ray gives its shard to another actor, so no image is lost or written twice.
"""

import logging
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from inspector.datasets import run
from inspector.datasets.accelerated import accelerate_for_dataset, sample_items
from inspector.datasets.decoding import Batch
from inspector.datasets.rows import make_rows, number_labels
from inspector.datasets.table import Counts, begin_run, write_shard
from inspector.errors import InspectorError, require
from inspector.explain.classifier import Classifier
from inspector.explain.memory import keep_freed_memory
from inspector.images.sources import Item, list_images

_PROCESSORS = 4  # per actor, if there are that many; with more processors, a second network is faster than more threads
_LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"


def run_dataset_on_ray(
    source: str | Path | Sequence[str | Path],
    load: Callable[[], Classifier],
    out: str | Path,
    options: run.RunOptions = run.DEFAULT_OPTIONS,
    *,
    on_progress: run.OnProgress = lambda done, images: None,
) -> Counts:
    """Explain every image of a source, on the cluster named by $RAY_ADDRESS, or else on this machine.

    Args:
        source: as for `run_dataset`; every machine must find the same files under these paths.
        load: function that returns the classifier. It is called here and once per actor, so it must be picklable:
            a function of a module, or functools.partial of such a function.
        out: folder on a file system that all machines share, or a URL that fsspec knows.
        options: as for `run_dataset`; `workers` is the number of processors per actor (default 4), and `overlays`
            and `features` must be False.
        on_progress: called with the numbers of finished images and of all images.

    Raises:
        InspectorError: an actor fails, Ray is not installed, or one of the errors that `run_dataset` raises occurs.
    """
    if options.overlays:
        raise InspectorError("The Ray engine draws no overlays. Leave out --overlays, or use the local engine.")
    if options.features:
        raise InspectorError("The Ray engine stores no features. Leave out --features, or use the local engine.")
    items = list_images(source)
    # This machine may have no GPU, unlike the actors, so do not build the GPU backend here.
    on_gpus = _runs_on_gpus(options)
    sample = [_make_path_absolute(item) for item in sample_items(items)]
    classifier = load() if on_gpus else accelerate_for_dataset(load(), options.backend, options.dtype, sample)
    about = run.describe_run(classifier, items, source, options)
    if on_gpus:
        about["backend"] = options.backend
    missing = begin_run(out, about, options.resume)
    done = len(items) - sum(map(len, missing.values()))
    place = str(out) if "://" in str(out) else str(Path(out).absolute())
    tasks = [
        {"number": number, "images": pickle.dumps([(i, _make_path_absolute(items[i])) for i in indices])}
        for number, indices in missing.items()
    ]
    on_progress(done, len(items))
    if tasks:
        with _start_ray() as ray:
            for number in _run_tasks(ray, tasks, (load, sample, place, about), options):
                done += len(missing[number])
                on_progress(done, len(items))
    return run.finish_run(out, about)


class Explainer:
    """Ray actor that loads the network once and then computes and writes one shard after the other."""

    def __init__(
        self,
        load: Callable[[], Classifier],
        sample: Sequence[Item],
        out: str,
        about: Mapping[str, Any],
        options: run.RunOptions,
        processors: int,
    ) -> None:
        keep_freed_memory()
        self.classifier = accelerate_for_dataset(load(), options.backend, options.dtype, sample)
        self.out, self.about, self.batch_size, self.processors = out, about, options.batch_size, processors

    def __call__(self, tasks: Mapping[str, Any]) -> dict[str, list[int]]:
        """Compute and write shards; return their numbers under "number": Ray's map_batches requires a dict."""
        for number, pickled in zip(tasks["number"], tasks["images"], strict=True):
            images: Batch = pickle.loads(pickled)  # safe to unpickle: run_dataset_on_ray above made it
            batches = run.split_into_batches(images, self.batch_size)
            computed = run.compute_batches(self.classifier, batches, self.processors, finer=self.about.get("finer", 1))
            class_numbers = number_labels(self.classifier.class_names)
            rows = [row for batch in computed for row in make_rows(batch, self.about["top"], class_numbers)]
            write_shard(self.out, int(number), rows, self.about)
        return {"number": [int(number) for number in tasks["number"]]}


def _run_tasks(
    ray: Any, tasks: list[dict[str, Any]], arguments: tuple[Any, ...], options: run.RunOptions
) -> Iterator[int]:
    """Yield the number of each shard as soon as the shard is written."""
    machines = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    # Never ask for more processors than the largest machine has: Ray would wait forever.
    processors = max(1, int(min(options.workers or _PROCESSORS, max(machines, default=1))))
    actors = min(max(1, int(sum(machines)) // processors), len(tasks))
    finished = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        Explainer,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, max_tasks_in_flight_per_actor=2),
        fn_constructor_args=(*arguments, options, processors),
        num_cpus=processors,
        num_gpus=1 if _runs_on_gpus(options) else None,
    )
    try:
        for row in finished.iter_rows():
            yield int(row["number"])
    except ray.exceptions.RayError as error:
        # The last line of Ray's message is the error in the actor; the lines before are the traceback.
        reason = ([line for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1].strip()
        raise InspectorError(f"A Ray worker failed ({reason}). Correct this and use --resume to continue.") from error


def _runs_on_gpus(options: run.RunOptions) -> bool:
    return options.backend is not None and options.backend.startswith("cuda")


def _make_path_absolute(item: Item) -> Item:
    """Return the item with a path that does not depend on the working directory."""
    return item if "://" in item.file else replace(item, file=os.path.abspath(item.file))  # noqa: PTH100 - no links


@contextmanager
def _start_ray() -> Iterator[Any]:
    """Yield the module `ray`, running and without output. Ray is stopped at the end only if it was started here."""
    ray = require("ray", "ray.data", extra="scale", purpose="--engine ray")
    logger = logging.getLogger("ray.data")
    level, starts_here = logger.level, not ray.is_initialized()
    log_level = os.environ.get(_LOG_LEVEL)
    with warnings.catch_warnings():
        # Ray's own code causes deprecation warnings, which do not help a user.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            if starts_here:
                os.environ.setdefault(_LOG_LEVEL, "fatal")
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            logger.setLevel(logging.CRITICAL)
            ray.data.DataContext.get_current().enable_progress_bars = False
            yield ray
        finally:
            logger.setLevel(level)
            if starts_here:
                ray.shutdown()
                if log_level is None:
                    os.environ.pop(_LOG_LEVEL, None)
