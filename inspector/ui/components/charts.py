"""Interactive charts for light and dark pages, and charts as files: learning curves and a confusion matrix."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import altair as alt

from inspector.output.style import GRAY, OKABE_ITO
from inspector.training.compare_runs import RunGroup, Score, format_with_deviation
from inspector.training.read_run import Confusion

Chart: TypeAlias = alt.LayerChart | alt.FacetChart

# Yellow is left out, because it is hard to see on white. Gray is visible on white and on black.
COLORS = (*OKABE_ITO[:6], GRAY)
SHAPES = ("circle", "square")
MAX_RUNS = len(COLORS) * len(SHAPES)
MAX_CLASSES = 60  # classes of a confusion matrix; with more, its cells are too small to point at
_MAX_NUMBERED = 20  # classes; with more, a percentage does not fit into a cell
_TEST, _TRAINING = "test images", "training images"
_SAVED_WIDTH = 640  # of a saved chart, in pixels
_CORRECT, _WRONG = OKABE_ITO[:2]


def encode_chart(spec: Mapping[str, Any], format: Literal["png", "svg"]) -> bytes:
    """Return a chart as the bytes of a file, on white. A PNG has two pixels for each on the screen.

    Args:
        spec: the chart as Vega-Lite. If it has no width, it gets that of half a page.
        format: "png" or "svg".
    """
    # Imported here, because it brings a browser engine of 60 MB along.
    import vl_convert

    whole = {"width": _SAVED_WIDTH} | dict(spec) | {"background": "white"}
    if format == "svg":
        return str(vl_convert.vegalite_to_svg(whole)).encode()
    return bytes(vl_convert.vegalite_to_png(whole, scale=2))


def assign_marks(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return label of a run -> (color, shape). Labels after the first MAX_RUNS are left out."""
    marks = [(color, shape) for shape in SHAPES for color in COLORS]
    return dict(zip(labels, marks, strict=False))


def make_legend(**settings: Any) -> alt.Legend:
    """Return a legend below a chart, in two columns."""
    return alt.Legend(orient="bottom", columns=2, title=None, symbolOpacity=1, **settings)


def draw_top1_chart(groups: Sequence[RunGroup], marks: Mapping[str, tuple[str, str]]) -> Chart:
    """Draw the top-1 accuracy on the test images over the epochs."""
    return _draw_curves(groups, {_TEST: "top1"}, marks)


def draw_loss_chart(groups: Sequence[RunGroup], marks: Mapping[str, tuple[str, str]]) -> Chart:
    """Draw the loss of test and training images over the epochs."""
    return _draw_curves(groups, {_TEST: "validation_loss", _TRAINING: "training_loss"}, marks)


def _draw_curves(
    groups: Sequence[RunGroup], scores: Mapping[str, Score], marks: Mapping[str, tuple[str, str]]
) -> Chart:
    """Draw means over the seeds with bands of one standard deviation. A click in the legend highlights a run."""
    rows = [
        row for group in groups for images, score in scores.items() for row in make_curve_rows(group, images, score)
    ]
    means = [row["mean"] for row in rows if row["mean"] is not None]
    log = len(scores) > 1 and min(means, default=0) > 0
    if log:
        # A logarithmic axis cannot show zero, so cut off a band that would reach it.
        rows = [row | {"low": row["low"] and max(row["low"], min(means) / 2)} for row in rows]
    labels = [group.label for group in groups]
    legend = make_legend(labelLimit=150, symbolSize=70)
    colors, shapes = ([marks[label][part] for label in labels] for part in (0, 1))
    chosen = alt.selection_point(fields=["run"], bind="legend")
    epochs = alt.Axis(tickMinStep=1, format="d", grid=False)
    base = alt.Chart(alt.InlineData(rows)).encode(
        x=alt.X("epoch:Q", title="epoch", scale=alt.Scale(zero=False, nice=False), axis=epochs),
        y=alt.Y("mean:Q", title=None, scale=alt.Scale(type="log" if log else "linear", zero=False, nice=not log)),
        color=alt.Color("run:N", scale=alt.Scale(domain=labels, range=colors), legend=legend),
        detail="images:N",
    )
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title=None),
        y2="high:Q",
        opacity=alt.when(chosen).then(alt.value(0.15)).otherwise(alt.value(0.02)),
    )
    faded = alt.when(chosen).then(alt.value(1)).otherwise(alt.value(0.08))
    dashes = alt.StrokeDash(
        "images:N",
        scale=alt.Scale(domain=[_TEST, _TRAINING], range=[[1, 0], [5, 4]]),
        legend=alt.Legend(orient="top", title=None, symbolSize=600) if len(scores) > 1 else None,
    )
    line = base.mark_line(strokeWidth=1.6).encode(opacity=faded, strokeDash=dashes)
    number = alt.Tooltip("number:N", title="mean and standard deviation")
    few_epochs = all(len(group.runs[0].history) <= 20 for group in groups)
    point = base.mark_point(filled=True, size=36 if few_epochs else 10).encode(
        opacity=faded,
        shape=alt.Shape("run:N", scale=alt.Scale(domain=labels, range=shapes), legend=legend),
        tooltip=["run:N", "epoch:Q", "images:N", number, "seeds:Q"],
    )
    # Add height for the legend, which has a line for every two runs.
    return alt.layer(band, line, point).add_params(chosen).properties(height=380 + 10 * len(groups))


