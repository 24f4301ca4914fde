"""Matplotlib figures of runs: learning curves, confusion matrices, average class maps, the class maps of one step.

Does not use pyplot, which is not thread-safe.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMaps, FigureContent
from inspector.images.decode import Pixels
from inspector.output.figure import COLORS, describe_exactness
from inspector.output.figure_file import InlineFigure
from inspector.output.figure_text import shorten_name, wrap_text, wrap_title
from inspector.output.overlay import common_scale, dimmed_photo, draw_bar, draw_map_on_photo, make_gray
from inspector.output.style import OKABE_ITO
from inspector.output.text import format_number
from inspector.training.compare_runs import RunGroup, Score, format_with_deviation
from inspector.training.read_run import Confusion

_LINES = (*OKABE_ITO[:6], "#000000")

_MAX_NUMBERED = 20  # with more classes, the numbers in a confusion matrix would overlap
_MAX_NAMED = 120  # with more classes, the names at an axis would overlap
_AVERAGES_TITLE = (
    "Average class maps: contribution per cell (sums to the logit) of each class, the mean over its test images.\n"
    "Each column has its own scale, because the values of two heads differ in size."
)
_DPI = 100  # of the picture of a step, whose layout is in pixels
_TITLE, _SMALL, _LINE = (
    9,
    8,
    15,
)  # size of the letters of titles and small print, in points; height of a line, in pixels
_MARGIN, _BAR, _LEAST = 10, 14, 170  # pixels: between panels, height of the color bar, least room for a panel's text
_GRAY = 190  # brightness under the color bar, 0-255
_GAP = 0.1  # gap between two average maps, as a fraction of the height of one map and its gap


def learning_curves_figure(groups: Sequence[RunGroup]) -> Figure:
    """Draw top-1 and loss after each epoch: one line per recipe, the mean over its seeds.

    If a recipe has several seeds, a band shows one standard deviation above and below the line.

    Raises:
        InspectorError: there are too many recipes for lines that can be distinguished.
    """
    if len(groups) > 2 * len(_LINES):
        raise InspectorError(f"{len(groups)} curves cannot be distinguished. Use at most {2 * len(_LINES)} recipes.")
    figure = InlineFigure(figsize=(11, 4.6), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    for number, group in enumerate(groups):
        color, marker = _LINES[number % len(_LINES)], "os"[number // len(_LINES)]
        seeds = "1 seed" if len(group.runs) == 1 else f"{len(group.runs)} seeds"
        _draw_curve(accuracy, group, "top1", color, marker, "-", f"{group.label} ({seeds})")
        _draw_curve(loss, group, "validation_loss", color, marker, "-")
        _draw_curve(loss, group, "training_loss", color, marker, ":")
    accuracy.set(title="top-1 of the test images", xlabel="epoch", ylabel="top-1")
    loss.set(title="loss: test images (solid), training images (dotted)", xlabel="epoch", ylabel="nats", yscale="log")
    for axis in (accuracy, loss):
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(3, len(groups)), frameon=False)
    return figure


def _draw_curve(
    axis: Axes, group: RunGroup, score: Score, color: str, marker: str, style: str, label: str = ""
) -> None:
    epochs = [row.epoch for row in group.runs[0].history]
    means, deviations = np.array(group.curve(score)).T
    # Mark each epoch if there are few, so that a run of one epoch, which has no line, is visible.
    shown = marker if len(epochs) <= 20 and style == "-" else ""
    axis.plot(epochs, means, style, color=color, marker=shown, markersize=3, linewidth=1.4, label=label or None)
    if len(group.runs) > 1:
        axis.fill_between(epochs, means - deviations, means + deviations, color=color, alpha=0.15, linewidth=0)


def confusion_figure(groups: Sequence[RunGroup]) -> Figure:
    """Draw the confusion matrix of each recipe that has one, summed over its seeds, each row normalized to 1.

    Raises:
        InspectorError: no run has a confusion matrix.
    """
    read = [(group, found) for group in groups if (found := group.confusion()) is not None]
    if not read:
        raise InspectorError("No run has a confusion matrix. Use runs trained by this version of Inspector.")
    columns = min(3, len(read))
    rows = -(-len(read) // columns)
    side = min(8.0, max(2.4, 0.3 * max(len(found.classes) for _, found in read)))  # inches
    figure = InlineFigure(figsize=((side + 0.15) * columns + 2.0, (side + 0.6) * rows + 1.0), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes[len(read) :]:
        axis.set_axis_off()
    for number, (axis, (group, found)) in enumerate(zip(axes, read, strict=False)):
        _draw_matrix(axis, found, side)
        title = f"{group.label}\ntop-1 {format_with_deviation(group, group.final('top1'))}"
        axis.set_title(title, fontsize=9, parse_math=False)
        # Hide the class names of a panel if the panel at its left (or below it) shows the same names.
        if number % columns and read[number - 1][1].classes == found.classes:
            axis.tick_params(labelleft=False)
        if number + columns < len(read) and read[number + columns][1].classes == found.classes:
            axis.tick_params(labelbottom=False)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), "Blues"), ax=axes.tolist(), shrink=0.6, aspect=30)
    bar.set_label("share of the true class's images")
    text = "Rows: true class. Columns: predicted class."
    if any(len(found.classes) <= _MAX_NUMBERED for _, found in read):
        text += "\nNumbers: percent of the row; blank below 0.5."
    figure.suptitle(text, fontsize=9)
    return figure


def _draw_matrix(axis: Axes, confusion: Confusion, side: float) -> None:
    classes = len(confusion.classes)
    # A class without images has a row of zeros; dividing by 1 leaves it so.
    shares = confusion.counts / np.maximum(1, confusion.counts.sum(1, keepdims=True))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if classes <= _MAX_NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                percent, color = f"{math.floor(100 * share + 0.5)}", "white" if share > 0.5 else "black"
                axis.text(column, row, percent, ha="center", va="center", fontsize=7, color=color)
    if classes > _MAX_NAMED:
        axis.set(xticks=[], yticks=[])
        return
    size = min(8.0, 0.85 * 72 * side / classes)
    rotation = 90 if max(map(len, confusion.classes)) > 2 else 0
    axis.set_xticks(range(classes), confusion.classes, rotation=rotation, fontsize=size, parse_math=False)
    axis.set_yticks(range(classes), confusion.classes, fontsize=size, parse_math=False)
    axis.tick_params(length=0)


def average_maps_figure(groups: Sequence[RunGroup]) -> Figure:
    """Draw average class maps: one row per class, one column per recipe that has these maps, one scale per column.

    Raises:
        InspectorError: no run has average class maps.
    """
    found = [(group, maps) for group in groups if (maps := group.average_maps()) is not None]
    read = [(group, maps, _find_class_names(group, len(maps))) for group, maps in found]
    if not read:
        raise InspectorError("No run has average class maps. Use runs trained by this version of Inspector.")
    most = max(len(names) for _, _, names in read)
    # Split many classes into blocks that stand side by side, so that the figure is about square.
    blocks = max(1, round(math.sqrt(1.3 * most / (len(read) + 1))))
    rows = -(-most // blocks)
    wide = max(maps.shape[2] / maps.shape[1] for _, maps, _ in read)
    cell = min(0.9, 26 / rows)  # inches
    name_width = 0.3 + 0.065 * max(len(name) for _, _, names in read for name in names)  # inches, at 8 points
    across = blocks * (len(read) * (cell * wide + 0.15) + name_width) + 0.3
    figure = InlineFigure(figsize=(max(6.6, across), rows * cell * (1 + _GAP) + 1.5), layout="constrained")
    for block, page in enumerate(figure.subfigures(1, blocks, squeeze=False)[0]):
        shown = slice(block * rows, (block + 1) * rows)
        before: tuple[str, ...] = ()
        for axis, (group, maps, names) in zip(page.subplots(1, len(read), squeeze=False)[0], read, strict=True):
            _draw_column_of_maps(axis, maps[shown], common_scale([maps]), rows)
            # "experiment/recipe" is too long for one line.
            title = "\n".join(shorten_name(part, 16) for part in group.label.split("/"))
            axis.set_title(title, fontsize=8, parse_math=False)
            labels = names[shown] if names != before else ()
            axis.set_yticks([k + 0.5 for k in range(len(labels))], labels, fontsize=8, parse_math=False)
            before = names
    figure.suptitle(_AVERAGES_TITLE, fontsize=9)
    return figure


def _find_class_names(group: RunGroup, classes: int) -> tuple[str, ...]:
    found = group.confusion()
    return found.classes if found is not None and len(found.classes) == classes else tuple(map(str, range(classes)))


def _draw_column_of_maps(axis: Axes, maps: NDArray[np.float32], scale: float, rows: int) -> None:
    """Draw maps (K, h, w) one below the other, with a color bar below them. One map and its gap have height 1."""
    width = maps.shape[2] / maps.shape[1] * (1 - _GAP)
    for k, values in enumerate(maps):
        top, bottom = k + _GAP / 2, k + 1 - _GAP / 2
        axis.imshow(values, cmap=COLORS, vmin=-scale, vmax=scale, extent=(0, width, bottom, top))
        axis.add_patch(Rectangle((0, top), width, 1 - _GAP, fill=False, edgecolor="0.4", linewidth=0.5, clip_on=False))
    axis.set(xlim=(0, width), ylim=(rows, 0), xticks=[])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    # If all maps are zero, the color bar still needs two different ends.
    end = scale or 1.0
    colors = ScalarMappable(Normalize(-end, end), COLORS)
    bar = axis.figure.colorbar(colors, ax=axis, location="bottom", pad=0.02, aspect=10)
    bar.set_ticks([-end, end], labels=[f"\N{MINUS SIGN}{end:.3g}", f"{end:.3g}"], fontsize=7)
    left, right = bar.ax.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")


def draw_step(maps: ClassMaps, name: str, shown: FigureContent, scale: float, side: int) -> Pixels:
    """Draw a photo beside its class maps at one step of a training.

    The size of the picture depends on the photo and the number of classes only, so that the pictures of all steps
    coincide.

    Args:
        maps: class maps of the photo.
        name: name of the photo.
        shown: which classes, and how.
        scale: absolute value of a cell with the strongest color.
        side: longer side of a panel, in pixels.

    Returns:
        RGB image (H, W, 3). The pixels of each map are those of `draw_map_on_photo`.
    """
    view, names, meaning = maps.view, maps.classifier.class_names, maps.classifier.meaning
    photo = dimmed_photo(view.photo, view.crop, side)
    canvas, winner = make_gray(photo), int(maps.logits.argmax())
    panels, texts = [photo], [(shorten_name(name), describe_exactness(maps).replace(", ", "\n"), False)]
    for k in shown.classes:
        chosen = maps.class_map(k, shown.against, shown.dense)
        values = chosen.values.numpy(force=True)
        field = maps.classifier.receptive_field
        panels.append(draw_map_on_photo(canvas, view.crop, values, field, scale, shown.smooth, shown.opacity))
        total = chosen.total if chosen.total is not None else float(values.max())
        first = f"{meaning.quantity if shown.against is None else 'difference'} {format_number(total, '.2f')}"
        cell = format_number(float(values.flat[np.abs(values).argmax()]), "+.2g")
        title = f"{names[k]}\N{NO-BREAK SPACE}({maps.outcome(k)})"
        texts.append((title, f"{first}\nstrongest cell {cell}", k == winner))
    label = (maps.describe_reading(shown.dense, shown.against), maps.classifier.receptive_field.warning)
    return _compose(panels, texts, scale, ". ".join(filter(None, label)))


def _compose(panels: Sequence[Pixels], texts: Sequence[tuple[str, str, bool]], scale: float, label: str) -> Pixels:
    """Place panels in a grid, each with its title, bold or not, and its lines, over one color bar.

    There are few columns: TensorBoard shows a picture about 350 pixels wide.
    """
    height, width = panels[0].shape[:2]
    columns = min(len(panels), max(2, round(math.sqrt(len(panels)))))
    column, row, above = max(width, _LEAST) + _MARGIN, 4 * _LINE + 4 + height, 4 * _LINE + 4
    across = column * columns + _MARGIN
    meaning = wrap_text(label, _SMALL, (across - 2 * _MARGIN) / _DPI)
    bar_top = row * math.ceil(len(panels) / columns) + _MARGIN
    down = bar_top + _BAR + (1 + len(meaning)) * _LINE + _MARGIN
    figure = InlineFigure(figsize=(across / _DPI, down / _DPI), dpi=_DPI)

    def write(x: float, y: float, text: str, size: float = _SMALL, **options: Any) -> None:
        figure.text(x / across, 1 - y / down, text, fontsize=size, parse_math=False, **options)

    corners = [(_MARGIN + n % columns * column, n // columns * row + above) for n in range(len(panels))]
    for (left, top), (title, lines, bold) in zip(corners, texts, strict=True):
        write(left, top - 4, lines, color="0.35", va="bottom")
        wrapped = wrap_title(title, "", _TITLE, (column - _MARGIN) / _DPI).splitlines()[:2]
        weight, y = "bold" if bold else "normal", top - 4 - _LINE * (lines.count("\n") + 1)
        write(left, y, "\n".join(wrapped), _TITLE, va="bottom", weight=weight)
    for x, value, align in ((_MARGIN, -scale, "left"), (across / 2, 0, "center"), (across - _MARGIN, scale, "right")):
        write(x, bar_top + _BAR + 2, format_number(value, "+.3g"), va="top", ha=align)
    write(across / 2, down - 3, "\n".join(meaning), va="bottom", ha="center")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=_DPI)
    pixels: Pixels = np.frombuffer(buffer.getvalue(), np.uint8).reshape(down, across, 4)[..., :3].copy()
    for (left, top), panel in zip(corners, panels, strict=True):
        pixels[top : top + height, left : left + width] = panel
    bar = draw_bar("inspector", 0.85, _GRAY, across - 2 * _MARGIN, _BAR)
    pixels[bar_top : bar_top + _BAR, _MARGIN:-_MARGIN] = bar
    return pixels
