"""Finished runs and how they compare: scores as mean and spread over seeds. Imports no torch."""

import csv
import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from inspector.errors import TrainingError

Score = Literal["training_loss", "validation_loss", "top1", "top2", "seconds"]


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

    def best_epoch(self) -> int:
        """The epoch with the highest top-1, the first of equals."""
        return max(self.history, key=lambda row: row.top1).epoch


@dataclass(frozen=True)
class Group:
    """The runs of one recipe, one a seed, in the seeds' order."""

    label: str
    runs: tuple[Run, ...]

    def curve(self, score: Score) -> list[tuple[float, float]]:
        """Mean and spread over the seeds after each epoch."""
        columns = zip(*(run.history for run in self.runs), strict=True)
        return [mean_and_spread(getattr(row, score) for row in rows) for rows in columns]

    def final(self, score: Score) -> tuple[float, float]:
        """Mean and spread over the seeds after the last epoch."""
        return self.curve(score)[-1]

    def gap(self) -> tuple[float, float]:
        """Validation loss less training loss in the last epoch, mean and spread over the seeds, in nats."""
        last = [run.history[-1] for run in self.runs]
        return mean_and_spread(row.validation_loss - row.training_loss for row in last)

    def seconds(self) -> float:
        """The median over all epochs of all seeds."""
        return statistics.median(row.seconds for run in self.runs for row in run.history)


def mean_and_spread(values: Iterable[float]) -> tuple[float, float]:
    """The mean and the standard deviation with n - 1 below it; 0 for a single value."""
    all_values = list(values)
    return statistics.fmean(all_values), statistics.stdev(all_values) if len(all_values) > 1 else 0.0


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
    try:
        about = json.loads((folder / "run.json").read_text())
        with (folder / "history.csv").open(newline="") as file:
            history = tuple(_read_epoch(row) for row in csv.DictReader(file))
        if not history:
            raise ValueError("history.csv has no epoch")
        settings, parameters = about["settings"], about["parameters"]
        return Run(
            folder, settings["experiment"], settings["run"], settings["seed"], settings,
            int(parameters["head"]), int(parameters["all"]), history,
        )  # fmt: skip
    except KeyError as error:
        raise TrainingError(f"The run in {folder} lacks the entry {error}.") from error
    except OSError as error:
        raise TrainingError(f"Cannot read {error.filename}: {error.strerror}.") from error
    except (ValueError, TypeError) as error:
        raise TrainingError(f"The run in {folder} cannot be read: {error}.") from error


def _read_epoch(row: Mapping[str, str]) -> Epoch:
    numbers = {f.name: float(row[f.name]) for f in fields(Epoch)}
    return Epoch(int(row["epoch"]), *(number for name, number in numbers.items() if name != "epoch"))


def group(runs: Iterable[Run]) -> tuple[Group, ...]:
    """The runs by recipe, sorted by name; TrainingError where two of one name have two recipes, or one seed."""
    named: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        named.setdefault((run.experiment, run.name), []).append(run)
    several = len({experiment for experiment, _ in named}) > 1
    groups = []
    for (experiment, name), members in sorted(named.items()):
        members.sort(key=lambda run: run.seed)
        for one, other in pairwise(members):
            if one.seed == other.seed:
                raise TrainingError(f"{one.folder} and {other.folder} are the same run, seed {one.seed}: name one.")
            differing = [key for key in one.settings if key != "seed" and one.settings[key] != other.settings.get(key)]
            if differing or len(one.history) != len(other.history):
                raise TrainingError(
                    f"{one.folder} and {other.folder} have one name and two recipes "
                    f"({', '.join(differing) or 'the epochs'} differ): name one of them."
                )
        groups.append(Group(f"{experiment}/{name}" if several else name, tuple(members)))
    return tuple(groups)


HEADER = (
    "run", "seeds", "head", "in all", "top-1", "top-2", "best epoch", "loss gap", "seconds an epoch",
)  # fmt: skip
CAPTION = (
    "Head and in all: parameters. Scores: mean and standard deviation over the seeds after the last epoch. Best epoch: "
    "the one with the highest top-1, one a seed. Loss gap: validation loss less the mean training loss of the last "
    "epoch, in nats."
)


def table(groups: Iterable[Group]) -> list[tuple[str, ...]]:
    """A row a group, as HEADER says."""
    return [
        (
            group.label,
            str(len(group.runs)),
            f"{group.runs[0].head_parameters:,}",
            f"{group.runs[0].parameters:,}",
            _with_spread(group, group.final("top1")),
            _with_spread(group, group.final("top2")),
            ", ".join(str(run.best_epoch()) for run in group.runs),
            _with_spread(group, group.gap()),
            f"{group.seconds():.1f}",
        )
        for group in groups
    ]


def _with_spread(group: Group, value: tuple[float, float]) -> str:
    # One seed has no spread: no number is better than 0.
    return f"{value[0]:.4f} \N{PLUS-MINUS SIGN} {value[1]:.4f}" if len(group.runs) > 1 else f"{value[0]:.4f}"


def markdown(rows: Iterable[tuple[str, ...]], command: str) -> str:
    """table.md: the command that makes it, the table and what its numbers are."""
    lines = [HEADER, ("---",) * len(HEADER), *rows]
    return f"    {command}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{CAPTION}\n"
