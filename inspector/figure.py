"""Matplotlib figures for export: the only module that imports matplotlib, and never pyplot (it is not thread-safe)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from inspector.errors import InspectorError
from inspector.laboratory import Group, Score
from inspector.maps import ClassMaps, Shown
from inspector.render import backdrop, common_scale, diverging_colours, overlay, spread

_COLOURS = ListedColormap(diverging_colours() / 255, name="class map")
_PANEL = 2.6  # inches

# Okabe and Ito's, which colour-blind readers tell apart; less the yellow, which is faint on white.
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def class_map_figure(maps: ClassMaps, shown: Shown) -> Figure:
    """The photo and, over it, one class map a class on one shared scale, with the numbers that add up."""
    view = maps.view
    if view is None:
        raise InspectorError("These class maps came from a tensor: there is no photo to draw them on.")
    read = [maps.read(k, shown.against, shown.dense) for k in shown.classes]
    scale = common_scale([class_map.values for class_map in read])
    canvas = backdrop(view)
    columns = min(3, len(read) + 1)
    rows = -(-(len(read) + 1) // columns)
    height, width = view.photo.size
    tall = min(2.0, max(0.6, height / width))
    figure = Figure(figsize=(_PANEL * columns + 1.1, (_PANEL * tall + 0.6) * rows + 0.3), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes:
        axis.set_axis_off()
    _panel(axes[0], canvas, _short(view.photo.name), _what_was_seen(maps))
    for axis, k, class_map in zip(axes[1:], shown.classes, read, strict=False):
        drawn = spread(class_map.values, view, maps.classifier.receptive_field, canvas.shape[:2], shown.smooth)
        name = f"{_short(maps.classifier.class_names[k])} ({maps.probabilities[k]:.1%})"
        _panel(axis, overlay(canvas, drawn, scale, shown.opacity), name, class_map.equation())
    bar = figure.colorbar(ScalarMappable(Normalize(-scale, scale), _COLOURS), ax=axes.tolist(), shrink=0.7, aspect=30)
    bar.set_label("logits a position")
    figure.suptitle(
        f"{maps.classifier.name}: {maps.reading(shown.dense, shown.against)}", fontsize=10, parse_math=False
    )
    return figure


def all_maps_figure(maps: ClassMaps, dense: bool = False) -> Figure:
    """All class maps before pooling side by side with their pooled values, the winner marked; for few classes."""
    values = maps.position_scores() if dense else maps.values
    classes = len(values)
    scale = common_scale([values])
    columns = min(5, classes)
    rows = -(-classes // columns)
    figure = Figure(figsize=(1.75 * columns + 0.9, 2.25 * rows + 0.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    winner = int(maps.logits.argmax())
    for axis in axes[classes:]:
        axis.set_axis_off()
    for k, axis in enumerate(axes[:classes]):
        axis.imshow(values[k].numpy(force=True), cmap=_COLOURS, vmin=-scale, vmax=scale)
        axis.set(xticks=[], yticks=[])
        axis.set_title(
            _short(maps.classifier.class_names[k], 16),
            parse_math=False,
            fontsize=9,
            fontweight="bold" if k == winner else "normal",
        )
        axis.set_xlabel(f"logit {maps.logits[k]:.2f}" + ("  winner" if k == winner else ""), fontsize=8)
        for spine in axis.spines.values():
            spine.set(linewidth=3 if k == winner else 0.5)
    bar = figure.colorbar(ScalarMappable(Normalize(-scale, scale), _COLOURS), ax=axes.tolist(), shrink=0.8, aspect=25)
    bar.set_label("logits a position")
    figure.suptitle(f"{maps.classifier.name}: {maps.reading(dense)}", fontsize=10, parse_math=False)
    return figure


def learning_curves(groups: Sequence[Group]) -> Figure:
    """Top-1 and loss after each epoch, a line a recipe: the mean over its seeds, in a band of one spread each way."""
    if len(groups) > 2 * len(_LINES):
        raise InspectorError(f"{len(groups)} curves cannot be told apart: {2 * len(_LINES)} recipes or fewer would do.")
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    for number, group in enumerate(groups):
        colour, marker = _LINES[number % len(_LINES)], "os"[number // len(_LINES)]
        seeds = "1 seed" if len(group.runs) == 1 else f"{len(group.runs)} seeds"
        _curve(accuracy, group, "top1", colour, marker, "-", f"{group.label} ({seeds})")
        _curve(loss, group, "validation_loss", colour, marker, "-")
        _curve(loss, group, "training_loss", colour, marker, ":")
    accuracy.set(title="top-1 of the test images", xlabel="epoch", ylabel="top-1")
    loss.set(title="loss: test images (solid), training images (dotted)", xlabel="epoch", ylabel="nats", yscale="log")
    for axis in (accuracy, loss):
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(3, len(groups)), frameon=False)
    return figure


def _curve(axis: Axes, group: Group, score: Score, colour: str, marker: str, style: str, label: str = "") -> None:
    epochs = [row.epoch for row in group.runs[0].history]
    means, spreads = np.array(group.curve(score)).T
    # Every epoch is marked where few are: a run of one epoch would be no line at all.
    shown = marker if len(epochs) <= 20 and style == "-" else ""
    axis.plot(epochs, means, style, color=colour, marker=shown, markersize=3, linewidth=1.4, label=label or None)
    if len(group.runs) > 1:
        axis.fill_between(epochs, means - spreads, means + spreads, color=colour, alpha=0.15, linewidth=0)


def _short(name: str, length: int = 28) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}\N{HORIZONTAL ELLIPSIS}"


def _what_was_seen(maps: ClassMaps) -> str:
    return f"verdict: {maps.verdict}, residual {maps.residual:.1e}"


def _panel(axis: Axes, image: np.ndarray, title: str, line: str) -> None:
    axis.imshow(image)
    axis.set_title(f"{title}\n", fontsize=9, parse_math=False)
    axis.text(0.5, 1.02, line, transform=axis.transAxes, ha="center", va="bottom", fontsize=8, color="0.35")
