"""Fit the texts of a figure into a width: measure them in the figure's font, wrap them, shorten them."""

import re
from collections.abc import Iterator, Sequence

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

_TITLE_LINES = 3  # of a panel


def _measure_inches(text: str, size: float) -> float:
    """Return the width in inches of a line of text in the figure's font; `size` is in points."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return float(width) / 72


def wrap_title(name: str, suffix: str, size: float, width: float) -> str:
    """Wrap a name and its suffix into at most three lines that fit into a width in inches. The suffix is never cut."""
    words = [_fit_word(word, size, width) for word in name.split()] or [""]
    for count in range(len(words), 0, -1):
        shown = " ".join(words[:count]) + ("" if count == len(words) else "\N{HORIZONTAL ELLIPSIS}")
        if len(lines := wrap_text(shown + suffix, size, width)) <= _TITLE_LINES:
            break
    return "\n".join(lines)


def _fit_word(word: str, size: float, width: float) -> str:
    """Shorten a word until it fits into a width in inches, to four characters at most."""
    lengths = range(len(word), 4, -1)
    return next(
        (short for n in lengths if _measure_inches(short := shorten_name(word, n), size) <= width),
        shorten_name(word, 4),
    )


def wrap_text(text: str, size: float, width: float) -> list[str]:
    """Wrap a text into lines that fit into a width in inches. A word and its number stay on one line if they fit."""
    if _measure_inches(text, size) <= width:
        return [text]
    lines = [""]
    joined = re.sub(r"(map|\+|bias|=|verdict:|residual|score|logit) (?=\S)", "\\1\N{NO-BREAK SPACE}", text)
    for word in _list_words(joined.split(" "), size, width):
        longer = f"{lines[-1]} {word}".strip(" ")
        if lines[-1] and _measure_inches(longer, size) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _list_words(words: Sequence[str], size: float, width: float) -> Iterator[str]:
    """Yield words. Split those that a no-break space holds together if they are too wide for one line."""
    for word in words:
        yield from [word] if _measure_inches(word, size) <= width else word.split("\N{NO-BREAK SPACE}")


def shorten_name(name: str, length: int = 28) -> str:
    """Shorten a name to at most `length` characters; the last character is then an ellipsis."""
    return name if len(name) <= length else f"{name[: length - 1]}\N{HORIZONTAL ELLIPSIS}"
