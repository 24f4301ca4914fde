"""Tables in HTML, for what Streamlit's tables cannot do."""

from collections.abc import Sequence

from inspector.ui.components.assets import render_fragment


def make_grouped_table(groups: Sequence[str], columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a table as HTML whose columns stand below every group heading. Its texts wrap in narrow windows.

    Args:
        groups: the headings of the first line.
        columns: the headings below each of them.
        rows: the name of each row, and its ``len(groups) * len(columns)`` cells.
    """
    return render_fragment("grouped_table.html", groups=groups, columns=columns, rows=rows)
