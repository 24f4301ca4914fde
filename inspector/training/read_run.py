"""What finished runs left in their folders, read when it is asked for. Imports no torch."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from inspector.errors import TrainingError
from inspector.networks.catalog import models_folder


@dataclass(frozen=True)
class Epoch:
    """A row of history.csv."""

    epoch: int
    training_loss: float  # nats, the mean over the epoch while the weights moved
    validation_loss: float  # nats, with the weights after it
    top1: float  # of the test images, a part of 1
    top2: float
    seconds: float  # training and testing


@dataclass(frozen=True)
class Run:
    """A folder <experiment>/<run>/seed<N>: its run.json and its history.csv."""

    folder: Path
    experiment: str
    name: str
    seed: int
    settings: Mapping[str, Any]  # the recipe, the seed and the precision
    head_parameters: int
    parameters: int
    history: tuple[Epoch, ...]
    images: Path | None = None  # the folder of the photos, as it was called where the network was trained
    class_maps: Mapping[str, Any] | None = None  # verdict, residual, images; inside: share, pointing, images or None

    def best_epoch(self) -> int:
        """The epoch with the highest top-1, the first of equals."""
        return max(self.history, key=lambda row: row.top1).epoch


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often the test images of each class were taken for each class."""

    classes: tuple[str, ...]
    counts: NDArray[np.int64]  # (K, K): rows are true, columns predicted


@dataclass(frozen=True)
class TestPhoto:
    """A row of test.csv."""

    file: str  # relative to the folder of the photos; of a run from elsewhere it may be any text
    label: str
    predicted: str
    probability: float  # of the predicted class, 0-1
    inside: float | None  # the share of the label's positive evidence inside the object, 0-1; None where none is known


def find_runs(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Every folder in these, or these themselves, that holds a finished run."""
    found: dict[Path, None] = {}
    for folder in folders:
        here = [path.parent.resolve() for path in sorted(folder.rglob("run.json"))]
        if not here:
            raise TrainingError(f"No finished run in {folder}: none of its folders has a run.json.")
        found |= dict.fromkeys(here)
    return tuple(found)


def read_run(folder: Path) -> Run:
    """The run in a folder; TrainingError if it is not one."""
    with _broken(f"The run in {folder}"):
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
            history = tuple(_read_epoch(row) for row in csv.DictReader(file))
        if not history:
            raise ValueError("history.csv has no epoch")
        settings, parameters = about["settings"], about["parameters"]
        return Run(
            folder, settings["experiment"], settings["run"], settings["seed"], settings,
            int(parameters["head"]), int(parameters["all"]), history,
            Path(about["images"]) if about.get("images") is not None else None, _read_class_maps(about),
        )  # fmt: skip


def _read_epoch(row: Mapping[str, str]) -> Epoch:
    numbers = {f.name: float(row[f.name]) for f in fields(Epoch)}
    return Epoch(int(row["epoch"]), *(number for name, number in numbers.items() if name != "epoch"))


def _read_class_maps(about: Mapping[str, Any]) -> Mapping[str, Any] | None:
    entry: Mapping[str, Any] | None = about.get("class_maps")
    if entry is None:
        return None
    if not isinstance(entry["verdict"], str):
        raise TypeError("the verdict of its class maps is no text")
    if (inside := entry["inside"]) is not None:
        for part in ("share", "pointing"):
            float(inside[part])
    return entry


def read_confusion(run: Run) -> Confusion | None:
    """The confusion matrix of the test images; None where a run left none. TrainingError if it is broken."""
    path = run.folder / "confusion.csv"
    if not path.exists():
        return None
    with _broken(str(path)):
        with path.open(encoding="utf-8", newline="") as file:
            classes, *rows = list(csv.reader(file)) or [[]]
        if not classes or len(rows) != len(classes) or any(len(row) != len(classes) for row in rows):
            raise ValueError(f"below {len(classes)} class names should stand as many rows of as many counts")
        counts = np.array([[int(count) for count in row] for row in rows], np.int64)
        if (counts < 0).any():
            raise ValueError("a count is below 0")
        return Confusion(tuple(classes), counts)


def read_average_maps(run: Run) -> NDArray[np.float32] | None:
    """Each class's own class map, the mean over its test images, (K, h, w) in logits; None where the run left none."""
    path = run.folder / "average_maps.safetensors"
    if not path.exists():
        return None
    with _broken(str(path)):
        maps = load(path.read_bytes())["average_maps"]
        if maps.ndim != 3 or not maps.size or not np.isfinite(maps).all():
            raise ValueError(f"finite numbers (classes, height, width) would do, got a shape of {maps.shape}")
        return maps.astype(np.float32, copy=False)


def read_test_photos(run: Run) -> tuple[TestPhoto, ...]:
    """The photos that a run was tested with, in its order; none where it left no test.csv."""
    path = run.folder / "test.csv"
    if not path.exists():
        return ()
    with _broken(str(path)), path.open(encoding="utf-8", newline="") as file:
        return tuple(
            TestPhoto(
                row["file"], row["label"], row["predicted"], float(row["probability"]),
                float(row["inside"]) if row["inside"] else None,
            )
            for row in csv.DictReader(file)
        )  # fmt: skip


def find_network(run: Run) -> str | None:
    """What inspector.load takes for a run's network: its folder, or its name in models/; None where no weights lie."""
    if (run.folder / "weights.safetensors").is_file():
        return str(run.folder)
    # Networks in models/ are those of seed 0.
    name = f"{run.experiment}_{run.name}"
    return name if run.seed == 0 and (models_folder() / name / "model.json").is_file() else None


@contextmanager
def _broken(what: str) -> Iterator[None]:
    """Make one sentence of whatever a broken file does to its reader."""
    try:
        yield
    except KeyError as error:
        raise TrainingError(f"{what} lacks the entry {error}.") from error
    except OSError as error:
        raise TrainingError(f"Cannot read {error.filename}: {error.strerror}.") from error
    except (ValueError, TypeError, AttributeError, csv.Error, SafetensorError) as error:
        raise TrainingError(f"{what} cannot be read: {error}.") from error
