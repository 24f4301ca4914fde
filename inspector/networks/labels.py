"""Read class names from a file: one per line, a table, JSON, or the text of a Python dict or list.

The content decides, not the ending: users rename files, and `imagenet1000_clsidx_to_labels.txt` is a Python dict.
"""

import ast
import codecs
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inspector.entries import parse_json
from inspector.errors import NetworkError, translate_errors
from inspector.explain.class_names import ClassNames, list_class_names
from inspector.files import read_csv
from inspector.networks.label_presets import find_preset
from inspector.printable import make_printable

# Headings of the column that holds the names, the best first, and headings of other columns.
_NAME_HEADINGS = (
    "name",
    "class_name",
    "classname",
    "class name",
    "label",
    "class",
    "category",
    "names",
    "labels",
    "classes",
)
_OTHER_HEADINGS = ("id", "idx", "index", "class_id", "class_idx", "class_index", "label_id", "number", "no", "nr")
_NUMBERED_LINE = re.compile(r"(\d+)\s*[:;,\t ]\s*(\S.*)")
_SEPARATORS = {".tsv": "\t", ".tab": "\t"}


def read_labels(path: Path) -> ClassNames:
    """Read class names from a file; see `parse_labels` for its content.

    Args:
        path: the file; where there is none, the name of a data set of `label_presets`, such as "ImageNet-1k".

    Raises:
        NetworkError: the file cannot be read, or contains no names.
    """
    if not path.exists() and (preset := find_preset(str(path))) is not None:
        return preset
    with translate_errors(NetworkError, f"The labels in {path} cannot be read: {{reason}}."):
        return parse_labels(path.read_bytes(), path.name)


def parse_labels(content: bytes, name: str) -> ClassNames:
    """Parse the content of a file of class names.

    Args:
        content: text in UTF-8 or UTF-16: one name per line, with or without a number before it; a CSV or TSV table,
            with or without a heading and a column of numbers; JSON or the text of a Python dict or list, as for
            `list_class_names`, such as the config.json of a Hugging Face model.
        name: name of the file.

    Raises:
        NetworkError: the file holds no text or no names, or it is not clear which text is the names.
    """
    source = make_printable(name, 100)
    text = _decode(content, source)
    if (parsed := _parse_literal(text, source)) is not None:
        names = list_class_names(parsed, source)
    elif Path(name).suffix.lower() in (".csv", *_SEPARATORS):
        names = ClassNames(_read_table(text, source), source)
    else:
        names = _read_lines(text, source)
    if not names.names:
        raise NetworkError(f"There are no class names in {source}. Use one name per line, or a JSON list.")
    return ClassNames(tuple(map(make_printable, names.names)), source, names.hint)


def _decode(content: bytes, source: str) -> str:
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is no {encoding.removesuffix('-sig').upper()}"
        raise NetworkError(f"{source} is not text in UTF-8 ({reason}). Save it as UTF-8.") from error


def _parse_literal(text: str, source: str) -> Any:
    """Parse JSON, or a dict or list in Python's syntax; None if the text is neither."""
    is_json = source.lower().endswith(".json")
    if not is_json and not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return parse_json(text, kind=object)
    except ValueError as problem:
        try:
            # Only literals are evaluated, so no code in the file is run.
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            if is_json or text.lstrip().startswith("{"):
                raise NetworkError(f"{source} holds no class names: {problem}.") from problem
            return None  # a line that begins with a bracket


