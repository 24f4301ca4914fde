"""Print what the commands report: results on standard output, progress and errors on standard error.

Names of classes, files and networks are foreign text, so no console here reads markup or lets control characters pass.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from inspector.printable import make_lines_printable


class PlainConsole(Console):
    """A console that prints text as it is: without markup and emoji codes, and with control characters escaped."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Make the Text of a string; rich calls this for lines, cells and headings."""
        return super().render_str(make_lines_printable(text), **(options | {"markup": False, "emoji": False}))

    def status(self, status: Any, **options: Any) -> Status:
        """Show a line with a spinner during a `with` block."""
        return super().status(self.render_str(status) if isinstance(status, str) else status, **options)


screen = PlainConsole(highlight=False)
progress = PlainConsole(stderr=True, highlight=False)
errors = PlainConsole(stderr=True, highlight=False)  # prints with --quiet, too


@contextmanager
def keep_quiet(results: bool, notes: bool) -> Iterator[None]:
    """Print no results, or no progress and notes, during the `with` block."""
    before = screen.quiet, progress.quiet
    screen.quiet, progress.quiet = results or before[0], notes or before[1]
    try:
        yield
    finally:
        screen.quiet, progress.quiet = before


def print_class_table(columns: Sequence[str], rows: Iterable[tuple[str, str, Iterable[float]]]) -> None:
    """Print a table with one row per class: name, outcome as text, then one number for each other column.

    Args:
        columns: headings of the columns after the name.
        rows: one per class.
    """
    table = Table("class", columns[0], box=None, header_style="bold")
    for column in columns[1:]:
        table.add_column(column, justify="right")
    for name, outcome, numbers in rows:
        table.add_row(name, outcome, *(f"{number:.4f}" for number in numbers))
    screen.print(table)


def print_verdict(verdict: str, residual: float, units: str = "logits") -> None:
    """Print how exact the class maps are."""
    screen.print(f"verdict: {verdict} (largest residual over all classes {residual:.1e} {units})")


def print_misplacement(sentence: str | None) -> None:
    """Print why the place of the evidence is unknown, if it is."""
    if sentence is not None:
        screen.print(sentence, style="yellow", markup=False, soft_wrap=True)


def print_fed(description: str) -> None:
    """Print how photos are preprocessed."""
    screen.print(f"fed: {description}", soft_wrap=True)


def print_written(path: str | Path) -> None:
    """Print the path where the results were written."""
    screen.print(f"written: {path}", soft_wrap=True)


def print_error(message: str) -> None:
    """Print why the command failed."""
    errors.print(f"Error: {message}", style="red", soft_wrap=True)


def make_progress(*columns: Any, transient: bool = False) -> Progress:
    """Make a progress bar on standard error. Before its columns stands the description of the task."""
    description = TextColumn("{task.description}", markup=False)
    return Progress(
        description, *(columns or Progress.get_default_columns()[1:]), console=progress, transient=transient
    )
