"""Altair charts that answer to the mouse: learning curves and a confusion matrix, for light and dark pages.

Altair stands inside the functions: it takes half a second to import.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inspector.training.compare_runs import RunGroup, Score, format_with_deviation
from inspector.training.read_run import Confusion

if TYPE_CHECKING:
    import altair as alt

    Chart = alt.LayerChart | alt.FacetChart

# Okabe and Ito's, which colour-blind readers tell apart; less the yellow, and grey for black, which a dark page hides.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
SHAPES = ("circle", "square")
MOST_RUNS = len(COLOURS) * len(SHAPES)
MOST_CLASSES = 60  # of more, the cells of a matrix are too small to point at
_FEW_CLASSES = 20  # with as many, a percentage fits into a cell
_TEST, _TRAINING = "test images", "training images"
RIGHT, WRONG = "#0072B2", "#D55E00"


def marks_of(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Each run's colour and shape, which it keeps when others are left out; labels beyond MOST_RUNS get none."""
    marks = [(colour, shape) for shape in SHAPES for colour in COLOURS]
    return dict(zip(labels, marks, strict=False))


def top1_chart(groups: Sequence[RunGroup], marks: Mapping[str, tuple[str, str]]) -> "Chart":
    return _curves(groups, {_TEST: "top1"}, marks)


def loss_chart(groups: Sequence[RunGroup], marks: Mapping[str, tuple[str, str]]) -> "Chart":
    return _curves(groups, {_TEST: "validation_loss", _TRAINING: "training_loss"}, marks)


def _curves(groups: Sequence[RunGroup], scores: Mapping[str, Score], marks: Mapping[str, tuple[str, str]]) -> "Chart":
    """Lines of the mean over the seeds in a band of one spread each way; a click in the legend brings a run forward."""
    import altair as alt

    rows = [row for group in groups for images, score in scores.items() for row in curve_rows(group, images, score)]
    means = [row["mean"] for row in rows if row["mean"] is not None]
    log = len(scores) > 1 and min(means, default=0) > 0
    if log:
        # A spread as large as its mean would reach below zero, where a logarithm has no place for it.
        rows = [row | {"low": row["low"] and max(row["low"], min(means) / 2)} for row in rows]
    labels = [group.label for group in groups]
    legend = alt.Legend(orient="bottom", columns=2, labelLimit=150, title=None, symbolOpacity=1, symbolSize=70)
    colours, shapes = ([marks[label][part] for label in labels] for part in (0, 1))
    chosen = alt.selection_point(fields=["run"], bind="legend")
    base = alt.Chart(alt.InlineData(rows)).encode(
        x=alt.X(
            "epoch:Q",
            title="epoch",
            scale=alt.Scale(zero=False, nice=False),
            axis=alt.Axis(tickMinStep=1, format="d", grid=False),
        ),
        y=alt.Y("mean:Q", title=None, scale=alt.Scale(type="log" if log else "linear", zero=False, nice=not log)),
        color=alt.Color("run:N", scale=alt.Scale(domain=labels, range=colours), legend=legend),
        detail="images:N",
    )
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title=None),
        y2="high:Q",
        opacity=alt.when(chosen).then(alt.value(0.15)).otherwise(alt.value(0.02)),
    )
    faded = alt.when(chosen).then(alt.value(1)).otherwise(alt.value(0.08))
    dashes = alt.StrokeDash(
        "images:N", scale=alt.Scale(domain=[_TEST, _TRAINING], range=[[1, 0], [5, 4]]),
        legend=alt.Legend(orient="top", title=None, symbolSize=600) if len(scores) > 1 else None,
    )  # fmt: skip
    line = base.mark_line(strokeWidth=1.6).encode(opacity=faded, strokeDash=dashes)
    few = all(len(group.runs[0].history) <= 20 for group in groups)
    point = base.mark_point(filled=True, size=36 if few else 10).encode(
        opacity=faded,
        shape=alt.Shape("run:N", scale=alt.Scale(domain=labels, range=shapes), legend=legend),
        tooltip=["run:N", "epoch:Q", "images:N", alt.Tooltip("number:N", title="mean and spread"), "seeds:Q"],
    )
    # The legend takes a line for every two runs.
    return alt.layer(band, line, point).add_params(chosen).properties(height=380 + 10 * len(groups))