def make_curve_rows(group: RunGroup, images: str, score: Score) -> Iterator[dict[str, Any]]:
    """Make a row for each epoch: the mean over the seeds, one standard deviation below and above it, and both as text.

    Args:
        group: the run with all its seeds.
        images: name of the images that the score was measured on.
        score: column of the history.
    """
    for epoch, (mean, deviation) in zip(group.runs[0].history, group.curve(score), strict=True):
        # The loss of a diverged run is not finite. JSON has no such numbers, so write None: the line gets a gap there.
        low, middle, high = (x if math.isfinite(x) else None for x in (mean - deviation, mean, mean + deviation))
        yield {
            "run": group.label,
            "epoch": epoch.epoch,
            "images": images,
            "mean": middle,
            "low": low,
            "high": high,
            "number": format_with_deviation(group, (mean, deviation)),
            "seeds": len(group.runs),
        }


def draw_confusion_matrix(confusion: Confusion, dark: bool) -> Chart:
    """Draw a confusion matrix: a row per true class, a column per predicted class. A strong color is a large share."""
    cells = list(list_confusion_cells(confusion))
    names = list(confusion.classes)
    axis = alt.Axis(labelLimit=130, labelOverlap=False, ticks=False, domain=False, grid=False)
    base = alt.Chart(alt.InlineData(cells)).encode(
        x=alt.X("predicted:N", sort=names, scale=alt.Scale(domain=names), title="predicted as", axis=axis),
        y=alt.Y("true:N", sort=names, scale=alt.Scale(domain=names), title=None, axis=axis),
        tooltip="text:N",
    )
    # The square root makes small shares visible, too, such as one image of a hundred.
    opacity = alt.Opacity("share:Q", scale=alt.Scale(type="sqrt", domain=[0, 1], range=[0.02, 1]), legend=None)
    color = alt.Color("correct:N", scale=alt.Scale(domain=[True, False], range=[_CORRECT, _WRONG]), legend=None)
    layers: list[alt.Chart] = [base.mark_rect(cornerRadius=2).encode(opacity=opacity, color=color)]
    numbered = len(names) <= _MAX_NUMBERED
    if numbered:
        on_strong, on_faint = "white", "white" if dark else "black"
        ink = alt.when(alt.datum.share > 0.3).then(alt.value(on_strong)).otherwise(alt.value(on_faint))
        layers.append(base.mark_text(fontSize=10).encode(text="percent:N", color=ink))
    height = max(260, (28 if numbered else 14) * len(names) + 90)
    return alt.layer(*layers).properties(height=height)


def list_confusion_cells(confusion: Confusion) -> Iterator[dict[str, Any]]:
    """List the nonzero cells of a confusion matrix, each with its share of the images of the true class."""
    for i, true in enumerate(confusion.classes):
        total = int(confusion.counts[i].sum())
        for j in confusion.counts[i].nonzero()[0]:
            share = int(confusion.counts[i, j]) / total
            yield {
                "true": true,
                "predicted": confusion.classes[j],
                "correct": bool(i == j),
                "share": share,
                "percent": f"{100 * share:.0f}" if share >= 0.005 else "",
                "text": describe_confusion(confusion, i, int(j)),
            }


def describe_confusion(confusion: Confusion, true: int, predicted: int) -> str:
    """Describe one cell of a confusion matrix, as in "Shirt predicted as Coat: 6 of 20"."""
    count, total = int(confusion.counts[true, predicted]), int(confusion.counts[true].sum())
    outcome = "classified correctly" if true == predicted else f"predicted as {confusion.classes[predicted]}"
    return f"{confusion.classes[true]} {outcome}: {count:,} of {total:,}"


def list_confusions(confusion: Confusion, count: int = 5) -> list[str]:
    """Describe the `count` most frequent confusions, the most frequent one first."""
    classes = range(len(confusion.classes))
    wrong = [(i, j) for i in classes for j in classes if i != j and confusion.counts[i, j]]
    wrong.sort(key=lambda cell: -int(confusion.counts[cell]))
    return [describe_confusion(confusion, i, j) for i, j in wrong[:count]]
