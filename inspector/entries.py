"""Parse JSON and check the type of each value where it enters.

A file of a user may hold anything: other types, numbers that are not finite, nesting without end, other encodings. What
is wrong is raised as ValueError, or KeyError for a missing entry, so that `translate_errors` of the caller makes one
sentence of it that names the file:

    with translate_errors(NetworkError, f"{path} cannot be read: {{reason}}.", {KeyError: MISSING}):
        card = Entries(parse_json(path.read_bytes()))
        title, size = card.text("title"), card.size("size")
"""

import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from reprlib import Repr
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

_MAX_DEPTH = 100  # levels of lists and objects; our own files have at most five
_KINDS: dict[type[Any], str] = {dict: "an object {...}", list: "a list [...]"}
_MAX_SIDE = 8192  # pixels

_shortened = Repr()  # for values in messages
_shortened.maxstring = _shortened.maxother = 60
_shortened.maxlevel = 2


def parse_toml(text: str) -> Any:
    """Parse TOML text. The exceptions are as for `parse_json`."""
    try:
        table = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("its arrays and tables are nested too deeply") from error
    _check_depth(table)
    return table


def parse_json(content: bytes | str, kind: type[Any] = dict) -> Any:
    """Parse JSON text.

    Args:
        content: the text, or its bytes in UTF-8, UTF-16 or UTF-32.
        kind: type of the outermost value: dict, list, or object for any.

    Returns:
        The value. Its texts may hold anything: use `make_printable` for names. Its numbers may be NaN or infinite, as
        Python writes them: `Entries` refuses these.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or its outermost value has another type.
    """
    try:
        # "surrogatepass" is json's own choice: a lone surrogate is no reason to refuse a file.
        text = content if isinstance(content, str) else content.decode(json.detect_encoding(content), "surrogatepass")
    except UnicodeDecodeError as error:
        raise ValueError("it is not text in UTF-8") from error
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error})" if text.strip() else "it is empty") from error
    if not isinstance(value, kind):
        raise ValueError(f"expected {_KINDS[kind]}, got {_describe(value)}")
    _check_depth(value)
    return value


@dataclass(frozen=True)
class Entries:
    """The entries of a JSON object or TOML table. Each method returns one of them after a check of its type.

    Raises:
        KeyError: the entry is missing.
        ValueError: the entry has another type, or a number is not finite or out of range.
    """

    values: Mapping[str, Any]

    def has(self, key: str) -> bool:
        """Return whether there is an entry of this name that is not null."""
        return self.values.get(key) is not None

    def text(self, key: str) -> str:
        """Return a text."""
        value: str = self._get(key, lambda value: isinstance(value, str), "a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        return tuple(self._get(key, lambda value: _is_list(value, str), "a list of texts"))

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        """Return a text that is one of those allowed."""
        value: str = self._get(key, lambda value: value in tuple(allowed), " or ".join(map(repr, allowed)))
        return value

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value: bool = self._get(key, lambda value: isinstance(value, bool), "true or false")
        return value

    def whole(self, key: str, least: int = 0) -> int:
        """Return a whole number of at least `least`."""
        value: int = self._get(key, lambda value: is_whole(value, least), f"a whole number of at least {least}")
        return value

    def wholes(self, key: str, least: int = 0) -> tuple[int, ...]:
        """Return a list of whole numbers of at least `least`."""
        expected = f"a list of whole numbers of at least {least}"

        def is_valid(value: Any) -> bool:
            return isinstance(value, list) and all(is_whole(item, least) for item in value)

        return tuple(self._get(key, is_valid, expected))

    def number(self, key: str) -> float:
        """Return a number."""
        value: float = self._get(key, is_number, "a number")
        return value

    def numbers(self, key: str, counts: Sequence[int] = ()) -> tuple[float, ...]:
        """Return a list of numbers, of one of the given lengths if there are any."""
        expected = f"a list of {' or '.join(map(str, counts))} numbers" if counts else "a list of numbers"

        def is_valid(value: Any) -> bool:
            return isinstance(value, list) and all(map(is_number, value)) and (not counts or len(value) in counts)

        return tuple(self._get(key, is_valid, expected))

    def size(self, key: str) -> tuple[int, int]:
        """Return (height, width) in pixels, from a list of two whole numbers or from one for both."""
        expected = f"one or two whole numbers (height, width) from 1 to {_MAX_SIDE}"

        def is_valid(value: Any) -> bool:
            pair = value if isinstance(value, list) and len(value) == 2 else [value]
            return all(is_whole(side, 1) and side <= _MAX_SIDE for side in pair)

        value = self._get(key, is_valid, expected)
        height, width = value if isinstance(value, list) else (value, value)
        return height, width

    def object(self, key: str) -> "Entries":
        """Return the entries of an object within this one."""
        return Entries(self._get(key, lambda value: isinstance(value, dict), "an object"))

    def objects(self, key: str) -> "list[Entries]":
        """Return a list of objects."""
        return [Entries(one) for one in self._get(key, lambda value: _is_list(value, dict), "a list of objects")]

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raise ValueError: the entry of this name is not what was expected."""
        raise ValueError(f"expected {expected} for {key}, got {_describe(self.values[key])}")

    def _get(self, key: str, is_valid: Callable[[Any], bool], expected: str) -> Any:
        if not is_valid(self.values[key]):
            self.refuse(key, expected)
        return self.values[key]


def is_whole(value: object, least: int = 0) -> bool:
    """Return whether a value is a whole number of at least `least`; true and false are not."""
    return type(value) is int and least <= value < 2**63


def is_number(value: object) -> bool:
    """Return whether a value is a finite number; true and false are not."""
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)  # type: ignore[arg-type]


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _describe(value: Any) -> str:
    return "null" if value is None else _shortened.repr(value)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        parents = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in parents for child in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return
    raise ValueError("its lists and objects are nested too deeply")
