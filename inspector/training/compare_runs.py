"""Compare finished runs: group them by recipe and tabulate mean and standard deviation over seeds.

This module does not import torch.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from inspector.errors import TrainingError
from inspector.training.read_run import Confusion, Run, read_average_maps, read_confusion

T = TypeVar("T")
Score = Literal["training_loss", "validation_loss", "top1", "top2", "seconds"]


@dataclass(frozen=True)
class RunGroup:
    """The runs of one recipe, one per seed, ordered by seed."""

    label: str
    runs: tuple[Run, ...]

    def curve(self, score: Score) -> list[tuple[float, float]]:
        """Return mean and standard deviation of a score over the seeds, after each epoch."""
        columns = zip(*(run.history for run in self.runs), strict=True)
        return [mean_and_deviation(getattr(row, score) for row in rows) for rows in columns]

    def final(self, score: Score) -> tuple[float, float]:
        """Return mean and standard deviation of a score over the seeds, after the last epoch."""
        return self.curve(score)[-1]

    def gap(self) -> tuple[float, float]:
        """Return mean and standard deviation of validation loss minus training loss in the last epoch, in nats."""
        last = [run.history[-1] for run in self.runs]
        return mean_and_deviation(row.validation_loss - row.training_loss for row in last)

    def seconds(self) -> float:
        """Return the median duration of an epoch over all seeds, in seconds."""
        return statistics.median(row.seconds for run in self.runs for row in run.history)

    def inside(self) -> tuple[float, float] | None:
        """Return mean and standard deviation of the share of positive contributions inside the object (0-1).

        None if the share was not measured for all seeds.
        """
        known = [run.class_maps["inside"] for run in self.runs if run.class_maps]
        shares = [float(inside["share"]) for inside in known if inside]
        return mean_and_deviation(shares) if len(shares) == len(self.runs) else None

    def verdict(self) -> str | None:
        """Return the verdict of the class maps; if seeds disagree, all verdicts joined by " or ".

        None if the verdict was not recorded for all seeds.
        """
        verdicts = [run.class_maps["verdict"] for run in self.runs if run.class_maps]
        return " or ".join(dict.fromkeys(verdicts)) if len(verdicts) == len(self.runs) else None

    def confusion(self) -> Confusion | None:
        """Return the confusion matrix summed over the seeds; None if a seed has no matrix.

        Raises:
            TrainingError: the seeds have different classes.
        """
        known = self._read_all(read_confusion)
        if known is None:
            return None
        self._check_same("classes", [one.classes for one in known])
        return Confusion(known[0].classes, sum((one.counts for one in known[1:]), start=known[0].counts))

    def average_maps(self) -> NDArray[np.float32] | None:
        """Return the mean over the seeds of their average class maps, (K, h, w) in logits; None if a seed has no maps.

        Raises:
            TrainingError: the seeds have maps of different shapes.
        """
        known = self._read_all(read_average_maps)
        if known is None:
            return None
        self._check_same("shapes of average class maps", [one.shape for one in known])
        mean: NDArray[np.float32] = np.stack(known).mean(0, dtype=np.float32)
        return mean

    def _read_all(self, read: Callable[[Run], T | None]) -> list[T] | None:
        known = [result for run in self.runs if (result := read(run)) is not None]
        return known if len(known) == len(self.runs) else None

    def _check_same(self, what: str, values: Sequence[object]) -> None:
        for run, one in zip(self.runs, values, strict=True):
            if one != values[0]:
                raise TrainingError(
                    f"{self.runs[0].folder} and {run.folder} are seeds of one recipe but have different {what}. "
                    "Use only one of them."
                )


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (n - 1).

    The deviation of a single value is 0. The deviation is nan if a value is not finite.
    """
    all_values = list(values)
    if not all(map(math.isfinite, all_values)):
        return statistics.fmean(all_values), math.nan
    return statistics.fmean(all_values), statistics.stdev(all_values) if len(all_values) > 1 else 0.0


