"""Read the files that finished training runs wrote into their folders. This module does not import torch."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from inspector.entries import Entries, parse_json
from inspector.errors import TrainingError, translate_errors
from inspector.files import read_csv
from inspector.networks.catalog import find_model_folder


@dataclass(frozen=True)
class Epoch:
    """One row of history.csv."""

    epoch: int
    training_loss: float  # nats, mean over the batches of the epoch, while the weights were changing
    validation_loss: float  # nats, with the weights at the end of the epoch
    top1: float  # top-1 accuracy on the test images, 0-1
    top2: float  # share of the test images whose true class is among the top 2, 0-1
    seconds: float  # duration of training and evaluation in this epoch


@dataclass(frozen=True)
class Run:
    """One finished run, as read from run.json and history.csv in a folder <experiment>/<run>/seed<N>."""

    folder: Path
    experiment: str
    name: str
    seed: int
    settings: Mapping[str, Any]  # recipe, seed and precision
    head_parameters: int  # number of parameters of the head
    parameters: int  # number of parameters of the whole network
    history: tuple[Epoch, ...]
    images: Path | None = None  # folder of the photos, on the machine of the training
    class_maps: Mapping[str, Any] | None = None  # keys verdict, residual, images, inside

    def best_epoch(self) -> int:
        """Return the first epoch with the highest top-1 accuracy."""
        return max(self.history, key=lambda row: row.top1).epoch


@dataclass(frozen=True, eq=False)
class Confusion:
    """Confusion matrix: how often the test images of each class were predicted as each class."""

    classes: tuple[str, ...]
    counts: NDArray[np.int64]  # (K, K): rows are true classes, columns predicted classes


@dataclass(frozen=True)
class TestPhoto:
    """One row of test.csv."""

    file: str  # path relative to the photo folder; do not trust it: the run may come from another user
    label: str
    predicted: str
    probability: float  # probability of the predicted class, 0-1
    # Share of the positive contributions to the label that is inside the object, 0-1; None if not measured.
    inside: float | None


def find_runs(folders: Iterable[Path]) -> tuple[Path, ...]:
    """List all folders with a finished run; searches the given folders and all folders in them.

    Raises:
        TrainingError: there is no finished run in one of the given folders.
    """
    runs: dict[Path, None] = {}
    for folder in folders:
        found = dict.fromkeys(path.parent.resolve() for path in sorted(folder.rglob("run.json")))
        if not found:
            raise TrainingError(f"No finished run in {folder}: none of its folders has a run.json.")
        runs |= found
    return tuple(runs)


def read_run(folder: Path) -> Run:
    """Read the run in a folder.

    Raises:
        TrainingError: a file of the run is missing or broken.
    """
    with _translate_read_errors(folder / "history.csv") as path, path.open(encoding="utf-8", newline="") as file:
        history = tuple(_read_epoch(row) for row in csv.DictReader(file))
        if not history:
            raise ValueError("it has no epoch")
    with _translate_read_errors(folder / "run.json") as path:
        about = Entries(parse_json(path.read_bytes()))
        settings, parameters = about.object("settings"), about.object("parameters")
        experiment, name, seed = settings.text("experiment"), settings.text("run"), settings.whole("seed")
        head, total = parameters.whole("head"), parameters.whole("all")
        images = Path(about.text("images")) if about.has("images") else None
        class_maps = _read_class_maps(about)
        return Run(folder, experiment, name, seed, settings.values, head, total, history, images, class_maps)


def _read_epoch(row: Mapping[str, str]) -> Epoch:
    return Epoch(int(row["epoch"]), *(float(row[field.name]) for field in fields(Epoch)[1:]))


def _read_class_maps(about: Entries) -> Mapping[str, Any] | None:
    if not about.has("class_maps"):
        return None
    entry = about.object("class_maps")
    entry.text("verdict")
    if entry.values["inside"] is not None:
        inside = entry.object("inside")
        for part in ("share", "pointing"):
            inside.number(part)
    return entry.values


def read_confusion(run: Run) -> Confusion | None:
    """Read the confusion matrix of the test images.

    Returns:
        The matrix, or None if the run has no confusion.csv.

    Raises:
        TrainingError: the file is broken.
    """
    with _open_result(run, "confusion.csv") as file:
        if file is None:
            return None
        classes, *rows = list(read_csv(_decode(file))) or [[]]
        if not classes or len(rows) != len(classes) or any(len(row) != len(classes) for row in rows):
            raise ValueError(f"expected {len(classes)} rows of {len(classes)} counts below the class names")
        counts = np.array([[int(count) for count in row] for row in rows], np.int64)
        if (counts < 0).any():
            raise ValueError("a count is negative")
        return Confusion(tuple(classes), counts)


def read_average_maps(run: Run) -> NDArray[np.float32] | None:
    """Read the average class maps: for each class, the mean of its class map over its test images.

    Returns:
        The maps (K, h, w), float32, in logits; None if the run has no such file.

    Raises:
        TrainingError: the file is broken.
    """
    with _open_result(run, "average_maps.safetensors") as file:
        if file is None:
            return None
        maps = load(file.read())["average_maps"]
        if maps.ndim != 3 or not maps.size or not np.isfinite(maps).all():
            raise ValueError(f"expected finite numbers of shape (classes, height, width), got shape {maps.shape}")
        return maps.astype(np.float32, copy=False)


def read_test_photos(run: Run) -> tuple[TestPhoto, ...]:
    """Read the predictions on the test photos, in file order; empty if the run has no test.csv.

    Raises:
        TrainingError: the file is broken.
    """
    with _open_result(run, "test.csv") as file:
        if file is None:
            return ()
        header, *rows = list(read_csv(_decode(file))) or [[]]
        return tuple(_read_test_photo(dict(zip(header, row, strict=True))) for row in rows if row)


def _read_test_photo(row: Mapping[str, str]) -> TestPhoto:
    texts, probability = (row["file"], row["label"], row["predicted"]), float(row["probability"])
    return TestPhoto(*texts, probability, float(row["inside"]) if row["inside"] else None)


def find_network(run: Run) -> str | None:
    """Find the network of a run.

    Returns:
        The argument for ``inspector.load``: the run folder or a name in models/. None if the weights are in neither.
    """
    if (run.folder / "weights.safetensors").is_file():
        return str(run.folder)
    # The networks in models/ were trained with seed 0.
    name = f"{run.experiment}_{run.name}"
    return name if run.seed == 0 and find_model_folder(name) is not None else None


@contextmanager
def _open_result(run: Run, name: str) -> Iterator[BinaryIO | None]:
    """Open a file of the run for reading; yield None if the run has no such file."""
    if not (run.folder / name).exists():
        yield None
        return
    with _translate_read_errors(run.folder / name) as path, path.open("rb") as file:
        yield file


def _decode(file: BinaryIO) -> io.StringIO:
    return io.StringIO(file.read().decode("utf-8"), newline="")


@contextmanager
def _translate_read_errors(path: Path) -> Iterator[Path]:
    """Turn any exception in the `with` block, such as for a broken file, into a TrainingError with the file's path."""
    cases: dict[type[BaseException], str] = {
        KeyError: f"{path} has no entry {{reason}}.",
        OSError: f"Cannot read {path}: {{reason}}.",
    }
    with translate_errors(TrainingError, f"{path} cannot be read: {{reason}}.", cases):
        yield path
