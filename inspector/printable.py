"""Make foreign text safe to print, to draw and to write: class names, labels, paths and messages of other libraries."""

import re

# Control characters, which a terminal obeys; marks that turn the direction of the text behind them; halves of surrogate
# pairs, which UTF-8 cannot hold; and the two code points that XML, and so SVG, cannot hold.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"


def make_printable(text: str, max_length: int | None = None) -> str:
    r"""Replace line breaks and tabs by spaces, and other unprintable characters by escapes such as ``\x1b``.

    Args:
        text: any text. Printable text is returned as it is, in all scripts.
        max_length: shorten the result to this many characters; it then ends in "...".
    """
    clean = _UNPRINTABLE.sub(_escape, text if max_length is None else text[: max_length + 1])
    return clean if max_length is None or len(clean) <= max_length else clean[: max_length - 3] + "..."


def make_lines_printable(text: str) -> str:
    """Make each line of a text printable; the line breaks stay."""
    return "\n".join(map(make_printable, text.split("\n")))


def _escape(found: re.Match[str]) -> str:
    letter = found[0]
    if letter in _SPACES:
        return " "
    return f"\\x{ord(letter):02x}" if ord(letter) < 0x100 else f"\\u{ord(letter):04x}"