def _read_lines(text: str, source: str) -> ClassNames:
    """Read one name per line; numbers 0, 1, ... or 1, 2, ... before all names are left out."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    names = tuple(line for _, line in lines if line)
    hints = []
    if names and names[0].lower() in (*_NAME_HEADINGS, *_OTHER_HEADINGS):
        hints.append(f"line {next(number for number, line in lines if line)} ({names[0]!r}) looks like a heading")
    empty = [number for number, line in lines if not line and number < len(text.rstrip().splitlines())]
    if empty:
        hints.append(f"line {empty[0]} is empty" if len(empty) == 1 else f"{len(empty)} lines are empty")
    numbered = [_NUMBERED_LINE.fullmatch(name) for name in names]
    pairs = [(int(match[1]), match[2]) for match in numbered if match is not None]
    if len(pairs) == len(names) > 1 and (ordered := _order_by_number(pairs)) is not None:
        names = ordered
    return ClassNames(names, source, " and ".join(hints))


def _order_by_number(pairs: Sequence[tuple[int, str]]) -> tuple[str, ...] | None:
    """Return the names in the order of their numbers; None if these are not 0, 1, ... or 1, 2, ..."""
    ordered = sorted(pairs)
    first = ordered[0][0]
    counted = first in (0, 1) and [number for number, _ in ordered] == list(range(first, first + len(ordered)))
    return tuple(name for _, name in ordered) if counted else None


def _read_table(text: str, source: str) -> tuple[str, ...]:
    """Read the names from a table, ordered by its column of numbers if it has one."""
    rows = [row for row in _split_rows(text, source) if any(row)]
    if not rows:
        return ()
    width = len(rows[0])
    heading = [cell.lower() for cell in rows[0]]
    has_heading = any(cell in (*_NAME_HEADINGS, *_OTHER_HEADINGS) for cell in heading)
    body = rows[1:] if has_heading else rows
    orders = _find_orders(body)
    if not has_heading and not orders and (orders := _find_orders(body[1:])):
        # A heading in words of its own stands above a column of numbers.
        has_heading, body = True, body[1:]
    others = [n for n in range(width) if n not in orders]
    named = [n for word in _NAME_HEADINGS for n in others if has_heading and heading[n] == word]
    if not named and len(others) != 1:
        columns = ", ".join(make_printable(cell, 30) for cell in rows[0][:6])
        raise NetworkError(
            f"It is not clear which column of {source} holds the class names: {columns}. Write 'name' above that "
            "column, or leave out the others."
        )
    names = [row[(named or others)[0]] for row in body]
    return tuple(names[n] for n in next(iter(orders.values()), range(len(names))))


def _find_orders(rows: Sequence[Sequence[str]]) -> dict[int, list[int]]:
    """Return the order of the rows that each column of numbers gives, by the index of the column."""
    columns = enumerate(zip(*rows, strict=True))
    return {n: order for n, cells in columns if (order := _read_order(cells)) is not None}


def _split_rows(text: str, source: str) -> list[list[str]]:
    """Split a table into rows of stripped cells, all of one length."""
    lines = [line for line in text.splitlines() if line.strip()]
    separator = _SEPARATORS.get(Path(source).suffix.lower()) or max(",;\t", key="".join(lines[:1]).count)
    with translate_errors(NetworkError, f"{source} is no table: {{reason}}."):
        rows = [[cell.strip() for cell in row] for row in read_csv(lines, delimiter=separator, skipinitialspace=True)]
    widths = [len(row) for row in rows]
    if len(set(widths)) < 2:
        return rows
    if min(widths) == 1:
        return [[line.strip()] for line in lines]  # one name per line, and commas in some of them
    usual = max(set(widths), key=widths.count)
    odd = next(n for n, width in enumerate(widths) if width != usual)
    raise NetworkError(
        f"Row {odd + 1} of {source} has {widths[odd]} columns, and other rows have {usual}. Put names with commas in "
        "quotes."
    )


def _read_order(cells: Sequence[str]) -> list[int] | None:
    """Return the order that a column of numbers 0, 1, ... or 1, 2, ... gives its rows; None for any other column."""
    if not cells or not all(cell.isdecimal() and len(cell) < 10 for cell in cells):
        return None
    numbers = [int(cell) for cell in cells]
    first = min(numbers)
    if first not in (0, 1) or sorted(numbers) != list(range(first, first + len(numbers))):
        return None
    return sorted(range(len(numbers)), key=numbers.__getitem__)
