"""How finished runs compare: scores as mean and spread over seeds, in a table. Imports no torch."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inspector.errors import TrainingError
from inspector.training.read_run import Confusion, Run, read_average_maps, read_confusion

Score = Literal["training_loss", "validation_loss", "top1", "top2", "seconds"]


@dataclass(frozen=True)
class RunGroup:
    """The runs of one recipe, one a seed, in the seeds' order."""

    label: str
    runs: tuple[Run, ...]

    def curve(self, score: Score) -> list[tuple[float, float]]:
        """Mean and spread over the seeds after each epoch."""
        columns = zip(*(run.history for run in self.runs), strict=True)
        return [mean_and_deviation(getattr(row, score) for row in rows) for rows in columns]

    def final(self, score: Score) -> tuple[float, float]:
        """Mean and spread over the seeds after the last epoch."""
        return self.curve(score)[-1]

    def gap(self) -> tuple[float, float]:
        """Validation loss less training loss in the last epoch, mean and spread over the seeds, in nats."""
        last = [run.history[-1] for run in self.runs]
        return mean_and_deviation(row.validation_loss - row.training_loss for row in last)

    def seconds(self) -> float:
        """The median over all epochs of all seeds."""
        return statistics.median(row.seconds for run in self.runs for row in run.history)

    def inside(self) -> tuple[float, float] | None:
        """The share of positive evidence inside the object, mean and spread; None unless all seeds know it."""
        known = [run.class_maps["inside"] for run in self.runs if run.class_maps]
        shares = [float(inside["share"]) for inside in known if inside]
        return mean_and_deviation(shares) if len(shares) == len(self.runs) else None

    def verdict(self) -> str | None:
        """What the class maps are, all that was found where seeds differ; None unless all seeds know it."""
        found = [run.class_maps["verdict"] for run in self.runs if run.class_maps]
        return " or ".join(dict.fromkeys(found)) if len(found) == len(self.runs) else None

    def confusion(self) -> Confusion | None:
        """The confusion matrix summed over the seeds; None unless all have one."""
        read = [read_confusion(run) for run in self.runs]
        known = [one for one in read if one is not None]
        if len(known) < len(read):
            return None
        self._check_same("classes", [one.classes for one in known])
        return Confusion(known[0].classes, sum((one.counts for one in known[1:]), start=known[0].counts))

    def average_maps(self) -> NDArray[np.float32] | None:
        """The average class maps, the mean over the seeds, (K, h, w) in logits; None unless all have them."""
        read = [read_average_maps(run) for run in self.runs]
        known = [one for one in read if one is not None]
        if len(known) < len(read):
            return None
        self._check_same("shapes of average class maps", [one.shape for one in known])
        mean: NDArray[np.float32] = np.stack(known).mean(0, dtype=np.float32)
        return mean

    def _check_same(self, what: str, found: Sequence[object]) -> None:
        for run, one in zip(self.runs, found, strict=True):
            if one != found[0]:
                raise TrainingError(
                    f"{self.runs[0].folder} and {run.folder} are seeds of one recipe and have other {what}: "
                    "name one of them."
                )


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float]:
    """The mean and the standard deviation with n - 1 below it; 0 for a single value, nan where one is not finite."""
    all_values = list(values)
    if not all(map(math.isfinite, all_values)):
        return statistics.fmean(all_values), math.nan
    return statistics.fmean(all_values), statistics.stdev(all_values) if len(all_values) > 1 else 0.0


def group_runs(runs: Iterable[Run]) -> tuple[RunGroup, ...]:
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
        groups.append(RunGroup(f"{experiment}/{name}" if several else name, tuple(members)))
    return tuple(groups)


def table_header(groups: Sequence[RunGroup]) -> tuple[str, ...]:
    """What the columns of the table are: those on class maps only where a run knows of them."""
    return tuple(_columns(groups))


def table_rows(groups: Sequence[RunGroup]) -> list[tuple[str, ...]]:
    """A row a group, as the header says."""
    return [tuple(cell(group) for cell in _columns(groups).values()) for group in groups]


def _columns(groups: Sequence[RunGroup]) -> dict[str, Callable[[RunGroup], str]]:
    columns: dict[str, Callable[[RunGroup], str]] = {
        "run": lambda group: group.label,
        "seeds": lambda group: str(len(group.runs)),
        "head": lambda group: f"{group.runs[0].head_parameters:,}",
        "in all": lambda group: f"{group.runs[0].parameters:,}",
        "top-1": lambda group: format_with_deviation(group, group.final("top1")),
        "top-2": lambda group: format_with_deviation(group, group.final("top2")),
        "best epoch": lambda group: ", ".join(str(run.best_epoch()) for run in group.runs),
        "loss gap": lambda group: format_with_deviation(group, group.gap()),
        "seconds an epoch": lambda group: f"{group.seconds():.1f}",
    }
    if any(group.inside() for group in groups):
        columns["inside"] = lambda group: format_with_deviation(group, group.inside())
    if any(group.verdict() for group in groups):
        columns["class maps"] = lambda group: group.verdict() or ""
    return columns


def format_with_deviation(group: RunGroup, value: tuple[float, float] | None) -> str:
    """A mean and its spread as text; one seed has no spread, and no number is better than 0."""
    if value is None:
        return ""
    return f"{value[0]:.4f} \N{PLUS-MINUS SIGN} {value[1]:.4f}" if len(group.runs) > 1 else f"{value[0]:.4f}"


def caption(groups: Sequence[RunGroup]) -> str:
    """What the numbers of the table are."""
    said = (
        "Head and in all: parameters. Scores: mean and standard deviation over the seeds after the last epoch. Best "
        "epoch: the one with the highest top-1, one a seed. Loss gap: validation loss less the mean training loss of "
        "the last epoch, in nats."
    )
    if any(group.inside() for group in groups):
        said += " Inside: the share of the positive evidence for the true class that lies inside the object."
    if any(group.verdict() for group in groups):
        said += " Class maps: whether they add up to the logits on every test image."
    return said


def markdown_table(groups: Sequence[RunGroup], command: str) -> str:
    """table.md: the command that makes it, the table and what its numbers are."""
    columns = table_header(groups)
    lines = [columns, ("---",) * len(columns), *table_rows(groups)]
    return f"    {command}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{caption(groups)}\n"
