"""Format numbers as text with a true minus sign, not a hyphen. This module does not import torch."""


def format_number(value: float, spec: str = ".3g") -> str:
    """Format a number with a true minus sign; a zero in a format that ends in "g" is "0", without a sign.

    Args:
        value: the number.
        spec: Python's format specification, such as "+.3f".
    """
    return "0" if not value and spec.endswith("g") else replace_minus(format(value, spec))


def replace_minus(text: str) -> str:
    """Replace every hyphen in a text by a true minus sign; for texts in which each hyphen is a minus sign."""
    return text.replace("-", "\N{MINUS SIGN}")


def format_mean_and_deviation(mean: float, deviation: float | None, spec: str = ".4f") -> str:
    """Format a mean with its standard deviation, such as "0.9130 ± 0.0021"; if the deviation is None, the mean only."""
    text = format_number(mean, spec)
    return text if deviation is None else f"{text} \N{PLUS-MINUS SIGN} {format_number(deviation, spec)}"
