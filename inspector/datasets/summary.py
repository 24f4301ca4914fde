"""Read the summary of a data set (average class maps, confusions, counts) that `summarize` wrote into a folder.

This module does not import torch. To average the class maps of a few images in memory, use
`inspector.analysis.averages`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspector.datasets.index import SummaryCounts
from inspector.datasets.results import Results, read_state
from inspector.datasets.statistics import Floats, compute_uniform_border_share
from inspector.entries import Entries, parse_json
from inspector.errors import InspectorError, translate_errors
from inspector.explain.kinds import rank_verdict

INDEX, NUMBERS, MAPS = "images.parquet", "survey.json", "average-maps.npz"

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class AverageMaps:
    """Sums of class maps with the number of images in each sum; maps can be added batch by batch."""

    sums: Floats  # (n, h, w), in logits
    counts: Ints  # (n,), number of images in each sum

    def mean(self) -> Floats:
        """Return the average maps (n, h, w) in logits; a sum without images gives a map of zeros."""
        average: Floats = self.sums / np.maximum(1, self.counts)[:, None, None]
        return average

    def add(self, which: Ints, maps: Floats) -> None:
        """Add each of `maps` (N, h, w) to one sum; `which` (N,) has the index of that sum for each map."""
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
    predicted: AverageMaps  # (K, h, w): map of class k, over the images whose top-1 class is k
    labeled: AverageMaps  # (K, h, w): map of class k, over the images whose label is k
    pairs: Ints  # (P, 2): label and top-1 class of the most frequent confusions
    contrasts: AverageMaps  # (P, h, w): map of the top-1 class minus map of the label
    index: Path  # Parquet file with one row per image, see `inspector.datasets.index`
    precision: str = ""  # how the maps differ from those in float32, if another precision computed them

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the class maps, in cells."""
        _, height, width = self.predicted.sums.shape
        return height, width

    @property
    def verdict(self) -> str | None:
        """The worst verdict of all images; None if no image was read."""
        return max(self.counts.verdicts, key=rank_verdict, default=None)

    def describe(self) -> list[tuple[str, str]]:
        """Return the summary as text: pairs of a name and a value, one pair per line."""
        counts, (height, width) = self.counts, self.grid
        lines = [("images", f"{counts.images:,}"), ("could not be read", f"{counts.errors:,}")]
        if counts.top1 is not None and counts.top5 is not None:
            lines.append(("top-1", f"{counts.top1:.1%} of {counts.classed:,} whose label is a class"))
            if len(self.class_names) > 5:
                lines.append(("top-5", f"{counts.top5:.1%}"))
        if self.verdict is not None:
            lines.append(("class maps", f"{self.verdict}, largest residual {counts.residual:.1e} logits"))
        if self.precision:
            lines.append(("precision", self.precision))
        if counts.border is not None:
            uniform = compute_uniform_border_share(self.grid)
            lines.append(("evidence at the border", f"{counts.border:.1%} (uniform map: {uniform:.1%})"))
        if counts.positions is not None:
            lines.append(("cells with evidence", f"{counts.positions:.1f} of {height * width}"))
        if counts.inside is not None:
            lines.append(("evidence inside the objects", f"{counts.inside:.1%} of {counts.with_objects:,} images"))
        return lines


def read_summary(out: str | Path) -> DatasetSummary:
    """Read the summary that `summarize` wrote into a folder.

    Raises:
        InspectorError: the folder has no summary, or the summary is broken.
    """
    out = Path(out)
    if not (out / NUMBERS).is_file():
        raise InspectorError(f"No summary in {out}. Use `inspector survey RESULTS -o {out}` to make one.")
    message = f"Cannot read the summary in {out} ({{reason}}). Use `inspector survey` to make it again."
    with translate_errors(InspectorError, message):
        about = Entries(parse_json((out / NUMBERS).read_bytes()))
        with np.load(out / MAPS, allow_pickle=False) as stored:
            predicted, labeled, contrasts = (
                AverageMaps(stored[f"{name}_sums"], stored[f"{name}_counts"])
                for name in ("predicted", "labelled", "contrast")
            )
            names = tuple(str(name) for name in stored["class_names"])
            pairs = stored["pairs"]
        _check(predicted, labeled, contrasts, names, pairs)
        numbers = dict(about.object("summary").values)
        if isinstance(numbers["residual"], str):  # JSON has no nan and no infinity
            numbers["residual"] = float(numbers["residual"])
        precision = about.text("precision") if about.has("precision") else ""
        counts = SummaryCounts(**numbers)
        return DatasetSummary(
            about.text("network"), names, counts, predicted, labeled, pairs, contrasts, out / INDEX, precision
        )


def _check(
    predicted: AverageMaps, labeled: AverageMaps, contrasts: AverageMaps, names: Sequence[str], pairs: Ints
) -> None:
    """Raise ValueError if the stored arrays do not fit together."""
    grid = predicted.sums.shape[1:]
    for averages, count in ((predicted, len(names)), (labeled, len(names)), (contrasts, len(pairs))):
        if averages.sums.shape != (count, *grid) or averages.counts.shape != (count,) or len(grid) != 2:
            raise ValueError("its average maps are not of one grid, or not one for each class")
    if pairs.shape != (len(pairs), 2) or (pairs.size and not 0 <= pairs.min() <= pairs.max() < len(names)):
        raise ValueError("its confusions are not pairs of classes")


def belongs_to(out: Path, results: Results) -> bool:
    """Return whether `out` has a summary of these results, and the results have not changed since."""
    try:
        return bool(parse_json((out / NUMBERS).read_bytes())["state"] == read_state(results.folder))
    except (OSError, ValueError, KeyError):
        return False
