"""Matplotlib figures of a data-set summary: average class maps, average contrasts, evidence at the border."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from inspector.datasets.index import BINS, count_bins
from inspector.datasets.statistics import Floats, compute_uniform_border_share
from inspector.datasets.summary import DatasetSummary
from inspector.output.figure import COLORS, add_color_bar
from inspector.output.figure_file import InlineFigure
from inspector.output.figure_text import shorten_name, wrap_text
from inspector.output.overlay import common_scale
from inspector.output.style import OKABE_ITO

_MAX_MAPS = 24  # largest number of maps in one figure
_COLUMNS = 6
_BAR_COLOR, _LINE_COLOR = OKABE_ITO[:2]


def draw_average_maps(summary: DatasetSummary) -> Figure:
    """Draw the average class maps of the most frequent top-1 classes.

    Each class's map is averaged over the images that have this class as top-1 class.
    """
    maps, counts = summary.predicted.mean(), summary.predicted.counts
    order = np.argsort(-counts, kind="stable")[:_MAX_MAPS]
    shown = order[counts[order] > 0]
    titles = [f"{shorten_name(summary.class_names[k], 20)}\n{counts[k]:,} images" for k in shown]
    heading = "Average class map per class, over the images with that top-1 class"
    return _draw_grids(maps[shown], titles, heading, len(counts))


def draw_contrasts(summary: DatasetSummary) -> Figure:
    """Draw the average contrast map (top-1 class minus label) of each of the most frequent confusions."""
    maps, counts = summary.contrasts.mean(), summary.contrasts.counts
    names = [shorten_name(name, 20) for name in summary.class_names]
    titles = [
        f"{names[label]}\npredicted as {names[predicted]}\n{count:,} images"
        for (label, predicted), count in zip(summary.pairs[:_MAX_MAPS], counts, strict=False)
    ]
    heading = "Average contrast: evidence for the predicted class (red) and for the label (blue)"
    return _draw_grids(maps[:_MAX_MAPS], titles, heading, len(counts))


def draw_border_shares(summary: DatasetSummary) -> Figure:
    """Draw a histogram, over all images, of the share of evidence in the outermost ring of cells."""
    figure = InlineFigure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.bar((np.arange(BINS) + 0.5) / BINS, count_bins(summary.index, "border"), 0.92 / BINS, color=_BAR_COLOR)
    uniform = compute_uniform_border_share(summary.grid)
    axis.axvline(uniform, color=_LINE_COLOR, linewidth=1.5)
    text, units = f"uniform map: {uniform:.0%}", (("data", "axes fraction"), "offset points")
    axis.annotate(text, (uniform, 1), (4, -4), *units, va="top", fontsize=8, color=_LINE_COLOR)
    axis.set(xlim=(0, 1), xlabel="share of the top-1 class's evidence in the outermost ring of cells", ylabel="images")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_grids(maps: Floats, titles: Sequence[str], heading: str, available: int) -> Figure:
    """Draw maps (n, h, w) side by side as raw grids on one scale; `available` is how many there are in the summary."""
    columns = max(1, min(_COLUMNS, len(maps)))
    rows = max(1, math.ceil(len(maps) / columns))
    scale = common_scale(list(maps))
    title_lines = max((title.count("\n") + 1 for title in titles), default=1)
    size = max(5.0, 1.7 * columns + 1), (1.5 + 0.16 * title_lines) * rows + 0.9
    figure = InlineFigure(figsize=size, layout="constrained")
    axes: list[Axes] = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes[len(maps) :]:
        axis.set_axis_off()
    for axis, values, title in zip(axes, maps, titles, strict=False):
        axis.imshow(values, cmap=COLORS, vmin=-scale, vmax=scale)
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=7, parse_math=False)
    add_color_bar(axes, scale, font_size=8, shrink=0.8, aspect=30)
    suffix = f" ({len(maps)} most frequent of {available:,})" if len(maps) < available else ""
    figure.suptitle("\n".join(wrap_text(heading + suffix, 9, size[0] - 0.2)), fontsize=9)
    return figure
