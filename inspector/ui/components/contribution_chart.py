"""Waterfall chart: a logit as the sum of its bias and its channel contributions."""

from typing import Any

import altair as alt

from inspector.analysis.channels import ChannelContributions, ContributionRow
from inspector.output.style import GRAY
from inspector.output.text import format_number

_POSITIVE, _NEGATIVE = "#D1243F", "#3B6FE0"


def draw_contribution_chart(contributions: ChannelContributions, count: int) -> alt.LayerChart | alt.FacetChart:
    """Draw a bar per term, from the bias down to the total. Each bar starts where the bar above it ends.

    The caller has to add a parameter ``chosen`` to the chart: the number of the channel to highlight.

    Args:
        contributions: bias, channels and total.
        count: number of channels with a bar of their own: those with the largest contributions.
    """
    rows = _make_rows(contributions, count)
    ends = [row[end] for row in rows for end in ("start", "end")]
    low, high = min(ends), max(ends)
    # Leave room for the numbers on the right.
    high += 0.55 * (high - low or 1)
    bold = alt.condition("datum.value === 'channel ' + chosen", alt.value("bold"), alt.value("normal"))
    names = alt.Axis(labelLimit=150, labelOverlap=False, labelBaseline="middle", labelFontWeight=bold, ticks=False)
    base = alt.Chart(alt.InlineData(rows)).encode(
        y=alt.Y("line:N", sort=None, title=None, axis=names),
        tooltip=[alt.Tooltip("line:N", title="term"), "contribution:N", alt.Tooltip("sum:N", title="running sum")],
    )
    scale = alt.Scale(domain=["positive", "negative", "sum"], range=[_POSITIVE, _NEGATIVE, GRAY])
    bars = base.mark_bar(cornerRadius=2, height={"band": 0.72}).encode(
        x=alt.X("start:Q", title="logits", scale=alt.Scale(domain=[low, high], nice=False, zero=False)),
        x2="end:Q",
        color=alt.Color("sign:N", scale=scale, legend=None),
        opacity=alt.condition("datum.channel === chosen", alt.value(1), alt.value(0.72)),
    )
    values = base.mark_text(align="left", dx=5, color=GRAY, fontWeight="bold").encode(x="far:Q", text="contribution:N")
    running = base.mark_text(align="right", color=GRAY).encode(x=alt.datum(high), text="sum:N")
    # A click anywhere in a row chooses its channel, because a bar may be only one pixel wide.
    click = alt.selection_point(name="bar", fields=["channel"], on="click", empty=False)
    targets = base.mark_bar(opacity=0, cursor="pointer").encode(x=alt.datum(low), x2=alt.datum(high))
    return alt.layer(bars, values, running, targets.add_params(click)).properties(height=20 * len(rows) + 50)


def _make_rows(contributions: ChannelContributions, count: int) -> list[dict[str, Any]]:
    """Return the data of the chart, one row per bar. The last row is the sum."""
    total = ContributionRow(None, "sum", contributions.total, before=0.0, after=contributions.total)
    return [
        {
            "line": row.text,
            "channel": row.channel,
            "start": row.before,
            "end": row.after,
            "far": max(row.before, row.after),
            "contribution": format_number(row.value, "+.3f"),
            "sum": "" if row is total else format_number(row.after, "+.3f"),
            "sign": "sum" if row is total else "positive" if row.value >= 0 else "negative",
        }
        for row in (*contributions.list_rows(count), total)
    ]
