"""Numbers as text, with a true minus sign. Imports no torch."""


def format_number(value: float, spec: str = ".3g") -> str:
    """Format a number with a true minus sign; a zero of the general format has no sign.

    Args:
        value: the number.
        spec: Python's format specification, as in "+.3f".
    """
    return "0" if not value and spec.endswith("g") else replace_minus(format(value, spec))


def replace_minus(text: str) -> str:
    """Replace every hyphen of a text that holds only numbers and words without one by a true minus sign."""
    return text.replace("-", "\N{MINUS SIGN}")


def format_mean_and_deviation(mean: float, deviation: float | None, spec: str = ".4f") -> str:
    """Format a mean with its standard deviation, as in "0.9130 ± 0.0021"; None leaves the deviation out."""
    text = format_number(mean, spec)
    return text if deviation is None else f"{text} \N{PLUS-MINUS SIGN} {format_number(deviation, spec)}"
