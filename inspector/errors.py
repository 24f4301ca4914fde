"""The errors that a user can cause and correct, and functions that turn errors of other libraries into them.

    InspectorError
    ├── ImageError         an image cannot be read
    ├── NetworkError       a network or its weights cannot be found, loaded or run
    ├── HeadError          the layers after the last feature maps do not allow class maps
    ├── ClassError         the name or number of a class matches none, or several
    ├── AttributionError   an attribution method does not exist, or does not suit the network
    ├── LocalizationError  the boxes or masks of objects cannot be read, or do not fit the photos
    ├── TrainingError      a recipe cannot be read or run, or its runs cannot be compared
    ├── PlaceError         the cells of a map do not lie where they are said to, so the map belongs on no photo
    ├── ExportError        files cannot be written
    └── Cancelled          the work was stopped on request

Every message says in one or two plain sentences what is wrong, which value was found and what to do.
"""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Name for pip. The name `inspector` on the Python Package Index belongs to another program.
DISTRIBUTION = "class-map-inspector"


class InspectorError(Exception):
    """Base of every error that a user can cause and correct."""


class ImageError(InspectorError):
    """The image cannot be read, or would be unsafe to read because of its size."""


class NetworkError(InspectorError):
    """The network cannot be found, loaded or run."""


class HeadError(InspectorError):
    """The logits do not depend on pooled feature maps, or not on these alone, so class maps cannot be computed."""


class ClassError(InspectorError):
    """No class has this name or number, or several classes match it."""


class AttributionError(InspectorError):
    """The attribution method does not exist, or does not apply to this network."""


class LocalizationError(InspectorError):
    """The boxes or masks of the objects cannot be read, or do not fit the photos."""


class PlaceError(InspectorError):
    """The place of the cells is unknown, so nothing can be drawn, masked or measured there."""


class TrainingError(InspectorError):
    """A recipe cannot be read or run, or its runs cannot be compared."""


class ExportError(InspectorError):
    """The files cannot be written to the given place."""


class Cancelled(InspectorError):
    """The work was stopped on request."""


def summarize_reason(error: BaseException) -> str:
    """Return the message of another library's error in one line, so that our own message can quote it."""
    if isinstance(error, OSError) and error.strerror:
        # str(error) would add the error number and the path, but our message already names the path.
        return error.strerror
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


@contextmanager
def translate_errors(
    to: type[InspectorError], message: str, cases: Mapping[type[BaseException], str] | None = None
) -> Iterator[None]:
    """Turn any exception of another library inside the `with` block into an InspectorError.

    Libraries that read a broken file may raise any exception, so all exceptions are caught. InspectorError and
    MemoryError are not changed.

    Args:
        to: class of the error to raise.
        message: message of that error. "{type}" is replaced by the class of the original error, and "{reason}" by the
            original message in one line.
        cases: messages for particular exception classes. The first class that matches is used, otherwise ``message``.
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
    """Import modules of an optional library and return the first module.

    Args:
        modules: full names of modules, such as "pyarrow" and "pyarrow.parquet".
        extra: the extra of this package that installs the library, such as "data" in `class-map-inspector[data]`.
        purpose: what needs the library, as in "A network of timm"; the error message begins with it.
        error: class of the error to raise.

    Raises:
        InspectorError: a module cannot be imported. The error has the class ``error``, and its message names the
            command that installs the library.
    """
    try:
        first, *_ = [importlib.import_module(name) for name in modules]
        return first
    except ImportError as missing:
        library = modules[0].split(".")[0]
        raise error(
            f"{purpose} needs {library} ({summarize_reason(missing)}). Use pip install '{DISTRIBUTION}[{extra}]'."
        ) from missing
