"""Curves of insertion and deletion, one line per attribution method."""

from collections.abc import Mapping

import altair as alt

from inspector.analysis.faithfulness import Curve, CurveKind, Faithfulness, RandomBaseline
from inspector.ui.components.charts import COLORS, make_legend

_DASHES = [[1, 0], [5, 3], [2, 2]]
_BASELINE_DASHES = [[8, 3], [2, 3]]


def draw_faithfulness_chart(
    methods: Mapping[str, Faithfulness], baselines: Mapping[str, RandomBaseline], kind: CurveKind, outcome: str
) -> alt.Chart:
    """Draw the outcome of the class against the part of the photo that is inserted or deleted.

    Args:
        methods: name of a method -> its curves.
        baselines: label -> mean curves of random maps, drawn in gray; at most two.
        kind: "insertion" or "deletion".
        outcome: what the curves show: "probability", or "value" if the network returns other values.
    """
    curves: dict[str, Curve] = {name: getattr(both, kind) for name, both in methods.items()}
    curves |= {name: baseline.mean(kind) for name, baseline in baselines.items()}
    rows = [
        # The first line is wide, so that it stays visible if another line covers it.
        {"method": name, "part of the photo": float(x), outcome: float(y), "width": 2 if n else 5}
        for n, (name, curve) in enumerate(curves.items())
        for x, y in zip(curve.fractions, curve.probabilities, strict=True)
    ]
    *colors, gray = COLORS
    count = len(methods)
    line_colors = [colors[n % len(colors)] for n in range(count)] + [gray] * len(baselines)
    dashes = [_DASHES[n // len(colors)] for n in range(count)] + _BASELINE_DASHES[: len(baselines)]
    names = list(curves)
    legend = make_legend(columnPadding=6, labelLimit=130, labelFontSize=11, symbolSize=100)
    ticks, numbers = ("%", ".1%") if outcome == "probability" else (".3g", ".4g")
    part, shown = alt.Tooltip("part of the photo:Q", format=".0%"), alt.Tooltip(f"{outcome}:Q", format=numbers)
    lines = alt.Chart(alt.InlineData(rows)).mark_line()
    chart: alt.Chart = lines.encode(
        x=alt.X("part of the photo:Q", axis=alt.Axis(format="%", grid=False)),
        y=alt.Y(f"{outcome}:Q", title=None, axis=alt.Axis(format=ticks), scale=alt.Scale(zero=True)),
        color=alt.Color("method:N", scale=alt.Scale(domain=names, range=line_colors), legend=legend),
        strokeDash=alt.StrokeDash("method:N", scale=alt.Scale(domain=names, range=dashes), legend=legend),
        strokeWidth=alt.StrokeWidth("width:Q", scale=None, legend=None),
        tooltip=["method:N", part, shown],
    )
    return chart.properties(height=220 + 11 * len(names))
