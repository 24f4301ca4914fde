"""Print what the commands report: results on standard output, progress and errors on standard error."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

screen = Console(highlight=False)
progress = Console(stderr=True, highlight=False)


def print_class_table(columns: Sequence[str], rows: Iterable[tuple[str, float, Iterable[float]]]) -> None:
    """Print a table with one row per class: name, probability, then one number for each of `columns`."""
    table = Table("class", "probability", box=None, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right")
    for name, probability, numbers in rows:
        table.add_row(name, f"{probability:.1%}", *(f"{number:.4f}" for number in numbers))
    screen.print(table)


def print_verdict(verdict: str, residual: float) -> None:
    """Print how exact the class maps are; `residual` is in logits."""
    screen.print(f"verdict: {verdict} (largest residual over all classes {residual:.1e} logits)")


def print_written(path: str | Path) -> None:
    """Print the path where the results were written."""
    screen.print(f"written: {path}", soft_wrap=True, markup=False)
