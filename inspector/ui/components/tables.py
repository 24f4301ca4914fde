"""Tables in HTML, for what Streamlit's tables cannot do."""

from collections.abc import Sequence
from html import escape

_STYLE = """<style>
.what-if { border-collapse: collapse; width: 100%; max-width: 46rem; font-size: .85rem; line-height: 1.3 }
.what-if th, .what-if td { border: 0; border-bottom: 1px solid rgba(128, 128, 128, .3); padding: .3rem .15rem }
.what-if td, .what-if th { text-align: right; font-weight: 400; font-variant-numeric: tabular-nums }
.what-if th:first-child { text-align: left } .what-if th[colspan] { text-align: center }
.what-if tr:nth-child(-n + 2) th { opacity: .7 }
</style>"""


def make_grouped_table(groups: Sequence[str], columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a table as HTML whose columns stand below every group heading. Its texts wrap in narrow windows.

    Args:
        groups: the headings of the first line.
        columns: the headings below each of them.
        rows: the name of each row, and its ``len(groups) * len(columns)`` cells.
    """
    headings = "".join(f'<th colspan="{len(columns)}">{escape(group)}</th>' for group in groups)
    titles = "".join(f"<th>{escape(column)}</th>" for _ in groups for column in columns)
    body = "".join(
        f"<tr><th scope=row>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return f"{_STYLE}<table class=what-if><tr><th></th>{headings}</tr><tr><th></th>{titles}</tr>{body}</table>"
