"""Runs over a data set that the app starts: one at a time for each session, as a job of all jobs (`jobs`)."""

import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import streamlit as st

from inspector.errors import Cancelled, ExportError, ImageError
from inspector.images.sources import Item, list_images
from inspector.ui.state import cache, folders, keys, sessions
from inspector.ui.state.jobs import Job, OnProgress, ShouldStop, catch_errors

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

    from inspector.datasets.table import Counts
    from inspector.explain.classifier import Classifier

UPLOADED = "uploaded photos"  # source of results that were made of uploads
PRIVATE = "uploads"  # folder below the folder of results: those that only their own session lists
_RESULT = ("counts",)  # task of the job
_BATCH_SIZE, _WORKERS, _SHARD_SIZE = 16, 2, 128  # small: other visitors wait for a batch, and a stop loses a shard

_active: set[Path] = set()  # folders into which a run of any session writes
_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class BatchRequest:
    """What is explained, and where the results go."""

    source: str  # a folder, or another source of `list_images`; UPLOADED for `photos`
    photos: tuple[Item, ...]  # uploaded photos
    network_key: str
    classifier: "Classifier"
    top: int  # classes per image whose maps are stored
    out: Path
    features: bool = False  # store the feature maps before pooling
    resume: bool = False
    is_open: bool = False  # the source may be read as it is; otherwise only the images of listed folders


@dataclass(eq=False)
class Batch:
    """A run in progress, or ended."""

    request: BatchRequest
    images: int = 0  # of the run; 0 until they are listed
    done: int = 0
    first: int = 0  # images that an earlier run had done
    started: float = field(default_factory=time.monotonic)  # when the first image was begun, in seconds
    was_shown: bool = False  # the page has opened the results
    job: Job = field(init=False)

    def __post_init__(self) -> None:
        self.job = Job({_RESULT: catch_errors(self._run)}, {}, ends_with_page=False)
        sessions.at_session_end(self.job.stop.set)

    @property
    def result(self) -> Any:
        """The Counts of a run that is complete, an error message, or None."""
        return self.job.results.get(_RESULT)

    @property
    def rate(self) -> float:
        """Images per second since the start; 0 before the first one."""
        return (self.done - self.first) / max(1e-3, time.monotonic() - self.started)

    def _run(self, on_progress: OnProgress, should_stop: ShouldStop) -> Any:
        def report(done: int, images: int) -> None:
            if not self.images:
                self.images, self.first, self.started = images, done, time.monotonic()
            self.done = done
            on_progress(done / images)
            if should_stop() and done < images:
                raise Cancelled("Stopped.")

        with _write_alone(self.request.out):
            return run_request(self.request, report)


def run_request(request: BatchRequest, on_progress: Callable[[int, int], None] = lambda done, images: None) -> "Counts":
    """Explain the photos of a request, and write the results.

    Raises:
        ImageError: the source has no images that may be read.
        NetworkError, ExportError, InspectorError: as for `run_items`.
    """
    from inspector.datasets.run import RunOptions, run_items

    items = list(request.photos)
    if request.source != UPLOADED:
        listed = list_images(request.source)
        # A link inside a listed folder may lead out of it.
        items = listed if request.is_open else [item for item in listed if folders.is_listed(Path(item.file))]
    if not items:
        raise ImageError(f"No image in {request.source} may be read. Choose another folder.")
    options = RunOptions(
        request.top,
        _BATCH_SIZE,
        _WORKERS,
        _SHARD_SIZE,
        backend=_choose_backend(request),
        features=request.features,
        resume=request.resume,
    )
    return run_items(items, request.classifier, request.out, options, source=request.source, on_progress=on_progress)


def make_items(uploads: Sequence["UploadedFile"]) -> tuple[Item, ...]:
    """Return uploaded photos as the images of a run. As in a folder, the first subfolder is the label."""
    items = []
    for upload in sorted(uploads, key=lambda upload: upload.name):
        path = PurePosixPath(upload.name.replace("\\", "/"))
        label = path.parts[-2] if len(path.parts) > 1 else None
        items.append(Item(str(path), label, "", content=upload.getvalue()))
    return tuple(items)


def list_uploads() -> dict[str, bytes]:
    """Return the uploaded photos of the last run of this session, by their paths in the results."""
    batch: Batch | None = st.session_state.get(keys.BATCH)
    photos = () if batch is None else batch.request.photos
    return {item.path: item.content for item in photos if item.content is not None}


def is_private(source: str, network_key: str) -> bool:
    """Return whether only one session lists the results, of its own photos or network: others reach the app, too."""
    return not folders.is_open() and (source == UPLOADED or network_key.startswith(cache.PRIVATE))


def name_results(source: str, network: str, private: bool) -> Path:
    """Return a new folder for results, named by the time, the source and the network.

    Private results get a name that cannot be guessed: they are for their own session, and for those who get the link.
    """
    words = [f"{datetime.now():%Y-%m-%d %H.%M.%S}", Path(source).name or "photos", network]
    name = re.sub(r"[^\w .-]", "_", " ".join(words))[:120].strip(" .")
    if private:
        return folders.results_folder() / PRIVATE / f"{name} {secrets.token_hex(16)}"
    return folders.results_folder() / name


def _choose_backend(request: BatchRequest) -> str:
    from inspector.explain.backends.accelerate import has_fast_backend

    if request.network_key.startswith(cache.PRIVATE):
        return "eager"
    return os.environ.get(cache.BACKEND) or ("auto" if has_fast_backend() else "eager")


@contextmanager
def _write_alone(out: Path) -> Iterator[None]:
    """Refuse a second run into the same folder while one is in progress."""
    with _lock:
        if out in _active:
            raise ExportError(f"A run into {folders.name_folder(out)} is in progress already. Wait until it has ended.")
        _active.add(out)
    try:
        yield
    finally:
        with _lock:
            _active.discard(out)