def curve_rows(group: RunGroup, images: str, score: Score) -> Iterator[dict[str, Any]]:
    """A row an epoch: the mean over the seeds, one spread below and above it, and both in words."""
    for epoch, (mean, spread) in zip(group.runs[0].history, group.curve(score), strict=True):
        # The loss of a run that diverged is no number, and JSON knows none such: the line has a gap there.
        low, middle, high = (x if math.isfinite(x) else None for x in (mean - spread, mean, mean + spread))
        yield {
            "run": group.label, "epoch": epoch.epoch, "images": images, "mean": middle, "low": low, "high": high,
            "number": format_with_deviation(group, (mean, spread)), "seeds": len(group.runs),
        }  # fmt: skip


def heat_map(confusion: Confusion, dark: bool) -> "Chart":
    """Rows are the true classes, columns what they were taken for; the denser, the larger its part of the row."""
    import altair as alt

    cells = list(confusion_cells(confusion))
    names = list(confusion.classes)
    axis = alt.Axis(labelLimit=130, labelOverlap=False, ticks=False, domain=False, grid=False)
    base = alt.Chart(alt.InlineData(cells)).encode(
        x=alt.X("predicted:N", sort=names, scale=alt.Scale(domain=names), title="taken for", axis=axis),
        y=alt.Y("true:N", sort=names, scale=alt.Scale(domain=names), title=None, axis=axis),
        tooltip="words:N",
    )
    # The root, because one image of a hundred is to be seen too.
    density = alt.Opacity("part:Q", scale=alt.Scale(type="sqrt", domain=[0, 1], range=[0.02, 1]), legend=None)
    colour = alt.Color("right:N", scale=alt.Scale(domain=[True, False], range=[RIGHT, WRONG]), legend=None)
    chart = base.mark_rect(cornerRadius=2).encode(opacity=density, color=colour)
    layers = [chart]
    if len(names) <= _FEW_CLASSES:
        on_dense, on_faint = "white", "white" if dark else "black"
        ink = alt.when(alt.datum.part > 0.3).then(alt.value(on_dense)).otherwise(alt.value(on_faint))
        layers.append(base.mark_text(fontSize=10).encode(text="percent:N", color=ink))
    height = max(260, (28 if len(names) <= _FEW_CLASSES else 14) * len(names) + 90)
    return alt.layer(*layers).properties(height=height)


def confusion_cells(confusion: Confusion) -> Iterator[dict[str, Any]]:
    """The cells that are not zero, each with its part of its row."""
    for i, true in enumerate(confusion.classes):
        total = int(confusion.counts[i].sum())
        for j in confusion.counts[i].nonzero()[0]:
            part = int(confusion.counts[i, j]) / total
            yield {
                "true": true, "predicted": confusion.classes[j], "right": bool(i == j), "part": part,
                "percent": f"{100 * part:.0f}" if part >= 0.005 else "", "words": in_words(confusion, i, int(j)),
            }  # fmt: skip


def in_words(confusion: Confusion, true: int, predicted: int) -> str:
    """One cell as a sentence without its full stop."""
    count, total = int(confusion.counts[true, predicted]), int(confusion.counts[true].sum())
    taken = "recognised" if true == predicted else f"taken for {confusion.classes[predicted]}"
    return f"{confusion.classes[true]} {taken}: {count:,} of {total:,}"


def most_frequent(confusion: Confusion, count: int = 5) -> list[str]:
    """The confusions with the most images, in words, the most frequent first."""
    classes = range(len(confusion.classes))
    wrong = [(i, j) for i in classes for j in classes if i != j and confusion.counts[i, j]]
    wrong.sort(key=lambda cell: -int(confusion.counts[cell]))
    return [in_words(confusion, i, j) for i, j in wrong[:count]]
