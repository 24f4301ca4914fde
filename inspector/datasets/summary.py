"""The summary of a data set: average class maps, confusions and counts, as `summarize` keeps it in a folder.

Imports no torch. (`inspector.analysis.averages` averages class maps that are in memory, each image's true class.)
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspector.datasets.index import SummaryCounts
from inspector.datasets.results import Results, read_state
from inspector.datasets.statistics import Floats, compute_uniform_border_share
from inspector.errors import InspectorError, translate_errors
from inspector.explain.kinds import VERDICTS

INDEX, NUMBERS, MAPS = "images.parquet", "survey.json", "average-maps.npz"

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class AverageMaps:
    """Sums of class maps; the sums of several summaries can be added."""

    sums: Floats  # (n, h, w), in logits
    counts: Ints  # (n,), images per sum

    def mean(self) -> Floats:
        """Return the average maps (n, h, w) in logits; zeros where there is no image."""
        average: Floats = self.sums / np.maximum(1, self.counts)[:, None, None]
        return average

    def add(self, which: Ints, maps: Floats) -> None:
        """Add each map (N, h, w) to the sum whose index `which` (N,) names."""
        order = np.argsort(which, kind="stable")
        numbers, starts, counts = np.unique(which[order], return_index=True, return_counts=True)
        if len(numbers):
            self.sums[numbers] += np.add.reduceat(maps[order], starts)
            self.counts[numbers] += counts


@dataclass(frozen=True, eq=False)
class DatasetSummary:
    """Average maps, confusions and counts of a data set."""

    network: str
    class_names: tuple[str, ...]  # (K,)
    counts: SummaryCounts
    predicted: AverageMaps  # (K, h, w): k's map over the images whose top-1 class is k
    labeled: AverageMaps  # (K, h, w): k's map over the images whose label is k
    pairs: Ints  # (P, 2): label and top-1 class of the most frequent confusions
    contrasts: AverageMaps  # (P, h, w): map of the top-1 class minus map of the label
    index: Path  # Parquet file with one row per image, see `index`

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the class maps, in cells."""
        _, height, width = self.predicted.sums.shape
        return height, width

    @property
    def verdict(self) -> str | None:
        """The worst verdict of all images; None if no image was read."""
        # A verdict of another version that is not known here counts as the worst.
        rank: dict[str, int] = {verdict: number for number, verdict in enumerate(VERDICTS)}
        return max(self.counts.verdicts, key=lambda verdict: rank.get(verdict, len(rank)), default=None)

    def describe(self) -> list[tuple[str, str]]:
        """Return the summary in words, as pairs of a name and a value."""
        counts, (height, width) = self.counts, self.grid
        lines = [("images", f"{counts.images:,}"), ("could not be read", f"{counts.errors:,}")]
        if counts.top1 is not None and counts.top5 is not None:
            lines.append(("top-1", f"{counts.top1:.1%} of {counts.classed:,} whose label is a class"))
            if len(self.class_names) > 5:
                lines.append(("top-5", f"{counts.top5:.1%}"))
        if self.verdict is not None:
            lines.append(("class maps", f"{self.verdict}, largest residual {counts.residual:.1e} logits"))
        if counts.border is not None:
            uniform = compute_uniform_border_share(self.grid)
            lines.append(("evidence at the border", f"{counts.border:.1%} (uniform map: {uniform:.1%})"))
        if counts.positions is not None:
            lines.append(("cells with evidence", f"{counts.positions:.1f} of {height * width}"))
        if counts.inside is not None:
            lines.append(("evidence inside the objects", f"{counts.inside:.1%} of {counts.with_objects:,} images"))
        return lines


def read_summary(out: Path) -> DatasetSummary:
    """Read the summary that `summarize` kept in a folder.

    Raises:
        InspectorError: the folder has no summary, or a broken one.
    """
    if not (out / NUMBERS).is_file():
        raise InspectorError(f"No summary in {out}. Use `inspector survey RESULTS -o {out}` to make one.")
    message = f"Cannot read the summary in {out} ({{reason}}). Use `inspector survey` to make it again."
    with translate_errors(InspectorError, message):
        about = json.loads((out / NUMBERS).read_text(encoding="utf-8"))
        with np.load(out / MAPS, allow_pickle=False) as stored:
            predicted, labeled, contrasts = (
                AverageMaps(stored[f"{name}_sums"], stored[f"{name}_counts"])
                for name in ("predicted", "labelled", "contrast")
            )
            names = tuple(str(name) for name in stored["class_names"])
            pairs = stored["pairs"]
        numbers = SummaryCounts(**about["summary"])
        return DatasetSummary(about["network"], names, numbers, predicted, labeled, pairs, contrasts, out / INDEX)


def belongs_to(out: Path, results: Results) -> bool:
    """Return whether `out` has a summary of these results as they are now."""
    try:
        return bool(json.loads((out / NUMBERS).read_text(encoding="utf-8"))["state"] == read_state(results.folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False
