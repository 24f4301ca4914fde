"""Images of more than 8 bits or of any number of channels: which values become black and white, what is shown.

    values (H, W, C) -> window (low, high) -> pixels (H, W, 3) of 0-255: shown, and fed to networks of 1 or 3 channels

Networks of other numbers of channels are fed the values themselves, see `scale_values`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inspector.errors import ImageError
from inspector.images.decode import Pixels

Values: TypeAlias = NDArray[Any]  # integers, floats or truth values, as in the file
Window: TypeAlias = tuple[float, float]  # values that become black and white
Display: TypeAlias = tuple[int, int, int]  # numbers of the channels shown as red, green and blue, counted from 0

_DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners write into 16-bit files
_TAIL = 0.1  # percent of the values that a window may cut off at each end, if they are far away from the others
_FEW = 32 / 256  # share of the gray levels; if all other values have fewer than that, the tails are cut off
_SAMPLE = 1_000_000  # values that percentiles are computed from
_STRIP = 4_000_000  # values that are scaled at a time
_CHANGE = "Use window=(low, high), or --window on the command line, for another range."


def check_window(window: Sequence[float]) -> Window:
    """Return a window as two numbers.

    Raises:
        ImageError: it is not two finite numbers, the lower one first.
    """
    try:
        low, high = (float(value) for value in window)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ImageError(f"Expected a window of two numbers, the value of black and that of white; got {window!r}.")
    return low, high


def find_channel_axis(shape: Sequence[int]) -> int | None:
    """Return which axis of an image array of 3 axes has the channels, 0 or 2; None if the shape does not show it.

    The last axis if it has 1 or 3 channels; else the one that is shorter than both others; else a last axis of 2 or 4.
    """
    first, middle, last = shape
    if last in (1, 3):
        return 2
    if first < min(middle, last):
        return 0
    return 2 if last < min(first, middle) or last in (2, 4) else None


def find_window(values: Values) -> Window:
    """Choose the values that become black and white.

    For unsigned integers these are the limits of the smallest of 8, 10, 12, 14 and 16 bits that holds all values; for
    floats 0 and 1, or 0 and 255, if all values lie there; otherwise the extremes. Where that would leave all but 0.2 %
    of the values fewer than 32 gray levels, for instance because of a dead pixel, the percentiles 0.1 and 99.9.

    Raises:
        ImageError: no value is a finite number.
    """
    finite = values if values.dtype.kind in "ui" else values[np.isfinite(values)]
    if finite.size == 0:
        raise ImageError("None of the values is a finite number.")
    lowest, highest = finite.min().item(), finite.max().item()
    limits = [2**bits - 1 for bits in _DEPTHS] if finite.dtype.kind in "ui" else [1, 255]
    fitting = next((limit for limit in limits if highest <= limit), None) if lowest >= 0 else None
    low, high = (lowest, highest) if fitting is None else (0, fitting)
    sample = finite.reshape(-1)[:: max(1, finite.size // _SAMPLE)].astype(np.float64)
    bottom, top = np.percentile(sample, (_TAIL, 100 - _TAIL)).tolist()
    if 0 < top - bottom < _FEW * (high - low):
        low, high = bottom, top
    return (low, high) if low < high else (low, low + 1)


def scale_to_pixels(values: Values, window: Window) -> Pixels:
    """Scale values to 0-255: the lower end of the window becomes 0, the upper end 255; NaN becomes 0."""
    low, high = window
    bits = math.log2(high + 1) if high > 0 else 0
    pixels: Pixels = np.empty(values.shape, np.uint8)
    whole_bits = values.dtype.kind == "u" and low == 0 and bits in _DEPTHS
    for rows in _iterate_strips(values):
        part = values[rows]
        if whole_bits and bits == 16 and part.ndim == 2:
            pixels[rows] = np.minimum(part, 65535) // 257
        elif whole_bits:  # as Pillow does for colors: the highest 8 bits
            pixels[rows] = np.minimum(part, int(high)) >> (int(bits) - 8)
        else:
            scaled = (part.astype(np.float64) - low) * 255 / (high - low)
            pixels[rows] = np.rint(np.clip(np.nan_to_num(scaled, nan=0, posinf=255, neginf=0), 0, 255))
    return pixels


def scale_values(values: Values, window: Window | None) -> tuple[NDArray[np.float32], str]:
    """Scale values (H, W, C) to the unit of a network's mean and std. Return them, and a note on how that was done.

    With a window: from 0 to 1 over the window. Without: integers are divided by the largest of their type, floats are
    not changed.
    """
    if window is not None:
        low, high = window
        scaled = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)
        how = f"with {low:g} to {high:g} scaled to 0 to 1"
    elif values.dtype.kind in "ui":
        scaled, how = values / np.iinfo(values.dtype).max, f"divided by {np.iinfo(values.dtype).max}"
    else:
        scaled, how = values, "as they are"
    note = f"All {values.shape[2]} channels were fed, {how}, before mean and std were applied."
    return np.nan_to_num(scaled.astype(np.float32)), note


def render_values(
    values: Values, window: Window | None = None, display: Sequence[int] | None = None
) -> tuple[Pixels, tuple[str, ...]]:
    """Make RGB pixels of an image of any bit depth and number of channels, and one sentence per change.

    Args:
        values: (H, W) or (H, W, C).
        window: the values that become black and white. Default: see `find_window`. 8-bit values are never scaled.
        display: numbers of three channels, shown as red, green and blue. Default: of two channels the first, in gray,
            of others the first three.

    Raises:
        ImageError: there is no such channel, or no value is a finite number.
    """
    notes: list[str] = []
    if values.ndim == 3 or display is not None:
        values = np.atleast_3d(values)
        values = _choose_channels(values, display, notes)
    if values.dtype == np.uint8:
        pixels = values
        if window is not None:
            notes.append(describe_unused_window(window))
    elif values.dtype == np.bool_:
        pixels = values.astype(np.uint8) * np.uint8(255)
    else:
        used = find_window(values) if window is None else window
        pixels = scale_to_pixels(values, used)
        notes.append(_describe_window(values, used, window is not None))
        if values.dtype.kind == "f" and (missing := int((~np.isfinite(values)).sum())):
            notes.append(f"{missing} values are not finite numbers: NaN is shown black.")
    return (np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else np.array(pixels)), tuple(notes)


def describe_unused_window(window: Window) -> str:
    """Return the note for an image whose values are not scaled."""
    return f"It has 8 bits per channel, so the window {window[0]:g} to {window[1]:g} was not applied."


def _choose_channels(values: Values, display: Sequence[int] | None, notes: list[str]) -> Values:
    """Return three channels (H, W, 3), or one (H, W)."""
    channels = values.shape[2]
    if display is None:
        if channels <= 2:
            notes += ["The first of 2 channels is shown."] if channels == 2 else []
            return values[..., 0]
        if channels == 3:
            return values
        chosen = (0, 1, 2)
    else:
        chosen = check_display(display)
        if max(chosen) >= channels:
            raise ImageError(
                f"display is {chosen}, but the image has {channels} channels, 0 to {channels - 1}. Use three of them."
            )
    red, green, blue = chosen
    notes.append(
        f"Of {channels} channels, {red}, {green} and {blue} (counted from 0) are shown as red, green and blue."
    )
    return values[..., list(chosen)]


def check_display(display: Sequence[int]) -> Display:
    """Return the numbers of the channels to show, as three integers.

    Raises:
        ImageError: it is not three integers from 0.
    """
    try:
        red, green, blue = (int(channel) for channel in display)
    except (TypeError, ValueError):
        red = green = blue = -1
    if min(red, green, blue) < 0:
        raise ImageError(f"Expected display as three channel numbers for red, green and blue; got {display!r}.")
    return red, green, blue


def _iterate_strips(values: Values) -> Iterator[slice]:
    rows = max(1, _STRIP // max(1, math.prod(values.shape[1:])))
    return (slice(top, top + rows) for top in range(0, len(values), rows))


def _describe_window(values: Values, window: Window, given: bool) -> str:
    (low, high), kind = window, describe_dtype(values.dtype)
    if given:
        return f"Its {kind} values {low:g} to {high:g} became black to white, as the window says."
    per = "pixel" if values.ndim == 2 else "channel"
    if values.dtype == np.uint16 and window == (0, 65535):
        return f"16 bits per {per} were scaled to 8."
    if values.dtype.kind in "ui" and low == 0 and high + 1 in [2**bits for bits in _DEPTHS]:
        return f"Its {kind} values use {int(high).bit_length()} bits: 0 to {high:g} became black to white. {_CHANGE}"
    return f"Its {kind} values {low:g} to {high:g} became black to white. {_CHANGE}"


def describe_dtype(dtype: np.dtype[np.generic]) -> str:
    """Return the kind of numbers in words, such as "16-bit" or "signed 16-bit"."""
    return {"u": "", "i": "signed ", "f": "float "}.get(dtype.kind, f"{dtype.name} ") + f"{dtype.itemsize * 8}-bit"
