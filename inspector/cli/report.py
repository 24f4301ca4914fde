"""What a command reports: lines and tables for people, or one JSON object for programs; and the exit status.

A command returns a Report. The options --json and --quiet of every such command decide what is printed of it.
"""

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from inspector.cli.console import errors, keep_quiet
from inspector.errors import InspectorError
from inspector.explain.kinds import VERDICTS, rank_verdict

if TYPE_CHECKING:
    from inspector.explain.class_maps import ClassMaps
    from inspector.explain.large_class_maps import LargeMaps


class ExitStatus(IntEnum):
    """The exit statuses of the command line. The shell adds 128 + n for signal n."""

    DONE = 0
    ERROR = 1  # nothing was written; the reason is on standard error
    USAGE = 2  # no such command or option, or an argument is missing
    VERDICT = 3  # everything was written, and a verdict is as bad as --fail-on says
    UNREADABLE = (
        4  # the rest was written, but photos could not be read: one of several in `explain`, all in `batch`, `boxes`
    )
    STOPPED = 130  # by Ctrl-C


@dataclass(frozen=True)
class Report:
    """The result of a command."""

    values: Mapping[str, Any] = field(default_factory=dict)  # what --json prints
    status: ExitStatus = ExitStatus.DONE


def parse_verdict(text: str | None) -> str | None:
    """Parse --fail-on: a verdict, with spaces, hyphens or underscores; None stays None.

    Raises:
        InspectorError: there is no such verdict, or every verdict is as bad.
    """
    if text is None:
        return None
    verdict = " ".join(text.lower().replace("-", " ").replace("_", " ").split())
    best, *others = VERDICTS
    if verdict not in others:
        every = f", and no verdict is better than {best!r}" if verdict == best else ""
        raise InspectorError(f"--fail-on is {text!r}{every}. Use one of {', '.join(map(repr, others))}.")
    return verdict


def judge(verdict: str | None, fail_on: str | None) -> ExitStatus:
    """Return the exit status for the worst verdict of a command. `fail_on` is from `parse_verdict`."""
    if fail_on is None or verdict is None or rank_verdict(verdict) < rank_verdict(fail_on):
        return ExitStatus.DONE
    errors.print(f"The class maps are {verdict!r}: status {ExitStatus.VERDICT:d}, as --fail-on {fail_on!r} asks.")
    return ExitStatus.VERDICT


def name_values(columns: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Return the values of a row for --json; the keys are the headings with underscores, as in "sum_of_the_map"."""
    return {re.sub(r"\W+", "_", column).strip("_"): value for column, value in zip(columns, values, strict=True)}


def probability_of(maps: "ClassMaps | LargeMaps", k: int) -> dict[str, float]:
    """Return the probability of a class for --json; nothing if the network returns other values."""
    return {"probability": float(maps.probabilities[k])} if maps.classifier.meaning.has_probabilities else {}


def run_command(work: Callable[[], Report | None], as_json: bool, quiet: bool) -> None:
    """Run a command, print its report, and exit with its status if that is not 0."""
    try:
        with keep_quiet(results=as_json or quiet, notes=quiet), _redirect_stdout(as_json, quiet):
            report = work() or Report()
    except InspectorError as error:
        if as_json:
            _print_json({"error": str(error), "kind": type(error).__name__})
        raise
    except KeyboardInterrupt:
        errors.print("Stopped.")
        raise typer.Exit(ExitStatus.STOPPED) from None
    if as_json:
        _print_json(report.values)
    if report.status:
        raise typer.Exit(report.status)


@contextmanager
def _redirect_stdout(as_json: bool, quiet: bool) -> Iterator[None]:
    """Send what libraries print on standard output elsewhere, also when it is not Python that prints."""
    if not as_json and not quiet:
        yield
        return
    sys.stdout.flush()
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere if quiet else sys.stderr):
        saved = None
        with suppress(OSError):  # one of the two is closed
            saved = os.dup(1)
            os.dup2(nowhere.fileno() if quiet else 2, 1)
        try:
            yield
        finally:
            if saved is not None:
                os.dup2(saved, 1)
                os.close(saved)


def _print_json(values: Mapping[str, Any]) -> None:
    # Not through a console of rich, which wraps lines.
    sys.stdout.write(json.dumps(make_json_value(values), indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def make_json_value(value: Any) -> Any:
    """Return a value in types that JSON can hold; numbers that are not finite become None, other objects text."""
    if isinstance(value, Mapping):
        return {str(key): make_json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [make_json_value(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value) if isinstance(value, Path) or not hasattr(value, "tolist") else make_json_value(value.tolist())
