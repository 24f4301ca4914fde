"""The errors that a user can cause and correct, and the two places where other libraries' errors become ours.

    InspectorError
    ├── ImageError         an image
    ├── NetworkError       a network or its weights
    ├── HeadError          what follows the last feature maps
    ├── ClassError         the name or number of a class
    ├── AttributionError   an attribution method
    ├── LocalizationError  boxes and masks of objects
    ├── TrainingError      a recipe, a run, a comparison of runs
    ├── ExportError        files to be written
    └── Cancelled          work that was stopped on request

Every message says in one or two plain sentences what is wrong, what was got and what to do.
"""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class InspectorError(Exception):
    """Base of every error that a user can cause and correct."""


class ImageError(InspectorError):
    """The image cannot be read, or not safely."""


class NetworkError(InspectorError):
    """The network cannot be found, loaded or run."""


class HeadError(InspectorError):
    """The logits are not a function of pooled feature maps, or not of these alone."""


class ClassError(InspectorError):
    """No class has this name or number, or several classes match it."""


class AttributionError(InspectorError):
    """The attribution method does not exist, or does not apply to this network."""


class LocalizationError(InspectorError):
    """The objects of the photos cannot be read, or do not fit the photos."""


class TrainingError(InspectorError):
    """The experiment cannot be read, run or compared."""


class ExportError(InspectorError):
    """The files cannot be written to the given place."""


class Cancelled(InspectorError):
    """The work was stopped on request."""


def summarize_reason(error: BaseException) -> str:
    """Return the message of another library's error in one line, to be quoted in a message of ours."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without its number and without the path, which our message names
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


@contextmanager
def translate_errors(
    to: type[InspectorError], message: str, cases: Mapping[type[BaseException], str] | None = None
) -> Iterator[None]:
    """Raise whatever a foreign reader raises inside as one error of ours.

    Readers of broken files raise nearly every exception there is, so all of them are caught. Our own errors and
    MemoryError pass through unchanged.

    Args:
        to: class of the error to raise.
        message: its message; "{type}" stands for the class of the original error, "{reason}" for its own message in
            one line.
        cases: messages for single exception classes, tried in this order before ``message``.
    """
    try:
        yield
    except (InspectorError, MemoryError):
        raise
    except Exception as error:
        chosen = next((text for kind, text in (cases or {}).items() if isinstance(error, kind)), message)
        text = chosen.replace("{type}", type(error).__name__).replace("{reason}", summarize_reason(error))
        raise to(text) from error


def require(*modules: str, extra: str, purpose: str, error: type[InspectorError] = InspectorError) -> Any:
    """Import modules of an optional library and return the first.

    Args:
        modules: full names, as in "pyarrow", "pyarrow.parquet".
        extra: the extra of this package that installs the library, as in "data".
        purpose: what needs it; begins the message.
        error: class of the error to raise.

    Raises:
        InspectorError: of class ``error``, with the command that installs the library.
    """
    try:
        first, *_ = [importlib.import_module(name) for name in modules]
        return first
    except ImportError as missing:
        library = modules[0].split(".")[0]
        raise error(
            f"{purpose} needs {library} ({summarize_reason(missing)}). Use pip install 'inspector[{extra}]'."
        ) from missing