def group_runs(runs: Iterable[Run]) -> tuple[RunGroup, ...]:
    """Group runs by recipe, sorted by name.

    Raises:
        TrainingError: two runs with the same name have the same seed or different recipes.
    """
    ordered = sorted(runs, key=lambda run: (run.experiment, run.name, run.seed))
    several = len({run.experiment for run in ordered}) > 1
    groups = []
    for (experiment, name), recipe_runs in groupby(ordered, key=lambda run: (run.experiment, run.name)):
        members = tuple(recipe_runs)
        for one, other in pairwise(members):
            if one.seed == other.seed:
                raise TrainingError(
                    f"{one.folder} and {other.folder} are the same run, seed {one.seed}. Use only one of them."
                )
            differing = [key for key in one.settings if key != "seed" and one.settings[key] != other.settings.get(key)]
            if differing or len(one.history) != len(other.history):
                raise TrainingError(
                    f"{one.folder} and {other.folder} have the same name but different recipes "
                    f"({', '.join(differing) or 'the epochs'} differ). Use only one of them."
                )
        groups.append(RunGroup(f"{experiment}/{name}" if several else name, members))
    return tuple(groups)


def list_columns(groups: Sequence[RunGroup]) -> tuple[str, ...]:
    """Return the column headings. Columns about class maps are included only if a group has values for them."""
    return tuple(_make_columns(groups))


def format_rows(groups: Sequence[RunGroup]) -> list[tuple[str, ...]]:
    """Return one row of texts per group, in the order of ``list_columns``."""
    return [tuple(cell(group) for cell in _make_columns(groups).values()) for group in groups]


def _make_columns(groups: Sequence[RunGroup]) -> dict[str, Callable[[RunGroup], str]]:
    columns: dict[str, Callable[[RunGroup], str]] = {
        "run": lambda group: group.label,
        "seeds": lambda group: str(len(group.runs)),
        "head parameters": lambda group: f"{group.runs[0].head_parameters:,}",
        "all parameters": lambda group: f"{group.runs[0].parameters:,}",
        "top-1": lambda group: format_with_deviation(group, group.final("top1")),
        "top-2": lambda group: format_with_deviation(group, group.final("top2")),
        "best epoch": lambda group: ", ".join(str(run.best_epoch()) for run in group.runs),
        "loss gap": lambda group: format_with_deviation(group, group.gap()),
        "seconds per epoch": lambda group: f"{group.seconds():.1f}",
    }
    if any(group.inside() for group in groups):
        columns["inside"] = lambda group: format_with_deviation(group, group.inside())
    if any(group.verdict() for group in groups):
        columns["class maps"] = lambda group: group.verdict() or ""
    return columns


def format_with_deviation(group: RunGroup, value: tuple[float, float] | None) -> str:
    """Format a mean with its standard deviation; for a group with one seed the mean only; "" for None."""
    if value is None:
        return ""
    return f"{value[0]:.4f} \N{PLUS-MINUS SIGN} {value[1]:.4f}" if len(group.runs) > 1 else f"{value[0]:.4f}"


def make_caption(groups: Sequence[RunGroup]) -> str:
    """Return the text that explains the columns of the table."""
    text = (
        "Scores: mean and standard deviation (n - 1) over the seeds after the last epoch. Best epoch: the epoch with "
        "the highest top-1, one per seed. Loss gap: validation loss minus mean training loss in the last epoch, in "
        "nats."
    )
    if any(group.inside() for group in groups):
        text += " Inside: share of the positive contributions to the true class that lies inside the object."
    if any(group.verdict() for group in groups):
        text += " Class maps: whether they sum to the logits on every test image."
    return text


def make_markdown(groups: Sequence[RunGroup], command: str) -> str:
    """Make table.md: the command that writes it, the table, and the explanation of its columns."""
    columns = list_columns(groups)
    lines = [columns, ("---",) * len(columns), *format_rows(groups)]
    return f"    {command}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{make_caption(groups)}\n"
